"""Re-projected returns: whose slot a point falls in, and which of a slot's points counts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from polyfield.data.lidar.baseline import Cloud, accumulate, reproject
from polyfield.data.lidar.load import LidarOptions, load_sweeps
from polyfield.data.lidar.metrics import mean_scores, sweep_scores
from polyfield.data.lidar.rays import sweep_rays
from polyfield.data.lidar.street import make_street
from polyfield.data.lidar.street_drive import drive, scan, street_sensor, write_street
from polyfield.data.lidar.sweeps import LidarSweeps, SweepRays
from polyfield.renderers.lidar_sensors import SpinningLidar

RINGS = tuple(math.radians(e) for e in (6.0, 2.0, -1.0, -5.0))
SENSOR = SpinningLidar("four", RINGS, (0.2, 0.1, 0.05, 0.0), (0.0,) * 4, 24)


def beams(sensor: SpinningLidar = SENSOR) -> SweepRays:
    """All slots of a sensor at the origin, nothing measured."""
    rays = sensor.beams()
    none = torch.full((len(rays),), math.nan, dtype=torch.float64)
    zero = torch.zeros_like(none)
    return SweepRays(rays.origins, rays.directions, none, none, zero, rays.ring, rays.times)


def turned(rays: SweepRays, rotation: Tensor, shift: Tensor) -> SweepRays:
    origins = rays.origins @ rotation.T + shift
    return replace(rays, origins=origins, directions=rays.directions @ rotation.T)


def same(one: Tensor, other: Tensor, atol: float = 1e-9) -> bool:
    return torch.equal(one.isnan(), other.isnan()) and torch.allclose(
        one.nan_to_num(), other.nan_to_num(), atol=atol, rtol=0
    )


def by_hand(cloud: Cloud, rays: SweepRays, thickness: float) -> tuple[Tensor, Tensor]:
    """The definition, one point and one ray at a time, for a sensor that stands upright."""
    step = 2 * math.pi / SENSOR.columns
    elevations = [
        math.radians(e) for e in (8.0, 6.0, 2.0, -1.0, -5.0, -9.0)
    ]  # mirrored at the ends
    seen: dict[int, list[tuple[float, float, float]]] = {}
    for point, level in zip(cloud.points, cloud.intensity, strict=True):
        for index in range(len(rays)):
            x, y, z = (point - rays.origins[index]).tolist()
            ring = int(rays.ring[index])
            up = math.atan2(z, math.hypot(x, y))
            ahead = rays.directions[index].tolist()
            aside = math.remainder(math.atan2(y, x) - math.atan2(ahead[1], ahead[0]), 2 * math.pi)
            middle = elevations[ring + 1]
            above = (elevations[ring] - middle) / 2 if ring else 2 * math.pi / 180
            below = (middle - elevations[ring + 2]) / 2
            if abs(aside) < step / 2 and middle - below <= up <= middle + above:
                angle = (up - middle) ** 2 + (aside * math.cos(up)) ** 2
                seen.setdefault(index, []).append((math.hypot(x, y, z), angle, float(level)))
    ranges, intensity = torch.full_like(rays.ranges, math.nan), torch.zeros_like(rays.ranges)
    for index, options in seen.items():
        front = min(option[0] for option in options) + thickness
        best = min((option for option in options if option[0] <= front), key=lambda o: o[1])
        ranges[index], intensity[index] = best[0], best[2]
    return ranges, intensity


@pytest.mark.parametrize("thickness", [0.4, 3.0])
def test_the_definition_point_by_point(generator, thickness):
    shape = torch.tensor([1.0, 1.0, 0.12], dtype=torch.float64)
    points = 4 * shape * torch.randn(150, 3, generator=generator, dtype=torch.float64)
    cloud = Cloud(points, torch.rand(150, generator=generator, dtype=torch.float64))
    predicted = reproject(cloud, beams(), thickness=thickness)
    ranges, intensity = by_hand(cloud, beams(), thickness)
    assert 20 < predicted.hit.sum() < 90
    assert same(predicted.ranges, ranges) and same(predicted.intensity, intensity)


def test_without_thickness_the_nearest_point_counts():
    along = beams().directions[30]
    aside = beams().directions[31] - along
    points = torch.stack((8.0 * along, 7.9 * (along + 0.3 * aside))) + beams().origins[30]
    cloud = Cloud(points, torch.tensor([0.2, 0.9], dtype=torch.float64))
    nearest = reproject(cloud, beams(), thickness=0.0)
    assert nearest.hit.nonzero().tolist() == [[30]] and nearest.intensity[30] == 0.9
    straight = reproject(cloud, beams(), thickness=0.3)
    assert straight.ranges[30].item() == pytest.approx(8.0) and straight.intensity[30] == 0.2


def test_what_is_behind_a_surface_is_not_seen():
    ray = beams().directions[40]
    points = beams().origins[40] + torch.tensor([[20.0], [6.0], [6.4]], dtype=torch.float64) * ray
    cloud = Cloud(points + 0.01, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    predicted = reproject(cloud, beams())
    assert predicted.hit.sum() == 1
    assert predicted.ranges[40].item() == pytest.approx(6.0, abs=0.5)
    assert reproject(cloud, beams(), nearest=10.0).ranges[40].item() == pytest.approx(20, abs=0.02)


def test_predictions_turn_with_the_world(generator):
    points = 5 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    cloud = Cloud(points, torch.rand(300, generator=generator, dtype=torch.float64))
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation)
    shift = torch.tensor([100.0, -50.0, 3.0], dtype=torch.float64)
    there = reproject(
        Cloud(points @ rotation.T + shift, cloud.intensity), turned(beams(), rotation, shift)
    )
    assert same(there.ranges, reproject(cloud, beams()).ranges)


@pytest.mark.parametrize("motion", [False, True])
def test_a_sweep_that_sees_its_own_returns_finds_them_in_their_slots(motion):
    poses = drive(2, step=3.0)
    street = make_street(0)
    rays = scan(street, street_sensor(96), poses[0], poses[1] if motion else None).rays
    predicted = reproject(Cloud(rays.points(), rays.intensity[rays.hit]), rays)
    assert same(predicted.ranges, rays.ranges)
    assert torch.allclose(predicted.intensity, rays.intensity)


def test_what_was_measured_along_the_rays_is_not_looked_at(generator):
    points = 5 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    cloud = Cloud(points, torch.rand(300, generator=generator, dtype=torch.float64))
    blind = reproject(cloud, beams())
    noise = torch.rand(len(blind), generator=generator, dtype=torch.float64)
    told = replace(beams(), ranges=noise, second=noise + 1, intensity=noise)
    assert same(reproject(cloud, told).ranges, blind.ranges)
    assert reproject(cloud, told).second.isnan().all()


def test_without_points_everything_is_dropped_and_without_rays_nothing_is_there():
    nothing = Cloud(torch.zeros(0, 3).double(), torch.zeros(0).double())
    empty = reproject(nothing, beams())
    assert not empty.hit.any() and len(empty) == len(beams())
    behind = Cloud(torch.tensor([[0.0, 0.0, 9.0]]).double(), torch.ones(1).double())
    assert not reproject(behind, beams()).hit.any()
    none = beams().ranges[:0]
    rays = SweepRays(
        torch.zeros(0, 3).double(), torch.zeros(0, 3).double(), none, none, none,
        torch.zeros(0, dtype=torch.int64), none,
    )  # fmt: skip
    assert len(reproject(behind, rays)) == 0


@pytest.fixture(scope="module")
def street_scene(tmp_path_factory: pytest.TempPathFactory) -> LidarSweeps:
    folder = tmp_path_factory.mktemp("street")
    write_street(folder, sweeps=5, columns=256)
    return load_sweeps(folder, LidarOptions(holdout="2"))


def test_only_sweeps_that_are_fitted_are_put_together(street_scene):
    cloud = accumulate(street_scene)
    counts = [int(sweep_rays(street_scene, i).hit.sum()) for i in range(5)]
    assert len(cloud) == sum(counts) - counts[2]
    assert len(accumulate(street_scene, [2])) == counts[2]
    assert len(accumulate(street_scene, [])) == 0
    assert np.allclose(cloud.points[: counts[0]], sweep_rays(street_scene, 0).points())


def test_a_street_is_seen_from_elsewhere_within_centimetres(street_scene):
    truth = sweep_rays(street_scene, 2)
    predicted = reproject(accumulate(street_scene), truth, street_scene.sensor.nearest)
    scores = mean_scores([sweep_scores(predicted, truth)])
    assert scores["range_medae_m"] < 0.08
    assert scores["range_recall_50cm"] > 0.9
    assert scores["hit_f1"] > 0.9 and scores["intensity_psnr"] > 15
    other = reproject(accumulate(street_scene, [0]), truth)
    assert other.hit.sum() < predicted.hit.sum()
