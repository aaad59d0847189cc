"""Multiresolution hash encoding (Müller et al., SIGGRAPH 2022, arXiv 2201.05989, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import Encoding
from polyfield.encodings.grid import (
    GridLayout,
    check_grid_dim,
    growth_factor,
    hash_encode,
    level_scale,
    table_size,
)
from polyfield.registry import register

INIT = 1e-4


@dataclass(frozen=True)
class HashGridConfig:
    """Settings of the multiresolution hash encoding; the defaults are the paper's."""

    levels: int = 16
    """Resolutions, each with its own table."""
    features: int = 2
    """Features per level."""
    log2_entries: int = 19
    """Base-2 logarithm of the most entries a level may have; finer levels are hashed into that."""
    base_resolution: int = 16
    """Nodes per axis of the coarsest level."""
    max_resolution: int = 2048
    """Nodes per axis of the finest level; those between grow geometrically."""
    interpolation: Literal["linear", "smoothstep"] = "linear"
    """Weights between nodes: linear, or smoothstep for continuous first derivatives."""
    wrap: bool = False
    """Let indices wrap at the far side of dense levels as tiny-cuda-nn does (imported weights)."""

    def __post_init__(self) -> None:
        for name in ("levels", "features", "base_resolution"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 3 <= self.log2_entries <= 30:
            raise ValueError(f"log2_entries must lie in 3..30, got {self.log2_entries}")
        if self.max_resolution < self.base_resolution:
            raise ValueError(
                f"max_resolution ({self.max_resolution}) must not be below base_resolution "
                f"({self.base_resolution})"
            )


def hash_grid_layout(config: HashGridConfig, in_dim: int = 3) -> GridLayout:
    """Level geometry: ``scale = N0 b^l - 1``, ``ceil(scale) + 1`` nodes, nodes shifted by 1/2.

    Raises:
        ConfigError: `in_dim` is not 1 to 4.
    """
    check_grid_dim(in_dim, "hash-grid")
    growth = growth_factor(config.levels, config.base_resolution, config.max_resolution)
    scales = tuple(level_scale(i, config.base_resolution, growth) for i in range(config.levels))
    resolutions = tuple(math.ceil(scale) + 1 for scale in scales)
    return GridLayout(
        in_dim=in_dim,
        features=config.features,
        scales=scales,
        resolutions=resolutions,
        sizes=tuple(table_size(r, in_dim, config.log2_entries) for r in resolutions),
        smooth=config.interpolation == "smoothstep",
        wrap=config.wrap,
    )


def uniform_table(layout: GridLayout, bound: float, generator: torch.Generator | None) -> Tensor:
    """A table (entries, F) drawn from U(-bound, bound)."""
    unit = torch.rand(layout.entries, layout.features, generator=generator)
    return unit.mul_(2 * bound).sub_(bound)


@register("hash-grid", config=HashGridConfig, paper="Müller et al. 2022 (Instant-NGP)")
class HashGridEncoding(Encoding):
    """Trainable features at several resolutions, the fine ones behind a spatial hash.

    One parameter, `table` (entries of all levels, F), drawn from U(-1e-4, 1e-4). Output:
    level-major, L * F. Takes 1 to 4 coordinates. Linear weights make the gradient in x piecewise
    constant along each axis; smoothstep weights make it continuous.
    """

    def __init__(
        self,
        config: HashGridConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.layout = hash_grid_layout(config, in_dim)
        self.in_dim, self.out_dim = in_dim, self.layout.out_dim
        self.table = nn.Parameter(uniform_table(self.layout, INIT, generator))

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Interpolated features at x in [-1, 1]."""
        return hash_encode(x, self.table, self.layout)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The table: a tiny epsilon lets rarely seen entries move, unseen ones stay (section 4)."""
        own = {"eps": 1e-15, "weight_decay": 0.0, "sparse": True}
        return [{"params": [self.table], "lr": lr, **own}]
