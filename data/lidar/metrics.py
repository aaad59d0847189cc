"""How well predicted sweeps agree with measured ones.

A prediction is a `SweepRays` of the same slots: NaN ranges where it says nothing comes back. Range
and intensity are compared on the rays with a return in both, *both* below; rays with a return in
one only count in the drop metrics and, as points, in the distances of clouds, never as a range of
0 m. Names that begin with ``legacy`` repeat published definitions (Tao et al., "LiDAR-NeRF", 2023)
that do otherwise. Metrics that nothing can be said about are None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.data.lidar.sweeps import SweepRays
from polyfield.data.signals.triangles import triangle_tree

Metrics = dict[str, float | None]
FSCORE_THRESHOLD = 0.05  # metres
LEGACY_THRESHOLD2 = 0.05  # square metres: a radius of 22 cm
LEGACY_FARTHEST = 80.0  # metres


@dataclass(frozen=True)
class SweepScores:
    """Metrics of one sweep, and the range errors in metres that they come from."""

    values: Metrics
    range_errors: Float[Tensor, "both"]


def sweep_scores(predicted: SweepRays, truth: SweepRays) -> SweepScores:
    """All metrics of one sweep; `predicted` holds the slots of `truth`, in its order."""
    both = predicted.hit & truth.hit
    errors = (predicted.ranges - truth.ranges)[both].abs()
    values = {
        **range_metrics(errors),
        **drop_metrics(~predicted.hit, ~truth.hit),
        **intensity_metrics(predicted.intensity[both], truth.intensity[both]),
        **cloud_metrics(predicted.points(), truth.points()),
        **second_metrics(predicted.second, truth.second),
        **legacy_metrics(predicted, truth),
    }
    return SweepScores(values, errors)


def mean_scores(sweeps: Sequence[SweepScores]) -> Metrics:
    """Means over sweeps, of those where a metric says something; ``range_medae_m`` is the median
    over all rays of all sweeps.

    Raises:
        ValueError: There are no sweeps.
    """
    if not sweeps:
        raise ValueError("the mean over no sweeps is not defined")
    out: Metrics = {}
    for name in sweeps[0].values:
        known = [v for s in sweeps if (v := s.values[name]) is not None]
        out[name] = sum(known) / len(known) if known else None
    pooled = torch.cat([s.range_errors for s in sweeps])
    return out | {"range_medae_m": _median(pooled)}


def range_metrics(errors: Float[Tensor, "both"]) -> Metrics:
    """From absolute range errors in metres: mean, median, root mean square, and the shares below
    10 and 50 cm (those of all rays with a return in both)."""
    return {
        "range_mae_m": _mean(errors),
        "range_medae_m": _median(errors),
        "range_rmse_m": _root(_mean(errors**2)),
        "range_recall_10cm": _mean((errors < 0.1).double()),
        "range_recall_50cm": _mean((errors < 0.5).double()),
    }


def drop_metrics(predicted: Bool[Tensor, "n"], truth: Bool[Tensor, "n"]) -> Metrics:
    """Of which rays bring nothing back; positive is dropped, except in ``hit_f1``."""
    named = {f"drop_{name}": value for name, value in _binary(predicted, truth).items()}
    accuracy = _mean((predicted == truth).double())
    return {"drop_accuracy": accuracy, **named, "hit_f1": _binary(~predicted, ~truth)["f1"]}


def intensity_metrics(predicted: Float[Tensor, "both"], truth: Float[Tensor, "both"]) -> Metrics:
    """Mean absolute and root mean square error, and PSNR of intensities in [0, 1]."""
    mse = _mean((predicted - truth) ** 2)
    return {
        "intensity_mae": _mean((predicted - truth).abs()),
        "intensity_rmse": _root(mse),
        "intensity_psnr": _psnr(mse),
    }


def second_metrics(predicted: Float[Tensor, "n"], truth: Float[Tensor, "n"]) -> Metrics:
    """Of which rays return twice, and the range error of second returns present in both.

    predicted, truth: metres, NaN without a second return.
    """
    named = {
        f"second_{name}": value
        for name, value in _binary(~torch.isnan(predicted), ~torch.isnan(truth)).items()
    }
    errors = (predicted - truth).abs()
    return {**named, "second_mae_m": _mean(errors[~torch.isnan(errors)])}


def cloud_metrics(predicted: Float[Tensor, "p 3"], truth: Float[Tensor, "t 3"]) -> Metrics:
    """Distances between clouds in metres, by nearest neighbours both ways.

    ``chamfer_m``: sum of the two mean distances; ``legacy_chamfer_m2``: of the mean squared ones;
    ``fscore``: harmonic mean of the shares nearer than 5 cm; ``legacy_fscore``: of those whose
    *squared* distance is below 0.05, which is 22 cm. Without points on a side the distances are
    infinite and the scores 0.
    """
    forward, back = (neighbour_distances(predicted, truth), neighbour_distances(truth, predicted))
    if not len(forward) or not len(back):
        return {
            "chamfer_m": math.inf,
            "legacy_chamfer_m2": math.inf,
            "fscore": 0.0,
            "legacy_fscore": 0.0,
        }
    return {
        "chamfer_m": float(forward.mean() + back.mean()),
        "legacy_chamfer_m2": float((forward**2).mean() + (back**2).mean()),
        "fscore": _harmonic(forward < FSCORE_THRESHOLD, back < FSCORE_THRESHOLD),
        "legacy_fscore": _harmonic(forward**2 < LEGACY_THRESHOLD2, back**2 < LEGACY_THRESHOLD2),
    }


def neighbour_distances(
    points: Float[Tensor, "n 3"], cloud: Float[Tensor, "m 3"]
) -> Float[Tensor, "n"]:
    """Distance of every point to the nearest of a cloud, in float64; infinite without points."""
    if not len(cloud):
        return torch.full((len(points),), math.inf, dtype=torch.float64)
    corners = cloud.double().numpy()[:, None].repeat(3, axis=1)  # triangles without a side
    return torch.from_numpy(triangle_tree(corners).distance(points.double().numpy()))


def legacy_metrics(predicted: SweepRays, truth: SweepRays) -> Metrics:
    """Range and intensity over *all* rays, with 0 where there is no return and ranges clipped to
    80 m: a wrong drop costs as much as its whole range. PSNR of ranges is relative to 80 m."""
    ranges = [r.ranges.nan_to_num(0.0).clamp(1e-3, LEGACY_FARTHEST) for r in (predicted, truth)]
    errors = (ranges[0] - ranges[1]).abs()
    mse = _mean(errors**2)
    levels = [torch.where(r.hit, r.intensity, 0.0) for r in (predicted, truth)]
    intensity_mse = _mean((levels[0] - levels[1]) ** 2)
    return {
        "legacy_range_rmse_m": _root(mse),
        "legacy_range_medae_m": _median(errors),
        "legacy_range_psnr": None if mse is None else _psnr(mse / LEGACY_FARTHEST**2),
        "legacy_intensity_rmse": _root(intensity_mse),
        "legacy_intensity_psnr": _psnr(intensity_mse),
    }


def _binary(predicted: Tensor, truth: Tensor) -> Mapping[str, float | None]:
    """Precision, recall, F1 and intersection over union of what is true."""
    right, said, there = ((m.sum().item()) for m in (predicted & truth, predicted, truth))
    return {
        "precision": _share(right, said),
        "recall": _share(right, there),
        "f1": _share(2 * right, said + there),
        "iou": _share(right, said + there - right),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _harmonic(one: Tensor, other: Tensor) -> float:
    precision, recall = float(one.double().mean()), float(other.double().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def _median(values: Tensor) -> float | None:
    return float(np.median(values.double().numpy())) if len(values) else None


def _root(mse: float | None) -> float | None:
    return None if mse is None else math.sqrt(mse)


def _psnr(mse: float | None) -> float | None:
    if mse is None:
        return None
    return -10 * math.log10(mse) if mse else math.inf
