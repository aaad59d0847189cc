"""The scene box of a drive: all that its train sweeps report lies inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from polyfield.data.lidar.motion import move_points
from polyfield.data.scene import SceneTransform

if TYPE_CHECKING:
    from polyfield.data.lidar.load import LidarOptions

_KEPT = 2000  # points kept of every sweep for quantiles
_STRAY = 1e-4  # share of points at either end that may be outliers
_FAR_OUT = 1.5  # the robust box is taken where outliers would make it so much larger


@dataclass
class Extent:
    """What sweeps reach, seen one at a time: metres, world.

    low, high: of all returns of train sweeps; nearest, farthest: of all sweeps' ranges.
    """

    low: np.ndarray = field(default_factory=lambda: np.full(3, np.inf))
    high: np.ndarray = field(default_factory=lambda: np.full(3, -np.inf))
    nearest: float = np.inf
    farthest: float = 0.0
    some: list[np.ndarray] = field(default_factory=list)
    other: list[np.ndarray] = field(default_factory=list)

    def see(
        self, points: Float[np.ndarray, "n 3"], pose: Float[np.ndarray, "4 4"], train: bool
    ) -> None:
        """Take in a sweep's returns, in the sensor's frame."""
        ranges = np.linalg.norm(points, axis=1)
        self.nearest = min(self.nearest, float(ranges.min()))
        self.farthest = max(self.farthest, float(ranges.max()))
        world = move_points(points, pose)
        (self.some if train else self.other).append(world[:: -(-len(world) // _KEPT)])
        if train:
            self.low = np.minimum(self.low, world.min(axis=0))
            self.high = np.maximum(self.high, world.max(axis=0))


def sweep_box(
    extent: Extent,
    origins: Float[np.ndarray, "sweeps 3"],
    options: LidarOptions,
    given: SceneTransform | None = None,
) -> tuple[SceneTransform, dict[str, Any], list[str]]:
    """World -> box of a drive, facts about it, and warnings.

    The middle of all train returns becomes the box's, the largest half extent and a margin its
    half side. Where a few outliers would make it half as large again, it is made for the others.

    Args:
        origins: Where train sweeps were made; they lie inside too.
        given: The box of an earlier run, taken as it is.
    """
    points = np.concatenate(extent.some)
    low, high, how = extent.low, extent.high, "all train returns"
    inner_low, inner_high = np.quantile(points, [_STRAY, 1 - _STRAY], axis=0)
    if (high - low).max() > _FAR_OUT * (inner_high - inner_low).max():
        low, high, how = inner_low, inner_high, f"train returns without {2 * _STRAY:.2g} of strays"
    low, high = np.minimum(low, origins.min(axis=0)), np.maximum(high, origins.max(axis=0))
    centre = (low + high) / 2 if options.centre is None else np.array(options.centre)
    half = max(float(np.maximum(high - centre, centre - low).max()), 1e-3) + options.margin
    transform = given or SceneTransform(
        scale=1 / half if options.scale is None else options.scale,
        centre=tuple(float(c) for c in centre),
    )
    if given or options.scale is not None or options.centre is not None:
        how = "given"
    outside = {
        name: float((np.abs(transform.to_box(np.concatenate(seen))) > 1).any(axis=1).mean())
        for name, seen in (("train", extent.some), ("other", extent.other))
        if seen
    }
    facts = {"from": how, "low": low.tolist(), "high": high.tolist(), "outside": outside}
    warnings = [
        f"{share:.2%} of the returns of {name} sweeps lie outside the box"
        for name, share in outside.items()
        if share > 0
    ]
    return transform, facts, warnings
