"""Spinning LiDAR sensors: which ray every slot of a sweep is.

Sensor frame: x forward, y left, z up, metres. A slot is a ring (a laser, 0 at the top) in a column
(a firing). With elevation e, height z0 and azimuth phi (from x towards y) its ray starts at
(0, 0, z0) and goes along (cos e cos phi, cos e sin phi, sin e).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.errors import UnknownNameError


@dataclass(frozen=True)
class SpinningLidar:
    """A sensor's table. Angles in radians, lengths in metres.

    elevations, heights: of every ring's beam, top ring first; azimuth_offsets: added to a
    column's azimuth; columns: firings per revolution; rate: revolutions per second; direction: 1
    when azimuth grows with time (counter-clockwise from above), else -1; start: azimuth of column
    0; nearest, farthest: ranges that are reported; divergence: half-angle of a beam, where its
    power has fallen to e^-2.
    """

    name: str
    elevations: tuple[float, ...]
    heights: tuple[float, ...]
    azimuth_offsets: tuple[float, ...]
    columns: int
    rate: float = 10.0
    direction: int = 1
    start: float = 0.0
    nearest: float = 1.0
    farthest: float = 80.0
    divergence: float = 1.5e-3

    @property
    def rings(self) -> int:
        """Number of lasers."""
        return len(self.elevations)

    def azimuths(self) -> Float[np.ndarray, "rings columns"]:
        """Azimuth of every slot."""
        column = self.start + self.direction * 2 * np.pi * np.arange(self.columns) / self.columns
        return column[None, :] + np.array(self.azimuth_offsets)[:, None]

    def beams(self) -> Beams:
        """The rays of a whole sweep in the sensor's frame, ring after ring."""
        azimuth = self.azimuths()
        elevation = np.broadcast_to(np.array(self.elevations)[:, None], azimuth.shape)
        ring, column = np.indices(azimuth.shape)
        origins = np.zeros((azimuth.size, 3))
        origins[:, 2] = np.repeat(np.array(self.heights), self.columns)
        directions = np.stack(
            (
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            ),
            -1,
        ).reshape(-1, 3)
        return Beams(
            torch.from_numpy(origins),
            torch.from_numpy(directions),
            torch.from_numpy(ring.ravel().astype(np.int64)),
            torch.from_numpy(column.ravel().astype(np.int64)),
            torch.from_numpy(column.ravel() / self.columns),
        )


@dataclass(frozen=True)
class Beams:
    """Rays of slots, in metres, float64: in the sensor's frame or in the world.

    ring, column: the slot; times: share of the revolution at which it fires, in [0, 1).
    """

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    ring: Int64[Tensor, "n"]
    column: Int64[Tensor, "n"]
    times: Float[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.ring)


def _table(
    name: str, elevations: Float[np.ndarray, "rings"], heights: float | np.ndarray, **rest
) -> SpinningLidar:
    elevations = np.asarray(elevations, float)
    rest.setdefault("azimuth_offsets", (0.0,) * len(elevations))
    return SpinningLidar(
        name,
        tuple(float(e) for e in np.radians(elevations)),
        tuple(float(h) for h in np.broadcast_to(heights, elevations.shape)),
        **rest,
    )


def _hdl_64e() -> SpinningLidar:
    """Elevations and heights measured on KITTI scans; 2083 firings at 10 Hz are the manual's."""
    upper = (
        1.937, 1.574, 1.305, 0.872, 0.579, 0.181, -0.089, -0.452, -0.803, -1.201, -1.494, -1.833,
        -2.208, -2.547, -2.874, -3.236, -3.539, -3.936, -4.216, -4.588, -4.914, -5.251, -5.611,
        -5.958, -6.329, -6.676, -6.999, -7.288, -7.679, -8.058, -8.310, -8.711,
    )  # fmt: skip
    lower = (
        -9.026, -9.573, -10.063, -10.471, -10.957, -11.599, -12.115, -12.562, -13.041, -13.485,
        -14.049, -14.598, -15.189, -15.657, -16.176, -16.555, -17.187, -17.730, -18.324, -18.797,
        -19.319, -19.736, -20.223, -20.789, -21.317, -21.935, -22.439, -22.855, -23.322, -23.969,
        -24.505, -25.001,
    )  # fmt: skip
    heights = [0.207 + 0.00103 * e for e in upper] + [0.1317 + 0.00063 * e for e in lower]
    return _table(
        "hdl-64e", np.array(upper + lower), np.array(heights), columns=2083, rate=10.0,
        direction=-1, start=math.pi, nearest=1.0, farthest=120.0,
    )  # fmt: skip


def _vlp_16() -> SpinningLidar:
    """A laser fires 2.304 us after the one before, from -15 degrees, 1, -13, 3...; the sensor has
    turned meanwhile."""
    elevations = np.arange(15, -16, -2.0)
    order = [(15 + e) if e < 0 else e for e in elevations]
    offsets = tuple(-2 * math.pi * 10 * 2.304e-6 * place for place in order)
    return _table(
        "vlp-16", elevations, 0.0, azimuth_offsets=offsets, columns=1800, rate=10.0,
        direction=-1, nearest=0.5, farthest=100.0,
    )  # fmt: skip


def _os1_64() -> SpinningLidar:
    """In Ouster's sensor frame. The 27.67 mm between the axis and a beam's start are left out."""
    offsets = np.tile([3.07, 0.92, -1.24, -3.39], 16)
    return _table(
        "os1-64", np.linspace(17.04, -16.30, 64), 0.03618,
        azimuth_offsets=tuple(float(a) for a in -np.radians(offsets)), columns=1024, rate=10.0,
        direction=-1, start=math.pi, nearest=0.5, farthest=120.0,
    )  # fmt: skip


SENSORS: Mapping[str, SpinningLidar] = {
    "hdl-64e": _hdl_64e(),
    "hdl-32e": _table(
        "hdl-32e", 10.67 - 4 / 3 * np.arange(32), 0.0, columns=1090, rate=20.0,
        direction=-1, start=math.pi, nearest=1.0, farthest=100.0,
    ),
    "vlp-16": _vlp_16(),
    "os1-64": _os1_64(),
}  # fmt: skip
"""Tables of common sensors, from manuals and (HDL-64E) from measurements. Units differ by some
tenths of a degree: fit the table to the data where you can (`polyfield.data.lidar.calibrate`)."""


def sensor(name: str) -> SpinningLidar:
    """The table of a sensor.

    >>> sensor("vlp-16").rings
    16

    Raises:
        UnknownNameError: There is no such table; the message has the nearest name.
    """
    if name not in SENSORS:
        raise UnknownNameError("LiDAR sensor", name, SENSORS)
    return SENSORS[name]
