"""The benchmark of quality over time: its figures, its chart, and a run of it on the sample."""

from __future__ import annotations

import importlib
import json
import math
import xml.dom.minidom
from pathlib import Path

import imageio.v3 as iio
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ("backbone.levels=2", "backbone.log2_entries=10", "sampler.resolution=16", "threads=1")


@pytest.fixture
def module(monkeypatch):
    """A module of the folder of benchmarks, by name, as its scripts import it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def row(step: int, psnr: float) -> dict:
    return {"step": step, "seconds": step / 10, "psnr": psnr, "rays_per_second": 100.0}


def test_stretches_of_a_curve_average_errors_not_decibels(module):
    lego = module("lego")
    rows = [row(i, 10.0 if i % 2 else 30.0) for i in range(4 * lego.POINTS)]
    points = lego.curve([{"step": 3, "check_psnr": 9.0}, *rows])
    assert len(points) == lego.POINTS
    assert points[0]["psnr"] == pytest.approx(-10 * math.log10((0.1 + 0.001) / 2), abs=1e-3)
    assert (points[0]["step"], points[-1]["seconds"]) == (3, rows[-1]["seconds"])


def test_a_short_curve_keeps_every_row(module):
    rows = [row(25, 20.0), row(50, 22.0)]
    assert [p["psnr"] for p in module("lego").curve(rows)] == [20.0, 22.0]


def test_checks_get_the_time_of_the_nearest_row(module):
    rows = [row(25, 20.0), {"step": 45, "check_psnr": 19.0, "check_view": "a"}, row(50, 21.0)]
    assert module("lego").checks(rows) == [{"step": 45, "seconds": 5.0, "psnr": 19.0}]
    assert module("lego").checks(rows[1:2]) == []


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (27.3, 30.1, [27.5, 28, 28.5, 29, 29.5, 30]), (0, 0.05, None)],
)
def test_ticks_are_round_and_inside(module, low, high, want):
    found = module("chart").ticks(low, high)
    assert want is None or found == want
    assert 3 <= len(found) <= 8
    assert all(low <= tick <= high for tick in found)


def numbers(text: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def test_a_chart_is_valid_and_better_is_higher_and_later_further_right(module):
    chart = module("chart")
    series = [
        chart.Series("a < b", [(0.5, 20.0), (1.0, 25.0)], [(1.0, 24.0)], (1.0, 24.5)),
        chart.Series("other", [(0.5, 20.0), (2.0, 30.0)]),
    ]
    text = chart.line_chart("title & more", "note", ("x", "y"), series)
    drawn = xml.dom.minidom.parseString(text)
    lines = [numbers(p.getAttribute("points")) for p in drawn.getElementsByTagName("polyline")]
    (x0, y0), (x1, y1) = lines[1]
    assert lines[0][0] == (x0, y0)
    assert x1 > x0 > chart.LEFT
    assert chart.TOP < y1 < y0 < chart.HEIGHT - chart.BOTTOM
    words = [t.firstChild.data for t in drawn.getElementsByTagName("text")]
    assert {"title & more", "a < b", "24.50", "x", "y"} <= set(words)


def test_nothing_to_draw_is_an_error(module):
    with pytest.raises(ValueError, match="at least one point"):
        module("chart").line_chart("t", "n", ("x", "y"), [])


def test_a_run_on_the_sample_writes_figures_chart_and_pictures(
    module, monkeypatch, tmp_path, capsys
):
    lego = module("lego")
    monkeypatch.setattr(lego, "warm_up", lambda: None)
    settings = [part for pair in SMALL for part in ("--set", pair)]
    lego.main(
        ["--scene", "sample:orrery", "--minutes", "0.01", "--out", str(tmp_path / "new"),
         "--eval-downscale", "4", "--every", "10", *settings]
    )  # fmt: skip
    result = json.loads((tmp_path / "new" / "orrery.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    (fit,) = result["fits"]
    assert fit["minutes"] == 0.01
    assert fit["psnr"] > 5
    assert fit["protocol"]["views"] == 2
    assert fit["frame"] == {"width": 44, "height": 44}
    assert fit["samples_per_second"] > 0
    assert fit["fit_peak_mb"] > 50
    assert fit["eval_peak_mb"] > 50
    assert fit["curve"][-1]["step"] == fit["fit"]["steps"] > 0
    assert {"processor", "cores", "memory_gb", "versions", "commit"} <= result["machine"].keys()
    assert iio.imread(tmp_path / "new" / "orrery.png").shape == (44, 2 * 44 + lego.GAP, 3)
    xml.dom.minidom.parse(str(tmp_path / "new" / "orrery.svg"))
