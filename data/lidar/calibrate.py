"""A sensor's table from its sweeps: rings, their elevations and heights, columns, timing.

A ring's returns lie on a cone: z = z0 + rho tan(e) with the horizontal distance rho, exactly for
points as they were fired, in the sensor's frame. A line per ring gives its elevation e and the
height z0 where its beams start.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from polyfield.data.lidar.cones import nearest_cone, ring_lines, rings_by_elevation
from polyfield.data.lidar.sweeps import PointSweep
from polyfield.errors import InputError
from polyfield.renderers.lidar_sensors import SpinningLidar

NOTED_RESIDUAL = 0.01  # metres; range noise of centimetres leaves less
LARGEST_RESIDUAL = 0.05  # metres; beyond it the returns lie on no cones
_WRAP = 0.3  # radians that the azimuth falls back by where a ring begins
_WRAPS = (8, 256)  # numbers of rings that are believed of wraps
_SEAM = 4  # points at either end of a ring that may belong to the next
_STRAY = 5e-3  # metres off its line from which on a point may belong to the next ring


@dataclass(frozen=True)
class SensorFit:
    """A fitted table and how well it fits.

    residuals: standard deviation of z about each ring's line, metres; returns: per ring; rings:
    how points got their rings; labels: ring numbers of the files, top ring first; timed: the
    points have times.
    """

    sensor: SpinningLidar
    residuals: tuple[float, ...]
    returns: tuple[int, ...]
    rings: str
    labels: tuple[int, ...]
    timed: bool = False

    @property
    def residual(self) -> float:
        """Standard deviation of z about the rings' lines over all returns, metres."""
        weights = np.array(self.returns, float)
        return float(np.sqrt((np.square(self.residuals) * weights).sum() / weights.sum()))

    def warnings(self, used: SpinningLidar) -> list[str]:
        """What should be said of a fit, and of a table that is used instead of it."""
        said = []
        if self.residual > NOTED_RESIDUAL:
            said.append(
                f"returns lie {1e3 * self.residual:.3g} mm (standard deviation of z) about their "
                "rings' cones: the points are compensated, noisy, or of merged sweeps"
            )
        if len(used.elevations) == len(self.sensor.elevations):
            off = np.abs(np.array(used.elevations) - np.array(self.sensor.elevations)).max()
            if off > np.radians(0.1):
                said.append(
                    f"beams of the '{used.name}' table are up to {np.degrees(off):.2g} degrees off "
                    "the data's; leave data.sensor out to fit them"
                )
        return said

    def report(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "sensor": self.sensor.name,
            "rings": self.sensor.rings,
            "columns": self.sensor.columns,
            "assigned": self.rings,
            "residual_m": self.residual,
            "largest_ring_residual_m": max(self.residuals),
            "smallest_ring": min(self.returns),
            "largest_ring": max(self.returns),
        }


