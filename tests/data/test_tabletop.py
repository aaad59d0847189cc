"""The shipped light field: made again exactly, true to its geometry, small."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from polyfield.data.light_field import LightFieldGrid, light_field_grid
from polyfield.data.light_field_picture import draw_light_field
from polyfield.data.load import load_scene
from polyfield.data.refocusing import depth_from_focus, refocus
from polyfield.data.samples import tabletop_scene as scene
from polyfield.files import write_json
from polyfield.registry import lookup

FOLDER = scene.tabletop()


@functools.cache
def grid() -> LightFieldGrid:
    return light_field_grid(load_scene("sample:tabletop"))


@pytest.mark.parametrize("place", [(0, 0), (4, 5)])
def test_views_are_made_again_exactly(place):
    name = f"view_{place[0]:02d}_{place[1]:02d}"
    for made, suffix in zip(scene.render_view(*place), ("", "_depth"), strict=True):
        with Image.open(FOLDER / f"{name}{suffix}.png") as shipped:
            np.testing.assert_array_equal(made, np.asarray(shipped).astype(made.dtype))


def test_the_program_writes_the_same_folder(tmp_path, monkeypatch):
    write_json(tmp_path / "again.json", scene.description())
    assert (tmp_path / "again.json").read_text() == (FOLDER / "light-field.json").read_text()
    monkeypatch.setattr(scene, "SIDE", 1)
    monkeypatch.setattr(scene, "render_view", lambda *_: (np.zeros((2, 2, 3), np.uint8),) * 2)
    scene.main([str(tmp_path / "made"), "--workers", "1"])
    assert len(list((tmp_path / "made").iterdir())) == 3


def test_the_folder_holds_what_it_should_and_stays_small():
    files = list(FOLDER.iterdir())
    names = {f"view_{r:02d}_{c:02d}{e}.png" for r in range(9) for c in range(9)
             for e in ("", "_depth")}  # fmt: skip
    assert {f.name for f in files} == names | {"light-field.json", "README.txt", "LICENSE.txt"}
    assert sum(f.stat().st_size for f in files) < 1_500_000


def test_the_sample_is_registered_and_costs_no_torch_import():
    entry = lookup("samples", "tabletop")
    assert entry.target() == FOLDER and entry.summary
    code = "import polyfield.data.samples.tabletop_scene, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_is_a_grid_with_the_stated_geometry():
    loaded = load_scene("sample:tabletop")
    assert (len(loaded.splits["train"]), len(loaded.splits["test"])) == (25, 56)
    assert not loaded.report.warnings and loaded.bounded
    found, stated = grid().geometry, json.loads((FOLDER / "light-field.json").read_text())
    assert (found.columns, found.rows) == (9, 9)
    assert found.focal == pytest.approx((stated["focal"],) * 2)
    assert found.baseline == pytest.approx((stated["baseline"],) * 2, rel=1e-4)
    assert found.zero_disparity == pytest.approx(stated["zero_disparity"], rel=1e-3)
    depths = grid().depths
    assert stated["depth"][0] <= depths.min() and depths.max() <= stated["depth"][1]


@pytest.mark.parametrize("place", [(0, 0), (8, 3), (5, 8)])
def test_a_view_is_the_centre_view_seen_along_its_depths(place):
    """Points unprojected by one view's depths have the same depth and colour in the centre view,
    unless something hides them there."""
    u, v = place
    origins, directions, colours, depth = grid().rgbd_rays(u, v)
    points = origins + depth[:, None] * directions
    centre = grid().geometry.centre
    eye = grid().geometry.camera(*centre)[0][:3, 3]
    _, _, s, t = grid().geometry.coordinates(np.broadcast_to(eye, points.shape), points - eye)
    at = np.rint(t).astype(int), np.rint(s).astype(int)
    inside = (np.stack(at) >= 0).all(0) & (np.stack(at) < 96).all(0)
    at = tuple(a[inside] for a in at)
    seen = np.abs(grid().depths[centre][at] + points[inside, 2]) < 0.02
    assert seen.mean() > 0.85
    apart = np.abs(grid().view(*centre)[at].astype(int) - colours[inside]).mean(1)
    assert np.median(apart[seen]) < 8
    wrong = np.abs(np.roll(colours.reshape(96, 96, 3), 6, 1).reshape(-1, 3)[inside].astype(int)
                   - grid().view(*centre)[at]).mean(1)  # fmt: skip
    assert np.median(wrong[seen]) > 1.5 * np.median(apart[seen])


def test_refocusing_sharpens_the_depth_it_is_set_to():
    centre = grid().geometry.centre
    disparity, true = grid().disparities(*centre), grid().view(*centre).astype(np.float32)
    for distance in (1.8, 4.5):
        d = grid().geometry.disparity(distance)
        near = np.abs(disparity - d) < 0.15
        sharp, blurred = (np.abs(refocus(grid().views, x) - true)[near].mean() for x in (d, -d))
        assert sharp < 0.5 * blurred


def test_depth_from_focus_finds_the_depths_of_most_pixels():
    found = depth_from_focus(grid().views, np.arange(-1.5, 2.3, 0.25))
    truth = grid().disparities(*grid().geometry.centre)
    assert np.median(np.abs(found - truth)) < 0.1


def test_the_picture_of_a_light_field_shows_its_epipolar_planes(tmp_path):
    draw_light_field(load_scene("sample:tabletop"), tmp_path / "epi.png")
    with Image.open(tmp_path / "epi.png") as picture:
        pixels = np.asarray(picture)
    side = 96 * 4
    assert pixels.shape == (side + 4 + 9 * 8, side + 4 + 9 * 8, 3)
    centre = grid().view(4, 4)
    np.testing.assert_array_equal(pixels[:side:4, :side:4], centre)
    np.testing.assert_array_equal(pixels[side + 4 + 4 * 8, :side:4], centre[48])
    np.testing.assert_array_equal(pixels[:side:4, side + 4 + 4 * 8], centre[:, 48])
