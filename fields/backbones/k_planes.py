"""Products of planes over all pairs of axes (K-Planes; Fridovich-Keil et al., CVPR 2023).

    f(x) = concat over scales s of  prod over pairs (i, j) of P_s,ij(x_i, x_j)

arXiv 2301.10241, section 3.1: D (D - 1) / 2 planes of features for D coordinates, interpolated
bilinearly and multiplied feature by feature, at several resolutions, then a small network
("hybrid"). If the last coordinate is time, planes that contain it start at one, so that the rest
is static by default, and do not get finer with the scales (sections 3.2 and 4.3). Weights of the
penalties and sizes of the defaults: [recall] of the paper's settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import require_dims
from polyfield.encodings.lines import FactorsConfig, axis_resolutions
from polyfield.encodings.planes import PlanesEncoding
from polyfield.fields.base import Backbone
from polyfield.fields.grids import (
    total_variation,
)
from polyfield.fields.heads import SmallMLP
from polyfield.fields.insight import MOST, Insight, axis_names, picture
from polyfield.fields.recipes import HEADS, UNBOUNDED, two_cores
from polyfield.registry import register

DIMS = tuple(range(2, 7))


@dataclass(frozen=True)
class KPlanesConfig:
    """Settings of K-Planes; the defaults are those of static scenes."""

    resolution: int | tuple[int, ...] = 128
    """Nodes per axis at scale 1: one number, or one for each coordinate."""
    scales: tuple[int, ...] = (1, 2, 4)
    """Factors on the resolution; each has planes of its own."""
    features: int = 32
    """Features per node."""
    time: bool = False
    """The last coordinate is time."""
    width: int = 64
    """Width of the decoder's hidden layers."""
    layers: int = 1
    """Hidden layers of the decoder."""
    out_features: int = 16
    """Features handed to the field."""
    tv: float = 1e-4
    """Weight of the total variation in space (by the loss `regularisation`)."""
    smoothness: float = 0.0
    """Weight of the squared second difference along time."""
    transience: float = 0.0
    """Weight of the magnitude by which planes with time differ from one."""
    rate: float = 1.0
    """Learning rate of the planes, as a multiple of that of the networks."""

    def __post_init__(self) -> None:
        if min(self.width, self.out_features) < 1 or self.layers < 0:
            raise ValueError(
                "width and out_features must be at least 1, layers at least 0, got "
                f"{self.width}, {self.out_features}, {self.layers}"
            )
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"scales lists factors of at least 1, got {self.scales}")
        for name in ("tv", "smoothness", "transience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        FactorsConfig(resolution=self.resolution, features=self.features)


PRESETS: dict[str, Any] = {
    "paper": {
        "backbone": {"resolution": 128, "scales": [1, 2, 4], "features": 32},
        "field": {**HEADS, "hidden": [64, 64]},
        "sampler": {"type": "proposal"},
        "fit": {"rays": 4096, "lr": 1e-2, "lr_final": 0.01, "warmup": 512, "eps": 1e-12},
        "losses": {"mse": 1.0, "regularisation": 1.0},
    },
    "cpu": two_cores(
        {
            "resolution": 32,
            "scales": [1, 2, 4],
            "features": 12,
            "tv": 0.0,
            "rate": 15.0,
        },
        lr=5e-3,
    ),
    "unbounded": UNBOUNDED,
    "signal": {
        "backbone": {
            "resolution": 32,
            "scales": [1, 2, 4],
            "features": 16,
            "tv": 0.0,
            "rate": 4.0,
        },
        "fit": {"lr": 3e-3, "lr_final": 0.05, "points": 65536},
    },
    "image": {"backbone": {"resolution": 64, "features": 8}},
    "video": {"backbone": {"resolution": 24}},
    "tiny": {
        "backbone": {
            "resolution": 4,
            "scales": [1, 2],
            "features": 4,
            "width": 8,
            "out_features": 5,
        }
    },
}


@register(
    "k-planes",
    config=KPlanesConfig,
    paper="Fridovich-Keil et al. 2023 (K-Planes)",
    presets=PRESETS,
    dims=DIMS,
    size=("resolution",),
)
class KPlanesBackbone(Backbone):
    """An encoding `planes` per scale, concatenated, and a ReLU network without biases."""

    def __init__(
        self, config: KPlanesConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        require_dims("k-planes", in_dim, DIMS)
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.out_features
        self.scales = nn.ModuleList(self._planes(scale, generator) for scale in config.scales)
        inputs, hidden = config.features * len(config.scales), (config.width,) * config.layers
        self.decoder = SmallMLP(inputs, hidden, self.out_dim, False, generator)

    def _planes(self, scale: int, generator: torch.Generator | None) -> PlanesEncoding:
        """The planes of one scale."""
        config, last = self.config, self.in_dim - 1
        counts = axis_resolutions(FactorsConfig(resolution=config.resolution), self.in_dim)
        scaled = tuple(n if self._is_time(d) else n * scale for d, n in enumerate(counts))
        planes = PlanesEncoding(
            FactorsConfig(resolution=scaled, features=config.features), self.in_dim, generator
        )
        if config.time:
            for (_, j), plane in zip(planes.pairs, planes.planes, strict=True):
                if j == last:
                    nn.init.ones_(plane)
        return planes

    def _is_time(self, axis: int) -> bool:
        return self.config.time and axis == self.in_dim - 1

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        return self.decoder(torch.cat([planes(x) for planes in self.scales], -1))

    def insights(self, limit: int = MOST) -> list[Insight]:
        """Every plane of every scale."""
        names = axis_names(self.in_dim)
        return [
            picture(f"plane {names[i]}{names[j]} of scale {scale}", plane, limit, self.in_dim)
            for scale, planes in zip(self.config.scales, self.scales, strict=True)
            for (i, j), plane in zip(planes.pairs, planes.planes, strict=True)
        ]

    def regularisation(self) -> dict[str, Tensor]:
        """Variation in space, acceleration in time and what is not static, weighted."""
        config, terms = self.config, {}
        space, time = [], []
        for planes in self.scales:
            for (_, j), plane in zip(planes.pairs, planes.planes, strict=True):
                (time if self._is_time(j) else space).append(plane)
        if config.tv:
            along = [total_variation(p) for p in space] + [total_variation(p, 1) for p in time]
            terms["tv"] = config.tv * sum(along)
        if time and config.smoothness:
            bends = [p.diff(n=2, dim=1).square().mean() for p in time if p.shape[1] > 2]
            terms["smoothness"] = config.smoothness * sum(bends, time[0].new_zeros(()))
        if time and config.transience:
            terms["transience"] = config.transience * sum((p - 1).abs().mean() for p in time)
        return terms

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Planes at `rate` times the rate of the decoder."""
        planes = {"params": list(self.scales.parameters()), "lr": lr * self.config.rate}
        return [planes, {"params": list(self.decoder.parameters()), "lr": lr}]
