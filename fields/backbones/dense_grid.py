"""Voxels: a dense grid of raw density and colour features (DirectVoxGO, Plenoxels).

What is interpolated is the raw density, and the activation comes after (post-activation: one
voxel can hold a sharp edge; DirectVoxGO; Sun et al., CVPR 2022, arXiv 2111.11215, section 4).
Colours come from the features by a small network, or, with features for it, by spherical
harmonics (Plenoxels; Fridovich-Keil and Yu et al., CVPR 2022, arXiv 2112.05131, which keep only
occupied voxels; here all are kept).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.grid import MAX_DIM
from polyfield.encodings.interpolation import interpolate
from polyfield.fields.grids import (
    OUTSIDE,
    GridBackbone,
    GrowthSettings,
)
from polyfield.fields.recipes import HEADS, UNBOUNDED, two_cores
from polyfield.registry import register

DIMS = tuple(range(1, MAX_DIM + 1))


@dataclass(frozen=True)
class DenseGridBackboneConfig(GrowthSettings):
    """Settings of the voxels; the defaults are those of DirectVoxGO's fine stage."""

    features: int = 12
    """Features per node besides the raw density; 3 `degree`**2 for colour by harmonics."""
    resolution: int = 64
    final_resolution: int = 160
    grow_at: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2)
    init: float = 0.0
    """Raw density at the start."""
    std: float = 1e-4
    """Standard deviation of the features at the start (the papers begin with zeros)."""
    tv_density: float = 0.0
    """Weight of the total variation of raw density (by the loss `regularisation`)."""
    tv_features: float = 0.0
    """Weight of the total variation of the features."""
    rate: float = 100.0
    """Learning rate of the grid, as a multiple of that of the networks."""

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError(f"features must be at least 1, got {self.features}")
        for name in ("std", "tv_density", "tv_features"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        self.growth()


PRESETS: dict[str, Any] = {
    "paper": {
        "backbone": {"features": 12, "final_resolution": 160},
        # the scale makes one voxel of 160 the unit of length, as there
        "field": {
            "type": "radiance",
            "direction": {"type": "frequency", "levels": 4},
            "density": "feature",
            "density_activation": "softplus",
            "density_shift": -4.5951,
            "density_scale": 80.0,
            "hidden": [128, 128],
            "bias": True,
        },
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 554},
        "fit": {"rays": 8192, "lr": 1e-3, "lr_final": 0.1, "eps": 1e-8},
    },
    "cpu": two_cores(
        {
            "features": 12,
            "resolution": 32,
            "final_resolution": 96,
            "grow_at": [0.06, 0.12, 0.18, 0.24],
            "rate": 100.0,
        },
        lr=5e-3,
    ),
    "harmonics": two_cores(
        {
            "features": 27,
            "resolution": 32,
            "final_resolution": 96,
            "grow_at": [0.06, 0.12, 0.18, 0.24],
            "rate": 100.0,
        },
        {**HEADS, "colour": "harmonics", "degree": 3},
        lr=5e-3,
    ),
    "unbounded": UNBOUNDED,
    "signal": {
        "backbone": {
            "features": 7,
            "resolution": 16,
            "final_resolution": 64,
            "grow_at": [0.1, 0.2],
            "rate": 4.0,
        },
        "fit": {"lr": 5e-3, "lr_final": 0.05, "points": 65536},
    },
    "audio": {"backbone": {"features": 3, "resolution": 4096, "final_resolution": 16384}},
    "image": {"backbone": {"resolution": 64, "final_resolution": 256}},
    "tiny": {
        "backbone": {
            "features": 4,
            "resolution": 3,
            "final_resolution": 6,
            "grow_at": [0.3, 0.6],
            "shrink_at": 0.3,
            "init": 0.1,
        }
    },
}


@register(
    "dense-grid",
    config=DenseGridBackboneConfig,
    paper="Sun et al. 2022 (DirectVoxGO); Fridovich-Keil, Yu et al. 2022 (Plenoxels)",
    presets=PRESETS,
    dims=DIMS,
    size=("resolution", "final_resolution"),
)
class DenseGridBackbone(GridBackbone):
    """Feature 0 is the interpolated raw density, the others are the interpolated features.

    Grids ``density`` (nodes..., 1) and ``features`` (nodes..., F). Optimised without momentum
    where no sample has been (sparse Adam), as DirectVoxGO's are.
    """

    def __init__(
        self,
        config: DenseGridBackboneConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__("dense-grid", DIMS, in_dim, config.growth())
        self.config, self.out_dim = config, 1 + config.features
        axes = tuple(range(in_dim))
        self.add_grid("density", axes, 1, 0.0, generator)
        self.add_grid("features", axes, config.features, config.std, generator)
        torch.nn.init.constant_(self.grids["density"], config.init)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Raw density and features at x."""
        u, inside = self.locate(x)
        return torch.cat((self._density(u, inside), interpolate(u, self.grids["features"])), -1)

    def first_feature(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch"]:
        """Raw density at x alone."""
        return self._density(*self.locate(x))[..., 0]

    def _density(self, u: Tensor, inside: Tensor | None) -> Tensor:
        density = interpolate(u, self.grids["density"])
        return density if inside is None else torch.where(inside[..., None], density, OUTSIDE)

    def regularisation(self) -> dict[str, Tensor]:
        """Total variation of the two grids, weighted."""
        weights = {"density": self.config.tv_density, "features": self.config.tv_features}
        return {f"tv_{n}": w * self.total_variation(n) for n, w in weights.items() if w}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Grids at `rate` times the rate of the networks; only nodes around samples move."""
        return [self.grid_group(lr * self.config.rate, sparse=True)]
