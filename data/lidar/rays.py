"""Sweeps as rays: one for every return, from where its beam starts, one for every empty slot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64

from polyfield.data.lidar.calibrate import azimuths, ring_steps
from polyfield.data.lidar.motion import move_points
from polyfield.data.lidar.poses import interpolate_poses
from polyfield.data.lidar.sweeps import LidarSweeps, PointSweep, SweepRays
from polyfield.renderers.lidar_sensors import SpinningLidar

_MISSING = 1.5  # steps between neighbours from which on a slot between them is empty


@dataclass(frozen=True)
class _Slots:
    """Slots in the sensor's frame; range NaN where empty."""

    ring: Int64[np.ndarray, "n"]
    origins: Float[np.ndarray, "n 3"]
    directions: Float[np.ndarray, "n 3"]
    ranges: Float[np.ndarray, "n"]
    second: Float[np.ndarray, "n"]
    intensity: Float[np.ndarray, "n"]
    times: Float[np.ndarray, "n"]


def sweep_rays(scene: LidarSweeps, index: int, dropped: bool = True) -> SweepRays:
    """The rays of one sweep, in the world, each with the pose at its own firing.

    First the returns: from their ring's height on the axis through the measured point. Then, with
    `dropped`, the slots between them that brought nothing back, in the directions of the table:
    where neighbours in a ring are further apart than one and a half steps, and whole rings without
    returns. Second returns are joined to the first of their slot.

    Raises:
        InputError: The sweep cannot be read.
    """
    sweep = scene.read(index)
    slots = _returns(sweep, scene.sensor)
    if dropped:
        slots = _joined(slots, _empty(sweep, scene.sensor))
    poses = scene.poses[index]
    if scene.motion is not None:
        poses = interpolate_poses(poses, scene.motion[index], slots.times)
    return SweepRays(
        origins=_tensor(move_points(slots.origins, poses)),
        directions=_tensor(np.einsum("...ij,...j->...i", poses[..., :3, :3], slots.directions)),
        ranges=_tensor(slots.ranges),
        second=_tensor(slots.second),
        intensity=_tensor(slots.intensity),
        ring=torch.from_numpy(slots.ring),
        times=_tensor(slots.times),
    )


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float64))


def firing_times(
    azimuth: Float[np.ndarray, "n"], ring: Int64[np.ndarray, "n"], sensor: SpinningLidar
) -> Float[np.ndarray, "n"]:
    """Share of the revolution, in [0, 1), at which the sensor looks along an azimuth."""
    turned = (azimuth - sensor.start - np.array(sensor.azimuth_offsets)[ring]) * sensor.direction
    return (turned / (2 * math.pi)) % 1.0 % 1.0  # twice: -1e-20 % 1.0 is 1.0


def _returns(sweep: PointSweep, sensor: SpinningLidar) -> _Slots:
    first = np.ones(len(sweep), bool) if sweep.number is None else sweep.number == 1
    partner = _partners(sweep, first, sensor)
    alone = np.flatnonzero(~first)[partner < 0]  # second returns whose first was not kept
    chosen = np.concatenate([np.flatnonzero(first), alone])
    points, ring = sweep.points[chosen], sweep.ring[chosen]
    origins = np.zeros_like(points)
    origins[:, 2] = np.array(sensor.heights)[ring]
    offset = points - origins
    ranges = np.linalg.norm(offset, axis=1)
    second = np.full(len(chosen), np.nan)
    joined = partner >= 0
    later = sweep.points[~first][joined] - origins[partner[joined]]
    second[partner[joined]] = np.linalg.norm(later, axis=1)
    times = (
        firing_times(azimuths(points), ring, sensor)
        if sweep.times is None
        else sweep.times[chosen].astype(np.float64)
    )
    return _Slots(
        ring.astype(np.int64), origins, offset / ranges[:, None], ranges, second,
        sweep.intensity[chosen], times,
    )  # fmt: skip


