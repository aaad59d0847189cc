"""Light-field maths: axes, signs, rays, epipolar planes, refocusing, depth from focus, lenslets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from polyfield.data.lenslets import (
    central_views,
    mosaic_to_views,
    slab_coordinates,
    slab_rays,
    views_to_mosaic,
)
from polyfield.data.light_field import (
    GridGeometry,
    LightFieldGrid,
    grid_geometry,
    horizontal_epi,
    middle,
    vertical_epi,
)
from polyfield.data.refocusing import aperture, depth_from_focus, moved, refocus
from polyfield.errors import InputError
from polyfield.renderers.cameras import Cameras

RANDOM = np.random.default_rng(0)


def geometry(zero=4.0, columns=5, rows=3, pose=None) -> GridGeometry:
    pose = np.eye(4) if pose is None else pose
    return GridGeometry(columns, rows, (0.2, 0.1), (90.0, 80.0), (20.5, 15.0), pose, zero)


def turned_pose() -> np.ndarray:
    q, _ = np.linalg.qr(RANDOM.normal(size=(3, 3)))
    pose = np.eye(4)
    pose[:3, :3] = q * np.sign(np.linalg.det(q))
    pose[:3, 3] = [1.0, -2.0, 0.5]
    return pose


def blob(disparity=1.5, at=30.0, views=8, size=64) -> np.ndarray:
    """A ridge at `at` in view 0, as [u, v, t, s, channel]."""
    place = at - np.arange(views)[:, None] * disparity
    profile = np.exp(-((np.arange(size) - place) ** 2) / 8)
    return np.tile(profile[:, None, None, :, None], (1, 1, 16, 1, 1)).astype(np.float32)


def textured_planes(size=48, views=7, near=1.0, far=-0.5) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random texture at two disparities, the nearer on the right; and the disparities."""
    s = np.arange(size, dtype=float)
    waves = RANDOM.normal(size=(2, 24, 2)) * 0.55
    phase = RANDOM.uniform(0, 6.28, size=(2, 24))
    out = np.zeros((views, views, size, size, 1), np.float32)
    for u in range(views):
        for v in range(views):
            shades = []
            for k, d in enumerate((near, far)):
                x, y = s[None, :, None] + (u - 3) * d, s[:, None, None] + (v - 3) * d
                value = np.cos(x * waves[k, :, 0] + y * waves[k, :, 1] + phase[k]).sum(-1)
                shades.append(0.5 + 0.06 * value)
            in_front = s + (u - 3) * near > size / 2
            out[u, v, :, :, 0] = np.where(in_front[None], *shades)
    return out, np.where(s > size / 2, near, far)


# Geometry


def test_the_centre_is_the_middle_view_and_of_even_grids_the_one_behind_it():
    assert [middle(n) for n in (1, 2, 9, 14)] == [0, 1, 4, 7]


def test_disparity_is_positive_for_what_is_nearer_and_zero_on_its_plane():
    grid = geometry(zero=4.0)
    assert grid.disparity(4.0) == pytest.approx(0)
    assert grid.disparity(2.0) == pytest.approx(0.2 * 90 * 0.25)
    assert grid.disparity(8.0) < 0
    depths = np.array([1.0, 3.0, 9.0])
    np.testing.assert_allclose(grid.depth(grid.disparity(depths)), depths)
    parallel = geometry(zero=np.inf)
    assert parallel.depth(0.0) == np.inf and parallel.disparity(3.0) == pytest.approx(6.0)


@pytest.mark.parametrize("zero", [4.0, np.inf])
def test_a_point_moves_left_by_its_disparity_from_column_to_column(zero):
    grid = geometry(zero)
    point = np.array([0.3, -0.2, -2.5])
    seen = []
    for u, v in ((2, 1), (3, 1), (2, 2)):
        pose, (cx, cy) = grid.camera(u, v)
        local = point - pose[:3, 3]
        seen.append((cx + 90 * local[0] / 2.5 - 0.5, cy - 80 * local[1] / 2.5 - 0.5))
    (s, t), (right, _), (_, below) = seen
    disparity = grid.disparity(2.5)
    assert s - right == pytest.approx(disparity)
    assert t - below == pytest.approx(disparity * grid.row_step)


