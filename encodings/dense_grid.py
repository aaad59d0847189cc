"""One regular grid of trainable features, interpolated multilinearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import Encoding
from polyfield.encodings.grid import GridLayout, check_grid_dim, hash_encode
from polyfield.encodings.hash_grid import uniform_table
from polyfield.registry import register


@dataclass(frozen=True)
class DenseGridConfig:
    """Settings of the dense grid."""

    resolution: int = 64
    """Nodes per axis, the first at -1 and the last at 1."""
    features: int = 4
    """Features per node."""
    init: float = 1e-4
    """Entries start uniform in [-init, init]."""

    def __post_init__(self) -> None:
        if self.resolution < 2:
            raise ValueError(f"resolution must be at least 2, got {self.resolution}")
        if self.features < 1:
            raise ValueError(f"features must be at least 1, got {self.features}")


@register("dense-grid", config=DenseGridConfig)
class DenseGridEncoding(Encoding):
    """A regular grid of trainable features with multilinear interpolation.

    Node k of an axis sits at ``-1 + 2 k / (resolution - 1)``: the outer nodes lie on the border
    of the box (torch's ``align_corners=True``). One parameter, `table` (resolution**in_dim, F),
    coordinate 0 fastest. Takes 1 to 4 coordinates; beyond the box the border continues.
    """

    def __init__(
        self,
        config: DenseGridConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_grid_dim(in_dim, "dense-grid")
        self.config = config
        self.layout = GridLayout(
            in_dim=in_dim,
            features=config.features,
            scales=(float(config.resolution - 1),),
            resolutions=(config.resolution,),
            sizes=(config.resolution**in_dim,),
            shift=0.0,
        )
        self.in_dim, self.out_dim = in_dim, config.features
        self.table = nn.Parameter(uniform_table(self.layout, config.init, generator))

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Interpolated features at x in [-1, 1]."""
        return hash_encode(x, self.table, self.layout)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The table, of which only the nodes around samples move."""
        return [{"params": [self.table], "lr": lr, "sparse": True}]
