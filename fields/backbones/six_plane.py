"""Six planes of features over four ray coordinates (LightSpeed; Gupta et al., NeurIPS 2023,
arXiv 2310.16832).

    f(x, y, u, v) = decoder(concat over levels and pairs of P_pair(.)),  pairs xy xu xv yu yv uv

Features of the planes, interpolated bilinearly, are put side by side (K-Planes multiplies them),
and a network on every ray repairs what the planes cannot hold. Its super-resolution is left out:
one network evaluation per ray. All sizes, the initial values and the rate of the planes:
[default], not found in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import require_dims
from polyfield.encodings.lines import FactorsConfig
from polyfield.encodings.planes import PlanesEncoding
from polyfield.fields.base import Backbone
from polyfield.fields.grids import total_variation
from polyfield.fields.heads import SmallMLP
from polyfield.fields.insight import MOST, Insight, axis_names, picture
from polyfield.fields.recipes import ADAM
from polyfield.fields.residual import ResidualNetwork
from polyfield.registry import register

DIMS = (4,)


@dataclass(frozen=True)
class SixPlaneConfig:
    """Settings of the six planes."""

    resolutions: tuple[int, ...] = (64, 128, 256, 512)
    """Nodes per axis of each level."""
    features: int = 4
    """Features per node."""
    init: float = 1e-2
    """Features start uniform in [-init, init]."""
    width: int = 256
    """Width of the decoder."""
    blocks: int = 4
    """Residual blocks of the decoder (0: a plain ReLU network instead)."""
    layers: int = 2
    """Hidden layers of the decoder without blocks."""
    out_features: int = 16
    """Features handed to the field by the decoder without blocks (with: `width`)."""
    tv: float = 0.0
    """Weight of the total variation (by the loss `regularisation`)."""
    rate: float = 10.0
    """Learning rate of the planes, as a multiple of the decoder's."""

    def __post_init__(self) -> None:
        if not self.resolutions or min(self.resolutions) < 2:
            raise ValueError(f"resolutions lists numbers of at least 2, got {self.resolutions}")
        for name in ("features", "width", "layers", "out_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("init", "blocks", "tv"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")


# Coarse planes: a hundred views are soon learned by heart by fine ones.
_CPU: dict[str, Any] = {
    "backbone": {"resolutions": [4, 8, 16], "features": 4, "width": 64, "blocks": 0},
    "field": {"type": "light", "code": {"type": "slab"}},
    "fit": {**ADAM, "eps": 1e-15, "rays": 8192, "lr": 2e-3, "lr_final": 0.05},
}
PRESETS: dict[str, Any] = {
    "paper": {
        "backbone": {"resolutions": [64, 128, 256, 512], "features": 4, "width": 256, "blocks": 4},
        "field": {"type": "light", "code": {"type": "slab"}},
        "fit": {**ADAM, "rays": 65536, "lr": 5e-4, "warmup": 200},
    },
    "cpu": _CPU,
    "light-field": _CPU,
    "signal": {
        "backbone": {"resolutions": [16, 32, 64], "features": 4, "width": 64, "blocks": 0},
        "fit": {"lr": 2e-3, "lr_final": 0.05, "points": 32768},
    },
    "tiny": {
        "backbone": {"resolutions": [3, 5], "features": 2, "width": 8, "blocks": 1,
                     "out_features": 5},
    },
}  # fmt: skip


@register(
    "six-plane",
    config=SixPlaneConfig,
    paper="Gupta et al. 2023 (LightSpeed)",
    presets=PRESETS,
    dims=DIMS,
    size=("resolutions",),
)
class SixPlaneBackbone(Backbone):
    """Six planes per level, all features side by side, and a decoder."""

    def __init__(
        self, config: SixPlaneConfig, in_dim: int = 4, generator: torch.Generator | None = None
    ):
        super().__init__()
        require_dims("six-plane", in_dim, DIMS)
        self.config, self.in_dim = config, in_dim
        self.levels = nn.ModuleList(
            PlanesEncoding(
                FactorsConfig(n, config.features, "concat", -config.init, config.init),
                in_dim,
                generator,
            )
            for n in config.resolutions
        )
        inputs = sum(level.out_dim for level in self.levels)
        if config.blocks:
            self.decoder = ResidualNetwork(
                inputs, config.width, config.blocks, skip=False, generator=generator
            )
        else:
            hidden = (config.width,) * config.layers
            self.decoder = SmallMLP(inputs, hidden, config.out_features, True, generator)
        self.out_dim = self.decoder.out_dim

    def features(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch inputs"]:
        """What the decoder is given: levels one after the other, six planes each."""
        return torch.cat([level(x) for level in self.levels], -1)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        return self.decoder(self.features(x))

    def insights(self, limit: int = MOST) -> list[Insight]:
        """Every plane of every level."""
        names = axis_names(self.in_dim)
        return [
            picture(f"plane {names[i]}{names[j]} of {n} nodes", plane, limit, self.in_dim)
            for n, level in zip(self.config.resolutions, self.levels, strict=True)
            for (i, j), plane in zip(level.pairs, level.planes, strict=True)
        ]

    def regularisation(self) -> dict[str, Tensor]:
        """The total variation of all planes, weighted."""
        if not self.config.tv:
            return {}
        return {"tv": self.config.tv * sum(total_variation(p) for p in self.levels.parameters())}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The planes, of which only the nodes around rays move, at `rate` times the rate."""
        planes = {
            "params": list(self.levels.parameters()),
            "lr": lr * self.config.rate,
            "sparse": True,
            "weight_decay": 0.0,
        }
        return [planes, {"params": list(self.decoder.parameters()), "lr": lr}]
