"""Factors: fields of values over mapped coordinates, to be multiplied with each other.

Chen et al., "Dictionary Fields" (SIGGRAPH 2023, arXiv 2302.01226, sections 3 and 4). L: levels,
each with its own coordinates; C: channels of a level; r: nodes per axis; D: coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import mul
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from polyfield.encodings.frequency import FrequencyConfig, FrequencyEncoding
from polyfield.encodings.hash_grid import HashGridConfig, HashGridEncoding
from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.fields.heads import SmallMLP
from polyfield.fields.mappings import MAPPINGS, MappingName

Kind = Literal["x", "grid", "fixed-grid", "vec", "cp", "vm-lines", "vm-planes", "mlp", "hash"]


@dataclass(frozen=True)
class FactorConfig:
    """Settings of one factor; lists have an entry per level, or one for all."""

    kind: Kind = "grid"
    """What holds the values: the coordinates themselves (x), a grid, a grid of cosines that stays
    as it is, a line along the last axis (vec), the product of lines along the others (cp), a line
    per axis (vm-lines), a plane across each axis (vm-planes), a network, a hash grid."""
    mapping: MappingName = "identity"
    """What is done to the coordinates first."""
    channels: tuple[int, ...] = ()
    """Channels of each level ([]: one level of as many as the other factors have); vm kinds
    have them once per axis."""
    resolution: tuple[int, ...] = (32,)
    """Nodes per axis of each level (hash: of the coarsest and the finest)."""
    frequency: tuple[float, ...] = (1.0,)
    """Tiles along the box of each level."""
    init: Literal["constant", "cosine", "normal"] = "constant"
    """First values of nodes: `scale`, separable cosines of unit norm, or normal times `scale`."""
    scale: float = 1.0
    """See `init`."""
    interpolation: Literal["linear", "nearest"] = "linear"
    """Between the nodes."""
    align_corners: bool = True
    """The outer nodes lie on the border of the (mapped) box, instead of half a cell inside."""
    hidden: tuple[int, ...] = (64,)
    """Hidden widths of a network."""
    octaves: int = 4
    """Octaves of the frequency encoding before a network."""
    log2_entries: int = 19
    """Base-2 logarithm of the most entries a level of a hash grid has."""

    def __post_init__(self) -> None:
        for name in ("channels", "resolution", "hidden"):
            if any(n < 1 for n in getattr(self, name)):
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.frequency or any(not 0 < f < math.inf for f in self.frequency):
            raise ValueError(f"frequency must be positive numbers, got {self.frequency}")
        if self.octaves < 0:
            raise ValueError(f"octaves must not be negative, got {self.octaves}")
        if self.mapping == "trigonometric" and self.kind not in ("x", "mlp"):
            raise ValueError(
                f"mapping=trigonometric gives two coordinates for one, which kind={self.kind} "
                "cannot take; use sinc, or kind x or mlp"
            )
        counts = {"resolution": (1, 2) if self.kind == "hash" else (1, self.levels)}
        counts["frequency"] = (1,) if self.kind == "hash" else (1, self.levels)
        for name, allowed in counts.items():
            if len(getattr(self, name)) not in allowed:
                raise ValueError(
                    f"{name} of kind {self.kind} must list {' or '.join(map(str, allowed))} "
                    f"values, got {getattr(self, name)}"
                )
        if self.kind == "hash" and len(set(self.channels)) > 1:
            raise ValueError(f"the levels of a hash grid have equal channels, got {self.channels}")

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.frequency) if self.kind == "x" else max(1, len(self.channels))

    def per_level(self, name: str) -> tuple:
        """A setting's value for each level."""
        values = getattr(self, name)
        return values * self.levels if len(values) == 1 else values


