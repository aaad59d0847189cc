"""Cones that rings lie on: z = z0 + rho tan(e); and rings of points whose order says nothing."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int64

from polyfield.errors import InputError

_BIN = math.radians(0.02)
_HEIGHTS = np.arange(-0.3, 0.301, 0.02)  # metres above the frame's origin that are tried
_ROUNDS = 8
_FLAT = 0.01  # metres: a ring whose distances spread less has no line


def ring_lines(
    points: Float[np.ndarray, "n 3"], rings: Int64[np.ndarray, "n"], count: int
) -> tuple[Float[np.ndarray, "rings"], Float[np.ndarray, "rings"]]:
    """Slope tan(e) and height z0 of every ring's line, by least squares; NaN without returns.

    Where a ring's returns all lie at one distance nothing tells its height: it gets one in line
    with its neighbours' (0 where none is known).
    """
    points = np.asarray(points, np.float64)
    rho, z = np.hypot(points[:, 0], points[:, 1]), points[:, 2]
    n = np.bincount(rings, minlength=count).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_rho, mean_z = (np.bincount(rings, w, minlength=count) / n for w in (rho, z))
        off = rho - mean_rho[rings]
        var = np.bincount(rings, off * off, minlength=count) / n
        slope = np.bincount(rings, off * (z - mean_z[rings]), minlength=count) / n / var
        height = mean_z - slope * mean_rho
        flat, sure = (n > 0) & (var <= _FLAT**2), var > _FLAT**2
        if flat.any():
            angle = np.arctan2(mean_z, mean_rho)
            order = np.flatnonzero(sure)[np.argsort(angle[sure])]
            known = np.interp(angle[flat], angle[order], height[order]) if len(order) else 0.0
            height[flat] = known
            slope[flat] = (mean_z[flat] - known) / mean_rho[flat]
    return slope, height


def nearest_cone(
    points: Float[np.ndarray, "n 3"],
    slopes: Float[np.ndarray, "rings"],
    heights: Float[np.ndarray, "rings"],
) -> Int64[np.ndarray, "n"]:
    """The cone each point is nearest to."""
    points = np.asarray(points, np.float64)
    rho, z = np.hypot(points[:, 0], points[:, 1]), points[:, 2]
    best, least = np.zeros(len(rho), np.int64), np.full(len(rho), np.inf)
    for ring, (slope, height) in enumerate(zip(slopes, heights, strict=True)):
        off = np.abs(z - height - rho * slope) / math.sqrt(1 + slope * slope)
        nearer = off < least
        best[nearer], least[nearer] = ring, off[nearer]
    return best


def rings_by_elevation(points: Float[np.ndarray, "n 3"]) -> Int64[np.ndarray, "n"]:
    """Rings from 0 at the top, as clusters of the elevations seen from one height of the axis.

    The height is the one under which elevations are most concentrated; clusters are runs of
    occupied bins, and every point joins the cone it is nearest to.

    Raises:
        InputError: There are no clusters to be told apart.
    """
    points = np.asarray(points, np.float64)
    rho, z = np.hypot(points[:, 0], points[:, 1]), points[:, 2]
    if len(points) < 100:
        raise _none(0)
    scores = [_concentration(np.arctan2(z - h, rho)) for h in _HEIGHTS]
    height = float(_HEIGHTS[int(np.argmax(scores))])
    centres = _centres(np.arctan2(z - height, rho))
    if not 4 <= len(centres) <= 256:
        raise _none(len(centres))
    slopes, heights = np.tan(centres), np.full(len(centres), height)
    for _ in range(_ROUNDS):
        rings = nearest_cone(points, slopes, heights)
        new_slopes, new_heights = ring_lines(points, rings, len(centres))
        known = np.isfinite(new_slopes)
        slopes, heights = np.where(known, new_slopes, slopes), np.where(known, new_heights, heights)
    rings = nearest_cone(points, slopes, heights)
    order = np.argsort(np.argsort(-slopes))
    return order[rings].astype(np.int64)


def _concentration(elevation: np.ndarray) -> float:
    bins = np.bincount(np.floor((elevation + math.pi / 2) / _BIN).astype(int))
    return float((bins.astype(float) ** 2).sum())


def _centres(elevation: np.ndarray) -> np.ndarray:
    """Mean elevations of runs of bins that hold more than a fiftieth of the usual cluster."""
    index = np.floor((elevation + math.pi / 2) / _BIN).astype(int)
    bins = np.bincount(index)
    occupied = bins[bins > 0]
    dense = bins > max(0.02 * np.quantile(occupied, 0.9), 1)
    edges = np.diff(np.concatenate([[0], dense.astype(int), [0]]))
    run = np.cumsum(edges[:-1] == 1) - 1
    inside = dense[index]
    group = run[index[inside]]
    count = np.bincount(group)
    return (np.bincount(group, elevation[inside]) / np.maximum(count, 1))[count > 0]


def _none(count: int) -> InputError:
    return InputError(
        f"rings cannot be told from the elevations of the returns ({count} clusters); name the "
        "sensor with --set data.sensor=hdl-32e, or bring sweeps that hold rings"
    )
