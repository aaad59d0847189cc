"""From what a file holds to returns: bad points out, intensities in [0, 1], one frame."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from polyfield.data.lidar.sweeps import PointSweep
from polyfield.errors import InputError

Frame = Literal["kitti", "nuscenes"]
MOST_BAD = 0.5  # share of points that are no numbers from which on a sweep is refused
MOST_RINGS = 4095
WORLD_SIZED = 1000.0  # metres: no LiDAR reports such ranges

# what a frame's axes are in x forward, y left, z up
_TO_SENSOR = {
    "kitti": np.eye(3),
    "nuscenes": np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
}


def frame_rotation(frame: Frame) -> Float[np.ndarray, "3 3"]:
    """Rotation from a frame of files to the sensor's (x forward, y left, z up)."""
    return _TO_SENSOR[frame]


@dataclass(frozen=True)
class Cleaning:
    """What is kept of a sweep's points.

    frame: the files' axes; nearest, farthest: distances from the frame's origin, metres;
    intensity_unit: what the files call full intensity.
    """

    frame: Frame = "kitti"
    nearest: float = 0.0
    farthest: float = math.inf
    intensity_unit: float = 1.0


def clean_sweep(
    raw: PointSweep, path: Path, how: Cleaning, counts: Counter[str] | None = None
) -> PointSweep:
    """Returns of a sweep: float64 points in the sensor's frame.

    Points that are not finite, at the origin, or out of range are dropped and counted.

    Args:
        counts: Gets numbers of what was dropped, by reason.

    Raises:
        InputError: Nothing is left, most points are no numbers, or they are not in the sensor's
            frame.
    """
    counts = Counter() if counts is None else counts
    points = np.asarray(raw.points, np.float64)
    if not len(points):
        raise InputError(f"sweep {path} has no points; remove it and its pose")
    finite = np.isfinite(points).all(axis=1) & np.isfinite(raw.intensity)
    bad = int((~finite).sum())
    if bad > MOST_BAD * len(points):
        raise InputError(
            f"sweep {path}: {bad} of {len(points)} points are not finite numbers; check the number "
            "of values a point has, or write it again"
        )
    points = np.where(finite[:, None], points, 0.0) @ frame_rotation(how.frame).T
    distance = np.linalg.norm(points, axis=1)
    zero = finite & (distance == 0)
    near = finite & ~zero & (distance < how.nearest)
    far = finite & (distance > how.farthest)
    if finite.any() and np.median(distance[finite]) > WORLD_SIZED:
        raise InputError(
            f"sweep {path}: half of the points are more than {WORLD_SIZED:g} m from the origin, "
            "expected metres in the sensor's frame; take the pose or the map's offset out of them"
        )
    if raw.ring is not None and not 0 <= raw.ring.min() <= raw.ring.max() <= MOST_RINGS:
        raise InputError(
            f"sweep {path}: ring numbers go from {raw.ring.min()} to {raw.ring.max()}, expected 0 "
            f"to at most {MOST_RINGS}; write the rings again, or leave them out"
        )
    keep = finite & ~zero & ~near & ~far
    counts["points"] += len(points)
    counts["not finite"] += bad
    counts["all zero"] += int(zero.sum())
    counts[f"nearer than {how.nearest:g} m"] += int(near.sum())
    counts[f"farther than {how.farthest:g} m"] += int(far.sum())
    if not keep.any():
        raise InputError(
            f"sweep {path} has no return between {how.nearest:g} and {how.farthest:g} m "
            f"({len(points)} points); remove it and its pose, or set data.nearest and data.farthest"
        )
    intensity = np.where(finite, raw.intensity, 0.0).astype(np.float64) / how.intensity_unit
    return PointSweep(
        points[keep],
        np.clip(intensity[keep], 0.0, 1.0),
        None if raw.ring is None else raw.ring[keep],
        None if raw.times is None else unit_times(raw.times)[keep],
        None if raw.number is None else raw.number[keep],
    )


def intensity_unit(sweeps: Iterable[PointSweep]) -> float:
    """What files call full intensity: 1, 255 where some exceed 1, 65535 where some exceed 255."""
    most = 0.0
    for sweep in sweeps:
        finite = sweep.intensity[np.isfinite(sweep.intensity)]
        most = max(most, float(finite.max(initial=0.0)))
    return next((unit for unit in (1.0, 255.0) if most <= unit), 65535.0)


def unit_times(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Times as shares of the revolution: as they are if they fill [0, 1], else from the first to
    the last.

    Numbers in float64; entries that are not finite become 0.
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros_like(values)
    low, high = values[finite].min(), values[finite].max()
    if not (low >= 0 and 0.5 < high <= 1):
        values = (values - low) / max(high - low, 1e-12)
    return np.where(finite, values, 0.0)
