"""The scene type of LiDAR: sweeps, their poses, and the rays that made them.

Metres and the file's world throughout; the scene box is reached by `SceneTransform`. A *slot* is
a ray the sensor fired: it came back (a return with a range), or it did not (dropped).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.data.scene import LoadReport, SceneTransform, Split
from polyfield.renderers.lidar_sensors import SpinningLidar


@dataclass(frozen=True)
class PointSweep:
    """What one revolution brought back, as a file holds it: n returns in the sensor's frame.

    points: metres; intensity: in [0, 1]; ring: laser, 0 at the top (None: not known); times:
    share of the revolution in [0, 1] (None: not known); number: 1 for first returns, 2 for
    second (None: all first).
    """

    points: Float[np.ndarray, "n 3"]
    intensity: Float[np.ndarray, "n"]
    ring: Int64[np.ndarray, "n"] | None = None
    times: Float[np.ndarray, "n"] | None = None
    number: Int64[np.ndarray, "n"] | None = None

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class SweepRays:
    """The slots of one sweep as rays in the world, with what was measured.

    origins, directions (unit): metres, float64, each with the pose at its own firing; ranges:
    distance along the ray to the first return, NaN where there was none; second: the same of
    second returns; intensity: in [0, 1], 0 without a return; ring: int64; times: as of a sweep.
    """

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    ranges: Float[Tensor, "n"]
    second: Float[Tensor, "n"]
    intensity: Float[Tensor, "n"]
    ring: Int64[Tensor, "n"]
    times: Float[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.ranges)

    @property
    def hit(self) -> Bool[Tensor, "n"]:
        """Which came back."""
        return ~torch.isnan(self.ranges)

    def points(self) -> Float[Tensor, "hits 3"]:
        """First returns in the world."""
        hit = self.hit
        return self.origins[hit] + self.ranges[hit, None] * self.directions[hit]


@dataclass(frozen=True)
class LidarSweeps:
    """A scene measured by a LiDAR.

    read: sweep number -> its returns (files are read when asked for); poses: sensor -> world at
    the start of every sweep; motion: poses at their ends where the points are not compensated
    for motion (None: they are); sensor: the table, fitted to the data or known; rings: how a
    sweep's points got their rings; splits: sweeps by number; transform: world -> box.
    """

    name: str
    root: Path
    names: tuple[str, ...]
    read: Callable[[int], PointSweep]
    poses: Float[np.ndarray, "sweeps 4 4"]
    sensor: SpinningLidar
    splits: dict[Split, tuple[int, ...]]
    transform: SceneTransform
    report: LoadReport
    content_hash: str
    motion: Float[np.ndarray, "sweeps 4 4"] | None = None
    seconds: Float[np.ndarray, "sweeps"] | None = field(default=None)

    def __len__(self) -> int:
        return len(self.names)
