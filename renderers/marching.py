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
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from polyfield.backend import Choice, Implementation, implement, resolve
from polyfield.encodings.contraction import contract
from polyfield.renderers.scans import ray_offsets
from polyfield.renderers.spacing import bounded
from polyfield.renderers.types import Intervals, Rays

# Lattice points the reference looks at in one go: bounds its memory to some 200 MB.
_REFERENCE_POINTS = 2**21

for _op, _function in (("march", "march_lattice"), ("clearance", "clearance")):
    _types = ("float32", "float64") if _op == "march" else ("bool",)
    implement(
        Implementation(
            op=_op,
            backend="torch",
            path=f"polyfield.renderers.marching:{_function}_torch",
            devices=None,
            dtypes=_types,
        )
    )
    implement(
        Implementation(
            op=_op,
            backend="numba",
            path=f"polyfield.renderers.marching_numba:{_function}",
            devices=("cpu",),
            dtypes=_types[:1],
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
    clear: UInt8[Tensor, "k r r r"] | None = None,
) -> Intervals:
    """Packed intervals whose midpoints lie in occupied cells, ascending along every ray.

    Args:
        rays: One leading dimension; cut to the box when `contraction` is ``none``.
        occupied: Cells of the (contracted) box.
        lattice: The steps.
        contraction: ``none`` or ``sphere``.
        offset: Shift of each ray's lattice towards the camera, in [0, 1) steps (None: 0). The
            first interval starts at near in any case, so the ray is always covered.
        clear: `clearance` of the cells for this contraction, where known; it only saves time.
    """
    if offset is None:
        offset = torch.zeros_like(rays.near)
    found = _choice(rays).function(rays, occupied, lattice, contraction, offset, clear)
    t0, t1, ray_indices, offsets = found
    return Intervals(t0, t1, len(rays), ray_indices, offsets)


def _choice(rays: Rays) -> Choice:
    device, dtype = rays.near.device.type, str(rays.near.dtype).removeprefix("torch.")
    return resolve("march", device=device, dtype=dtype)


def needs_clearance(rays: Rays) -> bool:
    """Whether marching these rays makes use of the cells' `clearance` (the reference does not)."""
    return _choice(rays).backend != "torch"


def clearance(
    occupied: Bool[Tensor, "r r r"], contraction: str = "none"
) -> UInt8[Tensor, "k r r r"]:
    """How many cells away the nearest occupied cell is: 0 in occupied cells, at most 254.

    Distances are those of a chess king; where no cell is occupied all are 254. Rays that stay
    straight only meet what is ahead of them: with contraction ``none`` there are 8 answers, each
    looking at one octant of directions, the cell's own planes included (number
    ``4 (dx < 0) + 2 (dy < 0) + (dz < 0)``). With ``sphere`` rays bend, and there is 1 answer for
    all directions.
    """
    choice = resolve("clearance", device=occupied.device.type, dtype="bool")
    return choice.function(occupied, contraction == "none")


def clearance_torch(occupied: Bool[Tensor, "r r r"], octants: bool) -> UInt8[Tensor, "k r r r"]:
    """Reference of the operation ``clearance``: let the occupied cells grow until all is full."""
    if octants:
        turned = [[axis for axis, bit in enumerate((4, 2, 1)) if i & bit] for i in range(8)]
        return torch.stack([_grow(occupied.flip(axes), 2).flip(axes) for axes in turned])
    return _grow(occupied, 3)[None]


def _grow(occupied: Tensor, window: int) -> Tensor:
    """Rounds until each cell is reached, cells growing downwards (2) or all ways (3)."""
    out = torch.full(occupied.shape, 254, dtype=torch.uint8, device=occupied.device)
    grown = occupied.float()[None, None]
    before = window - 2
    for distance in range(min(254, occupied.shape[0])):
        out[(grown[0, 0] > 0) & (out == 254)] = distance
        padded = torch.nn.functional.pad(grown, (before, 1) * 3)
        grown = torch.nn.functional.max_pool3d(padded, window, 1)
    return out


def cell_indices(y: Float[Tensor, "*batch 3"], resolution: int) -> Int64[Tensor, "*batch"]:
    """Flat cell index of contracted positions; positions outside take the nearest cell."""
    cell = ((y + 1) * (resolution / 2)).floor().long().clamp(0, resolution - 1)
    return (cell[..., 0] * resolution + cell[..., 1]) * resolution + cell[..., 2]


def march_lattice_torch(
    rays: Rays,
    occupied: Bool[Tensor, "r r r"],
    lattice: Lattice,
    contraction: str,
    offset: Float[Tensor, "n"],
    clear: UInt8[Tensor, "k r r r"] | None = None,
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"], Int64[Tensor, "m"], Int64[Tensor, "n1"]]:
    """Reference of the operation ``march``: test every step; arguments as `march`.

    Returns:
        t0, t1 and the ray of every kept step, and the offsets of the rays.
    """
    rays = bounded(rays, contraction)
    start = lattice.count(rays.near.double()) - offset.double()
    steps = (lattice.count(rays.far.double()) - start).ceil().clamp(min=0)
    steps = torch.where(rays.far > rays.near, steps, 0).long()
    n, most = len(rays), int(steps.max()) if len(steps) else 0
    chunk = max(1, _REFERENCE_POINTS // max(1, most))
    parts = [
        _march_chunk(rays[i : i + chunk], occupied, lattice, contraction, start[i : i + chunk],
                     steps[i : i + chunk], i)
        for i in range(0, max(n, 1), chunk)
    ]  # fmt: skip
    t0, t1, ray_indices = (torch.cat(column) for column in zip(*parts, strict=True))
    return t0, t1, ray_indices, ray_offsets(ray_indices, n)


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
