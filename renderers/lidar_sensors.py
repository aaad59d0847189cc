"""Spinning LiDAR sensors: which ray every slot of a sweep is.

Sensor frame: x forward, y left, z up, metres. A slot is a ring (a laser, 0 at the top) in a column
(a firing). With elevation e, height z0 and azimuth phi (from x towards y) its ray starts at
(0, 0, z0) and goes along (cos e cos phi, cos e sin phi, sin e).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


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