def cosine_atoms(resolution: int, in_dim: int, count: int) -> Float[Tensor, "*resolution count"]:
    """Separable cosines of unit norm on a grid of resolution**in_dim nodes, the first constant.

    Per axis ``cos(n k pi / p)`` for node n and k = 0, ..., p - 1, p = floor(count^(1/D) + 1), the
    mean removed where k > 0; their products over the axes are taken at even strides.
    """
    p = math.floor(round(count ** (1 / in_dim), 9) + 1)
    n, k = torch.arange(resolution, dtype=torch.float64), torch.arange(p, dtype=torch.float64)
    waves = torch.cos(n[:, None] * k * (math.pi / p))
    if resolution > 1:
        waves[:, 1:] -= waves[:, 1:].mean(0)
    picked = torch.arange(count) * p**in_dim // count
    atoms = torch.ones(*(1,) * in_dim, count, dtype=torch.float64)
    for axis in range(in_dim):
        shape = [1] * in_dim + [count]
        shape[axis] = resolution
        atoms = atoms * waves[:, picked // p**axis % p].reshape(shape)
    return (atoms / atoms.flatten(0, -2).norm(dim=0).clamp(min=1e-12)).float()


def nearest(
    x: Float[Tensor, "*batch D"], values: Float[Tensor, "*resolution F"]
) -> Float[Tensor, "*batch F"]:
    """Features of the node nearest to x; the geometry is that of `interpolate`."""
    counts = torch.tensor(values.shape[:-1], device=x.device)
    nodes = ((x.detach() + 1) * 0.5 * (counts - 1)).round().long()
    nodes = torch.minimum(nodes.clamp(min=0), counts - 1)
    index = torch.zeros_like(nodes[..., 0])
    for axis, count in enumerate(values.shape[:-1]):
        index = index * count + nodes[..., axis]
    found = embedding(index, values.reshape(-1, values.shape[-1]))
    return found + 0 * x[..., :1] if x.requires_grad else found  # a slope of zero, not none


def axis_groups(kind: Kind, in_dim: int) -> list[list[tuple[int, ...]]]:
    """The axes of the tables that a kind multiplies, for each of the terms it puts side by side.

    Raises:
        ConfigError: The kind needs more coordinates.
    """
    axes = tuple(range(in_dim))
    if kind in ("cp", "vm-planes") and in_dim < 2:
        raise ConfigError(f"a factor of kind {kind} takes 2 or more coordinates, got {in_dim}")
    if kind == "vec":
        return [[axes[-1:]]]
    if kind == "cp":
        return [[(a,) for a in axes[:-1]]]
    if kind == "vm-lines":
        return [[(a,)] for a in axes]
    if kind == "vm-planes":
        return [[axes[:a] + axes[a + 1 :]] for a in axes]
    return [[axes]]


class Tables(nn.Module):
    """A factor of regular grids over all or some of the axes: grid, vec, cp and vm kinds.

    Tables ``table0``, ``table1``, ... (r, ..., C), level fastest; buffers if they are fixed.
    Features: terms side by side, in each the levels; tables of a term are multiplied.
    """

    def __init__(self, config: FactorConfig, in_dim: int, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.groups = axis_groups(config.kind, in_dim)
        self.out_dim = len(self.groups) * sum(config.channels)
        sizes = list(zip(config.per_level("resolution"), config.channels, strict=True))
        shapes = [((r,) * len(axes), c) for term in self.groups for axes in term for r, c in sizes]
        self.count = len(shapes)
        for i, (shape, channels) in enumerate(shapes):
            values = self._first(shape, channels, generator)
            if config.kind == "fixed-grid":
                self.register_buffer(f"table{i}", values)
            else:
                self.register_parameter(f"table{i}", nn.Parameter(values))

    def _first(
        self, shape: tuple[int, ...], channels: int, generator: torch.Generator | None
    ) -> Tensor:
        if self.config.init == "cosine" or self.config.kind == "fixed-grid":
            return cosine_atoms(shape[0], len(shape), channels)
        if self.config.init == "normal":
            return torch.randn(*shape, channels, generator=generator) * self.config.scale
        return torch.full((*shape, channels), self.config.scale)

    def _sample(self, x: Tensor, axes: tuple[int, ...], table: Tensor) -> Tensor:
        if len(axes) < x.shape[-1]:
            x = x[..., axes[0] : axes[0] + 1] if len(axes) == 1 else x[..., list(axes)]
        n = table.shape[0]
        if not self.config.align_corners and n > 1:
            x = x * (n / (n - 1))
        return (interpolate if self.config.interpolation == "linear" else nearest)(x, table)

    def forward(self, x: Float[Tensor, "L *batch D"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at mapped coordinates, one set per level."""
        tables = (getattr(self, f"table{i}") for i in range(self.count))
        features = []
        for term in self.groups:
            parts = [[self._sample(y, axes, next(tables)) for y in x] for axes in term]
            features += [reduce(mul, level) for level in zip(*parts, strict=True)]
        return torch.cat(features, -1)


class Networks(nn.Module):
    """A factor of small networks behind a frequency encoding, one per level."""

    def __init__(self, config: FactorConfig, in_dim: int, generator: torch.Generator | None = None):
        super().__init__()
        self.encoding = FrequencyEncoding(FrequencyConfig(levels=config.octaves), in_dim)
        self.networks = nn.ModuleList(
            SmallMLP(self.encoding.out_dim, config.hidden, c, True, generator)
            for c in config.channels
        )
        self.out_dim = sum(config.channels)

    def forward(self, x: Float[Tensor, "L *batch D"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at mapped coordinates, one set per level."""
        parts = [net(self.encoding(y)) for net, y in zip(self.networks, x, strict=True)]
        return torch.cat(parts, -1)


class HashedLevels(nn.Module):
    """A factor that is a multiresolution hash grid."""

    def __init__(self, config: FactorConfig, in_dim: int, generator: torch.Generator | None = None):
        super().__init__()
        settings = HashGridConfig(
            levels=len(config.channels),
            features=config.channels[0],
            log2_entries=config.log2_entries,
            base_resolution=config.resolution[0],
            max_resolution=config.resolution[-1],
        )
        self.encoding = HashGridEncoding(settings, in_dim, generator)
        self.out_dim = self.encoding.out_dim

    def forward(self, x: Float[Tensor, "L *batch D"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at mapped coordinates, which all levels share."""
        return self.encoding(x[0])


class Coordinates(nn.Module):
    """A factor that is the mapped coordinates themselves, level after level."""

    def __init__(self, config: FactorConfig, in_dim: int, generator: torch.Generator | None = None):
        super().__init__()
        doubled = 2 if config.mapping == "trigonometric" else 1
        self.out_dim = doubled * in_dim * config.levels

    def forward(self, x: Float[Tensor, "L *batch D"]) -> Float[Tensor, "*batch out_dim"]:
        """All sets of coordinates."""
        return torch.cat(tuple(x), -1)


HOLDERS = {"x": Coordinates, "mlp": Networks, "hash": HashedLevels}


class FactorMap(nn.Module):
    """One factor: a coordinate map per level, then what holds the values."""

    def __init__(self, config: FactorConfig, in_dim: int, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        mapped = 2 * in_dim if config.mapping == "trigonometric" else in_dim
        holder = HOLDERS.get(config.kind, Tables)
        self.values = holder(config, in_dim if holder is Coordinates else mapped, generator)
        self.out_dim = self.values.out_dim

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x in [-1, 1]."""
        levels = 1 if self.config.kind == "hash" else self.config.levels
        frequencies = self.config.per_level("frequency")[:levels]
        if self.config.mapping == "identity" and set(frequencies) == {1.0}:
            return self.values(x.expand(levels, *x.shape))
        shape = (levels, *(1,) * x.dim())
        return self.values(
            MAPPINGS[self.config.mapping](x, x.new_tensor(frequencies).reshape(shape))
        )


def make_factors(
    configs: Sequence[FactorConfig], in_dim: int, generator: torch.Generator | None = None
) -> list[FactorMap]:
    """The factors, of one width; those without channels get as many as the others have.

    Raises:
        ConfigError: Widths differ, or none is given.
    """

    def terms(config: FactorConfig) -> int:
        return in_dim if config.kind in ("vm-lines", "vm-planes") else 1

    widths = {
        Coordinates(c, in_dim).out_dim if c.kind == "x" else terms(c) * sum(c.channels)
        for c in configs
        if c.channels or c.kind == "x"
    }
    if len(widths) != 1:
        found = f"widths {sorted(widths)}" if widths else "no channels"
        raise ConfigError(f"the factors of a product have one width, got {found}; see 'channels'")
    (width,) = widths
    filled = []
    for config in configs:
        if not config.channels and config.kind != "x":
            if width % terms(config):
                raise ConfigError(f"{width} channels cannot be split over {terms(config)} axes")
            config = replace(config, channels=(width // terms(config),))
        filled.append(FactorMap(config, in_dim, generator))
    return filled
