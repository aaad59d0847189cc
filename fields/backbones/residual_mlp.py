"""A very deep residual network over encoded coordinates (R2L; Wang et al., ECCV 2022,
arXiv 2203.17261, section 3.2).

Every coordinate c becomes sin(2^0 c) ... sin(2^(L-1) c), cos(2^0 c) ... cos(2^(L-1) c), c: no
factor pi, the coordinate itself last. Then `polyfield.fields.residual`: one layer, (depth - 2) / 2
blocks of two layers, a skip around all of them; the last of the `depth` layers is the field's.
Made for rays as 16 points (`field.code.type=points`), where 88 layers of 256 units and the last
have 5,917,187 parameters; it takes any number of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.frequency import octave_angles
from polyfield.fields.base import Backbone
from polyfield.fields.recipes import ADAM, network_on_two_cores
from polyfield.fields.residual import ResidualNetwork, plain_linear
from polyfield.registry import register


@dataclass(frozen=True)
class ResidualMLPConfig:
    """Settings of the residual MLP; the defaults are R2L's."""

    levels: int = 10
    """Octaves of the encoding of every coordinate (0: the coordinates alone)."""
    width: int = 256
    """Units of every layer, and number of features."""
    depth: int = 88
    """Layers, the field's last one included: an even number."""
    skip: bool = True
    """Add what enters the blocks to what leaves them."""

    def __post_init__(self) -> None:
        if self.levels < 0 or self.width < 1:
            raise ValueError(
                f"levels must be at least 0 and width at least 1, got {self.levels}, {self.width}"
            )
        if self.depth < 2 or self.depth % 2:
            raise ValueError(f"depth must be an even number from 2 up, got {self.depth}")


PRESETS: dict[str, Any] = {
    "paper": {
        "backbone": {"levels": 10, "width": 256, "depth": 88},
        "field": {"type": "light", "code": {"type": "points", "points": 16}},
        "fit": {**ADAM, "rays": 81920, "max_rays": 81920, "lr": 5e-4, "warmup": 200},
    },
    "cpu": network_on_two_cores({"levels": 8, "width": 128, "depth": 6}, lr=1e-3),
    "signal": {
        "backbone": {"levels": 8, "width": 256, "depth": 8},
        "fit": {**ADAM, "lr": 5e-4},
    },
    "light-field": {
        "backbone": {"levels": 4, "width": 128, "depth": 12},
        "field": {"type": "light", "code": {"type": "points", "points": 16}},
        "fit": {**ADAM, "rays": 2048, "lr": 1e-3, "lr_final": 0.1},
    },
    "tiny": {"backbone": {"levels": 2, "width": 16, "depth": 4}},
}


def scalar_octaves(x: Float[Tensor, "*batch D"], levels: int) -> Float[Tensor, "*batch F"]:
    """Sines, cosines and the value of each coordinate, coordinate after coordinate.

    Example:
        >>> scalar_octaves(torch.zeros(1), levels=2)
        tensor([0., 0., 1., 1., 0.])
    """
    angles = octave_angles(x, levels).transpose(-1, -2)
    return torch.cat((angles.sin(), angles.cos(), x[..., None]), -1).flatten(-2)


@register(
    "residual-mlp",
    config=ResidualMLPConfig,
    paper="Wang et al. 2022 (R2L)",
    presets=PRESETS,
    size=("width",),
)
class ResidualMLPBackbone(Backbone):
    """Octaves of every coordinate, then residual blocks with a skip around all of them."""

    def __init__(
        self, config: ResidualMLPConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.width
        self.body = ResidualNetwork(
            in_dim * (2 * config.levels + 1), config.width, config.depth // 2 - 1, config.skip,
            generator,
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        return self.body(scalar_octaves(x, self.config.levels))

    def make_head(self, out_dim: int, generator: torch.Generator | None = None) -> nn.Module:
        """The paper's last layer, with torch's initial values."""
        return plain_linear(self.out_dim, out_dim, generator)
