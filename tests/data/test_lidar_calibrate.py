"""The sensor's table from its data, and the tables of known sensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyfield.data.lidar.calibrate import (
    azimuths,
    fit_sensor,
    nearest_rings,
    refine_rings,
    rings_by_wraps,
)
from polyfield.data.lidar.clean import Cleaning, clean_sweep
from polyfield.data.lidar.cones import ring_lines, rings_by_elevation
from polyfield.data.lidar.files import read_sweep
from polyfield.data.lidar.load import LidarOptions, load_sweeps
from polyfield.data.lidar.motion import compensation_residual
from polyfield.data.lidar.rays import range_image, sweep_rays
from polyfield.data.lidar.sweeps import PointSweep
from polyfield.errors import InputError, UnknownNameError
from polyfield.renderers.lidar_sensors import SENSORS, sensor


def without_rings(sweep: PointSweep, order=None) -> PointSweep:
    order = np.arange(len(sweep)) if order is None else order
    return PointSweep(sweep.points[order], sweep.intensity[order])


def test_a_table_is_recovered_from_the_sweeps_it_made(lidar_toys):
    table = lidar_toys.sensor()
    fit = fit_sensor([lidar_toys.sweep(table, pose) for pose in lidar_toys.drive_poses(3)])
    np.testing.assert_allclose(fit.sensor.elevations, table.elevations, atol=1e-11)
    np.testing.assert_allclose(fit.sensor.heights, table.heights, atol=1e-10)
    assert fit.sensor.columns == table.columns and fit.residual < 1e-12
    assert (fit.sensor.direction, fit.sensor.start) == (-1, pytest.approx(np.pi))
    assert fit.timed and fit.report()["rings"] == 12


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("start", [0.4, 3.0])
def test_the_sense_of_rotation_comes_from_times(lidar_toys, direction, start):
    table = lidar_toys.sensor(direction=direction, start=start)
    fit = fit_sensor([lidar_toys.sweep(table, lidar_toys.drive_poses(1)[0])])
    assert fit.sensor.direction == direction
    assert fit.sensor.start == pytest.approx(start, abs=1e-9)


@pytest.mark.parametrize("turned", [False, True])
def test_rings_are_wraps_of_the_azimuth_whichever_way_a_file_turns(lidar_toys, turned):
    sweep = lidar_toys.sweep(lidar_toys.sensor(), lidar_toys.drive_poses(1)[0])
    points, ring = sweep.points, sweep.ring
    if turned:
        points, ring = points[::-1], ring.max() - ring[::-1]
    rings = refine_rings(points, rings_by_wraps(points))
    np.testing.assert_array_equal(rings, ring - ring.min())


def test_points_in_no_order_have_no_wraps_but_clusters(lidar_toys):
    table = lidar_toys.sensor()
    sweep = lidar_toys.sweep(table, lidar_toys.drive_poses(1)[0])
    order = np.random.default_rng(0).permutation(len(sweep))
    mixed = without_rings(sweep, order)
    assert rings_by_wraps(mixed.points) is None
    np.testing.assert_array_equal(rings_by_elevation(mixed.points), sweep.ring[order])
    fit = fit_sensor([mixed])
    assert fit.rings == "clusters of elevation"
    np.testing.assert_allclose(fit.sensor.elevations, table.elevations, atol=1e-9)


def test_a_known_table_tells_the_rings_of_points_in_no_order(lidar_toys):
    table = lidar_toys.sensor()
    sweep = lidar_toys.sweep(table, lidar_toys.drive_poses(1)[0])
    order = np.random.default_rng(1).permutation(len(sweep))
    np.testing.assert_array_equal(nearest_rings(sweep.points[order], table), sweep.ring[order])
    fit = fit_sensor([without_rings(sweep, order)], table)
    assert "toy table" in fit.rings and fit.residual < 1e-9


def test_rings_in_any_numbering_are_sorted_from_the_top(lidar_toys):
    sweep = lidar_toys.sweep(lidar_toys.sensor(), lidar_toys.drive_poses(1)[0])
    odd = PointSweep(sweep.points, sweep.intensity, (sweep.ring * 5 + 3) % 12)
    fit = fit_sensor([odd])
    assert list(fit.sensor.elevations) == sorted(fit.sensor.elevations, reverse=True)
    assert fit.labels == tuple((r * 5 + 3) % 12 for r in range(12))


def test_strays_at_the_seam_go_to_the_ring_they_lie_on(lidar_toys):
    sweep = lidar_toys.sweep(lidar_toys.sensor(), lidar_toys.drive_poses(1)[0])
    wrong = sweep.ring.copy()
    last = np.flatnonzero(np.diff(sweep.ring))
    wrong[last] += 1
    np.testing.assert_array_equal(refine_rings(sweep.points, wrong), sweep.ring)


def test_lines_of_rings_are_least_squares():
    generator = np.random.default_rng(0)
    rho, ring = generator.uniform(2, 30, 200), np.arange(200) % 2
    z = np.where(ring == 0, 0.3 + 0.1 * rho, -0.2 - 0.2 * rho) + generator.normal(0, 0.02, 200)
    points = np.stack([rho, np.zeros(200), z], axis=1)
    slope, height = ring_lines(points, ring, 2)
    for r in (0, 1):
        expected = np.polyfit(rho[ring == r], z[ring == r], 1)
        np.testing.assert_allclose([slope[r], height[r]], expected, rtol=1e-9)


def test_a_ring_at_one_distance_takes_its_height_from_its_neighbours():
    rho = np.concatenate([np.linspace(3, 9, 50), np.full(50, 5.0), np.linspace(3, 9, 50)])
    ring, slope = np.repeat([0, 1, 2], 50), np.repeat([-0.1, -0.2, -0.3], 50)
    height = np.repeat([0.3, 0.2, 0.1], 50)
    points = np.stack([np.zeros(150), rho, height + slope * rho], axis=1)
    slopes, heights = ring_lines(points, ring, 4)
    assert heights[1] == pytest.approx(0.2, abs=0.02) and np.isnan(slopes[3])
    np.testing.assert_allclose(heights[1] + slopes[1] * 5.0, 0.2 - 0.2 * 5.0, atol=1e-12)


def test_points_on_no_cones_are_refused_with_the_remedy():
    generator = np.random.default_rng(0)
    points = generator.uniform(-20, 20, (4000, 3))
    sweep = PointSweep(points, np.zeros(4000), generator.integers(0, 16, 4000))
    with pytest.raises(InputError, match=r"do not lie on cones.*data\.sensor"):
        fit_sensor([sweep])


def test_the_residual_of_compensated_points_is_as_predicted(lidar_toys):
    table = lidar_toys.sensor(rings=8)
    phi, rho = np.meshgrid(np.linspace(-np.pi, np.pi, 400, endpoint=False), np.linspace(5, 40, 40))
    shifted, rings = [], []
    for ring in range(8):
        z = table.heights[ring] + rho * np.tan(table.elevations[ring])
        x = rho * np.cos(phi) + 0.8 * phi / (2 * np.pi)  # 0.8 m a revolution, from -pi to pi
        shifted.append(np.stack([x, rho * np.sin(phi), z], axis=-1).reshape(-1, 3))
        rings.append(np.full(phi.size, ring))
    points = np.concatenate(shifted)
    fit = fit_sensor([PointSweep(points, np.zeros(len(points)), np.concatenate(rings))])
    assert fit.residual == pytest.approx(compensation_residual(fit, 0.8), rel=0.3)


@pytest.mark.parametrize("name", SENSORS)
def test_tables_are_ordered_from_the_top_and_complete(name):
    table = sensor(name)
    assert table.name == name
    assert list(table.elevations) == sorted(table.elevations, reverse=True)
    assert table.rings == len(table.heights) == len(table.azimuth_offsets)
    assert table.rings == int(name.rsplit("-", 1)[1].removesuffix("e"))
    beams = table.beams()
    assert len(beams) == table.rings * table.columns
    ground = beams.directions[:, 2] < -0.02
    at = -(1.73 + beams.origins[:, 2]) / beams.directions[:, 2]
    rho = (beams.origins + at[:, None] * beams.directions)[:, :2].norm(dim=1)
    expected = (-1.73 - np.repeat(table.heights, table.columns)) / np.tan(
        np.repeat(table.elevations, table.columns)
    )
    np.testing.assert_allclose(rho[ground], expected[ground], rtol=1e-9)


def test_the_lowest_ring_of_an_hdl_64e_meets_the_road_at_3_96_m():
    table = sensor("hdl-64e")
    rho = (-1.73 - table.heights[-1]) / np.tan(table.elevations[-1])
    assert rho == pytest.approx(3.96, abs=0.01)


def test_unknown_sensors_get_the_nearest_name():
    with pytest.raises(UnknownNameError, match="did you mean 'vlp-16'"):
        sensor("vlp16")


@pytest.fixture(scope="module")
def kitti(real_data):
    if not (real_data / "kitti-5").is_dir():
        pytest.skip("no kitti-5 in the folder of real data")
    return real_data / "kitti-5"


def test_kittis_rings_are_63_wraps(kitti):
    raw = read_sweep(kitti / "velodyne" / "000000.bin")
    rings = rings_by_wraps(raw.points)
    assert len(raw) == 122626 and rings.max() == 63
    sizes = np.bincount(rings)
    assert (sizes.min(), sizes.max()) == (1134, 2118)


def test_kittis_returns_lie_within_half_a_millimetre_of_64_cones(kitti):
    paths = sorted((kitti / "velodyne").glob("*.bin"))[:2]
    fit = fit_sensor([clean_sweep(read_sweep(p), p, Cleaning()) for p in paths])
    assert fit.sensor.rings == 64 and fit.residual < 5e-4
    assert max(fit.residuals) < 5e-4 and fit.rings == "wraps of the azimuth"
    published = sensor("hdl-64e")
    np.testing.assert_allclose(
        np.degrees(fit.sensor.elevations), np.degrees(published.elevations), atol=5e-3
    )
    np.testing.assert_allclose(fit.sensor.heights, published.heights, atol=2e-3)
    # no ring can have more returns than firings; the gaps of full rings agree with 2160
    assert 2140 < fit.sensor.columns < 2190 and fit.sensor.columns > 2143


@pytest.mark.parametrize(("columns", "millimetres"), [(2006, 8.4), (4096, 4.1)])
def test_beams_of_a_grid_miss_kittis_returns_by_half_a_column(kitti, columns, millimetres):
    path = kitti / "velodyne" / "000000.bin"
    sweep = clean_sweep(read_sweep(path), path, Cleaning())
    table = replace(fit_sensor([sweep]).sensor, columns=columns, start=0.0, direction=1)
    rings = refine_rings(sweep.points, rings_by_wraps(sweep.points))
    column = np.round(azimuths(sweep.points) / (2 * np.pi) * columns).astype(int) % columns
    beams = table.beams()
    slot = rings * columns + column
    offset = sweep.points - beams.origins.numpy()[slot]
    ranges = np.linalg.norm(offset, axis=1, keepdims=True)
    miss = np.linalg.norm(offset - ranges * beams.directions.numpy()[slot], axis=1)
    assert 1e3 * miss.mean() == pytest.approx(millimetres, abs=0.15)


def test_kitti_loads_whole(kitti):
    scene = load_sweeps(kitti)
    assert len(scene) == 5 and scene.splits == {"train": (0, 1, 3, 4), "val": (), "test": (2,)}
    assert scene.report.notes["points"] == 612992 and scene.report.notes["dropped"] == {}
    assert scene.motion is None and "as fired" in scene.report.notes["deskew"]
    rays = sweep_rays(scene, 0)
    sweep = scene.read(0)
    np.testing.assert_allclose(rays.points().numpy(), sweep.points, atol=1e-12)
    assert 64 * 2100 < len(rays) < 64 * 2250
    box = scene.transform.to_box(rays.points())
    assert box.abs().max() < 1
    ranges, _ = range_image(scene, 0)
    assert np.isfinite(ranges).sum() > 0.999 * len(sweep)


def test_kitti_with_the_published_table(kitti):
    scene = load_sweeps(kitti, LidarOptions(sensor="hdl-64e"))
    assert scene.sensor.name == "hdl-64e" and scene.sensor.columns == 2083
    assert not any("off the data" in warning for warning in scene.report.warnings)
    ring = scene.read(1).ring
    assert ring.min() == 0 and ring.max() == 63 and ring[0] == 0
