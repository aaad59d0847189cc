"""``polyfield data`` of a drive: what it says is what is there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from polyfield.apps.cli import cli
from polyfield.data.lidar.load import LidarOptions, load_sweeps
from polyfield.data.lidar.report import draw_ranges, report_text, sweeps_report


def test_the_report_holds_the_facts(drive):
    scene = load_sweeps(drive())
    report = json.loads(json.dumps(sweeps_report(scene), allow_nan=False))
    assert report["sweeps"] == 6 and report["splits"] == {"train": 5, "val": 0, "test": 1}
    assert report["points"] == sum(len(scene.read(i)) for i in range(6))
    assert report["sensor"]["rings"] == 12 and report["sensor"]["columns"] == 180
    assert report["sensor"]["elevations_degrees"] == pytest.approx([20.0, -25.0], abs=1e-4)
    assert report["sensor"]["fit"]["residual_m"] < 1e-5
    assert report["slots"]["per_sweep"] == 12 * 180 and report["slots"]["second"] == 0
    returns = [len(scene.read(i)) for i in (0, 2, 3, 5)]
    assert report["slots"]["empty"] == pytest.approx(1 - np.mean(returns) / (12 * 180))
    assert report["length_m"] == pytest.approx(
        np.linalg.norm(np.diff(scene.poses[:, :3, 3], axis=0), axis=1).sum()
    )
    text = report_text(report)
    assert "12 rings from 20 to -25 degrees" in text and "held out: every fifth sweep" in text


def test_range_images_are_drawn(drive, tmp_path):
    scene = load_sweeps(drive(), LidarOptions(deskew=False))
    draw_ranges(scene, tmp_path / "ranges.png")
    picture = np.asarray(Image.open(tmp_path / "ranges.png"))
    assert picture.shape == (4 * (12 * 4) + 3 * 4, 180)
    assert picture[:48].max() > 150 and (picture[48:52] == 0).all()


def test_the_command_reads_drives(drive, tmp_path):
    picture = str(tmp_path / "r.png")
    done = CliRunner().invoke(cli, ["data", str(drive()), "--json", "--picture", picture])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["format"] == "lidar" and report["picture"] == picture
    forced = ["data", str(tmp_path / "drive"), "--format", "lidar", "--holdout", "1,2", "--json"]
    done = CliRunner().invoke(cli, [*forced, "--picture", picture])
    assert json.loads(done.stdout.strip().splitlines()[-1])["splits"]["test"] == 2


def test_drives_that_cannot_be_used_end_in_a_sentence(drive, tmp_path):
    folder = drive(edit=lambda folder: (folder / "velodyne" / "000000.bin").write_bytes(b"12345"))
    done = CliRunner().invoke(cli, ["data", str(folder), "--picture", str(tmp_path / "r.png")])
    assert done.exit_code != 0 and not (tmp_path / "r.png").exists()
    assert "000000.bin has 5 bytes" in str(done.exception) + done.output
