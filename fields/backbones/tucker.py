"""Tucker decomposition of a grid of features (Tucker, Psychometrika 1966).

    f(x_1, ..., x_D) = sum over i_1 ... i_D of C[i_1, ..., i_D] a_1,i_1(x_1) ... a_D,i_D(x_D)

a: lines of r_d values along axis d, interpolated linearly; C: the core, with a vector of
features per entry. CP is the case of a core that is zero off its diagonal. Initial values are not
from a paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.fields.grids import (
    OUTSIDE,
    GridBackbone,
    GrowthSettings,
)
from polyfield.fields.insight import MOST, Insight, picture
from polyfield.fields.ranks import Ranks, RankSettings, first_components
from polyfield.fields.recipes import HEADS, UNBOUNDED, two_cores
from polyfield.registry import register

DIMS = tuple(range(2, 7))
LINE_STD, OUT_STD = 0.5, 0.1  # of the lines, and of the features they make with the core


@dataclass(frozen=True)
class TuckerConfig(GrowthSettings, RankSettings):
    """Settings of the Tucker decomposition."""

    ranks: int | tuple[int, ...] = 16
    """Values per node of each axis' line: one number, or one for each coordinate."""
    features: int = 16
    """Features per entry of the core, and handed to the field."""
    resolution: int = 128
    final_resolution: int = 300
    grow_at: tuple[float, ...] = (1 / 15, 2 / 15, 1 / 5)
    shrink_at: float | None = 1 / 15
    l1: float = 0.0
    """Weight of the mean magnitude of the core (by the loss `regularisation`)."""
    tv: float = 0.0
    """Weight of the total variation of the lines."""
    rate: float = 4.0
    """Learning rate of lines and core, as a multiple of that of the networks."""

    def __post_init__(self) -> None:
        listed = (self.ranks,) if isinstance(self.ranks, int) else self.ranks
        if not listed or min(*listed, self.features) < 1:
            raise ValueError(
                f"ranks and features must be at least 1, got {self.ranks}, {self.features}"
            )
        for name in ("l1", "tv"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        self.growth(), self.schedule()

    def axis_ranks(self, in_dim: int) -> tuple[int, ...]:
        """Values per node of each axis.

        Raises:
            ConfigError: `ranks` lists another number of axes.
        """
        if isinstance(self.ranks, int):
            return (self.ranks,) * in_dim
        if len(self.ranks) != in_dim:
            raise ConfigError(
                f"ranks lists {len(self.ranks)} axes for {in_dim} coordinates; give one number, "
                f"or {in_dim}"
            )
        return self.ranks


def contract_core(
    lines: list[Float[Tensor, "n _"]], core: Float[Tensor, "*ranks F"]
) -> Float[Tensor, "n F"]:
    """Core times one vector of line values per axis.

    The vectors of all axes but the last are multiplied out, so that one matrix product takes
    care of them for all features and the whole last axis.
    """
    outer = lines[0]
    for line in lines[1:-1]:
        outer = (outer[:, :, None] * line[:, None, :]).flatten(1)
    partial = outer @ core.reshape(outer.shape[1], -1)
    return (partial.unflatten(1, core.shape[-2:]) * lines[-1][:, :, None]).sum(1)


PRESETS: dict[str, Any] = {
    "paper": {
        "backbone": {"ranks": 16, "features": 16},
        "field": {**HEADS, "hidden": [64, 64]},
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {"rays": 4096, "lr": 5e-3, "lr_final": 0.1},
    },
    "cpu": two_cores(
        {
            "ranks": 12,
            "features": 12,
            "resolution": 48,
            "final_resolution": 160,
            "grow_at": [0.08, 0.16, 0.24],
            "shrink_at": None,
        },
        lr=5e-3,
    ),
    "unbounded": UNBOUNDED,
    "signal": {
        "backbone": {
            "ranks": 24,
            "features": 4,
            "resolution": 64,
            "final_resolution": 128,
            "grow_at": [0.1],
        },
        "fit": {"lr": 5e-3, "lr_final": 0.05, "points": 2048},
    },
    "image": {"backbone": {"ranks": 96, "resolution": 256, "final_resolution": 256, "grow_at": []}},
    "tiny": {
        "backbone": {
            "ranks": 2,
            "features": 4,
            "resolution": 4,
            "final_resolution": 8,
            "grow_at": [0.3, 0.6],
            "shrink_at": 0.3,
        }
    },
}


@register(
    "tucker",
    config=TuckerConfig,
    paper="Tucker 1966",
    presets=PRESETS,
    dims=DIMS,
    size=("ranks",),
)
class TuckerBackbone(GridBackbone):
    """Lines (nodes, rank) named by axis, and `core` (rank of each axis..., features).

    Cut to rank r it keeps the first ``ceil(r r_d / max r_d)`` values of axis d.
    """

    def __init__(
        self, config: TuckerConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        counts = config.axis_ranks(in_dim) if in_dim in DIMS else (1,)
        super().__init__(
            "tucker", DIMS, in_dim, config.growth(), Ranks(config.schedule(), max(counts))
        )
        self.config, self.out_dim = config, config.features
        for axis, count in enumerate(counts):
            self.add_grid(str(axis), (axis,), count, LINE_STD, generator)
        size = math.prod(counts)
        std = OUT_STD / (size**0.5 * LINE_STD**in_dim)
        self.core = nn.Parameter(torch.randn(*counts, config.features, generator=generator) * std)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x; outside the grids' own box feature 0 is `OUTSIDE`."""
        out, inside = self._contract(x, self.core)
        if inside is None:
            return out
        density = torch.where(inside[..., None], out[..., :1], OUTSIDE)
        return torch.cat((density, out[..., 1:]), -1)

    def first_feature(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch"]:
        """Feature 0 at x alone."""
        out, inside = self._contract(x, self.core[..., :1])
        return out[..., 0] if inside is None else torch.where(inside, out[..., 0], OUTSIDE)

    def _contract(self, x: Tensor, core: Tensor) -> tuple[Tensor, Tensor | None]:
        u, inside = self.locate(x)
        flat = u.reshape(-1, self.in_dim)
        lines = []
        for axis, (name, count) in enumerate(self.counts.items()):
            values = interpolate(flat[:, axis : axis + 1], self.grids[name])
            mask = self.ranks.mask(count, values)
            lines.append(values if mask is None else values * mask)
        return contract_core(lines, core).reshape(*x.shape[:-1], core.shape[-1]), inside

    def regularisation(self) -> dict[str, Tensor]:
        """Magnitude of the core and total variation of the lines, weighted."""
        terms = {}
        if self.config.l1:
            terms["l1"] = self.config.l1 * self.core.abs().mean()
        if self.config.tv:
            terms["tv"] = self.config.tv * self.total_variation("")
        return terms

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Lines and core at `rate` times the rate of the networks."""
        rate = lr * self.config.rate
        return [self.grid_group(rate), {"params": [self.core], "lr": rate}]

    def insights(self, limit: int = MOST) -> list[Insight]:
        """The lines, and how large the core's entries are, over its first two axes."""
        size = self.core.detach().square().sum((*range(2, self.in_dim), -1)).sqrt()
        return [*super().insights(limit), picture("size of the core", size[..., None])]

    def slim(self, rank: int) -> None:
        """Keep the first values of every line, and the corner of the core that goes with them."""
        super().slim(rank)
        core = self.core
        for axis, count in enumerate(self.counts.values()):
            core = first_components(core, core.shape[axis], self.ranks.share(count), axis)
        self.core = nn.Parameter(core)

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take what `sizes` gave."""
        super().resize(sizes)
        ranks = [self.ranks.share(count) for count in self.counts.values()]
        self.core = nn.Parameter(self.core.detach().new_zeros(*ranks, self.config.features))
