"""Every example runs as a user runs it, with a tiny budget."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import pytest

from polyfield.run import RunDirectory

TINY = ("data.downscale=8", "fit.rays=128", "fit.checks=0", "sampler.type=stratified",
        "sampler.samples=16")  # fmt: skip
AS_OPTIONS = [part for pair in TINY for part in ("--set", pair)]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, *arguments: object, folder: Path) -> str:
    """Standard output of an example that must succeed."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, f"{name} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the examples are run from: not the repository."""
    return tmp_path_factory.mktemp("a folder with spaces")


@pytest.fixture(scope="module")
def first(folder) -> tuple[Path, str]:
    """The run that example 01 makes, and what it printed."""
    small = ("--steps", 8, "--frames", 2, "--size", 16, *AS_OPTIONS)
    text = run("01_fit_a_sample.py", *small, folder=folder)
    return folder / "runs" / "01", text


def test_01_leaves_a_run_with_scores_and_a_video(first):
    path, text = first
    assert RunDirectory(path).read_json("eval.json")["psnr"] > 0
    assert "8 steps" in text and "2 test views" in text
    assert len(iio.imread(path / "orbit.mp4")) == len(iio.imread(path / "orbit-depth.mp4")) == 2


def test_02_prints_a_line_per_backbone(folder):
    text = run("02_swap_the_backbone.py", "--steps", 2, *AS_OPTIONS, folder=folder)
    rows = [line.split() for line in text.splitlines()]
    assert [row[0] for row in rows] == ["backbone", "hash-grid", "mlp"]
    for name in ("hash-grid", "mlp"):
        settings = RunDirectory(folder / "runs" / "02" / name).read_config()["settings"]
        assert settings["backbone"]["type"] == name


def test_03_fits_saves_and_loads_a_backbone_of_its_own(folder):
    text = run("03_add_a_backbone.py", "runs/03", 3, "backbone.width=32", *TINY, folder=folder)
    settings = RunDirectory(folder / "runs" / "03").read_config()["settings"]
    assert settings["backbone"] == {"type": "my-fourier", "frequencies": 64, "width": 32}
    assert "steps=3" in text and "density of the saved run: tensor([" in text


def test_03_stays_short():
    lines = (EXAMPLES / "03_add_a_backbone.py").read_text("utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 42


def test_04_writes_two_pictures(first):
    path, _ = first
    run("04_render_in_python.py", path, "--size", 16, "--out", path / "mine", folder=path.parent)
    assert iio.imread(path / "mine" / "picture.png").shape == (16, 16 + 4 + 16, 3)
    assert iio.imread(path / "mine" / "slice.png").shape == (16, 16, 3)


def test_05_lowers_the_loss_and_writes_a_picture(folder):
    small = ("--steps", 25, "--rays", 128, "--downscale", 8)
    text = run("05_your_own_loop.py", *small, folder=folder)
    losses = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("step")]
    assert losses[-1] < 0.8 * losses[0]
    assert iio.imread(folder / "picture.png").shape == (22, 22 + 4 + 22, 3)


def test_every_example_is_listed_and_tested():
    files = {path.name for path in EXAMPLES.glob("*.py")}
    listed = set(re.findall(r"\((\d\d_\w+\.py)\)", (EXAMPLES / "README.md").read_text("utf-8")))
    tested = set(re.findall(r'"(\d\d_\w+\.py)"', Path(__file__).read_text("utf-8")))
    assert files == listed == tested


def test_06_drives_another_sensor_through_the_street(folder):
    from polyfield.data.lidar.load import load_sweeps
    from polyfield.data.lidar.street_drive import write_street

    write_street(folder / "street", sweeps=3, columns=32)
    small = ("backbone.levels=2", "backbone.log2_entries=8", "sampler.resolution=16",
             "fit.rays=64", "fit.checks=0")  # fmt: skip
    options = [part for pair in small for part in ("--set", pair)]
    text = run("06_drive_a_lidar.py", "--scene", "street", "--steps", 3, *options, folder=folder)
    assert "range_mae_m" in text and "points of a vlp-16" in text
    assert (folder / "runs" / "06" / "vlp-16" / "poses.txt").is_file()
    assert len(load_sweeps(folder / "street")) == 3
