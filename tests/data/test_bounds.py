"""The scene box: estimates, overrides, near and far."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from polyfield.data.bounds import Hints, scene_bounds, scene_focus
from polyfield.data.load import load_scene
from polyfield.data.scene import Description, LoadOptions, SceneTransform, View


def hints(poses, transparent=False, **stated) -> Hints:
    views = tuple(View(str(i), Path("x"), pose) for i, pose in enumerate(poses))
    return Hints(
        np.stack(poses),
        np.full(len(poses), 0.3),
        transparent,
        Description(views, Path("root"), (), **stated),
    )


@pytest.fixture
def around(toys):
    target = np.array([2.0, -1.0, 0.5])
    places = [target + 3 * np.array([math.cos(a), math.sin(a), 0.4]) for a in range(6)]
    return target, np.stack([toys.look_at(place, target) for place in places])


def test_cameras_of_an_unbounded_scene_sit_on_the_unit_ball(around):
    target, poses = around
    bounds = scene_bounds(hints(poses), LoadOptions())
    assert not bounds.bounded
    np.testing.assert_allclose(bounds.transform.centre, target, atol=1e-6)
    distance = np.linalg.norm(bounds.transform.to_box(poses[:, :3, 3]), axis=1)
    np.testing.assert_allclose(np.median(distance), 1, atol=1e-6)
    assert (bounds.near < 0.3).all() and (bounds.far >= 100).all()


def test_a_cut_out_fits_in_every_image(around):
    target, poses = around
    bounds = scene_bounds(hints(poses, transparent=True), LoadOptions())
    assert bounds.bounded
    half = 3 * math.hypot(1, 0.4) * math.sin(0.3)
    assert 1 / bounds.transform.scale == pytest.approx(half)
    # the range holds the whole box
    distance = np.linalg.norm(bounds.transform.to_box(poses[:, :3, 3]), axis=1)
    np.testing.assert_allclose(bounds.near, distance - 3**0.5)
    np.testing.assert_allclose(bounds.far, distance + 3**0.5)


def test_points_tighten_the_box_of_a_cut_out(around):
    target, poses = around
    points = target + np.random.default_rng(0).uniform(-0.2, 0.2, (500, 3))
    bounds = scene_bounds(hints(poses, transparent=True, points=points), LoadOptions())
    assert 1 / bounds.transform.scale == pytest.approx(0.22, rel=0.05)
    inside = np.abs(bounds.transform.to_box(points)).max(1) < 1
    assert inside.mean() > 0.99


def test_everything_can_be_overridden(around):
    _, poses = around
    options = LoadOptions(scale=0.25, centre=(1.0, 2.0, 3.0), unbounded=False, near=0.5, far=8.0)
    bounds = scene_bounds(hints(poses), options)
    assert bounds.bounded
    assert bounds.transform == SceneTransform(0.25, (1.0, 2.0, 3.0))
    assert (bounds.near == 0.125).all() and (bounds.far == 2.0).all()


def test_an_earlier_runs_transform_is_kept(around):
    _, poses = around
    given = SceneTransform(0.1, (0.0, 0.0, 1.0))
    assert scene_bounds(hints(poses), LoadOptions(scale=3.0), given).transform == given


def test_parallel_cameras_look_straight_ahead_at_a_stated_depth(toys):
    poses = np.stack([toys.look_at((x, 0, 0), (x, 0, -1), (0, 1, 0)) for x in (-1.0, 0.0, 1.0)])
    centre, how = scene_focus(hints(poses, depth_range=(2.0, 30.0)))
    # LLFF: a quarter of the disparity of the nearest, three quarters of the farthest content
    depth = 1 / (0.25 / 1.8 + 0.75 / 150)
    np.testing.assert_allclose(centre, [0, 0, -depth], atol=1e-9)
    assert "depth bounds" in how
    points = np.array([[0.0, 0.0, -7.0]] * 3)
    np.testing.assert_allclose(scene_focus(hints(poses, points=points))[0], [0, 0, -7], atol=1e-9)
    centre, how = scene_focus(hints(poses))
    assert centre[2] < 0 and "spread" in how


def test_cameras_get_the_box_of_the_scene(capture):
    scene = load_scene(
        capture(), LoadOptions(centre=(0.5, 0.0, 0.0), scale=0.2, near=0.1, far=50.0)
    )
    target, _ = scene.cameras.project(torch.tensor([0]), torch.zeros(1, 3))
    world = scene.transform.to_world(np.zeros(3))
    np.testing.assert_allclose(world, [0.5, 0, 0])
    assert target.isfinite().all()
    assert scene.cameras.near[0].item() == pytest.approx(0.02)
    assert scene.cameras.far[0].item() == pytest.approx(10.0)
