"""SL2A-INR: one layer of high-degree Chebyshev edges that modulates a low-rank ReLU network.

Rezaeian et al., ICCV 2025, arXiv 2409.10836. x: coordinates in [-1, 1]; K: degree; z: the first
layer's outputs, which multiply the input of every later layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from polyfield.fields.base import Backbone
from polyfield.fields.insight import MOST, POINTS, Insight, axis_names, edge_curves
from polyfield.fields.kan_layers import LayerConfig, make_layer, uniform_linear
from polyfield.fields.recipes import ADAM, network_on_two_cores
from polyfield.registry import register


@dataclass(frozen=True)
class SL2AConfig:
    """Settings of SL2A-INR; the defaults are those of the published images (330,243 weights)."""

    degree: int = 256
    """Degree of the polynomials; at the centre they reach K radians per unit of x."""
    width: int = 256
    """Units of every layer, and number of features."""
    layers: int = 3
    """Fusion layers."""
    rank: int = 128
    """Rank of the fusion layers' weights."""
    squash: Literal["tanh", "none"] = "tanh"
    """What coordinates go through first; tanh leaves 0.65 K of the frequency at the edge of the
    box, none raises it there."""
    nonlinearity: bool = True
    """Whether ReLU follows the fusion layers (the paper's ablation: without)."""

    def __post_init__(self) -> None:
        if self.degree < 1 or self.width < 1 or self.rank < 1 or self.layers < 0:
            raise ValueError(
                "degree, width and rank must be at least 1 and layers at least 0, got "
                f"{self.degree}, {self.width}, {self.rank}, {self.layers}"
            )


PRESETS = {
    "paper": {
        "backbone": {"degree": 256, "width": 256, "layers": 3, "rank": 128},
        "fit": {**ADAM, "lr": 1e-3, "points": 16384},
    },
    "cpu": network_on_two_cores({"degree": 64, "width": 64, "layers": 2, "rank": 32}, lr=2e-3),
    # 173,763 weights with three channels
    "signal": {
        "backbone": {"degree": 320, "width": 192, "layers": 2, "rank": 64},
        "fit": {**ADAM, "lr": 3e-3, "points": 2048},
    },
    "volume": {"backbone": {"degree": 128}, "fit": {"points": 4096}},
    "video": {"backbone": {"degree": 192}, "fit": {"points": 4096}},
    "audio": {
        "backbone": {"degree": 2048, "width": 64, "rank": 32, "squash": "none"},
        "fit": {"points": 4096},
    },
    "shape": {
        "backbone": {"degree": 64, "width": 128, "rank": 32},
        "fit": {"lr": 2e-3, "points": 8192},
    },
    "tiny": {"backbone": {"degree": 6, "width": 8, "layers": 2, "rank": 4}},
}


class LowRankLinear(nn.Module):
    """x U V + b, U (in, rank) and b uniform in +-1 / sqrt(rank), V (rank, out) in +-1 / sqrt(out).

    The bounds are what Kaiming's rule with a = sqrt 5 gives for matrices of this orientation.

    Args:
        in_dim: Inputs.
        out_dim: Outputs.
        rank: Columns of U.
        generator: CPU generator of the initial values.
    """

    def __init__(
        self, in_dim: int, out_dim: int, rank: int, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.u = nn.Parameter(torch.empty(in_dim, rank))
        self.v = nn.Parameter(torch.empty(rank, out_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))
        for tensor, fan in ((self.u, rank), (self.v, out_dim), (self.bias, rank)):
            bound = 1 / math.sqrt(fan)
            nn.init.uniform_(tensor, -bound, bound, generator=generator)
        # where it is no more work, one product for the points in place of two
        self._merge = rank * (in_dim + out_dim) >= in_dim * out_dim

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Outputs at x."""
        if self._merge:
            return linear(x, (self.u @ self.v).T, self.bias)
        return linear(x @ self.u, self.v.T, self.bias)


@register(
    "sl2a",
    config=SL2AConfig,
    paper="Rezaeian et al. 2025",
    presets=PRESETS,
    size=("width", "rank"),
)
class SL2ABackbone(Backbone):
    """z = LayerNorm(sum_jk a_jk T_k(tanh x_j)); y = z, then y = relu((z y) U V + b); features z y.

    The LayerNorm is the code's; the equations have none. Coefficients are Xavier-uniform over
    (d, width, K + 1).
    """

    def __init__(
        self, config: SL2AConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.width
        edges = LayerConfig(config.degree + 1, config.squash, norm=True, init="xavier")
        self.first = make_layer("chebyshev", in_dim, config.width, edges, generator)
        self.fusion = nn.ModuleList(
            LowRankLinear(config.width, config.width, config.rank, generator)
            for _ in range(config.layers)
        )

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        z = y = self.first(x)
        for layer in self.fusion:
            y = layer(z * y)
            if self.config.nonlinearity:
                y = relu(y)
        return z * y

    @torch.no_grad()
    def insights(self, limit: int = MOST) -> list[Insight]:
        """The strongest Chebyshev edges of the first layer over their coordinates."""
        x = torch.linspace(-1, 1, POINTS).to(self.first.coefficients)
        edges = self.first.edges(x.tanh() if self.config.squash == "tanh" else x)
        return [edge_curves("Chebyshev edges", x, edges, limit, axis_names(self.in_dim))]

    def make_head(self, out_dim: int, generator: torch.Generator | None = None) -> nn.Module:
        """A linear layer with torch's bounds of 1 / sqrt(width)."""
        return uniform_linear(self.out_dim, out_dim, 1 / math.sqrt(self.out_dim), generator)
