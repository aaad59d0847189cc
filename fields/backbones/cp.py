"""CP decomposition of a grid (TensoRF-CP; Chen et al., ECCV 2022, arXiv 2203.09517).

    f(x_1, ..., x_D) = sum over components r of v_1,r(x_1) ... v_D,r(x_D)

v: lines of values, interpolated linearly, so that the whole is a dense grid interpolated
multilinearly (section 4.1). With components that become active one after the other it is
SlimmeRF's training (Yuan and Zhao, 3DV 2024, arXiv 2312.10034) of this decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.interpolation import interpolate
from polyfield.fields.base import ALL_DIMS
from polyfield.fields.grids import (
    OUTSIDE,
    GridBackbone,
    GrowthSettings,
    basis_matrix,
)
from polyfield.fields.ranks import Ranks, RankSettings, first_components
from polyfield.fields.recipes import TENSORF_HEADS, UNBOUNDED, two_cores
from polyfield.registry import register

STD = 0.2  # of the initial values
# Weights of TensoRF's code: what one unit of `tv` stands for.
TV_UNIT = 1e-3
MILESTONES = (2 / 30, 3 / 30, 4 / 30, 5.5 / 30, 7 / 30)


@dataclass(frozen=True)
class CPConfig(GrowthSettings, RankSettings):
    """Settings of the CP decomposition; the defaults are those of CP-384."""

    density: int = 96
    """Components of the density."""
    appearance: int = 288
    """Components of the appearance."""
    features: int = 27
    """Appearance features that the basis matrix makes of all products."""
    resolution: int = 128
    final_resolution: int = 500
    grow_at: tuple[float, ...] = MILESTONES
    shrink_at: float | None = 2 / 30
    l1: float = 1e-5
    """Weight of the mean magnitude of density lines (by the loss `regularisation`)."""
    tv: float = 0.0
    """Weight of the total variation of all lines, in units of a thousandth."""
    rate: float = 20.0
    """Learning rate of the lines, as a multiple of that of matrix and networks."""

    def __post_init__(self) -> None:
        if min(self.density, self.appearance, self.features) < 1:
            raise ValueError(
                "density, appearance and features must be at least 1, got "
                f"{self.density}, {self.appearance}, {self.features}"
            )
        for name in ("l1", "tv"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        self.growth(), self.schedule()


PRESETS: dict[str, Any] = {
    "paper": {
        "backbone": {"density": 96, "appearance": 288},
        "field": TENSORF_HEADS,
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1732},
        "fit": {"rays": 4096, "lr": 1e-3, "lr_final": 0.1, "eps": 1e-8},
        "losses": {"mse": 1.0, "regularisation": 1.0},
    },
    "cpu": two_cores(
        {
            "density": 48,
            "appearance": 96,
            "resolution": 48,
            "final_resolution": 160,
            "grow_at": [0.08, 0.16, 0.24, 0.32],
            "shrink_at": None,
            "l1": 0.0,
            "rate": 20.0,
        },
        lr=5e-3,
    ),
    "unbounded": UNBOUNDED,
    "signal": {
        "backbone": {
            "density": 1,
            "appearance": 96,
            "features": 24,
            "resolution": 64,
            "final_resolution": 256,
            "grow_at": [0.05, 0.1, 0.15],
            "rate": 4.0,
        },
        "fit": {"lr": 5e-3, "lr_final": 0.05, "points": 65536},
    },
    "audio": {
        "backbone": {
            "appearance": 4,
            "features": 4,
            "resolution": 16384,
            "final_resolution": 16384,
            "grow_at": [],
        }
    },
    "tiny": {
        "backbone": {
            "density": 2,
            "appearance": 3,
            "features": 4,
            "resolution": 4,
            "final_resolution": 8,
            "grow_at": [0.3, 0.6],
            "shrink_at": 0.3,
        }
    },
}


@register(
    "cp",
    config=CPConfig,
    paper="Chen et al. 2022 (TensoRF-CP)",
    presets=PRESETS,
    size=("density", "appearance"),
)
class CPBackbone(GridBackbone):
    """Density: the sum of all products. Appearance: a bias-free matrix on the products.

    Feature 0 is the raw density, the others are the appearance. Lines are (nodes, components),
    named ``density_0`` and so on by axis.
    """

    def __init__(self, config: CPConfig, in_dim: int = 3, generator: torch.Generator | None = None):
        ranks = Ranks(config.schedule(), config.density)
        super().__init__("cp", ALL_DIMS, in_dim, config.growth(), ranks)
        self.config, self.out_dim = config, 1 + config.features
        for kind, count in (("density", config.density), ("appearance", config.appearance)):
            for axis in range(in_dim):
                self.add_grid(f"{kind}_{axis}", (axis,), count, STD, generator)
        self.basis = nn.Parameter(basis_matrix(config.appearance, config.features, generator))

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Raw density and appearance features at x."""
        u, inside = self.locate(x)
        density = self._density(u, inside)
        appearance = self._products("appearance", u) @ self.basis.T
        return torch.cat((density[..., None], appearance), -1)

    def first_feature(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch"]:
        """Raw density at x alone."""
        return self._density(*self.locate(x))

    def _density(self, u: Tensor, inside: Tensor | None) -> Tensor:
        density = self._products("density", u).sum(-1)
        return density if inside is None else torch.where(inside, density, OUTSIDE)

    def _products(self, kind: str, u: Tensor) -> Tensor:
        """Products of line values at u, by component."""
        product = reduce(
            mul,
            (interpolate(u[..., d : d + 1], self.grids[f"{kind}_{d}"]) for d in range(self.in_dim)),
        )
        mask = self.ranks.mask(self.counts[f"{kind}_0"], product, power=self.in_dim)
        return product if mask is None else product * mask

    def regularisation(self) -> dict[str, Tensor]:
        """Magnitude of density lines and total variation of all, weighted."""
        terms = {}
        if self.config.l1:
            terms["l1"] = self.config.l1 * self.total_magnitude("density")
        if self.config.tv:
            terms["tv"] = self.config.tv * TV_UNIT * self.total_variation("")
        return terms

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Lines at `rate` times the rate of the matrix."""
        return [self.grid_group(lr * self.config.rate), {"params": [self.basis], "lr": lr}]

    def slim(self, rank: int) -> None:
        """Keep the first components, and their columns of the matrix."""
        super().slim(rank)
        before, kept = self.basis.shape[1], self.ranks.share(self.config.appearance)
        self.basis = nn.Parameter(first_components(self.basis, before, kept))

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take what `sizes` gave."""
        super().resize(sizes)
        columns = self.ranks.share(self.config.appearance)
        self.basis = nn.Parameter(self.basis.detach().new_zeros(self.config.features, columns))
