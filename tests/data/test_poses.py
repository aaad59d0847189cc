"""Pose conventions, checks and estimates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyfield.data.poses import (
    as_pose,
    average_pose,
    facing,
    flip_convention,
    focus_point,
    quaternion_from_rotation,
    rotation_from_quaternion,
    up_direction,
)
from polyfield.data.scene import SceneTransform
from polyfield.errors import InputError


def random_rotations(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rotation_from_quaternion(rng.normal(size=(count, 4)))


def test_flipping_the_convention_twice_is_the_identity_and_turns_the_view(toys):
    poses = toys.ring(5)
    np.testing.assert_array_equal(flip_convention(flip_convention(poses)), poses)
    flipped = flip_convention(poses)
    np.testing.assert_array_equal(flipped[:, :, 0], poses[:, :, 0])
    np.testing.assert_array_equal(flipped[:, :, 2], -poses[:, :, 2])
    np.testing.assert_array_equal(flipped[:, :, 3], poses[:, :, 3])


def test_quaternions_and_rotations_are_inverse_and_proper():
    rotations = random_rotations(50)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)
    back = np.stack([rotation_from_quaternion(quaternion_from_rotation(r)) for r in rotations])
    np.testing.assert_allclose(back, rotations, atol=1e-12)


def test_quaternion_is_scalar_first_and_turns_x_to_y_about_z():
    half = np.sqrt(0.5)
    rotation = rotation_from_quaternion(np.array([half, 0.0, 0.0, half]))
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_a_pose_of_three_rows_gets_its_fourth(toys):
    pose = toys.ring(1)[0]
    whole, note = as_pose(pose[:3].tolist(), "here")
    np.testing.assert_allclose(whole, pose, atol=1e-12)
    assert note is None


def test_scaled_axes_are_normalised_with_a_note_and_the_position_stays(toys):
    pose = toys.ring(1)[0]
    scaled = pose.copy()
    scaled[:3, :3] *= 2.5
    mended, note = as_pose(scaled, "frame 7")
    np.testing.assert_allclose(mended, pose, atol=1e-12)
    assert "frame 7" in note and "2.5" in note


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.__setitem__((0, 3), np.nan), "not finite"),
        (lambda p: p.__setitem__((slice(0, 3), 2), -p[:3, 2]), "determinant -1"),
        (lambda p: p.__setitem__((slice(0, 3), 1), p[:3, 1] + 0.3 * p[:3, 0]), "not perpendicular"),
        (lambda p: p.__setitem__((slice(0, 3), 1), 0.0), "length 0"),
    ],
)
def test_bad_poses_are_refused_with_their_frame(toys, change, said):
    pose = toys.ring(1)[0]
    change(pose)
    with pytest.raises(InputError, match=said) as caught:
        as_pose(pose, "file.json, frame 'r_3'")
    assert "r_3" in str(caught.value)


@pytest.mark.parametrize("matrix", [[[1, 2], [3, 4]], "text", [[1, 2], [3]]])
def test_what_is_no_matrix_is_refused(matrix):
    with pytest.raises(InputError, match="pose"):
        as_pose(matrix, "here")


def test_focus_is_where_all_axes_meet(toys):
    target = (0.3, -0.2, 0.5)
    places = [(4, 0, 1), (0, 4, 2), (-3, -3, 0.5)]
    poses = np.stack([toys.look_at(place, target) for place in places])
    point, conditioning = focus_point(poses)
    np.testing.assert_allclose(point, target, atol=1e-9)
    assert conditioning > 0.1
    np.testing.assert_allclose(facing(poses, point), 0, atol=1e-6)
    np.testing.assert_allclose(facing(poses, 2 * poses[0, :3, 3] - point)[0], np.pi, atol=1e-6)


def test_focus_of_parallel_axes_is_known_to_be_loose(toys):
    poses = np.stack([toys.look_at((x, 0, 5), (x, 0, 0), (0, 1, 0)) for x in (-1.0, 0.0, 1.0)])
    _, conditioning = focus_point(poses)
    assert conditioning < 1e-6


def test_up_of_level_cameras_is_exact_even_from_one_side(toys):
    up = np.array([0.1, 0.2, 1.0]) / np.linalg.norm([0.1, 0.2, 1.0])
    places = [(4, 0, 1.0), (3, 2, 3.0), (2, 3, -1.0), (4, 1, 2.0)]
    poses = np.stack([toys.look_at(place, up=up) for place in places])
    np.testing.assert_allclose(up_direction(poses), up, atol=1e-9)


def test_average_pose_of_one_pose_is_that_pose(toys):
    pose = toys.ring(1)
    np.testing.assert_allclose(average_pose(pose), pose[0], atol=1e-12)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_transform_undoes_itself_and_keeps_rotations(toys, library):
    rotation = random_rotations(1)[0]
    transform = SceneTransform(0.4, (1.0, -2.0, 0.5), tuple(map(tuple, rotation.tolist())))
    points, poses = np.random.default_rng(1).normal(size=(7, 3)), toys.ring(4)
    if library == "torch":
        points, poses = torch.from_numpy(points), torch.from_numpy(poses)
    boxed = transform.to_box(points)
    assert type(boxed) is type(points) and boxed.dtype == points.dtype
    np.testing.assert_allclose(
        np.asarray(boxed), 0.4 * (np.asarray(points) - [1, -2, 0.5]) @ rotation.T, atol=1e-12
    )
    np.testing.assert_allclose(np.asarray(transform.to_world(boxed)), points, atol=1e-12)
    there = transform.pose_to_box(poses)
    np.testing.assert_allclose(np.linalg.det(np.asarray(there)[:, :3, :3]), 1, atol=1e-12)
    np.testing.assert_allclose(np.asarray(transform.pose_to_world(there)), poses, atol=1e-12)
    assert SceneTransform.from_plain(transform.to_plain()) == transform