@pytest.mark.parametrize("zero", [4.0, np.inf])
def test_rays_and_coordinates_are_inverse(zero):
    grid = geometry(zero, pose=turned_pose())
    u, v, s, t = RANDOM.uniform(-1, 6, size=(4, 20))
    origins, directions = grid.rays(u, v, s, t)
    slid = origins + RANDOM.normal(size=(20, 1)) * directions
    for found, given in zip(grid.coordinates(slid, 3 * directions), (u, v, s, t), strict=True):
        np.testing.assert_allclose(found, given, atol=1e-9)


def test_rays_are_those_of_the_renderers_cameras():
    grid = geometry(pose=turned_pose())
    poses, centres = zip(*(grid.camera(u, v) for v in range(3) for u in range(5)), strict=True)
    lens = [[90.0, 80.0, *centre] for centre in centres]
    cameras = Cameras(
        torch.tensor(np.array(poses)[:, :3]), torch.tensor(lens, dtype=torch.float64),
        torch.tensor([[41, 30]] * 15), ("pinhole",) * 15, torch.zeros(15, 12),
        torch.ones(15), torch.ones(15),
    )  # fmt: skip
    rays = cameras.rays(torch.tensor([8]), torch.tensor([[7.5, 3.5]], dtype=torch.float64))
    one = (np.array([value]) for value in (3.0, 1.0, 7.0, 3.0))
    origin, direction = grid.rays(*one)
    np.testing.assert_allclose(rays.origins.numpy(), origin, atol=1e-9)
    unit = direction / np.linalg.norm(direction)
    np.testing.assert_allclose(rays.directions.numpy(), unit, atol=1e-9)
    found = grid_geometry(cameras)
    for name, value in dataclasses.asdict(grid).items():
        np.testing.assert_allclose(getattr(found, name), value, atol=1e-6, err_msg=name)
    assert grid_geometry(cameras[list(range(5))]).rows == 1
    for wrong in (cameras[[0, 1, 2, 3, 5]], cameras[[1, 0, 2]], cameras[[0]]):
        with pytest.raises(InputError, match="no light field's"):
            grid_geometry(wrong)


def test_depths_give_disparities_and_points():
    grid = geometry()
    views = RANDOM.integers(0, 255, size=(5, 3, 4, 6, 3)).astype(np.uint8)
    depths = np.full((5, 3, 4, 6), 2.0, np.float32)
    depths[1, 2, 0, 0] = 0
    field = LightFieldGrid(views, grid, depths)
    assert np.isnan(field.disparities(1, 2)[0, 0])
    assert field.disparities(0, 0) == pytest.approx(4.5)
    origins, directions, colours, depth = field.rgbd_rays(1, 2)
    points = origins + depth[:, None] * directions
    np.testing.assert_allclose(points[1:, 2], -2)
    np.testing.assert_array_equal(colours, field.view(1, 2).reshape(-1, 3))
    with pytest.raises(InputError, match="no depths"):
        LightFieldGrid(views, grid).disparities(0, 0)


def test_two_plane_rays_round_trip_and_epipolar_slopes_are_those_of_the_book():
    uv, st = RANDOM.normal(size=(2, 10, 2))
    back = slab_coordinates(*slab_rays(uv, st, 0.5, 2.0), 0.5, 2.0)
    np.testing.assert_allclose(back, (uv, st), atol=1e-12)
    # ds/du = 1 - (z_st - z_uv) / (Z - z_uv) for a point at Z: 0.6 for planes 0 and 1, Z = 2.5
    point = np.array([0.3, 0.1, 2.5])
    eyes = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    _, crossing = slab_coordinates(eyes, point - eyes)
    assert crossing[1, 0] - crossing[0, 0] == pytest.approx(0.6)


# Epipolar planes and focus


