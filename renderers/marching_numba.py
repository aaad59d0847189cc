"""Marching by compiled CPU kernels: the same steps as the reference, empty space jumped.

Rays are independent of each other, so the result does not depend on the number of threads. Only
a midpoint within rounding of a cell face (of the sphere contraction, whose norm may round
differently) can fall on the other side than in the reference.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from polyfield.parallel import arrays, ranges, run_tasks
from polyfield.renderers.kernels.launch import launch
from polyfield.renderers.marching import Lattice
from polyfield.renderers.types import Rays

_FEWEST = 256  # rays that are worth a task of their own


def clearance(occupied: Bool[Tensor, "r r r"], octants: bool) -> UInt8[Tensor, "k r r r"]:
    """Compiled form of `polyfield.renderers.marching.clearance_torch`."""
    from polyfield.renderers.kernels import marching as kernels

    out = torch.empty(8 if octants else 1, *occupied.shape, dtype=torch.uint8)
    cells, found = arrays(occupied, out)
    if octants:
        run_tasks(kernels.octants, [(i, i + 1, cells, found) for i in range(8)])
    else:
        kernels.clearance(cells, found[0])
    return out


def march_lattice(
    rays: Rays,
    occupied: Bool[Tensor, "r r r"],
    lattice: Lattice,
    contraction: str,
    offset: Float[Tensor, "n"],
    clear: UInt8[Tensor, "k r r r"] | None = None,
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"], Int64[Tensor, "m"], Int64[Tensor, "n1"]]:
    """Compiled form of `polyfield.renderers.marching.march_lattice`."""
    from polyfield.renderers.kernels import marching as kernels

    bent = contraction == "sphere"
    (cells,) = arrays(clearance(occupied, not bent) if clear is None else clear)
    lines = tuple(arrays(rays.origins, rays.directions, rays.near, rays.far, offset))
    walk = (float(lattice.step), float(lattice.growth))
    counts = np.empty(len(rays), np.int64)
    parts = ranges(len(rays), _FEWEST)
    found: list = [None] * len(parts)

    def work(index: int, low: int, high: int) -> None:
        found[index] = kernels.march(low, high, lines, walk, cells, bent, counts)

    run_tasks(work, [(i, part.start, part.stop) for i, part in enumerate(parts)])
    nothing = (np.empty(0, np.float32),) * 2
    t0, t1 = (np.concatenate(column) for column in zip(*(found or [nothing]), strict=True))
    offsets = np.concatenate([[0], counts.cumsum()])
    ray_indices = np.empty(len(t0), np.int64)
    launch(kernels.spread, len(rays), offsets, ray_indices)
    return tuple(torch.from_numpy(v) for v in (t0, t1, ray_indices, offsets))
