"""Marching by compiled CPU kernels: the same steps as the reference, empty blocks jumped.

Pass one marks the kept steps of each ray in a bit set, pass two writes them out; rays are
independent, so the result does not depend on the number of threads. Only a midpoint within
rounding of a cell face (of the sphere contraction, whose norm may round differently) can fall
on the other side than in the reference.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from polyfield.renderers.kernels.launch import launch as share
from polyfield.renderers.marching import Lattice
from polyfield.renderers.types import Rays


def march_lattice(
    rays: Rays,
    occupied: Bool[Tensor, "r r r"],
    lattice: Lattice,
    contraction: str,
    start: Float64[Tensor, "n"],
    steps: Int64[Tensor, "n"],
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"], Int64[Tensor, "m"]]:
    """Compiled form of `polyfield.renderers.marching.march_lattice`."""
    from polyfield.renderers.kernels import marching as kernels

    n, most = len(rays), int(steps.max()) if len(steps) else 0
    cells = _cells(occupied)
    tensors = (rays.origins, rays.directions, rays.near, rays.far, start, steps)
    arrays = tuple(v.detach().contiguous().numpy() for v in tensors)
    walk = (lattice.step, lattice.growth)
    marks = np.zeros((n, -(-most // 64)), np.uint64)
    counts = np.zeros(n, np.int64)
    share(kernels.mark, n, arrays, walk, cells, contraction == "sphere", marks, counts)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if n else 0
    samples = (np.empty(total, np.float32), np.empty(total, np.float32), np.empty(total, np.int64))
    share(kernels.write, n, arrays, walk, marks, ends, counts, samples)
    t0, t1, ray_indices = (torch.from_numpy(v) for v in samples)
    return t0, t1, ray_indices


def _cells(occupied: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The cells, and how many blocks away the nearest occupied block of each block is."""
    from polyfield.renderers.kernels import marching as kernels

    grid = occupied.contiguous().numpy()
    side = -(-grid.shape[0] // kernels.BLOCK)
    clearance = np.full((side, side, side), 4 * side, np.int64)
    share(kernels.occupied_blocks, side, grid, clearance, fewest=4)
    kernels.spread(clearance)
    return grid, clearance
