"""The comparison of backbones: what is measured, averaged and drawn, and a small run of it."""

from __future__ import annotations

import importlib
import json
import sys
import xml.dom.minidom
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """The script, as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("backbones")


def row(name, score, seed=0, budget="small", **more):
    figures = {"parameters": 10, "bytes": 2048, "steps_per_second": 3.0, "peak_mb": 5.0}
    scores = {"score": score, "score_of": "psnr", "psnr": score, "ssim": 0.5}
    return {"backbone": name, "budget": budget, "seed": seed, **scores, **figures, **more}


def test_the_table_averages_seeds_and_puts_the_best_first(module):
    rows = [row("a", 20.0), row("a", 22.0, 1), row("b", 30.0), row("c", None, error="no axes")]
    lines = module.table(rows).splitlines()
    found = [line for line in lines if line.startswith(("| a ", "| b "))]
    assert [line.split("|")[1].strip() for line in found] == ["b", "a"]
    assert "21.00" in found[1] and "1.41" in found[1] and found[1].endswith("| 2 |")
    assert "- c: no axes" in lines


def test_all_of_a_seed_comes_before_the_next(module, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--tasks", "sample", "--backbones", "cp", "vm"])
    seeds = [wanted["seed"] for wanted in module.plan(module.parse())]
    assert seeds == sorted(seeds) and len(seeds) == 3 * 2 * 2


def test_curves_keep_their_end(module, tmp_path):
    rows = [{"seconds": s, "psnr": 10.0 + s} for s in range(1, 101)]
    (tmp_path / "m").write_text("\n".join(map(json.dumps, rows)))
    curve = module.thinned(tmp_path / "m")
    assert curve[-1] == (100, 110.0) and len(curve) <= module.CURVE


def test_a_small_run_goes_on_where_it_was(module, tmp_path, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    iio.imwrite(tmp_path / "picture.png", picture)
    monkeypatch.setattr(module, "TASKS", {"photo": module.Task("picture.png")})
    monkeypatch.setattr(module, "BUDGETS", {"small": (3000, 0.3)})
    out = tmp_path / "out.json"
    arguments = ["--data", str(tmp_path), "--out", str(out), "--seeds", "0", "--backbones"]
    monkeypatch.setattr(sys, "argv", ["x", *arguments, "siren", "vm"])
    module.main()
    rows = {r["backbone"]: r for r in json.loads(out.read_text())["rows"]}
    assert rows["siren"]["score"] > 5 and rows["siren"]["parameters"] <= 3000
    assert "3" in rows["vm"]["error"]  # refuses two coordinates, and is not asked again
    monkeypatch.setattr(module, "measure", None)
    module.main()
    assert "siren" in (tmp_path / "out-photo.md").read_text()
    xml.dom.minidom.parseString((tmp_path / "out-photo.svg").read_text())
