"""How well a shape is reconstructed: intersection over union, Chamfer distance, F-score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.data.signals.triangles import sample_surface, triangle_tree


def overlap(predicted: Bool[Tensor, "*batch"], truth: Bool[Tensor, "*batch"]) -> tuple[int, int]:
    """How many points are in both, and how many in either: add these up over blocks."""
    return int((predicted & truth).sum()), int((predicted | truth).sum())


def iou(both: int, either: int) -> float | None:
    """Intersection over union of volumes, from counts over points uniform in the box; None
    where neither shape holds a point."""
    return both / either if either else None


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances between two surfaces, in the units of their corners.

    accuracy: mean distance from the reconstruction to the true surface; completeness: from the
    true surface to the reconstruction; chamfer: their mean; largest: the greatest found either
    way; fscore: harmonic mean of the shares of points nearer than `threshold`.
    """

    accuracy: float
    completeness: float
    chamfer: float
    largest: float
    fscore: float
    threshold: float
    points: int


def surface_distance(
    predicted: Float[np.ndarray, "p 3 3"],
    truth: Float[np.ndarray, "t 3 3"],
    points: int = 100_000,
    generator: torch.Generator | None = None,
    threshold: float | None = None,
) -> SurfaceDistance:
    """Compare two surfaces by points spread uniformly over the area of each.

    The distance of a point is that to the other *surface*, exactly, not to the nearest of the
    other's samples: it does not depend on how many those are, and is 0 for equal surfaces.

    Args:
        predicted, truth: Triangles (T, 3 corners, 3).
        points: Drawn from each surface.
        generator: Draws them; a fixed seed without.
        threshold: For the F-score; 1 % of the longest side of the true surface's box without.

    Raises:
        ValueError: A surface has no area.
    """
    generator = generator or torch.Generator().manual_seed(0)
    extent = truth.reshape(-1, 3)
    threshold = threshold or 0.01 * float(np.ptp(extent, axis=0).max())
    forward = triangle_tree(truth).distance(sample_surface(predicted, points, generator))
    back = triangle_tree(predicted).distance(sample_surface(truth, points, generator))
    near = [float((d <= threshold).mean()) for d in (forward, back)]
    return SurfaceDistance(
        accuracy=float(forward.mean()),
        completeness=float(back.mean()),
        chamfer=float(forward.mean() + back.mean()) / 2,
        largest=float(max(forward.max(), back.max())),
        fscore=2 * near[0] * near[1] / sum(near) if sum(near) else 0.0,
        threshold=threshold,
        points=points,
    )
