"""Multiresolution grids: level geometry, corner indices, and the torch reference of their lookup.

All grids here share one parameter layout: a table (entries, F), level after level, dimension 0
fastest within a dense level. The conventions are tiny-cuda-nn's (Müller et al. 2022, "Instant
Neural Graphics Primitives", section 3; the digest of its code), apart from the clamp in dense
levels, see `GridLayout.wrap`.

x: coordinates in [-1, 1], taken to u = (x + 1) / 2; p = u * scale + shift: position in node
units, so node k sits at u = (k - shift) / scale; L: levels; F: features per level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import accumulate
from operator import mul

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding

from polyfield.backend import Implementation, implement, resolve
from polyfield.errors import ConfigError

MAX_DIM = 4
# One odd multiplier per dimension; the first is 1, so neighbours along it share cache lines.
PRIMES = (1, 2654435761, 805459861, 3674653429)
_UINT32 = 0xFFFFFFFF


@dataclass(frozen=True)
class GridLayout:
    """Shape of a multiresolution table, and how coordinates reach it.

    scales: node spacings per unit of u, float32-representable; resolutions: nodes per axis;
    sizes: entries per level; shift: position of u=0 in node units; smooth: smoothstep weights
    instead of linear ones; wrap: let indices beyond a dense level's last node wrap into the next
    row, as tiny-cuda-nn does (for imported weights), instead of clamping them to that node.
    """

    in_dim: int
    features: int
    scales: tuple[float, ...]
    resolutions: tuple[int, ...]
    sizes: tuple[int, ...]
    shift: float = 0.5
    smooth: bool = False
    wrap: bool = False

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.sizes)

    @property
    def out_dim(self) -> int:
        """Features of all levels together."""
        return self.levels * self.features

    @cached_property
    def entries(self) -> int:
        """Rows of the table."""
        return sum(self.sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each level."""
        return tuple(accumulate(self.sizes[:-1], initial=0))

    @cached_property
    def hashed(self) -> tuple[bool, ...]:
        """Whether a level is too fine for its table, so that nodes share entries."""
        return tuple(r**self.in_dim > s for r, s in zip(self.resolutions, self.sizes, strict=True))


def check_grid_dim(in_dim: int, name: str) -> None:
    """Raise ConfigError unless grids support this number of coordinates."""
    if not 1 <= in_dim <= MAX_DIM:
        raise ConfigError(
            f"encoding '{name}' takes 1 to {MAX_DIM} coordinates, got {in_dim}; "
            "choose another encoding for this input"
        )


def level_scale(level: int, base_resolution: int, growth: float) -> float:
    """``N0 * growth**level - 1``, rounded to float32.

    The float64 value is snapped to the integer next to it when closer than float32 can tell, so
    that rounding never adds a node to a level.
    """
    exact = base_resolution * growth**level - 1.0
    if abs(exact - round(exact)) <= 1e-6 * max(exact, 1.0):
        exact = float(round(exact))
    return float(torch.tensor(exact, dtype=torch.float32))


def growth_factor(levels: int, base_resolution: int, max_resolution: int) -> float:
    """Ratio of neighbouring resolutions that leads from the base to the maximum (eq. 3)."""
    if levels == 1:
        return 1.0
    return math.exp((math.log(max_resolution) - math.log(base_resolution)) / (levels - 1))


