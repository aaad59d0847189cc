"""Sweeps as rays: they start where beams start, meet what was measured, and slots are complete."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyfield.data.lidar.files import write_sweep
from polyfield.data.lidar.load import LidarOptions, load_sweeps
from polyfield.data.lidar.rays import columns_of, firing_times, range_image, sweep_rays
from polyfield.data.lidar.sweeps import PointSweep


def test_rays_of_a_still_sensor_are_the_beams_of_its_table(drive, lidar_toys):
    sensor = lidar_toys.sensor()
    scene = load_sweeps(drive(count=3, sensor=sensor))
    rays = sweep_rays(scene, 0)
    beams = sensor.beams()
    assert len(rays) == len(beams) == 12 * 180
    column = (rays.times.numpy() * 180).round() % 180
    key = np.lexsort((column, rays.ring.numpy()))
    pose = torch.from_numpy(scene.poses[0])
    directions, origins = beams.directions @ pose[:3, :3].T, beams.origins @ pose[:3, :3].T
    torch.testing.assert_close(rays.directions[key], directions, atol=2e-5, rtol=0)
    torch.testing.assert_close(rays.origins[key], origins, atol=2e-4, rtol=0)
    truth = lidar_toys.room(origins.numpy(), directions.numpy())
    np.testing.assert_allclose(rays.ranges.numpy()[key], truth, atol=1e-4)


def test_returns_are_reproduced_exactly_in_the_world(drive, lidar_toys):
    scene = load_sweeps(drive(count=4))
    rays = sweep_rays(scene, 3, dropped=False)
    pose, sweep = scene.poses[3], scene.read(3)
    world = sweep.points @ pose[:3, :3].T + pose[:3, 3]
    np.testing.assert_allclose(rays.points().numpy(), world, atol=1e-12)
    assert torch.allclose(rays.directions.norm(dim=1), torch.ones(len(rays), dtype=torch.float64))
    assert bool(rays.hit.all()) and len(rays) == len(sweep)


def test_every_ray_of_a_moving_sensor_has_the_pose_of_its_firing(drive, lidar_toys):
    folder = drive(count=4, moving=True)
    scene = load_sweeps(folder, LidarOptions(deskew=True))
    rays = sweep_rays(scene, 1)
    hit = rays.hit
    truth = lidar_toys.room(rays.origins.numpy(), rays.directions.numpy())
    np.testing.assert_allclose(rays.ranges[hit].numpy(), truth[hit], atol=2e-3)
    assert np.isnan(truth[~hit]).all()
    still = sweep_rays(load_sweeps(folder, LidarOptions(deskew=False)), 1, dropped=False)
    off = np.abs(
        still.ranges.numpy() - lidar_toys.room(still.origins.numpy(), still.directions.numpy())
    )
    assert np.nanquantile(off, 0.9) > 0.1  # the same data without motion miss the walls


def test_rays_that_came_back_from_nothing_fill_the_gaps(drive, lidar_toys):
    def edit(folder):
        path = folder / "velodyne" / "000000.bin"
        rows = np.fromfile(path, "<f4").reshape(-1, 4)
        np.delete(rows, [40, 41, 42, 700, 1500], axis=0).tofile(path)

    whole = sweep_rays(load_sweeps(drive(count=3, name="whole")), 0)
    holed = sweep_rays(load_sweeps(drive(count=3, edit=edit)), 0)
    assert len(holed) == len(whole) and int(whole.hit.sum()) - int(holed.hit.sum()) == 5


def test_a_ring_without_any_return_is_all_slots(drive, lidar_toys):
    sensor = lidar_toys.sensor()
    sweep = lidar_toys.sweep(sensor, np.eye(4))

    def edit(folder):
        keep = sweep.ring != 5
        parts = (a[keep] for a in (sweep.points, sweep.intensity, sweep.ring, sweep.times))
        write_sweep(PointSweep(*parts), folder / "velodyne" / "000000.npz")

    scene = load_sweeps(drive(count=3, suffix=".npz", edit=edit))
    rays = sweep_rays(scene, 0)
    silent = rays.ring == 5
    assert int(silent.sum()) == 180 and not bool(rays.hit[silent].any()) and len(rays) == 12 * 180


@pytest.mark.parametrize("azimuth", [0.5, 0.0])  # at 0 the wrap lies between the two
def test_second_returns_join_the_first_of_their_slot(drive, lidar_toys, azimuth):
    def edit(folder):
        sweep = lidar_toys.sweep(lidar_toys.sensor(), np.eye(4))
        beams = lidar_toys.sensor().beams()
        angle = np.arctan2(sweep.points[:, 1], sweep.points[:, 0]) % (2 * np.pi)
        slot = np.flatnonzero(sweep.ring == 7)[np.abs(angle[sweep.ring == 7] - azimuth).argmin()]
        origin = np.array([0, 0, lidar_toys.sensor().heights[7]])
        assert len(beams) and slot
        behind = origin + (sweep.points[slot] - origin) * 1.5 - [0, 1e-9, 0]
        number = np.ones(len(sweep) + 1, np.int64)
        number[-1] = 2
        write_sweep(
            PointSweep(
                np.vstack([sweep.points, behind]), np.append(sweep.intensity, 0.25),
                np.append(sweep.ring, 7), np.append(sweep.times, sweep.times[slot]), number,
            ),
            folder / "velodyne" / "000000.npz",
        )  # fmt: skip

    scene = load_sweeps(drive(count=3, suffix=".npz", edit=edit))
    rays = sweep_rays(scene, 0)
    second = torch.nonzero(~torch.isnan(rays.second))
    assert len(second) == 1 and len(rays) == 12 * 180
    at = int(second)
    assert float(rays.second[at] / rays.ranges[at]) == pytest.approx(1.5, abs=1e-6)


def test_range_images_are_a_view_that_keeps_every_return(drive, lidar_toys):
    scene = load_sweeps(drive(count=3))
    ranges, intensity = range_image(scene, 0)
    rays = sweep_rays(scene, 0, dropped=False)
    assert ranges.shape == intensity.shape == (12, 180)
    assert np.isfinite(ranges).sum() == len(rays)
    beams, turn = scene.sensor.beams(), scene.poses[0, :3, :3].T
    truth = lidar_toys.room(beams.origins.numpy() @ turn, beams.directions.numpy() @ turn)
    truth = truth.reshape(12, 180)
    np.testing.assert_allclose(ranges, truth, atol=1e-3)
    assert (intensity[np.isnan(ranges)] == 0).all()


def test_columns_are_distinct_in_order_and_near():
    generator = np.random.default_rng(0)
    ring = np.repeat([0, 1], 150)
    times = np.sort(generator.uniform(0.2, 0.8, (2, 150)), axis=1).ravel()
    columns = columns_of(times, ring, 400)
    for r in (0, 1):
        assert (np.diff(columns[ring == r]) > 0).all()
    assert np.abs(columns - times * 400).max() < 12 and np.abs(columns - times * 400).mean() < 2
    exact = columns_of(np.arange(400) / 400, np.zeros(400, np.int64), 400)
    np.testing.assert_array_equal(exact, np.arange(400))


@pytest.mark.parametrize("direction", [1, -1])
def test_firing_times_invert_the_tables_azimuths(lidar_toys, direction):
    sensor = lidar_toys.sensor(columns=64, direction=direction, start=0.7)
    beams = sensor.beams()
    times = firing_times(sensor.azimuths().ravel(), beams.ring.numpy(), sensor)
    off = np.abs(times - beams.times.numpy())
    assert np.minimum(off, 1 - off).max() < 1e-12
