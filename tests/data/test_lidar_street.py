"""The simulated street: exact rays, beams that spread, and a drive that can be trusted as truth."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from polyfield.data.lidar import street_drive
from polyfield.data.lidar.load import LidarOptions, is_lidar, load_sweeps
from polyfield.data.lidar.poses import interpolate_poses
from polyfield.data.lidar.rays import sweep_rays
from polyfield.data.lidar.street import Street, make_street
from polyfield.data.lidar.street_beam import Pulse, sub_beams, trace
from polyfield.data.lidar.street_drive import drive, scan, street_sensor, write_street
from polyfield.data.lidar.street_shapes import Box, Cylinder, Ground, Material, Sphere
from polyfield.data.samples.street_lidar import street_lidar
from polyfield.errors import InputError
from polyfield.renderers.lidar_sensors import SpinningLidar

CHALK, GLASS = Material(1.0), Material(0.9, gloss=60.0)
THIN = Pulse(divergence=0.0)


def rows(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def random_rays(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """From a shell around the origin towards places near it."""
    origins = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    origins = 6 * torch.nn.functional.normalize(origins, dim=-1)
    aims = 3 * torch.rand(n, 3, generator=generator, dtype=torch.float64) - 1.5
    return origins, torch.nn.functional.normalize(aims - origins, dim=-1)


SOLIDS = {
    "box": (
        Box(CHALK, (0.2, -0.1, 0.3), (0.5, 1.0, 0.7), 0.6),
        lambda p: _box_depth(p, (0.2, -0.1, 0.3), (0.5, 1.0, 0.7), 0.6),
    ),
    "cylinder": (
        Cylinder(CHALK, (0.2, -0.1, -0.6), 0.8, 1.3),
        lambda p: torch.maximum(
            (p[..., :2] - torch.tensor([0.2, -0.1])).norm(dim=-1) - 0.8,
            (p[..., 2] - 0.05).abs() - 0.65,
        ),
    ),
    "sphere": (
        Sphere(CHALK, (0.2, -0.1, 0.3), 0.9),
        lambda p: (p - torch.tensor([0.2, -0.1, 0.3])).norm(dim=-1) - 0.9,
    ),
}


def _box_depth(points: Tensor, centre: tuple, half: tuple, yaw: float) -> Tensor:
    x, y, z = (points - torch.tensor(centre, dtype=points.dtype)).unbind(-1)
    c, s = math.cos(yaw), math.sin(yaw)
    local = torch.stack((c * x + s * y, -s * x + c * y, z), -1)
    return (local.abs() - torch.tensor(half, dtype=points.dtype)).amax(-1)


@pytest.mark.parametrize("name", SOLIDS)
def test_hits_are_the_first_points_of_the_solid_and_normals_point_out(name, generator):
    solid, depth = SOLIDS[name]
    origins, directions = random_rays(1000, generator)
    distance, normal = solid.hit(origins, directions)
    hit = torch.isfinite(distance)
    assert 0.2 < hit.double().mean() < 0.95
    ends = origins[hit] + distance[hit, None] * directions[hit]
    # tensors of the definition above are float32
    assert depth(ends).abs().max() < 1e-6
    assert depth(ends + 1e-4 * normal[hit]).min() > 1e-5
    assert torch.allclose(normal.norm(dim=-1)[hit], torch.ones(1, dtype=torch.float64))
    assert ((normal[hit] * directions[hit]).sum(-1) < 0).all()
    steps = torch.linspace(0, 12, 800, dtype=torch.float64)
    along = origins[:, None] + steps[:, None] * directions[:, None]
    inside = depth(along) < -1e-3
    before = torch.where(hit, distance, math.inf)[:, None] - 1e-9
    assert not (inside & (steps < before)).any()


@pytest.mark.parametrize("name", SOLIDS)
def test_rays_from_inside_and_away_from_a_solid_miss_it(name):
    solid, _ = SOLIDS[name]
    origins = torch.tensor([[0.2, -0.1, 0.1], [0.2, -0.1, 5.0]], dtype=torch.float64)
    directions = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64)
    assert torch.isinf(solid.hit(origins, directions)[0]).all()


def test_an_axis_parallel_ray_meets_a_box_at_its_face():
    distance, normal = Box(CHALK, (5, 0, 0), (1, 2, 3)).hit(rows(0, 1.9, 0), rows(1, 0, 0))
    assert distance.item() == 4.0 and normal.tolist() == [[-1, 0, 0]]
    beside, _ = Box(CHALK, (5, 0, 0), (1, 2, 3)).hit(rows(0, 2.1, 0), rows(1, 0, 0))
    assert math.isinf(beside.item())


def test_rays_of_a_sensor_meet_the_ground_where_the_tangent_says():
    elevations = tuple(math.radians(e) for e in (-3.0, -12.0, -25.001))
    heights = (0.2, 0.13, 0.116)
    sensor = SpinningLidar("three", elevations, heights, (0.0,) * 3, 8, divergence=0.0)
    pose = np.eye(4)
    scanned = scan(Street((Ground(CHALK, -1.73),)), sensor, pose)
    flat = scanned.rays.points()[:, :2].norm(dim=-1).reshape(3, 8)
    for ring, elevation, height in zip(flat, elevations, heights, strict=True):
        expected = (-1.73 - height) / math.tan(elevation)
        assert torch.allclose(ring, torch.full_like(ring, expected), atol=1e-9)
    assert flat[2, 0] == pytest.approx(3.96, abs=5e-3)


def test_paint_is_brighter_where_the_dashes_are():
    ground = Ground(Material(0.2), paint=0.8, period=6, length=3, width=0.2)
    spots = torch.tensor([[1.0, 0.0, 0], [4.0, 0.0, 0], [1.0, 0.3, 0], [-5.0, 0.05, 0]])
    assert ground.reflectance(spots).tolist() == pytest.approx([0.8, 0.2, 0.2, 0.8])


def test_sub_beams_are_rings_with_the_power_of_a_gaussian():
    axis = torch.nn.functional.normalize(rows(0.3, -0.8, 0.5), dim=-1)
    rays, weights = sub_beams(axis, 1.5e-3)
    assert rays.shape == (1, 37, 3) and weights.sum() == pytest.approx(1)
    assert torch.allclose(rays[0, 0], axis[0]) and torch.allclose(
        rays.norm(dim=-1), torch.ones(1, 37, dtype=torch.float64)
    )
    across = rays - (rays * axis[:, None]).sum(-1, keepdim=True) * axis[:, None]
    angles = across.norm(dim=-1)[0].asin() / 1.5e-3
    counts = [(angles - share).abs().lt(1e-6).sum().item() for share in (0, 1 / 3, 2 / 3, 1)]
    assert counts == [1, 6, 12, 18]
    rings = [w.sum().item() for w in weights.split(counts)]
    assert rings == pytest.approx([0.0759, 0.3647, 0.3745, 0.1849], abs=1e-4)
    assert across.mean(1).norm() < 1e-12


@pytest.mark.parametrize(
    "degrees, spread, bias", [(0, 0.0, 0.02e-3), (60, 0.0575, 0.09e-3), (80, 0.188, 0.73e-3)]
)
def test_the_footprint_on_a_wall_at_50_m_is_as_long_as_published(degrees, spread, bias):
    yaw = math.radians(degrees)
    centre = (50 + math.cos(yaw), math.sin(yaw), 0.0)  # its front goes through (50, 0, 0)
    wall = Box(CHALK, centre, (1.0, 80.0, 80.0), yaw)
    rays, weights = sub_beams(rows(1, 0, 0), 1.5e-3)
    ranges = trace((wall,), rows(0, 0, 0), rays, 1.5e-3).ranges[0]
    mean = (weights * ranges).sum()
    assert mean - 50 == pytest.approx(bias, abs=0.006e-3)
    assert ((weights * (ranges - mean) ** 2).sum().sqrt()).item() == pytest.approx(
        spread, rel=0.01, abs=5e-5
    )
    assert Street((wall,)).cast(rows(0, 0, 0), rows(1, 0, 0)).ranges.item() == pytest.approx(
        50, abs=3e-3
    )


@functools.cache
def street() -> Street:
    return make_street(0)


def test_leaving_out_shapes_that_cannot_be_hit_changes_nothing():
    beams = street_sensor(16).beams()
    origins = beams.origins + torch.tensor([3.0, -1.0, 1.73], dtype=torch.float64)
    rays, _ = sub_beams(beams.directions, 1.5e-3)
    hits = trace(street().shapes, origins, rays, 1.5e-3)
    flat = rays.reshape(-1, 3)
    tried = [s.hit(origins.repeat_interleave(37, 0), flat)[0] for s in street().shapes]
    nearest, which = torch.stack(tried).min(0)
    assert torch.equal(hits.ranges.flatten(), nearest)
    assert torch.equal(hits.shape.flatten(), torch.where(nearest.isinf(), -1, which))


def test_thin_rays_return_once_and_exactly():
    beams = street_sensor(64).beams()
    origins = beams.origins + torch.tensor([0.0, -1.0, 1.73], dtype=torch.float64)
    pulse = Pulse(divergence=0.0, threshold=0.0, nearest=0.0, farthest=math.inf)
    echoes = street().cast(origins, beams.directions, pulse)
    hits = street().trace(origins, beams.directions)
    assert torch.equal(echoes.drop, hits.ranges[:, 0].isinf())
    assert torch.allclose(echoes.ranges[~echoes.drop], hits.ranges[~echoes.drop, 0])
    assert torch.allclose(echoes.normals[~echoes.drop], hits.normals[~echoes.drop, 0])
    assert echoes.second.isnan().all()


def test_second_returns_come_only_where_an_edge_splits_the_beam():
    sensor = street_sensor(160)
    scanned = scan(street(), sensor, drive(1)[0])
    rays = scanned.rays
    fans, _ = sub_beams(rays.directions, sensor.divergence)
    hits = trace(street().shapes, rays.origins, fans, sensor.divergence)
    ends = torch.where(hits.ranges.isinf(), math.nan, hits.ranges)
    gap = ends.nan_to_num(-math.inf).amax(-1) - ends.nan_to_num(math.inf).amin(-1)
    several = (hits.shape != hits.shape[:, :1]).any(-1)
    second = ~rays.second.isnan()
    assert second.sum() > 12
    assert (several & (gap > 1.75))[second].all()
    assert ((rays.second - rays.ranges)[second] >= 1.75).all()
    assert (scanned.second_intensity[second] > 0).all()
    assert not rays.hit.logical_not()[second].any()


def test_half_a_beam_on_a_post_sends_back_the_post_and_the_wall():
    post, wall = Box(CHALK, (10.05, -1, 0), (0.05, 1, 9)), Box(CHALK, (21, 0, 0), (1, 9, 9))
    echoes = Street((post, wall)).cast(rows(0, -1e-5, 0), rows(1, 0, 0))
    assert echoes.ranges.item() == pytest.approx(10, abs=1e-3)
    assert echoes.second.item() == pytest.approx(20, abs=1e-3)
    whole = echoes.intensity + echoes.second_intensity
    assert whole.item() == pytest.approx(1, abs=1e-4) and 0.4 < echoes.intensity.item() < 0.7
    near = Box(CHALK, (12.5, 0, 0), (1, 9, 9))  # 1.5 m behind: one mixed return
    mixed = Street((post, near)).cast(rows(0, -1e-5, 0), rows(1, 0, 0))
    assert mixed.second.isnan().item() and 10.2 < mixed.ranges.item() < 11


def test_grazing_ground_far_away_gives_one_return_or_none():
    slopes = torch.linspace(-0.4, -0.01, 500, dtype=torch.float64)
    directions = torch.stack((torch.ones_like(slopes), slopes * 0, slopes), -1)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    origins = rows(0, 0, 1.73).expand(500, 3)
    echoes = Street((Ground(Material(0.2)),)).cast(origins, directions)
    assert echoes.second.isnan().all()
    last = (~echoes.drop).nonzero().max()
    assert not echoes.drop[: last + 1].any() and echoes.drop[-1]
    assert 30 < echoes.ranges[last] < 60
    # footprints longer than the separation are still one surface
    strong = Pulse(threshold=1e-12, farthest=math.inf)
    everywhere = Street((Ground(Material(0.2)),)).cast(origins, directions, strong)
    assert everywhere.ranges.max() > 100 and everywhere.second.isnan().all()


def test_echoes_whose_means_are_closer_than_the_separation_are_not_told_apart():
    wall = Box(CHALK, (41.4, 0, 2), (0.5, 5, 2))  # stands where the upper part of a beam ends
    directions = torch.nn.functional.normalize(rows(40, 0, -1.73), dim=-1)
    street = Street((Ground(CHALK), wall))
    fine, coarse = (
        street.cast(rows(0, 0, 1.73), directions, Pulse(separation=s, threshold=1e-12))
        for s in (0.5, 1.75)
    )
    assert 0.5 < (fine.second - fine.ranges).item() < 1.75
    assert coarse.second.isnan().item() and coarse.ranges.item() < 40.5


def test_power_falls_with_range_and_incidence_but_intensity_not_with_range():
    def look(x: float, material: Material, yaw: float = 0.0):
        wall = Box(material, (x + math.cos(yaw), math.sin(yaw), 0), (1, 40, 40), yaw)
        return Street((wall,)).cast(rows(0, 0, 0), rows(1, 0, 0))

    dark = Material(0.01)
    assert look(20, dark).intensity.item() == pytest.approx(0.01, rel=1e-4)
    assert look(40, dark).intensity.item() == pytest.approx(0.01, rel=1e-4)
    assert look(60, dark).drop.item() and not look(60, CHALK).drop.item()
    assert look(20, dark, 1.5).drop.item()
    assert look(20, CHALK, math.pi / 3).intensity.item() == pytest.approx(0.5, rel=1e-2)
    assert look(20, GLASS).intensity.item() == pytest.approx(0.9, rel=1e-3)
    assert look(20, GLASS, 0.8).drop.item()
    assert look(85, CHALK).drop.item() and look(0.5, CHALK).drop.item()
    assert Street(()).cast(rows(0, 0, 0), rows(1, 0, 0)).drop.item()


def test_no_rays_bring_back_nothing():
    none = torch.zeros(0, 3, dtype=torch.float64)
    echoes = street().cast(none, none)
    assert len(echoes.ranges) == len(echoes.second) == 0 and echoes.normals.shape == (0, 3)


def test_noise_comes_from_the_generator_alone():
    sensor, pose = street_sensor(64), drive(1)[0]

    def noisy(seed: int):
        return scan(street(), sensor, pose, generator=torch.Generator().manual_seed(seed))

    clean, one, same, other = scan(street(), sensor, pose), noisy(1), noisy(1), noisy(2)
    assert torch.equal(one.rays.ranges.nan_to_num(), same.rays.ranges.nan_to_num())
    error = (one.rays.ranges - clean.rays.ranges)[clean.rays.hit]
    assert error.std().item() == pytest.approx(0.02, rel=0.1) and error.mean().abs() < 0.003
    assert not torch.equal(one.rays.ranges.nan_to_num(), other.rays.ranges.nan_to_num())
    assert torch.equal(one.rays.hit, clean.rays.hit)


def test_streets_of_different_seeds_differ():
    assert make_street(3) == make_street(3) != make_street(4)


def test_poses_of_a_drive_are_rotations():
    for pose in drive(5):
        assert np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() < 1e-12
        assert np.linalg.det(pose) == pytest.approx(1)


@pytest.mark.parametrize("motion", [False, True])
def test_returns_seen_from_the_pose_of_their_firing_lie_on_the_street(motion):
    sensor, poses = street_sensor(32), drive(2)
    scanned = scan(street(), sensor, poses[0], poses[1] if motion else None)
    returns = scanned.returns()
    first = returns.number == 1
    assert first.sum() == scanned.rays.hit.sum()
    end = poses[1] if motion else poses[0]
    at = torch.from_numpy(interpolate_poses(poses[0], end, returns.times))
    world = torch.einsum("nij,nj->ni", at[:, :3, :3], torch.from_numpy(returns.points))
    world = world + at[:, :3, 3]
    assert torch.allclose(world[torch.from_numpy(first)], scanned.rays.points(), atol=1e-9)
    azimuth = np.arctan2(returns.points[:, 1], returns.points[:, 0]) % (2 * np.pi)
    column = np.round(azimuth / (2 * np.pi) * 32) % 32
    assert np.array_equal(column / 32, returns.times)


def test_a_written_drive_holds_every_return(tmp_path):
    write_street(tmp_path, sweeps=2, columns=24)
    poses = np.loadtxt(tmp_path / "poses.txt").reshape(-1, 3, 4)
    assert np.array_equal(poses, drive(2)[:, :3])
    with np.load(tmp_path / "velodyne" / "000001.npz") as sweep:
        assert set(sweep.files) == {"points", "intensity", "ring", "number"}
        assert sweep["points"].dtype == np.float32 and len(sweep["points"]) > 500
        assert sweep["intensity"].min() >= 0 and sweep["intensity"].max() <= 1
    again = tmp_path / "again"
    write_street(again, sweeps=2, columns=24)
    for name in ("poses.txt", "sensor.json", "velodyne/000000.npz"):
        assert (tmp_path / name).read_bytes() == (again / name).read_bytes()


def slots(rays, columns: int) -> Tensor:
    return torch.argsort(rays.ring * columns + (rays.times * columns).round().long() % columns)


@pytest.mark.parametrize("motion", [False, True])
def test_a_drive_that_is_read_back_has_the_rays_that_were_cast(tmp_path, motion):
    write_street(tmp_path, sweeps=3, columns=64, motion=motion)
    assert is_lidar(tmp_path)
    scene = load_sweeps(tmp_path, LidarOptions(holdout="1"))
    assert scene.sensor.columns == 64 and scene.sensor.rings == 32
    assert (scene.motion is not None) == motion
    read = sweep_rays(scene, 1)
    poses = drive(3)
    cast = scan(street(), street_sensor(64), poses[1], poses[2] if motion else None).rays
    assert len(read) == len(cast)
    mine, theirs = slots(read, 64), slots(cast, 64)
    assert torch.equal(read.hit[mine], cast.hit[theirs])
    assert torch.equal(read.second.isnan()[mine], cast.second.isnan()[theirs])
    off = (read.ranges[mine] - cast.ranges[theirs]).nan_to_num()
    assert off.abs().max() < 0.1  # the noise of the file
    hit = cast.hit[theirs]
    assert (read.directions[mine] - cast.directions[theirs])[hit].abs().max() < 1e-6
    assert (read.origins[mine] - cast.origins[theirs])[hit].abs().max() < 1e-6


def test_the_sample_is_made_once_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYFIELD_CACHE", str(tmp_path / "cache"))
    small = functools.partial(write_street, sweeps=1, columns=8)
    monkeypatch.setattr(street_drive, "write_street", small)
    folder = street_lidar()
    assert folder.parent == tmp_path / "cache" and (folder / "poses.txt").is_file()
    (folder / "velodyne" / "000000.npz").write_bytes(b"kept")
    assert street_lidar() == folder
    assert (folder / "velodyne" / "000000.npz").read_bytes() == b"kept"
    (folder / "sensor.json").unlink()  # a deletion that was cut short
    assert (street_lidar() / "velodyne" / "000000.npz").stat().st_size > 1000
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POLYFIELD_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="POLYFIELD_CACHE"):
        street_lidar()
