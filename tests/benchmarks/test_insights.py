"""The pictures of what fields learn: what they are made of, and those on the pages."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyfield.config import merge
from polyfield.fields.insight import Curves
from polyfield.registry import configure, lookup

ROOT = Path(__file__).resolve().parents[2]
LEARNED = ROOT / "docs" / "images" / "learned"


@pytest.fixture
def module(monkeypatch):
    """The benchmark, as a script imports it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("insights")


def test_the_pictures_that_are_fitted_are_colours(module):
    for make in module.PICTURES.values():
        image = make()
        assert image.shape == (module.SIDE, module.SIDE, 3)
        assert 0 <= float(image.min()) < 0.3 and 0.9 < float(image.max()) <= 1


def test_every_case_has_settings_that_exist(module):
    for case in module.CASES.values():
        presets = lookup("backbones", case.settings["backbone"]["type"]).presets
        signal = merge(presets.get("signal", {}), presets.get("image", {}))
        preset = presets["cpu"] if case.scene.startswith("sample:") else signal
        assert configure("backbones", merge(preset, case.settings)["backbone"])


def test_a_case_writes_the_file_it_names(module, tmp_path):
    case = replace(module.CASES["hash-levels"], steps=2)
    row = module.show("hash-levels", case, tmp_path, tmp_path / "runs")
    assert row["file"] == "hash-levels.png" and (tmp_path / row["file"]).stat().st_size > 1000
    assert len(row["scale"]) == 8 and row["scale"][0].startswith("level 1 (4 nodes per axis)")


def test_curves_over_different_x_say_so(module):
    a = Curves("a", torch.linspace(-1, 1, 3), {"1": torch.zeros(3)})
    b = Curves("b", torch.linspace(0, 2, 3), {"1": torch.ones(3)})
    assert list(module.merged([a, a]).lines) == ["a: 1"]
    assert list(module.merged([a, b]).lines) == ["a: 1 (-1 to 1)", "b: 1 (0 to 2)"]


def test_pages_show_what_the_benchmark_makes_and_nothing_else(module):
    made = {file.stem: file for file in LEARNED.iterdir()}
    assert made.keys() - {"picture"} == module.CASES.keys()
    assert sum(file.stat().st_size for file in made.values()) <= 1_500_000
    assert all(file.stat().st_size <= module.LARGEST[file.suffix[1:]] for file in made.values())
    pages = "".join(p.read_text("utf-8") for p in (ROOT / "docs" / "fields").glob("*.md"))
    shown = set(re.findall(r"images/learned/([\w.-]+)\)", pages))
    assert shown == {file.name for file in made.values()}
