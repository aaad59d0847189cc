"""Poses of sweeps: files, refusals, and motion between them."""

from __future__ import annotations

import numpy as np
import pytest

from polyfield.data.lidar.motion import deskew, move_points, revolution_poses
from polyfield.data.lidar.poses import (
    interpolate_poses,
    poses_at,
    read_calibration,
    read_poses,
    read_seconds,
    rotation_vector,
    steps_between,
)
from polyfield.data.poses import quaternion_from_rotation, rotation_from_quaternion
from polyfield.errors import InputError


def turned(angle: float, axis=(0.0, 0.0, 1.0), at=(0.0, 0.0, 0.0)) -> np.ndarray:
    axis = np.array(axis) / np.linalg.norm(axis)
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quaternion(
        np.array([np.cos(angle / 2), *(np.sin(angle / 2) * axis)])
    )
    pose[:3, 3] = at
    return pose


@pytest.fixture
def poses(lidar_toys):
    return lidar_toys.drive_poses(5)


def write(path, rows):
    np.savetxt(path, rows, fmt="%.17g")
    return path


@pytest.mark.parametrize("kind", ["kitti", "square", "kitti-360", "kitti-360 square", "tum"])
def test_every_kind_of_line_is_read(tmp_path, poses, kind):
    numbers = np.arange(5)[:, None] * 3 + 1
    rows = {
        "kitti": poses[:, :3].reshape(5, 12),
        "square": poses.reshape(5, 16),
        "kitti-360": np.hstack([numbers, poses[:, :3].reshape(5, 12)]),
        "kitti-360 square": np.hstack([numbers, poses.reshape(5, 16)]),
        "tum": np.array(
            [
                [0.1 * i, *p[:3, 3], *np.roll(quaternion_from_rotation(p[:3, :3]), -1)]
                for i, p in enumerate(poses)
            ]
        ),
    }[kind]
    found = read_poses(write(tmp_path / "poses.txt", rows))
    np.testing.assert_allclose(found.poses, poses, atol=1e-12)
    assert (found.frames is not None) == ("360" in kind)
    assert (found.seconds is not None) == (kind == "tum")
    if found.frames is not None:
        assert found.frames.tolist() == [1, 4, 7, 10, 13]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r[:, :11], "11 numbers, expected 12"),
        (lambda r: r * np.where(np.arange(12) == 5, 1.01, 1.0), "no rotation"),
        (lambda r: r * np.where(np.arange(12) % 4 == 1, -1.0, 1.0), "determinant -1"),
        (lambda r: np.where(np.arange(12) == 3, np.nan, r), "line 1: a number is not finite"),
        (lambda r: r[:0], "holds no poses"),
    ],
)
def test_poses_that_cannot_be_used_name_file_and_line(tmp_path, poses, change, said):
    path = write(tmp_path / "poses.txt", change(poses[:, :3].reshape(5, 12)))
    with pytest.raises(InputError, match=said) as caught:
        read_poses(path)
    assert "poses.txt" in str(caught.value)


def test_words_and_ragged_lines(tmp_path):
    path = tmp_path / "poses.txt"
    path.write_text("1 0 0 zero\n")
    with pytest.raises(InputError, match="line 1.*zero"):
        read_poses(path)
    path.write_text("# a comment\n" + "1 0 0 0 0 1 0 0 0 0 1 0\n" + "1 0 0 0\n")
    with pytest.raises(InputError, match="line 3: 4 numbers"):
        read_poses(path)
    path.write_text("0 0 0 0 0 0 0 0.5\n")
    with pytest.raises(InputError, match="length 0.5"):
        read_poses(path)


def test_rotations_printed_with_few_digits_are_straightened_and_noted(tmp_path, poses):
    path = tmp_path / "poses.txt"
    np.savetxt(path, poses[:, :3].reshape(5, 12), fmt="%.5f")
    found = read_poses(path)
    rotation = found.poses[:, :3, :3]
    np.testing.assert_allclose(
        np.swapaxes(rotation, 1, 2) @ rotation, np.eye(3)[None].repeat(5, 0), atol=1e-14
    )
    assert "straightened" in found.notes[0]
    assert read_poses(write(path, poses[:, :3].reshape(5, 12))).notes == ()