def _partners(sweep: PointSweep, first: np.ndarray, sensor: SpinningLidar) -> np.ndarray:
    """For every second return the place of its slot's first one among the first ones, -1 without:
    the nearest in azimuth of the same ring, within half a column."""
    seconds = np.flatnonzero(~first)
    if not len(seconds) or not first.any():
        return np.full(len(seconds), -1)
    turn = 2 * math.pi
    key = azimuths(sweep.points) + 4 * turn * sweep.ring
    order = np.argsort(key[first])
    keys = key[first][order]
    after = np.searchsorted(keys, key[seconds])
    options = np.stack([np.clip(after - 1, 0, None), np.clip(after, None, len(keys) - 1)])
    # a slot at azimuth 0 has its second return just below 2 pi, at the other end of the ring
    base = 4 * turn * sweep.ring[seconds]
    ends = np.searchsorted(keys, np.stack([base, base + turn]))
    options = np.concatenate([options, np.clip(ends - [[0], [1]], 0, len(keys) - 1)])
    apart = np.abs(keys[options] - key[seconds])
    apart = np.minimum(apart, np.abs(apart - turn))
    best = apart.argmin(axis=0)
    near = np.take_along_axis(apart, best[None], axis=0)[0] < turn / sensor.columns / 2
    place = order[np.take_along_axis(options, best[None], axis=0)[0]]
    return np.where(near, place, -1)


def _empty(sweep: PointSweep, sensor: SpinningLidar) -> _Slots:
    """Slots without a return, evenly spread over the gaps between returns."""
    azimuth, step = azimuths(sweep.points), 2 * math.pi / sensor.columns
    gap, order = ring_steps(azimuth, sweep.ring)
    missing = np.where(gap > _MISSING * step, np.maximum(np.round(gap / step), 1) - 1, 0).astype(
        int
    )
    after = np.repeat(np.arange(len(gap)), missing)
    place = np.arange(len(after)) - np.repeat(np.cumsum(missing) - missing, missing) + 1
    empty = azimuth[order][after] + gap[after] * place / (missing[after] + 1)
    ring = sweep.ring[order][after]
    silent = np.setdiff1d(np.arange(sensor.rings), sweep.ring)
    empty = np.concatenate([empty, sensor.azimuths()[silent].ravel()]) % (2 * math.pi)
    ring = np.concatenate([ring, np.repeat(silent, sensor.columns)]).astype(np.int64)
    elevation = np.array(sensor.elevations)[ring]
    origins = np.zeros((len(ring), 3))
    origins[:, 2] = np.array(sensor.heights)[ring]
    cosine = np.cos(elevation)
    directions = np.stack(
        (cosine * np.cos(empty), cosine * np.sin(empty), np.sin(elevation)), axis=-1
    )
    none = np.full(len(ring), np.nan)
    return _Slots(
        ring, origins, directions, none, none.copy(), np.zeros(len(ring)),
        firing_times(empty, ring, sensor),
    )  # fmt: skip


def _joined(a: _Slots, b: _Slots) -> _Slots:
    return _Slots(
        *(np.concatenate([x, y]) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    )


def range_image(
    scene: LidarSweeps, index: int
) -> tuple[Float[np.ndarray, "rings columns"], Float[np.ndarray, "rings columns"]]:
    """A view of a sweep as ranges (NaN: no return) and intensities (0 there).

    A return goes to the nearest column that keeps a ring's returns in order; where a ring has more
    returns than columns, the nearest range of a column is kept. Ranges are along the beams.
    """
    sensor = scene.sensor
    slots = _returns(scene.read(index), sensor)
    azimuth = np.arctan2(slots.directions[:, 1], slots.directions[:, 0]) % (2 * math.pi)
    column = columns_of(firing_times(azimuth, slots.ring, sensor), slots.ring, sensor.columns)
    order = np.argsort(-slots.ranges, kind="stable")  # the nearest is written last
    ranges = np.full((sensor.rings, sensor.columns), np.nan)
    intensity = np.zeros((sensor.rings, sensor.columns))
    at = slots.ring[order], column[order]
    ranges[at], intensity[at] = slots.ranges[order], slots.intensity[order]
    return ranges, intensity


def columns_of(
    times: Float[np.ndarray, "n"], ring: Int64[np.ndarray, "n"], columns: int
) -> Int64[np.ndarray, "n"]:
    """Column of every return: the nearest, moved on where the one before in its ring has it.

    The mean of pushing forwards and pushing backwards, so that jitter moves no return far.
    """
    order = np.lexsort((times, ring))
    nearest = np.round(times[order] * columns).astype(np.int64)
    lane = ring[order] * 16 * columns  # rings apart, so that one running maximum serves all
    free = nearest + lane - np.arange(len(order))
    forwards = np.maximum.accumulate(free)
    backwards = np.minimum.accumulate(free[::-1])[::-1]
    both = (forwards + backwards) // 2 + np.arange(len(order)) - lane
    out = np.empty(len(order), np.int64)
    out[order] = both % columns
    return out