def table_size(resolution: int, in_dim: int, log2_entries: int) -> int:
    """Entries of a level: all nodes rounded up to a multiple of 8, at most ``2**log2_entries``."""
    nodes = resolution**in_dim
    return min(-(-nodes // 8) * 8, 2**log2_entries)


def spatial_hash(coords: Int64[Tensor, "*batch in_dim"]) -> Int64[Tensor, "*batch"]:
    """XOR of coordinate times prime, in uint32 arithmetic (eq. 4)."""
    out = torch.zeros_like(coords[..., 0])
    for d in range(coords.shape[-1]):
        out = out ^ (coords[..., d] * PRIMES[d] & _UINT32)
    return out


def _dense_index(coords: Tensor, resolution: int, size: int, wrap: bool) -> Tensor:
    if not wrap:
        coords = coords.clamp(0, resolution - 1)
    strides = [resolution**d for d in range(coords.shape[-1])]
    index = sum(coords[..., d] * stride for d, stride in enumerate(strides))
    return (index & _UINT32) % size if wrap else index


def _corner_bits(in_dim: int, device: torch.device) -> Tensor:
    """(2**in_dim, in_dim) of 0 and 1; dimension 0 changes fastest."""
    corners = torch.arange(2**in_dim, device=device)
    return corners[:, None] >> torch.arange(in_dim, device=device) & 1


def corners(
    u: Float[Tensor, "n in_dim"], layout: GridLayout, level: int
) -> tuple[Int64[Tensor, "n corners"], Float[Tensor, "n corners"]]:
    """Row within the level's part of the table, and weight, of the 2**in_dim nodes around u.

    Indices are not differentiable; weights are (piecewise constant in u for linear weights).
    """
    position = u * layout.scales[level] + layout.shift
    cell = position.detach().floor()
    fraction = position - cell
    if layout.smooth:
        fraction = fraction * fraction * (3 - 2 * fraction)
    bits = _corner_bits(layout.in_dim, u.device)
    coords = cell.long()[:, None] + bits
    sides = torch.where(bits.bool(), fraction[:, None], 1 - fraction[:, None]).unbind(-1)
    weight = reduce(mul, sides)  # prod's second derivative divides: noise, or worse at zeros
    size = layout.sizes[level]
    if layout.hashed[level]:
        return spatial_hash(coords) % size, weight
    return _dense_index(coords, layout.resolutions[level], size, layout.wrap), weight


def hash_encode_torch(
    x: Float[Tensor, "n in_dim"], table: Float[Tensor, "entries F"], layout: GridLayout
) -> Float[Tensor, "n out_dim"]:
    """Interpolated features of all levels, level-major: the reference of ``"hash-encode"``.

    Differentiable twice in x and table.
    """
    u = (x + 1) * 0.5
    features = []
    # split, not slices: its backward concatenates once instead of zero-filling per level
    for level, part in enumerate(table.split(layout.sizes)):
        index, weight = corners(u, layout, level)
        # embedding's backward is the fast one, but its second fails on empty batches
        entries = embedding(index, part) if len(x) else part[index]
        features.append((entries * weight[..., None]).sum(-2))
    return torch.cat(features, -1)


def hash_encode(
    x: Float[Tensor, "*batch in_dim"], table: Float[Tensor, "entries F"], layout: GridLayout
) -> Float[Tensor, "*batch out_dim"]:
    """Interpolated features of all levels, by the fastest implementation for these tensors.

    Args:
        x: Coordinates in [-1, 1]; beyond that dense levels continue their border and hashed
            levels their hash.
        table: The entries, of the dtype and device of x.
        layout: Geometry of the table.
    """
    assert table.shape == (layout.entries, layout.features)
    dtype = str(x.dtype).removeprefix("torch.")
    if x.dtype != table.dtype:
        dtype = "mixed"
    choice = resolve("hash-encode", device=x.device.type, dtype=dtype)
    out = choice.function(x.reshape(-1, layout.in_dim), table, layout)
    return out.reshape(*x.shape[:-1], layout.out_dim)


implement(
    Implementation(
        op="hash-encode",
        backend="torch",
        path="polyfield.encodings.grid:hash_encode_torch",
        devices=None,
        dtypes=("float32", "float64", "float16", "bfloat16", "mixed"),
        second_order=True,
    )
)
implement(
    Implementation(
        op="hash-encode",
        backend="numba",
        path="polyfield.encodings.hash_grid_numba:hash_encode_numba",
        devices=("cpu",),
        requires=("numba",),
        second_order=True,
        priority=10,
    )
)
