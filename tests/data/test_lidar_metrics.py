"""Metrics of sweeps: values worked out by hand, and definitions written as loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from polyfield.data.lidar.calibrate import rings_by_wraps
from polyfield.data.lidar.cones import ring_lines
from polyfield.data.lidar.files import read_sweep
from polyfield.data.lidar.metrics import (
    cloud_metrics,
    drop_metrics,
    intensity_metrics,
    legacy_metrics,
    mean_scores,
    neighbour_distances,
    range_metrics,
    second_metrics,
    sweep_scores,
)
from polyfield.data.lidar.sweeps import SweepRays

NAN = math.nan


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def flags(text: str) -> Tensor:
    return torch.tensor([c == "x" for c in text])


def sweep(ranges: Tensor, intensity: Tensor | None = None, second: Tensor | None = None):
    """Rays from the origin, fanned out in a plane."""
    n = len(ranges)
    turn = torch.arange(n, dtype=torch.float64)
    directions = torch.stack((turn.cos(), turn.sin(), turn * 0), -1)
    none = torch.full((n,), NAN, dtype=torch.float64)
    intensity = torch.full((n,), 0.5, dtype=torch.float64) if intensity is None else intensity
    return SweepRays(
        origins=torch.zeros(n, 3, dtype=torch.float64),
        directions=directions,
        ranges=ranges,
        second=none if second is None else second,
        intensity=torch.where(torch.isnan(ranges), 0.0, intensity),
        ring=torch.zeros(n, dtype=torch.int64),
        times=torch.zeros(n, dtype=torch.float64),
    )


def sparse_cloud(generator: torch.Generator) -> Tensor:
    """Points at least half a metre apart."""
    grid = torch.cartesian_prod(*[torch.arange(7, dtype=torch.float64)] * 3)
    return grid + 0.5 * torch.rand(343, 3, generator=generator, dtype=torch.float64)


def test_equal_clouds_are_at_no_distance(generator):
    cloud = sparse_cloud(generator)
    assert cloud_metrics(cloud, cloud) == {
        "chamfer_m": 0.0,
        "legacy_chamfer_m2": 0.0,
        "fscore": 1.0,
        "legacy_fscore": 1.0,
    }


def test_a_shift_of_3_cm_is_twice_that_in_chamfer_distance(generator):
    cloud = sparse_cloud(generator)
    metrics = cloud_metrics(cloud + values(0.0, 0.03, 0.0), cloud)
    assert metrics["chamfer_m"] == pytest.approx(0.06)
    assert metrics["legacy_chamfer_m2"] == pytest.approx(0.0018)
    assert metrics["fscore"] == 1.0


def test_a_shift_of_10_cm_is_seen_by_the_fscore_but_not_by_the_legacy_one(generator):
    cloud = sparse_cloud(generator)
    metrics = cloud_metrics(cloud + values(0.1, 0.0, 0.0), cloud)
    assert metrics["fscore"] == 0.0 and metrics["legacy_fscore"] == 1.0
    beyond = cloud_metrics(cloud + values(0.0, 0.0, 0.23), cloud)
    assert beyond["legacy_fscore"] == 0.0


def test_the_fscore_is_the_harmonic_mean_of_precision_and_recall():
    truth = torch.cat((values(0, 0, 0)[None], values(5, 0, 0)[None], values(9, 0, 0)[None]))
    predicted = torch.cat((truth[:1], values(0.02, 0, 0)[None], truth[1:2] + 0.4, truth[2:] + 1))
    metrics = cloud_metrics(predicted, truth)
    far, further = 0.4 * math.sqrt(3), math.sqrt(3)
    assert metrics["chamfer_m"] == pytest.approx((0.02 + far + further) / 4 + (far + further) / 3)
    precision, recall = 2 / 4, 1 / 3
    assert metrics["fscore"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_clouds_without_points_are_infinitely_far():
    none, one = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    for pair in ((none, one), (one, none), (none, none)):
        metrics = cloud_metrics(*pair)
        assert metrics["chamfer_m"] == math.inf and metrics["fscore"] == 0.0


def test_neighbours_are_those_of_brute_force(generator):
    points = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    cloud = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    cloud[:40] = cloud[40:80]  # points twice
    direct = (points[:, None] - cloud).norm(dim=-1).amin(1)
    assert torch.allclose(neighbour_distances(points, cloud), direct, atol=1e-12)


def test_range_errors_are_averaged_in_metres():
    metrics = range_metrics(values(0.0, 0.05, 0.2, 0.3, 1.45))
    assert metrics["range_mae_m"] == pytest.approx(0.4)
    assert metrics["range_medae_m"] == pytest.approx(0.2)
    assert metrics["range_rmse_m"] == pytest.approx(math.sqrt((0.0025 + 0.04 + 0.09 + 2.1025) / 5))
    assert metrics["range_recall_10cm"] == pytest.approx(0.4)
    assert metrics["range_recall_50cm"] == pytest.approx(0.8)
    assert range_metrics(values(0.1, 0.3))["range_medae_m"] == pytest.approx(0.2)
    assert set(range_metrics(values()).values()) == {None}


def test_drop_counts_dropped_rays_as_positive():
    predicted, truth = flags("xxx..x...."), flags("xx.x......")
    metrics = drop_metrics(predicted, truth)
    assert metrics["drop_accuracy"] == pytest.approx(0.7)
    assert metrics["drop_precision"] == pytest.approx(2 / 4)
    assert metrics["drop_recall"] == pytest.approx(2 / 3)
    assert metrics["drop_f1"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert metrics["drop_iou"] == pytest.approx(2 / 5)
    assert metrics["hit_f1"] == pytest.approx(10 / 13)


def test_what_nothing_can_be_said_about_is_none():
    metrics = drop_metrics(flags("...."), flags("...."))
    assert metrics["drop_accuracy"] == 1.0 and metrics["hit_f1"] == 1.0
    assert [metrics[f"drop_{k}"] for k in ("precision", "recall", "f1", "iou")] == [None] * 4
    missed = drop_metrics(flags("...."), flags("x..."))
    assert missed["drop_recall"] == missed["drop_f1"] == missed["drop_iou"] == 0.0
    assert missed["drop_precision"] is None


def test_intensity_psnr_has_a_maximum_of_one():
    metrics = intensity_metrics(values(0.5, 0.3), values(0.4, 0.4))
    assert metrics["intensity_psnr"] == pytest.approx(20.0)
    assert metrics["intensity_mae"] == pytest.approx(0.1) == metrics["intensity_rmse"]
    assert intensity_metrics(values(0.2), values(0.2))["intensity_psnr"] == math.inf
    assert intensity_metrics(values(), values())["intensity_psnr"] is None


def test_second_returns_are_compared_where_both_have_them():
    metrics = second_metrics(values(10, NAN, 12, 5), values(11, 7, NAN, 5.5))
    assert metrics["second_precision"] == pytest.approx(2 / 3) == metrics["second_recall"]
    assert metrics["second_iou"] == pytest.approx(2 / 4)
    assert metrics["second_mae_m"] == pytest.approx(0.75)
    assert second_metrics(values(NAN), values(NAN))["second_mae_m"] is None


def test_ranges_and_intensities_of_a_sweep_are_compared_where_both_return():
    truth = sweep(values(10, 20, NAN, 30, 5), values(0.5, 0.5, 0, 0.5, 0.1))
    predicted = sweep(values(10.5, NAN, 3, 30.1, 5), values(0.6, 0, 1, 0.4, 0.1))
    scores = sweep_scores(predicted, truth)
    assert scores.range_errors.tolist() == pytest.approx([0.5, 0.1, 0.0])
    assert scores.values["range_mae_m"] == pytest.approx(0.2)
    assert scores.values["drop_accuracy"] == pytest.approx(3 / 5)
    assert scores.values["intensity_mae"] == pytest.approx(0.2 / 3)
    points = cloud_metrics(predicted.points(), truth.points())
    assert scores.values["chamfer_m"] == points["chamfer_m"] > 1
    contract = {"range_mae_m", "range_medae_m", "chamfer_m", "fscore"}
    assert contract | {"drop_accuracy", "intensity_psnr"} <= set(scores.values)


def test_a_perfect_prediction_has_perfect_scores():
    truth = sweep(values(10, 20, NAN, 30), second=values(15, NAN, NAN, NAN))
    scores = sweep_scores(truth, truth).values
    zero = {k for k in scores if k.endswith(("_m", "_m2", "mae", "rmse"))}
    infinite = {k for k in scores if k.endswith("psnr")}
    for name, value in scores.items():
        expected = 0.0 if name in zero else math.inf if name in infinite else 1.0
        assert value == expected, name


def test_legacy_metrics_count_a_wrong_drop_as_its_whole_range():
    truth, predicted = sweep(values(10, 20, NAN)), sweep(values(10, NAN, NAN))
    metrics = legacy_metrics(predicted, truth)
    wrong = 20 - 1e-3
    assert metrics["legacy_range_rmse_m"] == pytest.approx(wrong / math.sqrt(3))
    assert metrics["legacy_range_psnr"] == pytest.approx(10 * math.log10(80**2 * 3 / wrong**2))
    assert metrics["legacy_intensity_rmse"] == pytest.approx(0.5 / math.sqrt(3))
    far = legacy_metrics(sweep(values(90.0)), sweep(values(85.0)))
    assert far["legacy_range_rmse_m"] == 0.0
    assert metrics["legacy_range_medae_m"] == 0.0


def test_means_are_over_sweeps_and_the_median_over_all_rays():
    truth = sweep(values(10, 10, 10))
    one = sweep_scores(replace(truth, ranges=values(10.1, 10.2, 10.3)), truth)
    other = sweep_scores(replace(truth, ranges=values(11, NAN, NAN)), truth)
    mean = mean_scores([one, other])
    assert mean["range_mae_m"] == pytest.approx((0.2 + 1.0) / 2)
    assert mean["range_medae_m"] == pytest.approx((0.2 + 0.3) / 2)  # of .1, .2, .3, 1
    assert mean["drop_accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert mean["drop_precision"] == 0.0  # said of one sweep only
    assert mean["second_mae_m"] is None
    with pytest.raises(ValueError):
        mean_scores([])


def kept_in_cells(ranges: Tensor, row: Tensor, column: Tensor, columns: int) -> Tensor:
    """The nearest return of every cell of a range image."""
    order = ranges.argsort(stable=True)
    cell = (row * columns + column)[order]
    by_cell = cell.argsort(stable=True)
    first = torch.ones(len(cell), dtype=torch.bool)
    first[1:] = cell[by_cell][1:] != cell[by_cell][:-1]
    return order[by_cell[first]]


@pytest.mark.parametrize(
    "columns, chamfer, square, fscore",
    [(2006, 0.0189, 0.0011, 0.986)],
)
def test_a_perfect_range_image_of_a_real_scan_scores_as_measured_elsewhere(
    real_data, columns, chamfer, square, fscore
):
    scans = sorted((real_data / "kitti-5" / "velodyne").glob("*.bin"))
    if not scans:
        pytest.skip("no kitti-5 here")
    points = read_sweep(scans[0]).points.astype(np.float64)
    rings = rings_by_wraps(points)
    slope, height = (torch.from_numpy(v)[rings] for v in ring_lines(points, rings, 64))
    cloud = torch.from_numpy(points)
    rho = cloud[:, :2].norm(dim=-1)
    step = 2 * math.pi / columns
    column = (torch.atan2(cloud[:, 1], cloud[:, 0]) / step).round()
    kept = kept_in_cells(rho, torch.from_numpy(rings), column.long() % columns, columns)
    phi = column * step
    image = torch.stack((rho * phi.cos(), rho * phi.sin(), height + slope * rho), -1)[kept]
    metrics = cloud_metrics(image, cloud)
    assert metrics["chamfer_m"] == pytest.approx(chamfer, rel=0.03)
    assert metrics["legacy_chamfer_m2"] == pytest.approx(square, abs=1e-4)
    assert metrics["fscore"] == pytest.approx(fscore, abs=2e-3)