def azimuths(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """Angle from x towards y, in [0, 2 pi)."""
    points = np.asarray(points, np.float64)
    return np.arctan2(points[:, 1], points[:, 0]) % (2 * math.pi)


def rings_by_wraps(points: Float[np.ndarray, "n 3"]) -> Int64[np.ndarray, "n"] | None:
    """Rings of points stored ring after ring, azimuth running round once in each.

    The ring is the number of times the azimuth has fallen back; files may turn either way and
    start a ring at 0 or at pi. Points at the seam may get the next ring (`refine_rings`).

    Returns:
        Rings in the file's order, None where the order of the points is another.
    """
    if len(points) < 2:
        return None
    azimuth = azimuths(points)
    step = np.angle(np.exp(1j * np.diff(azimuth)))
    if np.median(step) < 0:
        azimuth = -azimuth
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    best, least = None, math.inf
    for cut in (0.0, math.pi):
        wraps = np.diff((azimuth - cut) % (2 * math.pi)) < -_WRAP
        rings = np.concatenate([[0], np.cumsum(wraps)])
        if not _WRAPS[0] <= rings[-1] + 1 <= _WRAPS[1]:
            continue
        spread = _spread(elevation, rings)
        if spread < least:
            best, least = rings.astype(np.int64), spread
    return best if least < 0.25 * elevation.std() else None


def _spread(values: np.ndarray, groups: np.ndarray) -> float:
    """Root mean square of values about their groups' means."""
    count = np.maximum(np.bincount(groups), 1)
    mean = np.bincount(groups, values) / count
    return float(np.sqrt(np.square(values - mean[groups]).mean()))


def refine_rings(
    points: Float[np.ndarray, "n 3"], rings: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "n"]:
    """Rings of points in file order, with strays at the seams moved to the ring they lie on.

    The lines are fitted without the ends of each ring, where the strays are.
    """
    count = int(rings.max()) + 1
    starts = np.searchsorted(rings, np.arange(count + 1))
    place = np.arange(len(rings))
    inner = (place - starts[rings] >= _SEAM) & (starts[rings + 1] - place > _SEAM)
    slope, height = ring_lines(points[inner], rings[inner], count)
    rho = np.hypot(points[:, 0], points[:, 1])
    options = np.clip(rings + np.array([[0], [-1], [1]]), 0, count - 1)
    off = np.abs(points[:, 2] - slope[options] * rho - height[options])
    best = np.where(np.isnan(off), np.inf, off).argmin(axis=0)
    moved = np.take_along_axis(options, best[None], axis=0)[0]
    return np.where((off[0] > _STRAY) & ~inner, moved, rings)


def nearest_rings(
    points: Float[np.ndarray, "n 3"], sensor: SpinningLidar
) -> Int64[np.ndarray, "n"]:
    """The ring of a known table whose cone each point is nearest to."""
    return nearest_cone(points, np.tan(sensor.elevations), np.array(sensor.heights))


def _all_rings(
    sweeps: Sequence[PointSweep], known: SpinningLidar | None
) -> tuple[list[PointSweep], list[np.ndarray], str]:
    """The sweeps whose rings can be told in one way, their rings in any order, and that way.

    The file's own numbers; else wraps of the azimuth, of the sweeps with the commonest number of
    them (a known table's); else the nearest beams of a known table; else clusters of elevation.
    """
    if all(sweep.ring is not None for sweep in sweeps):
        return list(sweeps), [sweep.ring for sweep in sweeps], "the file's own"
    wraps = [rings_by_wraps(sweep.points) for sweep in sweeps]
    counts = Counter(int(r.max()) + 1 for r in wraps if r is not None)
    usual = max(counts, key=lambda c: (counts[c], c)) if counts else 0
    if usual and (known is None or usual == known.rings):
        good = [i for i, r in enumerate(wraps) if r is not None and r.max() + 1 == usual]
        rings = [refine_rings(sweeps[i].points, wraps[i]) for i in good]
        return [sweeps[i] for i in good], rings, "wraps of the azimuth"
    if known is not None:
        rings = [nearest_rings(sweep.points, known) for sweep in sweeps]
        return list(sweeps), rings, f"the nearest beam of the {known.name} table"
    rings = rings_by_elevation(np.concatenate([sweep.points for sweep in sweeps]))
    ends = np.cumsum([len(sweep) for sweep in sweeps])[:-1]
    return list(sweeps), np.split(rings, ends), "clusters of elevation"


def fit_sensor(
    sweeps: Sequence[PointSweep], known: SpinningLidar | None = None, name: str = "fitted"
) -> SensorFit:
    """The table that sweeps of one sensor were made with.

    Args:
        sweeps: Cleaned sweeps, in the sensor's frame, not compensated for much motion.
        known: A table of which rate, timing and divergence are taken, and rings where the points
            do not tell them.

    Raises:
        InputError: The returns lie on no cones: rings cannot be told.
    """
    sweeps, found, how = _all_rings(sweeps, known)
    points = np.concatenate([np.asarray(s.points, np.float64) for s in sweeps])
    labels, rings = np.unique(np.concatenate(found), return_inverse=True)
    slope, height = ring_lines(points, rings, len(labels))
    order = np.argsort(-slope)
    place = np.argsort(order)
    rings, slope, height = place[rings], slope[order], height[order]
    off = points[:, 2] - slope[rings] * np.hypot(points[:, 0], points[:, 1]) - height[rings]
    count = np.bincount(rings)
    residuals = np.sqrt(np.bincount(rings, off * off) / count)
    if np.median(residuals) > LARGEST_RESIDUAL:
        raise InputError(
            f"the returns do not lie on cones: z differs by {np.median(residuals):.3g} m from the "
            f"rings' lines (rings by {how}), expected below {LARGEST_RESIDUAL} m; name the sensor "
            "with --set data.sensor=hdl-64e, check the frame with data.frame, or use points that "
            "are not merged from several sweeps"
        )
    base = known or SpinningLidar(name, (), (), (), 1, direction=-1, start=math.pi)
    sensor = replace(
        base,
        name=name if known is None else f"{known.name}, fitted",
        elevations=tuple(float(e) for e in np.arctan(slope)),
        heights=tuple(float(h) for h in height),
        azimuth_offsets=(0.0,) * len(labels),
        columns=_columns(sweeps, found),
    )
    sensor = _timing(sensor, sweeps)
    return SensorFit(
        sensor, tuple(residuals.tolist()), tuple(int(c // len(sweeps)) for c in count), how,
        tuple(int(label) for label in labels[order]),
        any(_timed(sweep) for sweep in sweeps),
    )  # fmt: skip


def _columns(sweeps: Sequence[PointSweep], rings: Sequence[np.ndarray]) -> int:
    """Firings per revolution: the mean step between neighbouring returns of a ring, without the
    gaps that dropped rays leave."""
    steps = np.concatenate(
        [
            ring_steps(azimuths(_firsts(s)), r[_is_first(s)])[0]
            for s, r in zip(sweeps, rings, strict=True)
        ]
    )
    steps = steps[steps > 1e-6]
    if not len(steps):
        return 1
    usual = np.median(steps)
    near = steps[steps < 1.6 * usual]
    return max(round(2 * math.pi / float(near.mean())), 1)


def _is_first(sweep: PointSweep) -> np.ndarray:
    return np.ones(len(sweep), bool) if sweep.number is None else sweep.number == 1


def _firsts(sweep: PointSweep) -> np.ndarray:
    return sweep.points[_is_first(sweep)]


def ring_steps(
    azimuth: Float[np.ndarray, "n"], rings: Int64[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """From every return to the next of its ring, round to the first: (step, order).

    order sorts the returns by ring and azimuth; step i in (0, 2 pi] belongs to ``order[i]``.
    """
    order = np.lexsort((azimuth, rings))
    a, r = azimuth[order], rings[order]
    if not len(a):
        return np.zeros(0), order
    starts = np.flatnonzero(np.concatenate([[True], r[1:] != r[:-1]]))
    ends = np.concatenate([starts[1:], [len(r)]]) - 1
    following = np.concatenate([a[1:], a[:1]])
    following[ends] = a[starts] + 2 * math.pi
    return following - a, order


def _timing(sensor: SpinningLidar, sweeps: Sequence[PointSweep]) -> SpinningLidar:
    """Sense of rotation and azimuth at time 0 from the points' times, where they have any."""
    timed = [s for s in sweeps if _timed(s)]
    if not timed:
        return sensor
    sweep = timed[0]
    azimuth, times = azimuths(sweep.points), np.asarray(sweep.times, np.float64)
    fits = {sign: np.exp(1j * (azimuth - sign * 2 * math.pi * times)).mean() for sign in (1, -1)}
    sign = max(fits, key=lambda s: abs(fits[s]))
    return replace(sensor, direction=sign, start=float(np.angle(fits[sign]) % (2 * math.pi)))


def _timed(sweep: PointSweep) -> bool:
    return sweep.times is not None and float(np.ptp(sweep.times)) > 0.1
