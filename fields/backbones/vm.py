"""Vector-matrix decomposition of a grid (TensoRF; Chen et al., ECCV 2022, arXiv 2203.09517).

    f(x, y, z) = sum over orientations i and components r of P_i,r(two axes) v_i,r(third axis)

P, v: planes and lines of values, interpolated (bi)linearly, so that the whole is a dense grid
interpolated trilinearly (section 4.2). With components that become active one after the other it
is SlimmeRF (Yuan and Zhao, 3DV 2024, arXiv 2312.10034).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.interpolation import interpolate
from polyfield.fields.grids import (
    OUTSIDE,
    GridBackbone,
    GrowthSettings,
    basis_matrix,
)
from polyfield.fields.ranks import Ranks, RankSettings
from polyfield.fields.recipes import TENSORF_HEADS, UNBOUNDED, two_cores
from polyfield.registry import register

DIMS = (3,)
# Axes of the plane, axis of the line.
ORIENTATIONS = (((0, 1), 2), ((0, 2), 1), ((1, 2), 0))
STD = 0.1  # of the initial values
# Weights of TensoRF's code: what one unit of `tv` stands for.
TV_UNIT = 1e-2
Components = int | tuple[int, int, int]
MILESTONES = (2 / 30, 3 / 30, 4 / 30, 5.5 / 30, 7 / 30)


@dataclass(frozen=True)
class VMConfig(GrowthSettings, RankSettings):
    """Settings of the vector-matrix decomposition; the defaults are those of VM-192."""

    density: Components = 16
    """Components of the density: for each orientation, or one number for each of (xy, z),
    (xz, y), (yz, x)."""
    appearance: Components = 48
    """Components of the appearance, likewise."""
    features: int = 27
    """Appearance features that the basis matrix makes of all products."""
    resolution: int = 128
    final_resolution: int = 300
    grow_at: tuple[float, ...] = MILESTONES
    shrink_at: float | None = 2 / 30
    l1: float = 8e-5
    """Weight of the mean magnitude of density factors (by the loss `regularisation`)."""
    l1_shrunk: float = 4e-5
    """The same once the box has shrunk."""
    tv_density: float = 0.0
    """Weight of the total variation of density planes, in units of a hundredth."""
    tv_appearance: float = 0.0
    """Weight of the total variation of appearance planes, in units of a hundredth."""
    rate: float = 20.0
    """Learning rate of planes and lines, as a multiple of that of matrix and networks."""

    def __post_init__(self) -> None:
        if min(*self.components()[0], *self.components()[1], self.features) < 1:
            raise ValueError(
                "density, appearance and features must be at least 1, got "
                f"{self.density}, {self.appearance}, {self.features}"
            )
        for name in ("l1", "l1_shrunk", "tv_density", "tv_appearance"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        self.growth(), self.schedule()

    def components(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Components of density and appearance of each orientation."""
        both = (self.density, self.appearance)
        return tuple((n,) * 3 if isinstance(n, int) else n for n in both)


