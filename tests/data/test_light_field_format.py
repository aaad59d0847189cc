"""Light-field folders: names, mosaics, geometry, what is held out, and what bad ones get."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from polyfield.data.detect import detect
from polyfield.data.lenslets import views_to_mosaic
from polyfield.data.light_field import light_field_grid
from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.data.write import write_colmap
from polyfield.errors import ConfigError, InputError

GEOMETRY = {"focal": 30.0, "baseline": 0.1, "zero_disparity": 4.0, "depth": [2.0, 8.0]}


def pictures(columns=3, rows=3, size=(12, 8)) -> np.ndarray:
    """[u, v, t, s, channel], every view with its place in its colours."""
    views = np.zeros((columns, rows, size[1], size[0], 3), np.uint8)
    views += np.random.default_rng(1).integers(0, 50, views.shape, dtype=np.uint8)
    views[..., 0] += (20 * np.arange(columns, dtype=np.uint8))[:, None, None, None]
    views[..., 1] += (20 * np.arange(rows, dtype=np.uint8))[None, :, None, None]
    return views


def folder(path, views, name="view_{v:02d}_{u:02d}.png", settings=GEOMETRY):
    path.mkdir(parents=True, exist_ok=True)
    for u in range(views.shape[0]):
        for v in range(views.shape[1]):
            file = path / name.format(u=u, v=v)
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(views[u, v]).save(file)
    if settings is not None:
        (path / "light-field.json").write_text(json.dumps(settings))
    return path


def grid_of(path):
    return light_field_grid(load_scene(path))


# What is read


@pytest.mark.parametrize("prefix", ["", "views/", "rectified/"])
def test_views_named_by_row_and_column(tmp_path, prefix):
    views = pictures(4, 3)
    scene = load_scene(folder(tmp_path / "lf", views, prefix + "view_{v:02d}_{u:02d}.png"))
    assert scene.report.format == "light-field" and scene.bounded and not scene.report.warnings
    assert scene.names[5] == "view_01_01"
    grid = light_field_grid(scene)
    np.testing.assert_array_equal(grid.views, views)
    assert grid.depths is None and np.shares_memory(grid.views, scene.images.image(0))
    found = grid.geometry
    assert (found.columns, found.rows, found.centre) == (4, 3, (2, 1))
    assert found.baseline == pytest.approx((0.1, 0.1)) and found.focal == pytest.approx((30, 30))
    assert found.zero_disparity == pytest.approx(4.0, rel=1e-4)
    assert found.principal == pytest.approx((6, 4), abs=1e-4)
    np.testing.assert_allclose(found.pose, np.eye(4), atol=1e-6)


def test_views_of_one_point_are_where_the_geometry_says(tmp_path):
    scene = load_scene(folder(tmp_path / "lf", pictures()))
    point = scene.transform.to_box(np.array([0.2, -0.3, -3.0]))
    seen = []
    for view in (4, 5, 7):
        pose = scene.cameras.c2w[view].double().numpy()
        fx, fy, cx, cy = scene.cameras.intrinsics[view].tolist()
        local = (point - pose[:, 3]) @ pose[:, :3]
        seen.append((cx - fx * local[0] / local[2], cy + fy * local[1] / local[2]))
    disparity = 30 * 0.1 * (1 / 3 - 1 / 4)
    np.testing.assert_allclose(np.subtract(seen[0], seen[1]), (disparity, 0), atol=1e-5)
    np.testing.assert_allclose(np.subtract(seen[0], seen[2]), (0, disparity), atol=1e-5)


def test_the_box_holds_all_that_is_seen_between_the_stated_depths(tmp_path):
    scene = load_scene(folder(tmp_path / "lf", pictures()))
    scale = scene.transform.scale
    assert float(scene.cameras.near[0]) == pytest.approx(1.9 * scale)
    assert float(scene.cameras.far[0]) == pytest.approx(8.4 * scale)
    for view in range(9):
        rays = scene.cameras.image_rays(view)
        for depth in (2.0, 8.0):
            t = depth * scale / rays.z_scale
            assert float((rays.origins + t[..., None] * rays.directions).abs().max()) <= 1


@pytest.mark.parametrize(
    "name",
    ["out_{v:02d}_{u:02d}_{y:.4f}_{x:.4f}.png", "out_{v:02d}_{u:02d}_{x:.4f}_{y:.4f}_.png"],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_gantry_names_place_cameras_unevenly(tmp_path, name, sign):
    views = pictures(3, 3)
    xs, ys = np.array([-1.0, 0.1, 1.0]) * 2, np.array([-1.0, 0.0, 1.2]) * 2 * sign
    path = tmp_path / "rectified"
    path.mkdir()
    for u in range(3):
        for v in range(3):
            file = name.format(u=u, v=v, x=xs[u] + 500, y=ys[v] - 300)
            Image.fromarray(views[u, v]).save(path / file)
    settings = {"focal": 40, "zero_disparity": 50, "depth": [30, 90]}
    (tmp_path / "light-field.json").write_text(json.dumps(settings))
    scene = load_scene(tmp_path)
    np.testing.assert_array_equal(light_field_grid(scene).views, views)
    places = scene.transform.to_world(scene.cameras.c2w[:, :, 3]).reshape(3, 3, 3).numpy()
    np.testing.assert_allclose(places[0, :, 0] - places[0, 1, 0], xs - xs[1], atol=1e-3)
    np.testing.assert_allclose(places[:, 0, 1] - places[1, 0, 1], -np.abs(ys - ys[1]) *
                               [-1, 0, 1], atol=1e-3)  # fmt: skip


@pytest.mark.parametrize(("order", "columns"), [("rows", None), ("columns", None), ("rows", 4)])
def test_numbered_views_follow_rows_or_columns(tmp_path, order, columns):
    rows, wide = (2, 4) if columns else (3, 3)
    views = pictures(wide, rows)
    path = tmp_path / "lf"
    path.mkdir()
    for u in range(wide):
        for v in range(rows):
            index = v * wide + u if order == "rows" else u * rows + v
            Image.fromarray(views[u, v]).save(path / f"input_Cam{index}.png")
    settings = {**GEOMETRY, "order": order, "columns": columns}
    (path / "light-field.json").write_text(json.dumps(settings))
    np.testing.assert_array_equal(grid_of(path).views, views)


def test_rows_and_columns_that_count_the_other_way_are_flipped(tmp_path):
    views = pictures(3, 4)
    for flip, expected in (("rows", views[:, ::-1]), ("both", views[::-1, ::-1])):
        path = folder(tmp_path / flip, views, settings={**GEOMETRY, "flip": flip})
        np.testing.assert_array_equal(grid_of(path).views, expected)


def test_a_lenslet_mosaic_is_taken_apart_once(tmp_path):
    views = pictures(5, 5)
    path = tmp_path / "lytro"
    path.mkdir()
    Image.fromarray(views_to_mosaic(views)).save(path / "flower.png")
    settings = {**GEOMETRY, "lenslet": "flower.png", "pixels_per_lens": 5, "use": 3}
    (path / "light-field.json").write_text(json.dumps(settings))
    scene = load_scene(path)
    np.testing.assert_array_equal(light_field_grid(scene).views, views[1:4, 1:4])
    assert scene.report.notes["light_field"]["views"] == "9 views of flower.png"
    (made,) = (tmp_path / "cache").glob("lenslet-*")
    before = made.stat().st_mtime_ns
    load_scene(path)
    assert made.stat().st_mtime_ns == before
    assert sorted(p.name for p in path.iterdir()) == ["flower.png", "light-field.json"]


def test_depth_pictures_beside_the_views_are_found(tmp_path):
    views = pictures()
    path = folder(tmp_path / "lf", views, settings={**GEOMETRY, "depth_scale": 0.01})
    for place in ("00_00", "01_02"):
        depth = np.full((8, 12), 300, np.uint16)
        Image.fromarray(depth).save(path / f"view_{place}_depth.png")
    grid = grid_of(path)
    assert grid.depths[2, 1] == pytest.approx(3.0) and not grid.depths[1, 1].any()
    assert grid.disparities(2, 1) == pytest.approx(30 * 0.1 * (1 / 3 - 1 / 4), rel=1e-3)


def test_downscaled_views_keep_the_geometry(tmp_path):
    path = folder(tmp_path / "lf", pictures())
    half = light_field_grid(load_scene(path, LoadOptions(downscale=2))).geometry
    assert half.focal == pytest.approx((15, 15)) and half.principal == pytest.approx((3, 2))
    assert half.zero_disparity == pytest.approx(4.0, rel=1e-3)


def test_an_angle_of_view_stands_for_a_focal_length(tmp_path):
    settings = {"field_of_view": 90, "baseline": [0.1, 0.2], "depth": [1, 2]}
    geometry = grid_of(folder(tmp_path / "lf", pictures(), settings=settings)).geometry
    assert geometry.focal == pytest.approx((6, 6)) and geometry.zero_disparity == np.inf
    assert geometry.baseline == pytest.approx((0.1, 0.2))


def test_without_depths_the_box_is_a_guess_and_says_so(tmp_path):
    settings = {"focal": 30, "baseline": 0.1, "zero_disparity": 4}
    scene = load_scene(folder(tmp_path / "lf", pictures(), settings=settings))
    assert not scene.bounded
    assert any('"depth": [NEAR, FAR]' in warning for warning in scene.report.warnings)
    forward = load_scene(tmp_path / "lf", LoadOptions(ndc=True))
    assert forward.cameras.ndc


# What is held out


def test_views_between_those_of_every_second_row_and_column_are_held_out(tmp_path):
    scene = load_scene(folder(tmp_path / "lf", pictures(5, 4)))
    fitted = {scene.names[i] for i in scene.splits["train"]}
    assert fitted == {f"view_{r:02d}_{c:02d}" for r in (0, 2, 3) for c in (0, 2, 4)}
    assert len(scene.splits["test"]) == 11
    sparse = {**GEOMETRY, "train_every": 4}
    scene = load_scene(folder(tmp_path / "sparse", pictures(9, 5), settings=sparse))
    assert {scene.names[i] for i in scene.splits["train"]} == {
        f"view_{r:02d}_{c:02d}" for r in (0, 4) for c in (0, 4, 8)
    }


def test_holdout_asked_for_has_the_last_word(tmp_path):
    path = folder(tmp_path / "lf", pictures())
    scene = load_scene(path, LoadOptions(holdout="4"))
    assert scene.splits["test"] == (4,) and len(scene.splits["train"]) == 8
    every = folder(tmp_path / "all", pictures(), settings={**GEOMETRY, "train_every": 1})
    assert load_scene(every).report.notes["split"] == "held out: every:8"


# What is refused


def test_missing_views_are_listed(tmp_path):
    path = folder(tmp_path / "lf", pictures())
    (path / "view_01_00.png").unlink()
    (path / "view_02_01.png").unlink()
    with pytest.raises(InputError, match="2 views .* missing: row 1 column 0, row 2 column 1;"):
        load_scene(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, r"nothing says the focal length.*write .*light-field.json with \{\"focal\": 12,"),
        ({"focal": 30}, "nothing says how far apart the cameras are.*baseline"),
        ({**GEOMETRY, "focal": -3}, "focal must be a positive number, got -3"),
        ({**GEOMETRY, "baseline": [0.1, 0]}, "baseline 1 must be a positive number"),
        ({**GEOMETRY, "depth": [3, 2]}, "nearer and a farther distance"),
        ({**GEOMETRY, "zero_disparty": 2}, "did you mean 'zero_disparity'"),
        ({**GEOMETRY, "flip": "row"}, "did you mean 'rows'"),
        ({**GEOMETRY, "focal": "wide"}, "focal must be float, got 'wide'"),
        ({**GEOMETRY, "train_every": 0}, "train_every must be at least 1"),
        ({"field_of_view": 190, "baseline": 1}, r"in \(0, 180\)"),
        ([1], "holds no settings"),
        ({**GEOMETRY, "lenslet": "view_00_00.png"}, "needs pixels_per_lens"),
        ({**GEOMETRY, "lenslet": "no.png", "pixels_per_lens": 2}, "no.png does not exist"),
        ({**GEOMETRY, "lenslet": "view_00_00.png", "pixels_per_lens": 7}, "12x8 .* 7x7"),
        ({**GEOMETRY, "lenslet": "view_00_00.png", "pixels_per_lens": 2, "use": 3},
         "cannot use 3x3 of 2x2"),
    ],
)  # fmt: skip
def test_geometry_that_is_absent_or_wrong_says_what_to_write(tmp_path, settings, message):
    path = folder(tmp_path / "lf", pictures(), settings=settings)
    with pytest.raises((InputError, ConfigError), match=message):
        load_scene(path)


def test_views_of_several_sizes_are_named(tmp_path):
    path = folder(tmp_path / "lf", pictures())
    Image.fromarray(pictures()[0, 0, :6]).save(path / "view_02_01.png")
    with pytest.raises(InputError, match="view_02_01.png is 12x6; bring them to one size"):
        load_scene(path)


def test_numbered_views_that_make_no_grid_are_counted(tmp_path):
    path = tmp_path / "lf"
    path.mkdir()
    for index in range(7):
        Image.fromarray(pictures()[0, 0]).save(path / f"{index}.png")
    (path / "light-field.json").write_text(json.dumps(GEOMETRY))
    with pytest.raises(InputError, match=r"holds 7 views, expected 2x2; name them view_RR_CC"):
        load_scene(path)


def test_two_views_of_one_place_are_named(tmp_path):
    path = folder(tmp_path / "lf", pictures())
    Image.fromarray(pictures()[0, 0]).save(path / "view_1_1.png")
    with pytest.raises(InputError, match="have the same row and column"):
        load_scene(path)


def test_other_scenes_and_heaps_of_photographs_are_no_light_fields(tmp_path, synthetic):
    assert detect(synthetic()).entry.name == "nerf-synthetic"
    path = tmp_path / "photos"
    path.mkdir()
    for index in range(5):
        Image.fromarray(pictures()[0, 0]).save(path / f"IMG_2020_01_02_{index}.png")
    with pytest.raises(InputError, match="5 images without camera poses"):
        detect(path)
    (path / "light-field.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        load_scene(path)


def test_a_light_field_is_written_as_colmap_and_read_back(tmp_path):
    scene = load_scene(folder(tmp_path / "lf", pictures()))
    write_colmap(scene, tmp_path / "colmap")
    again = load_scene(tmp_path / "colmap")
    assert again.report.format == "colmap"
    assert light_field_grid(again).geometry.zero_disparity == pytest.approx(4.0, rel=1e-3)
