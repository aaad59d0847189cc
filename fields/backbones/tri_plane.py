"""Three planes of features and a small decoder (tri-plane; EG3D; Chan et al., CVPR 2022).

arXiv 2112.07945, section 3.1: a point is projected onto the planes xy, xz and yz, the features
found there are added up, and a small network makes the rest of them. Here the planes are trained
directly instead of being painted by a generator, and the network is a ReLU one. Nodes lie on the
border of the box (``align_corners=True``). Sizes of the defaults: [recall] of that paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.interpolation import interpolate
from polyfield.encodings.lines import combine_features
from polyfield.fields.grids import (
    OUTSIDE,
    GridBackbone,
    GrowthSettings,
)
from polyfield.fields.heads import SmallMLP
from polyfield.fields.recipes import HEADS, UNBOUNDED, two_cores
from polyfield.registry import register

DIMS = (3,)
PAIRS = ((0, 1), (0, 2), (1, 2))
# Factors of a product start like those of K-Planes (arXiv 2301.10241, section 4.3).
PRODUCT_RANGE = (0.1, 0.5)


@dataclass(frozen=True)
class TriPlaneConfig(GrowthSettings):
    """Settings of the tri-plane."""

    features: int = 32
    """Features per node of a plane."""
    combine: Literal["sum", "product", "concat"] = "sum"
    """What becomes of the features of the three planes."""
    resolution: int = 256
    final_resolution: int = 256
    std: float = 0.1
    """Standard deviation of the planes at the start (products: uniform in [0.1, 0.5])."""
    width: int = 64
    """Width of the decoder's hidden layers."""
    layers: int = 1
    """Hidden layers of the decoder."""
    out_features: int = 33
    """Features handed to the field."""
    tv: float = 0.0
    """Weight of the total variation of the planes (by the loss `regularisation`)."""
    rate: float = 1.0
    """Learning rate of the planes, as a multiple of that of the networks."""

    def __post_init__(self) -> None:
        if min(self.features, self.width, self.out_features) < 1 or self.layers < 0:
            raise ValueError(
                "features, width and out_features must be at least 1, layers at least 0, got "
                f"{self.features}, {self.width}, {self.out_features}, {self.layers}"
            )
        for name in ("std", "tv"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        self.growth()


PRESETS: dict[str, Any] = {
    "paper": {
        "backbone": {"features": 32, "resolution": 256, "final_resolution": 256},
        "field": {**HEADS, "density_activation": "softplus"},
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {"rays": 4096, "lr": 2e-3, "lr_final": 0.1},
    },
    "cpu": two_cores(
        {
            "features": 24,
            "resolution": 32,
            "final_resolution": 128,
            "grow_at": [0.06, 0.12, 0.18, 0.24],
            "out_features": 16,
            "rate": 20.0,
        },
        lr=5e-3,
    ),
    "unbounded": UNBOUNDED,
    "signal": {
        "backbone": {
            "features": 16,
            "combine": "concat",
            "resolution": 32,
            "final_resolution": 128,
            "grow_at": [0.05, 0.1, 0.15],
            "rate": 4.0,
        },
        "fit": {"lr": 3e-3, "lr_final": 0.05, "points": 65536},
    },
    "tiny": {
        "backbone": {
            "features": 4,
            "resolution": 4,
            "final_resolution": 8,
            "grow_at": [0.3, 0.6],
            "shrink_at": 0.3,
            "width": 8,
            "out_features": 5,
        }
    },
}


@register(
    "tri-plane",
    config=TriPlaneConfig,
    paper="Chan et al. 2022 (EG3D)",
    presets=PRESETS,
    dims=DIMS,
    size=("resolution", "final_resolution"),
)
class TriPlaneBackbone(GridBackbone):
    """Planes ``xy``, ``xz`` and ``yz``, each (nodes, nodes, features), and a ReLU network."""

    def __init__(
        self, config: TriPlaneConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__("tri-plane", DIMS, in_dim, config.growth())
        self.config, self.out_dim = config, config.out_features
        for pair in PAIRS:
            name = "".join("xyz"[axis] for axis in pair)
            self.add_grid(name, pair, config.features, config.std, generator)
            if config.combine == "product":
                torch.nn.init.uniform_(self.grids[name], *PRODUCT_RANGE, generator=generator)
        inputs = config.features * (3 if config.combine == "concat" else 1)
        hidden = (config.width,) * config.layers
        self.decoder = SmallMLP(inputs, hidden, self.out_dim, True, generator)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x; those outside the planes' box have a raw density of `OUTSIDE`."""
        u, inside = self.locate(x)
        parts = [
            interpolate(u[..., a : b + 1 : b - a], plane)
            for (a, b), plane in zip(PAIRS, self.grids.values(), strict=True)
        ]
        out = self.decoder(combine_features(parts, self.config.combine))
        if inside is None:
            return out
        density = torch.where(inside[..., None], out[..., :1], OUTSIDE)
        return torch.cat((density, out[..., 1:]), -1)

    def regularisation(self) -> dict[str, Tensor]:
        """Total variation of the planes, weighted."""
        return {"tv": self.config.tv * self.total_variation("")} if self.config.tv else {}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Planes at `rate` times the rate of the decoder."""
        decoder = {"params": list(self.decoder.parameters()), "lr": lr}
        return [self.grid_group(lr * self.config.rate), decoder]