def test_a_point_draws_a_line_of_slope_minus_its_disparity():
    views = blob()
    epi = horizontal_epi(views, 0, 5)[..., 0]
    assert epi.shape == (8, 64)
    heights = (epi * np.arange(64)).sum(1) / epi.sum(1)
    np.testing.assert_allclose(np.diff(heights), -1.5, atol=1e-2)
    assert heights[3] == pytest.approx(25.5, abs=1e-2)
    turned = views.transpose(1, 0, 3, 2, 4)
    np.testing.assert_array_equal(vertical_epi(turned, 0, 5)[..., 0], epi)


def test_refocusing_restores_a_point_at_its_disparity_only():
    peak = [float(refocus(blob(), d, centre=(0, 0)).max()) for d in (1.5, 0.0, -1.5)]
    assert peak[0] > 0.97
    assert peak[1:] == pytest.approx([0.42, 0.21], abs=0.01)
    sharp = refocus(blob(), 1.5, centre=(0, 0))[8, :, 0]
    assert int(sharp.argmax()) == 30
    assert int(refocus(blob(), 1.5)[8, :, 0].argmax()) == 24  # as the centre view has it


def test_an_aperture_of_one_view_is_a_pinhole():
    views = RANDOM.uniform(size=(5, 5, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(refocus(views, 2.0, aperture(5, 5, 0.5)), views[2, 2], atol=1e-6)
    assert aperture(9, 9, 4).sum() == 49 and aperture(9, 9, 4)[0, 0] == 0
    with pytest.raises(InputError, match="no view lies in the aperture"):
        refocus(views, 0.0, aperture(5, 5, 0.2, centre=(1.5, 1.5)))


def test_moving_whole_pixels_is_exact_and_says_what_it_does_not_know():
    image = RANDOM.uniform(size=(5, 7, 2)).astype(np.float32)
    values, there = moved(image, 2.0, -1.0)
    np.testing.assert_array_equal(values[:4, 2:], image[1:, :5])
    assert there[:4, 2:].all() and not there[4].any() and not there[:, :2].any()
    half, _ = moved(image, 0.5, 0.0)
    np.testing.assert_allclose(half[:, 1:], (image[:, 1:] + image[:, :-1]) / 2, rtol=1e-6)


def test_constant_views_stay_constant_under_any_focus():
    views = np.full((3, 3, 6, 6, 1), 200, np.uint8)
    for disparity in (-1.3, 0.0, 2.5):
        np.testing.assert_allclose(refocus(views, disparity), 200, rtol=1e-6)


def test_depth_from_focus_finds_two_planes_to_a_tenth_of_a_pixel():
    views, truth = textured_planes()
    candidates = np.arange(-1.0, 1.51, 0.25)
    found = depth_from_focus(views, candidates)
    clear = np.abs(np.arange(48) - 24) > 6  # what is behind the edge is hidden from some views
    clear[:4] = clear[-4:] = False
    error = np.abs(found - truth)[4:-4, clear]
    assert error.max() < 0.1
    with pytest.raises(InputError, match="3 disparities or more"):
        depth_from_focus(views, candidates[:2])


# Lenslets


def test_a_mosaic_is_a_permutation_of_the_views():
    mosaic = RANDOM.integers(0, 255, size=(4 * 3, 5 * 3, 3)).astype(np.uint8)
    views = mosaic_to_views(mosaic, 3)
    assert views.shape == (3, 3, 4, 5, 3)
    np.testing.assert_array_equal(views[2, 1, 3, 4], mosaic[3 * 3 + 1, 4 * 3 + 2])
    np.testing.assert_array_equal(views_to_mosaic(views), mosaic)
    np.testing.assert_array_equal(np.sort(views, axis=None), np.sort(mosaic, axis=None))
    assert central_views(views, 1).shape == (1, 1, 4, 5, 3)
    np.testing.assert_array_equal(central_views(views, 1)[0, 0], views[1, 1])


def test_mosaics_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="15x12 pixels does not hold whole lenses of 4x4"):
        mosaic_to_views(np.zeros((12, 15, 3), np.uint8), 4)
    views = np.zeros((3, 3, 4, 5, 3), np.uint8)
    with pytest.raises(InputError, match="expected 1 to 3"):
        central_views(views, 4)
    with pytest.raises(InputError, match="as many rows"):
        views_to_mosaic(views[:2])