def test_kittis_calibration_is_the_line_tr(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text("P0: 1 0 0 0 0 1 0 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n")
    matrix = read_calibration(path)
    np.testing.assert_allclose(matrix[:3, :3], [[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    path.write_text("P0: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    assert read_calibration(path) is None
    path.write_text("Tr: 1 2 3\n")
    with pytest.raises(InputError, match="'Tr' needs 12 numbers"):
        read_calibration(path)


def test_times_are_numbers_or_dates_and_grow(tmp_path):
    path = tmp_path / "times.txt"
    path.write_text("0.0\n1.03e-01\n0.21\n")
    np.testing.assert_allclose(read_seconds(path), [0, 0.103, 0.21])
    path.write_text("2011-09-26 23:59:59.950000000\n2011-09-27 00:00:00.050000000\n")
    assert np.diff(read_seconds(path))[0] == pytest.approx(0.1, abs=1e-5)
    path.write_text("0\n0.2\n0.1\n")
    with pytest.raises(InputError, match="time 2 .* does not come after time 1"):
        read_seconds(path)
    path.write_text("0\nsoon\n")
    with pytest.raises(InputError, match="times"):
        read_seconds(path)


def test_interpolation_meets_both_ends_and_turns_evenly():
    start, end = turned(0.2, (1, 2, 3), (1, 0, 0)), turned(1.4, (3, -1, 2), (0, 5, 2))
    share = np.linspace(0, 1, 9)
    between = interpolate_poses(start, end, share)
    np.testing.assert_allclose(between[0], start, atol=1e-12)
    np.testing.assert_allclose(between[-1], end, atol=1e-12)
    moved, angles = steps_between(between)
    np.testing.assert_allclose(angles, angles[0], atol=1e-12)
    np.testing.assert_allclose(moved, np.linalg.norm(end[:3, 3] - start[:3, 3]) / 8)
    beyond = interpolate_poses(np.eye(4), turned(0.3, at=(1, 0, 0)), np.array(2.0))
    np.testing.assert_allclose(beyond, turned(0.6, at=(2, 0, 0)), atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 0.5, 3.1, np.pi])
def test_rotation_vectors_have_the_angle_for_length(angle):
    vector = rotation_vector(turned(angle, (1, 1, 0))[:3, :3])
    assert np.linalg.norm(vector) == pytest.approx(angle, abs=1e-8)
    if angle > 1e-3:
        along = np.abs(vector / angle @ np.array([1, 1, 0]) / np.sqrt(2))
        assert along == pytest.approx(1, abs=1e-6)


def test_deskew_undoes_the_motion_and_none_is_nothing():
    generator = np.random.default_rng(0)
    still = generator.uniform(-30, 30, (500, 3))
    times = generator.uniform(0, 1, 500)
    start, end = turned(0.1, at=(3, 0, 0)), turned(0.15, (0, 0.1, 1), at=(4, 0.1, 0))
    firing = interpolate_poses(start, end, times)
    world = move_points(still, start)
    seen = np.einsum("nji,nj->ni", firing[:, :3, :3], world - firing[:, :3, 3])
    assert np.abs(seen - still).max() > 0.5
    np.testing.assert_allclose(deskew(seen, times, start, end), still, atol=1e-9)
    late = interpolate_poses(start, end, np.array(0.7))
    late_points = deskew(seen, times, start, end, 0.7)
    np.testing.assert_allclose(move_points(late_points, late), world, atol=1e-9)
    np.testing.assert_allclose(deskew(still, times, start, start), still, atol=1e-12)


def test_ten_metres_a_second_skew_a_revolution_by_a_metre():
    start, end = turned(0.0), turned(0.0, at=(1, 0, 0))
    wall = np.tile([20.0, 0, 0], (2, 1))
    moved = deskew(wall, np.array([0.0, 1.0]), start, end)
    np.testing.assert_allclose(moved[1] - moved[0], [1, 0, 0], atol=1e-12)
    end = turned(np.radians(3), at=(0, 0, 0))  # 30 degrees a second at 30 m
    ahead = deskew(np.tile([30.0, 0, 0], (2, 1)), np.array([0.0, 1.0]), start, end)
    assert np.linalg.norm(ahead[1] - ahead[0]) == pytest.approx(1.57, abs=0.01)


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_poses_of_revolutions_hold_where_they_are_said_to(at):
    poses = np.stack([turned(0.1 * i, at=(2.0 * i, 0, 0)) for i in range(4)])
    start, end = revolution_poses(poses, np.arange(4.0), at)
    np.testing.assert_allclose(interpolate_poses(start, end, np.full(4, at)), poses, atol=1e-12)
    moved, angles = steps_between(np.concatenate([start, end[-1:]]))
    np.testing.assert_allclose(moved, 2.0)
    np.testing.assert_allclose(angles, 0.1, atol=1e-9)


def test_a_revolution_is_shorter_than_a_gap_between_sweeps():
    poses = np.stack([turned(0.0, at=(x, 0, 0)) for x in (0.0, 10.0)])
    start, end = revolution_poses(poses, np.array([0.0, 10.0]), 0.0)
    np.testing.assert_allclose(end[:, 0, 3] - start[:, 0, 3], 1.0)
    with pytest.raises(InputError, match="nothing of motion"):
        poses_at(poses[:1], np.zeros(1), np.zeros(1))
