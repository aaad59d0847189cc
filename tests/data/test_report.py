"""What ``polyfield data`` says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from polyfield.data.load import load_scene
from polyfield.data.report import draw_cameras, report_text, scene_report, sharpness
from polyfield.data.scene import LoadOptions


def test_the_report_is_plain_data_with_the_facts(capture):
    def edit(contents, folder):
        (folder / "images" / "0002.jpg").unlink()

    report = scene_report(load_scene(capture(edit=edit, k1=0.05)))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["views"] == 8 and report["missing"] == ["images/0002.jpg"]
    assert report["sizes"] == [{"width": 24, "height": 16, "views": 8}]
    assert report["intrinsics"]["fx"] == 30 and report["intrinsics"]["model"] == "opencv"
    assert report["splits"] == {"train": 7, "val": 0, "test": 1}
    assert report["cameras"]["share_looking_at_focus"] == 1
    assert report["cameras"]["mean_angle_to_centre_degrees"] < 3
    assert report["bounds"]["half_side"] == pytest.approx(math.sqrt(17), rel=1e-2)
    assert report["memory_bytes"] == 8 * 24 * 16 * 3


def test_the_text_names_what_is_missing(capture):
    def edit(contents, folder):
        (folder / "images" / "0002.jpg").unlink()

    text = report_text(scene_report(load_scene(capture(edit=edit))))
    assert "images/0002.jpg" in text and "24x16 (8)" in text and "held out: every:8" in text


def test_blurry_images_are_found_by_their_pixels(capture):
    rng = np.random.default_rng(0)

    def edit(contents, folder):
        for i in range(9):
            noise = Image.fromarray(rng.integers(0, 256, (80, 120, 3), np.uint8))
            noise = noise.filter(ImageFilter.GaussianBlur(4)) if i == 5 else noise
            noise.save(folder / "images" / f"{i:04d}.png")

    report = scene_report(load_scene(capture(edit=edit, suffix=".png", size=(120, 80))))
    assert [b["name"] for b in report["blurry"]] == ["images/0005.png"]


def test_the_files_own_sharpness_is_preferred(capture):
    def edit(contents, folder):
        for i, frame in enumerate(contents["frames"]):
            frame["sharpness"] = 2.0 if i == 3 else 30.0 + i

    report = scene_report(load_scene(capture(edit=edit)))
    assert [b["name"] for b in report["blurry"]] == ["images/0003.jpg"]


def test_sharpness_of_a_flat_image_is_zero_and_of_a_checkerboard_large():
    flat = np.full((20, 20, 3), 90, np.uint8)
    board = (np.indices((20, 20)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert sharpness(flat) == pytest.approx(0, abs=1e-6)
    assert sharpness(board) == pytest.approx((4 * 255) ** 2, rel=1e-3)


@pytest.mark.parametrize("ndc", [False, True])
def test_the_picture_shows_cameras_and_box(tmp_path, capture, toys, ndc):
    def edit(contents, folder):
        for i, frame in enumerate(contents["frames"]):
            pose = toys.look_at((0.2 * i - 0.8, 0.1 * (i % 3), 0), (0, 0, -5), (0, 1, 0))
            frame["transform_matrix"] = pose.tolist()

    options = LoadOptions(ndc=ndc, near=2.0 if ndc else None)
    scene = load_scene(capture(edit=edit), options)
    draw_cameras(scene, tmp_path / "cameras.png")
    pixels = np.asarray(Image.open(tmp_path / "cameras.png"))
    for colour in [(20, 120, 60), (40, 90, 200), (210, 80, 30)]:  # box, train, test
        for half in np.split(pixels, 2, axis=1):
            assert (half == colour).all(axis=2).sum() > 20