PRESETS: dict[str, Any] = {
    "paper": {
        "backbone": {"density": 16, "appearance": 48},
        "field": TENSORF_HEADS,
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1039},
        "fit": {"rays": 4096, "lr": 1e-3, "lr_final": 0.1, "eps": 1e-8},
        "losses": {"mse": 1.0, "regularisation": 1.0},
    },
    "cpu": two_cores(
        {
            "density": 8,
            "appearance": 16,
            "resolution": 48,
            "final_resolution": 128,
            "grow_at": [0.08, 0.16, 0.24, 0.32],
            "shrink_at": None,
            "l1": 0.0,
            "l1_shrunk": 0.0,
            "rate": 12.0,
        },
        lr=5e-3,
    ),
    "unbounded": UNBOUNDED,
    "signal": {
        "backbone": {
            "density": 1,
            "appearance": 24,
            "features": 24,
            "resolution": 32,
            "final_resolution": 128,
            "grow_at": [0.05, 0.1, 0.15],
            "rate": 4.0,
        },
        "fit": {"lr": 5e-3, "lr_final": 0.05, "points": 65536},
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
    "vm",
    config=VMConfig,
    paper="Chen et al. 2022 (TensoRF-VM)",
    presets=PRESETS,
    dims=DIMS,
    size=("density", "appearance", "resolution", "final_resolution"),
)
class VMBackbone(GridBackbone):
    """Density: the sum of all products. Appearance: a bias-free matrix on the products.

    Feature 0 is the raw density, the others are the appearance. Planes are (nodes of the first
    axis, nodes of the second, components), lines (nodes, components), named
    ``density_plane_0`` and so on.
    """

    def __init__(self, config: VMConfig, in_dim: int = 3, generator: torch.Generator | None = None):
        density, appearance = config.components()
        ranks = Ranks(config.schedule(), max(density))
        super().__init__("vm", DIMS, in_dim, config.growth(), ranks)
        self.config, self.out_dim = config, 1 + config.features
        for kind, counts in (("density", density), ("appearance", appearance)):
            for i, (plane, line) in enumerate(ORIENTATIONS):
                self.add_grid(f"{kind}_plane_{i}", plane, counts[i], STD, generator)
                self.add_grid(f"{kind}_line_{i}", (line,), counts[i], STD, generator)
        self.basis = nn.Parameter(basis_matrix(sum(appearance), config.features, generator))

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Raw density and appearance features at x."""
        u, inside = self.locate(x)
        density = self._density(u, inside)
        appearance = torch.cat(self._products("appearance", u), -1) @ self.basis.T
        return torch.cat((density[..., None], appearance), -1)

    def first_feature(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch"]:
        """Raw density at x alone."""
        return self._density(*self.locate(x))

    def _density(self, u: Tensor, inside: Tensor | None) -> Tensor:
        density = sum(product.sum(-1) for product in self._products("density", u))
        return density if inside is None else torch.where(inside, density, OUTSIDE)

    def _products(self, kind: str, u: Tensor) -> list[Tensor]:
        """Plane times line at u, by orientation."""
        out = []
        for i, ((a, b), c) in enumerate(ORIENTATIONS):
            pair = u[..., a : b + 1 : b - a]
            plane = interpolate(pair, self.grids[f"{kind}_plane_{i}"])
            product = plane * interpolate(u[..., c : c + 1], self.grids[f"{kind}_line_{i}"])
            mask = self.ranks.mask(self.counts[f"{kind}_line_{i}"], product, power=2)
            out.append(product if mask is None else product * mask)
        return out

    def regularisation(self) -> dict[str, Tensor]:
        """Magnitude of density factors and total variation of planes, weighted."""
        config = self.config
        l1 = config.l1_shrunk if self.shrunk else config.l1
        terms = {
            "l1": (l1, self.total_magnitude, "density"),
            "tv_density": (config.tv_density * TV_UNIT, self.total_variation, "density_plane"),
            "tv_appearance": (
                config.tv_appearance * TV_UNIT, self.total_variation, "appearance_plane",
            ),
        }  # fmt: skip
        return {name: w * penalty(kind) for name, (w, penalty, kind) in terms.items() if w}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Planes and lines at `rate` times the rate of the matrix."""
        return [self.grid_group(lr * self.config.rate), {"params": [self.basis], "lr": lr}]

    def slim(self, rank: int) -> None:
        """Keep the first components of every orientation, and their columns of the matrix."""
        counts = self.config.components()[1]
        before = [self.ranks.share(count) for count in counts]
        super().slim(rank)
        kept = [
            columns[:, : self.ranks.share(count)]
            for columns, count in zip(self.basis.detach().split(before, 1), counts, strict=True)
        ]
        self.basis = nn.Parameter(torch.cat(kept, 1))

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take what `sizes` gave."""
        super().resize(sizes)
        columns = sum(self.ranks.share(count) for count in self.config.components()[1])
        self.basis = nn.Parameter(self.basis.detach().new_zeros(self.config.features, columns))
