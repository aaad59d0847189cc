"""Drives are found and read as their files say; what cannot be used is refused in a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polyfield.config import to_plain
from polyfield.data.lidar.files import read_sweep, write_sweep
from polyfield.data.lidar.load import LidarOptions, is_lidar, load_sweeps
from polyfield.data.lidar.motion import deskew
from polyfield.data.lidar.rays import sweep_rays
from polyfield.data.lidar.sweeps import PointSweep
from polyfield.data.scene import SceneTransform
from polyfield.errors import ConfigError, InputError, PolyfieldError, UnknownNameError


def change(folder, index, edit) -> None:
    """Edit the (n, 4) rows of a ``.bin``."""
    path = folder / "velodyne" / f"{index:06d}.bin"
    edit(np.fromfile(path, "<f4").reshape(-1, 4)).astype("<f4").tofile(path)


def test_a_kitti_folder_is_read(drive, lidar_toys):
    scene = load_sweeps(drive())
    assert len(scene) == 6 and scene.names[0] == "000000.bin" and scene.name == "drive"
    assert scene.splits == {"train": (0, 1, 3, 4, 5), "val": (), "test": (2,)}
    np.testing.assert_allclose(scene.poses, lidar_toys.drive_poses(6), atol=1e-11)
    assert scene.sensor.rings == 12 and scene.sensor.columns == 180 and scene.motion is None
    assert scene.report.format == "lidar" and "6 .bin sweeps" in scene.report.why
    truth = lidar_toys.sweep(lidar_toys.sensor(), lidar_toys.drive_poses(1)[0])
    read = scene.read(0)
    np.testing.assert_allclose(read.points, truth.points, atol=1e-5)
    np.testing.assert_array_equal(read.ring, truth.ring)


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".npz"])
def test_other_formats_hold_the_same_drive(drive, suffix):
    scene = load_sweeps(drive(suffix=suffix))
    expected = load_sweeps(drive(name="bin"))
    np.testing.assert_allclose(scene.sensor.elevations, expected.sensor.elevations, atol=1e-6)
    np.testing.assert_array_equal(scene.read(4).ring, expected.read(4).ring)
    assert scene.sensor.direction == -1


def test_nuscenes_axes_give_the_same_world(drive, tmp_path):
    kitti = load_sweeps(drive(name="a", suffix=".npz"))
    folder = drive(name="b", suffix=".npz")
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # x forward, y left -> x right, y forward
    poses = kitti.poses.copy()
    for i, path in enumerate(sorted((folder / "velodyne").glob("*.npz"))):
        raw = read_sweep(path)
        path.unlink()
        ring = 11 - raw.ring  # numbered from the bottom
        turned = PointSweep(raw.points @ turn.T, 255 * raw.intensity, ring)
        write_sweep(turned, path.with_suffix(".pcd.bin"))
        poses[i, :3, :3] = poses[i, :3, :3] @ turn.T
    np.savetxt(folder / "poses.txt", poses[:, :3].reshape(-1, 12), fmt="%.15g")
    scene = load_sweeps(folder)
    assert scene.report.notes["frame"] == "nuscenes" and "5 numbers" in scene.report.notes["bin"]
    np.testing.assert_allclose(scene.poses, kitti.poses, atol=1e-9)
    a, b = sweep_rays(kitti, 3, dropped=False), sweep_rays(scene, 3, dropped=False)
    np.testing.assert_allclose(a.points(), b.points(), atol=1e-5)
    np.testing.assert_array_equal(a.ring, b.ring)
    np.testing.assert_allclose(a.intensity, b.intensity, atol=1e-6)
    wrong = sweep_rays(load_sweeps(folder, LidarOptions(frame="kitti")), 3, dropped=False)
    np.testing.assert_allclose(wrong.points(), a.points(), atol=1e-5)  # turned with their poses
    np.testing.assert_allclose((wrong.times - a.times) % 1, 0.75, atol=1e-5)  # only times differ


def test_camera_poses_are_moved_to_the_lidar_by_calib(drive, lidar_toys):
    tr = np.array([[0.0, -1, 0, 0.01], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]])
    velo = lidar_toys.drive_poses(6)
    velo = np.linalg.inv(velo[0]) @ velo
    camera = tr @ velo @ np.linalg.inv(tr)

    def edit(folder):
        np.savetxt(folder / "poses.txt", camera[:, :3].reshape(6, 12), fmt="%.15g")
        (folder / "calib.txt").write_text("Tr: " + " ".join(f"{v:.12g}" for v in tr[:3].ravel()))

    scene = load_sweeps(drive(edit=edit))
    np.testing.assert_allclose(scene.poses, velo, atol=1e-10)
    assert "calib.txt" in scene.report.notes["poses"]
    (scene.root / "calib.txt").unlink()
    assert any("z forward" in w for w in load_sweeps(scene.root).report.warnings)


def test_kittis_odometry_tree_keeps_poses_elsewhere(drive, tmp_path):
    folder = drive()
    sequence = tmp_path / "dataset" / "sequences" / "04"
    sequence.parent.mkdir(parents=True)
    (tmp_path / "dataset" / "poses").mkdir()
    (folder / "poses.txt").rename(tmp_path / "dataset" / "poses" / "04.txt")
    folder.rename(sequence)
    assert is_lidar(sequence) and len(load_sweeps(sequence)) == 6


def test_poses_with_frame_numbers_choose_their_sweeps(drive, lidar_toys):
    def edit(folder):
        keep = [0, 1, 3, 5]
        rows = np.hstack(
            [np.array(keep)[:, None], lidar_toys.drive_poses(6)[keep, :3].reshape(4, 12)]
        )
        np.savetxt(folder / "poses.txt", rows, fmt="%.12g")

    scene = load_sweeps(drive(edit=edit))
    assert scene.names == tuple(f"{i:06d}.bin" for i in (0, 1, 3, 5))
    assert scene.report.missing == ("000002.bin", "000004.bin")
    assert any("2 of 6 sweeps have no pose" in warning for warning in scene.report.warnings)


def test_tum_poses_are_interpolated_to_the_sweeps_times(drive):
    def edit(folder):
        np.savetxt(folder / "times.txt", 0.1 * np.arange(6))
        rows = [[t, 5 * t, 0, 0, 0, 0, 0, 1] for t in np.linspace(0, 0.45, 8)]
        np.savetxt(folder / "poses.txt", rows)

    scene = load_sweeps(drive(edit=edit), LidarOptions(deskew=False))
    assert len(scene) == 5 and scene.report.missing == ("000005.bin",)
    np.testing.assert_allclose(scene.poses[:, 0, 3], 0.5 * np.arange(5), atol=1e-9)


def test_motion_is_used_where_times_are_known_and_points_are_as_fired(drive):
    def edit(folder):
        np.savetxt(folder / "times.txt", 0.1 * np.arange(6))

    folder = drive(moving=True, edit=edit)
    scene = load_sweeps(folder)
    assert scene.motion is not None and "as fired" in scene.report.notes["deskew"]
    np.testing.assert_allclose(scene.motion[:-1], scene.poses[1:], atol=1e-9)
    np.testing.assert_allclose(scene.seconds, 0.1 * np.arange(6))
    assert load_sweeps(folder, LidarOptions(deskew=False)).motion is None
    (folder / "times.txt").unlink()
    assert load_sweeps(folder).motion is None
    with pytest.raises(InputError, match="nothing of motion"):
        load_sweeps(folder / "velodyne" / "000000.bin", LidarOptions(deskew=True))


def test_compensated_points_are_recognised_by_their_cones(drive, lidar_toys):
    poses = lidar_toys.drive_poses(7)

    def edit(folder):
        np.savetxt(folder / "times.txt", 0.1 * np.arange(6))
        for i in range(6):
            sensor = lidar_toys.sensor()
            raw = lidar_toys.sweep(sensor, poses[i], poses[i + 1])
            still = deskew(raw.points, raw.times, poses[i], poses[i + 1], 0.5)
            write_sweep(PointSweep(still, raw.intensity), folder / "velodyne" / f"{i:06d}.bin")

    scene = load_sweeps(drive(edit=edit))
    assert scene.motion is None and "compensated" in scene.report.notes["deskew"]


def test_all_that_is_reported_lies_in_the_box(drive):
    folder = drive()
    scene = load_sweeps(folder, LidarOptions(margin=2.0))
    every = np.concatenate([sweep_rays(scene, i).points() for i in scene.splits["train"]])
    assert np.abs(scene.transform.to_box(every)).max() <= 1
    assert np.abs(scene.transform.to_box(scene.poses[:, :3, 3])).max() < 1
    half = np.ptp(every, axis=0).max() / 2
    assert 1 / scene.transform.scale == pytest.approx(half + 2.0, rel=1e-6)
    assert scene.report.notes["box"]["outside"]["train"] == 0
    again = load_sweeps(folder, transform=SceneTransform(scale=0.5))
    assert again.transform == SceneTransform(scale=0.5)
    assert any("outside the box" in warning for warning in again.report.warnings)
    given = load_sweeps(folder, LidarOptions(scale=0.01, centre=(1.0, 2.0, 3.0)))
    assert given.transform == SceneTransform(scale=0.01, centre=(1.0, 2.0, 3.0))


def test_a_few_outliers_do_not_blow_up_the_box(drive):
    def edit(folder):
        def far(rows):
            rows[100, :3] *= 150 / np.linalg.norm(rows[100, :3])
            return rows

        change(folder, 0, far)

    scene = load_sweeps(drive(edit=edit))
    assert 1 / scene.transform.scale < 30
    assert "strays" in scene.report.notes["box"]["from"]


@pytest.mark.parametrize(
    ("holdout", "test"), [("2", (2,)), ("1,4", (1, 4)), ("every:3", (0, 3)), (0.34, (1, 4))]
)
def test_whole_sweeps_are_held_out_as_for_images(drive, holdout, test):
    scene = load_sweeps(drive(), LidarOptions(holdout=holdout))
    assert scene.splits["test"] == test
    assert sorted(scene.splits["train"] + scene.splits["test"]) == list(range(6))


@pytest.mark.parametrize(("count", "test"), [(2, (1,)), (3, (2,)), (5, (2,)), (12, (2, 7))])
def test_every_fifth_sweep_is_held_out_and_never_all(drive, count, test):
    scene = load_sweeps(drive(count=count, sensor=None))
    assert scene.splits["test"] == test and scene.splits["train"]


def test_a_single_sweep_is_a_scene(drive):
    path = drive() / "velodyne" / "000003.bin"
    assert is_lidar(path)
    scene = load_sweeps(path)
    assert len(scene) == 1 and scene.splits["test"] == ()
    np.testing.assert_array_equal(scene.poses[0], np.eye(4))


def test_a_scenes_own_table_is_used(drive, lidar_toys):
    sensor = lidar_toys.sensor(divergence=2e-3)

    def edit(folder):
        (folder / "sensor.json").write_text(json.dumps(to_plain(sensor)))

    scene = load_sweeps(drive(edit=edit))
    assert scene.sensor == sensor
    (scene.root / "sensor.json").write_text('{"sensor": "vlp-16", "columns": 180}')
    with pytest.raises(InputError, match="which are not the 16 beams from 15 to -15"):
        load_sweeps(scene.root)
    (scene.root / "sensor.json").write_text('{"elevation": [1]}')
    with pytest.raises(PolyfieldError, match=r"sensor\.json"):
        load_sweeps(scene.root)
    (scene.root / "sensor.json").write_text('{"sensor": "vlp"}')
    with pytest.raises(UnknownNameError, match="vlp-16"):
        load_sweeps(scene.root)


def test_the_content_hash_follows_the_files(drive):
    folder = drive()
    first = load_sweeps(folder).content_hash
    assert load_sweeps(folder).content_hash == first
    change(folder, 2, lambda rows: rows * [1, 1, 1, 0.5])
    changed = load_sweeps(folder).content_hash
    assert changed != first
    moved = folder.with_name("elsewhere")
    folder.rename(moved)
    assert load_sweeps(moved).content_hash == changed


def test_detection_is_by_layout(drive, capture, synthetic, tmp_path):
    folder = drive()
    assert is_lidar(folder) and is_lidar(str(folder))
    assert not is_lidar(capture()) and not is_lidar(synthetic()) and not is_lidar("sample:orrery")
    assert not is_lidar(tmp_path / "nowhere") and not is_lidar(folder / "poses.txt")
    flat = tmp_path / "flat"
    (folder / "velodyne").rename(flat)
    assert not is_lidar(flat)  # sweeps without poses may be anything
    (folder / "poses.txt").rename(flat / "poses.txt")
    assert is_lidar(flat) and len(load_sweeps(flat)) == 6


@pytest.mark.parametrize(
    "options",
    [
        {"format": "colmap"}, {"pose_at": 2.0}, {"nearest": -1.0}, {"scale": 0.0},
        {"nearest": 5.0, "farthest": 4.0}, {"margin": -1.0},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError):
        LidarOptions(**options)


def test_unknown_sensors_and_holdouts(drive):
    folder = drive()
    with pytest.raises(UnknownNameError, match="hdl-64e"):
        load_sweeps(folder, LidarOptions(sensor="hdl64"))
    with pytest.raises(ConfigError, match="there are 6"):
        load_sweeps(folder, LidarOptions(holdout="9"))
