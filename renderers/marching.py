"""Ray marching through an occupancy grid: a fixed lattice of steps, kept where it is occupied.

The lattice does not depend on the grid, so a grid only selects: marching a partly empty grid gives
the subset of the steps of a full one whose midpoints lie in occupied cells. n: position on the
lattice in steps (real valued); c: cone angle; cells are ordered x, y, z over [-1, 1]^3 after
contraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from polyfield.backend import Implementation, implement, resolve
from polyfield.encodings.contraction import contract
from polyfield.renderers.spacing import bounded
from polyfield.renderers.types import Intervals, Rays

# Lattice points the reference looks at in one go: bounds its memory to some 200 MB.
_REFERENCE_POINTS = 2**21

implement(
    Implementation(
        op="march",
        backend="torch",
        path="polyfield.renderers.marching:march_lattice",
        dtypes=("float32", "float64"),
    )
)
implement(
    Implementation(
        op="march",
        backend="numba",
        path="polyfield.renderers.marching_numba:march_lattice",
        devices=("cpu",),
        requires=("numba",),
        priority=10,
    )
)


@dataclass(frozen=True)
class Lattice:
    """Steps of length max(step, c t), as a smooth map between distance t and step count n.

    Up to t = step / ln(1 + c) steps have the length `step`; beyond, t grows by the factor 1 + c
    per step.

    Source: Müller et al. 2022 (Instant-NGP), appendix E; exponential stepping as in its code.
    """

    step: float
    cone_angle: float = 0.0

    @property
    def growth(self) -> float:
        """ln(1 + c)."""
        return math.log1p(self.cone_angle)

    def distance(self, n: Float64[Tensor, "*batch"]) -> Float64[Tensor, "*batch"]:
        """Distance t after n steps."""
        q = self.growth
        if q == 0:
            return n * self.step
        return torch.where(n * q <= 1, n * self.step, self.step / q * (n * q - 1).exp())

    def count(self, t: Float64[Tensor, "*batch"]) -> Float64[Tensor, "*batch"]:
        """Number of steps n up to distance t."""
        q = self.growth
        if q == 0:
            return t / self.step
        ratio = t * (q / self.step)
        return torch.where(ratio <= 1, t / self.step, (ratio.clamp(min=1).log() + 1) / q)


def march(
    rays: Rays,
    occupied: Bool[Tensor, "r r r"],
    lattice: Lattice,
    contraction: str = "none",
    offset: Float[Tensor, "n"] | None = None,
) -> Intervals:
    """Packed intervals whose midpoints lie in occupied cells, ascending along every ray.

    Args:
        rays: One leading dimension; cut to the box when `contraction` is ``none``.
        occupied: Cells of the (contracted) box.
        lattice: The steps.
        contraction: ``none`` or ``sphere``.
        offset: Shift of each ray's lattice towards the camera, in [0, 1) steps (None: 0). The
            first interval starts at near in any case, so the ray is always covered.
    """
    rays = bounded(rays, contraction)
    start = lattice.count(rays.near.double())
    if offset is not None:
        start = start - offset.double()
    steps = (lattice.count(rays.far.double()) - start).ceil().clamp(min=0)
    steps = torch.where(rays.far > rays.near, steps, 0).long()
    choice = resolve(
        "march",
        device=rays.near.device.type,
        dtype=str(rays.near.dtype).removeprefix("torch."),
    )
    t0, t1, ray_indices = choice.function(rays, occupied, lattice, contraction, start, steps)
    return Intervals(t0, t1, len(rays), ray_indices)


def cell_indices(y: Float[Tensor, "*batch 3"], resolution: int) -> Int64[Tensor, "*batch"]:
    """Flat cell index of contracted positions; positions outside take the nearest cell."""
    cell = ((y + 1) * (resolution / 2)).floor().long().clamp(0, resolution - 1)
    return (cell[..., 0] * resolution + cell[..., 1]) * resolution + cell[..., 2]


def march_lattice(
    rays: Rays,
    occupied: Bool[Tensor, "r r r"],
    lattice: Lattice,
    contraction: str,
    start: Float64[Tensor, "n"],
    steps: Int64[Tensor, "n"],
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"], Int64[Tensor, "m"]]:
    """Reference of the operation ``march``: test every step.

    Args:
        rays: Rays cut to where they may be sampled.
        occupied: Cells.
        lattice: The steps.
        contraction: ``none`` or ``sphere``.
        start: Lattice position of each ray's first step.
        steps: Number of steps of each ray.

    Returns:
        t0, t1 and the ray of every kept step.
    """
    n, most = len(rays), int(steps.max()) if len(steps) else 0
    chunk = max(1, _REFERENCE_POINTS // max(1, most))
    parts = [
        _march_chunk(rays[i : i + chunk], occupied, lattice, contraction, start[i : i + chunk],
                     steps[i : i + chunk], i)
        for i in range(0, max(n, 1), chunk)
    ]  # fmt: skip
    t0, t1, ray_indices = (torch.cat(column) for column in zip(*parts, strict=True))
    return t0, t1, ray_indices


def _march_chunk(
    rays: Rays,
    occupied: Tensor,
    lattice: Lattice,
    contraction: str,
    start: Tensor,
    steps: Tensor,
    first: int,
) -> tuple[Tensor, Tensor, Tensor]:
    most = int(steps.max()) if len(steps) else 0
    k = torch.arange(most + 1, device=start.device)
    edges = lattice.distance(start[:, None] + k).to(rays.near.dtype)
    t0 = torch.maximum(edges[:, :-1], rays.near[:, None])
    t1 = torch.minimum(edges[:, 1:], rays.far[:, None])
    mid = (t0 + t1) / 2
    x = rays.origins[:, None] + mid[..., None] * rays.directions[:, None]
    inside = occupied.flatten()[cell_indices(contract(x, contraction), occupied.shape[0])]
    kept = inside & (k[:-1] < steps[:, None]) & (t1 > t0)
    return t0[kept], t1[kept], kept.nonzero()[:, 0] + first
