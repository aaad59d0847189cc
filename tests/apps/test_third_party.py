"""A backbone from a separate little package: listed, fitted, and walked with all others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MODULE = '''"""Waves of fixed directions with trainable amplitudes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.fields.base import Backbone
from polyfield.registry import register


@dataclass(frozen=True)
class WavesConfig:
    """Settings of the waves."""

    waves: int = 32
    """How many."""


PRESETS = {"paper": {"backbone": {"waves": 64}}, "cpu": {"backbone": {"waves": 32}},
           "tiny": {"backbone": {"waves": 4}}}


@register("toy-waves", config=WavesConfig, paper="none", presets=PRESETS)
class Waves(Backbone):
    """Sums of waves."""

    def __init__(self, config, in_dim=3, generator=None):
        super().__init__()
        self.config, self.in_dim, self.out_dim = config, in_dim, 8
        self.frequencies = nn.Parameter(3 * torch.randn(in_dim, config.waves, generator=generator))
        self.amplitudes = nn.Parameter(torch.randn(config.waves, 8, generator=generator) / 8)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        return (x @ self.frequencies).sin() @ self.amplitudes
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A site folder with the package, as pip leaves one, in front of the search path."""
    site = tmp_path_factory.mktemp("site")
    (site / "toy_fields").mkdir()
    (site / "toy_fields" / "__init__.py").touch()
    (site / "toy_fields" / "waves.py").write_text(MODULE)
    info = site / "toy_fields-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-fields\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[polyfield.backbones]\ntoy = toy_fields.waves\n")
    return {**os.environ, "PYTHONPATH": str(site)}


def call(environment, *arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_it_is_listed(environment):
    done = call(environment, "polyfield.apps", "list", "backbones", "--json")
    rows = json.loads(done.stdout.splitlines()[-1])
    assert {"toy-waves", "hash-grid"} <= {row["name"] for row in rows}


def test_it_is_fitted_and_scored(environment, tmp_path):
    fitted = call(
        environment, "polyfield.apps", "fit", "sample:orrery", "--out", tmp_path / "run",
        "--backbone", "toy-waves", "--preset", "tiny", "--steps", 3, "--json",
        "--set", "data.downscale=16", "--set", "sampler.resolution=8", "--set", "sampler.steps=16",
    )  # fmt: skip
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout.splitlines()[-1])["steps"] == 3
    scored = call(environment, "polyfield.apps", "eval", tmp_path / "run", "--every", 10, "--json")
    assert json.loads(scored.stdout.splitlines()[-1])["psnr"] > 0


def test_the_walk_over_all_backbones_takes_it_along(environment):
    done = call(
        environment, "pytest", "-q", "tests/fields/test_every_backbone.py", "-k", "toy-waves"
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 20
