"""Upkeep of an occupancy grid by compiled CPU kernels; same results as `occupancy`."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.parallel import arrays
from polyfield.renderers.kernels.launch import launch


def remember(
    occupancy: Float[Tensor, "k"],
    cells: Int64[Tensor, "m"],
    values: Float[Tensor, "m"],
    decay: float,
) -> Float[Tensor, "k"]:
    """Compiled form of `polyfield.renderers.occupancy.remember_torch`."""
    from polyfield.renderers.kernels import occupancy as kernels

    out = occupancy.detach().clone(memory_format=torch.contiguous_format)
    kernels.remember(*arrays(occupancy, cells, values), np.float32(decay), *arrays(out))
    return out


def mean(occupancy: Float[Tensor, "r r r"]) -> Float[Tensor, ""]:
    """Compiled form of `polyfield.renderers.occupancy.mean_torch`."""
    from polyfield.renderers.kernels import occupancy as kernels

    rows = arrays(occupancy)[0].reshape(-1, occupancy.shape[2])
    found = np.empty((2, len(rows)))
    launch(kernels.sums, len(rows), rows, found)
    total, seen = found.sum(axis=1)
    return occupancy.new_tensor(total / max(seen, 1.0))


def grow(occupancy: Float[Tensor, "r r r"], limit: float, dilate: bool) -> Bool[Tensor, "r r r"]:
    """Compiled form of `polyfield.renderers.occupancy.grow_torch`."""
    from polyfield.renderers.kernels import occupancy as kernels

    out, across = (torch.empty(occupancy.shape, dtype=torch.bool) for _ in range(2))
    values, cells, spread = arrays(occupancy, out, across)
    launch(kernels.planes, len(values), values, np.float32(limit), dilate, spread, fewest=8)
    if not dilate:
        return across
    launch(kernels.between_planes, len(values), values, spread, cells, fewest=8)
    return out


def points(
    place: Float[Tensor, "m 3"], cells: Int64[Tensor, "m"], resolution: int
) -> Float[Tensor, "m 3"]:
    """Compiled form of `polyfield.renderers.occupancy.points_torch`."""
    from polyfield.renderers.kernels import occupancy as kernels

    out = place.new_empty(place.shape)
    launch(kernels.points, len(cells), *arrays(place, cells), resolution, *arrays(out), fewest=8192)
    return out
