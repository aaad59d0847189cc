"""FKAN: a first layer of Fourier series per edge, then steep saturating layers.

Mehrabian et al., ICASSP 2025, arXiv 2409.09323. x: coordinates in [-1, 1]; K: harmonics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.fields.base import Backbone
from polyfield.fields.insight import MOST, POINTS, Insight, axis_names, edge_curves
from polyfield.fields.kan_layers import LayerConfig, make_layer, uniform_linear
from polyfield.fields.recipes import ADAM, network_on_two_cores
from polyfield.registry import register


@dataclass(frozen=True)
class FKANConfig:
    """Settings of FKAN; the defaults are those of the published image network (436,367 weights).

    They follow the released code, which the published figures come from; the text has neither
    the LayerNorm nor the gate.
    """

    harmonics: int = 270
    """Sines and cosines per coordinate and unit, of frequency 1 to K rad per unit of x."""
    first_width: int = 128
    """Units of the first layer."""
    widths: tuple[int, ...] = (256, 256, 256, 512)
    """Widths of the layers behind it; the last is the number of features."""
    omega: float = 30.0
    """Steepness of the tanh."""
    layer_norm: bool = True
    """Whether a LayerNorm follows the first layer."""
    gated: bool = True
    """(u + tanh(omega u)) sigmoid(u) in place of tanh(omega u)."""

    def __post_init__(self) -> None:
        if self.harmonics < 1 or self.first_width < 1:
            raise ValueError(
                "harmonics and first_width must be at least 1, got "
                f"{self.harmonics}, {self.first_width}"
            )
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths must be at least 1, got {self.widths}")
        if not self.omega > 0:
            raise ValueError(f"omega must be positive, got {self.omega}")


PRESETS = {
    "paper": {
        "backbone": {"harmonics": 270, "first_width": 128, "widths": [256, 256, 256, 512]},
        "fit": {**ADAM, "lr": 1e-4, "points": 4096},
    },
    "cpu": network_on_two_cores({"harmonics": 48, "first_width": 64, "widths": [64, 64]}, lr=2e-3),
    # 165,507 weights with three channels
    "signal": {
        "backbone": {"harmonics": 128, "first_width": 128, "widths": [256, 256]},
        "fit": {**ADAM, "lr": 2e-3, "points": 2048},
    },
    "volume": {"backbone": {"harmonics": 64}, "fit": {"points": 4096}},
    "video": {"backbone": {"harmonics": 96}, "fit": {"points": 4096}},
    # kilohertz are far above what integer harmonics of the box reach with few of them
    "audio": {
        "backbone": {"harmonics": 1024, "first_width": 64, "widths": [128, 128]},
        "fit": {"points": 4096},
    },
    "shape": {
        "backbone": {"harmonics": 32, "first_width": 128, "widths": [128, 128]},
        "fit": {"points": 8192},
    },
    "tiny": {"backbone": {"harmonics": 4, "first_width": 8, "widths": [8, 6]}},
}


def steep(
    u: Float[Tensor, "*batch"], omega: float = 30.0, gated: bool = True
) -> Float[Tensor, "*batch"]:
    """FKAN's activation: (u + tanh(omega u)) sigmoid(u), or tanh(omega u) alone.

    Gated it tends to u + 1 above and 0 below, with slope (1 + omega) / 2 at 0.
    """
    saturated = (omega * u).tanh()
    return (u + saturated) * u.sigmoid() if gated else saturated


@register(
    "fkan",
    config=FKANConfig,
    paper="Mehrabian et al. 2025",
    presets=PRESETS,
    size=("first_width", "widths"),
)
class FKANBackbone(Backbone):
    """Sums over coordinates of trained Fourier series, then dense layers.

    Series: y_o = beta_o + sum_jk A cos(k x_j) + B sin(k x_j), A and B ~ N(0, 1 / (d K)), beta = 0,
    so that outputs have variance 1 at every x. They repeat with period 2 pi. Weights behind are
    uniform in +-sqrt(6 / fan_in) / 30 whatever omega, biases in +-1 / sqrt(fan_in); the last
    layer alike (the code takes 128 for its fan-in, which is 512).
    """

    def __init__(
        self, config: FKANConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        series = LayerConfig(size=2 * config.harmonics, squash="none", norm=config.layer_norm)
        self.first = make_layer("fourier", in_dim, config.first_width, series, generator)
        widths = (config.first_width, *config.widths)
        self.in_dim, self.out_dim = in_dim, widths[-1]
        self.layers = nn.ModuleList(
            _dense(a, b, generator) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        out = self.first(x)
        for layer in self.layers:
            out = steep(layer(out), self.config.omega, self.config.gated)
        return out

    @torch.no_grad()
    def insights(self, limit: int = MOST) -> list[Insight]:
        """The strongest Fourier series of the first layer over their coordinates."""
        x = torch.linspace(-1, 1, POINTS).to(self.first.coefficients)
        edges = self.first.edges(x)
        return [edge_curves("Fourier series", x, edges, limit, axis_names(self.in_dim))]

    def make_head(self, out_dim: int, generator: torch.Generator | None = None) -> nn.Module:
        """A linear layer, initialised as the layers before it."""
        return _dense(self.out_dim, out_dim, generator)


def _dense(in_dim: int, out_dim: int, generator: torch.Generator | None) -> nn.Linear:
    return uniform_linear(in_dim, out_dim, math.sqrt(6 / in_dim) / 30, generator)
