"""One line of trainable features per axis, combined: the factors of a rank decomposition.

A product of lines is the CP decomposition of a dense grid (TensoRF; Chen et al., ECCV 2022,
arXiv 2203.09517, section 4.1); values start as in K-Planes (arXiv 2301.10241, section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import Encoding
from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.registry import register

Combine = Literal["concat", "product", "sum"]


@dataclass(frozen=True)
class FactorsConfig:
    """Settings of the encodings `lines` and `planes`."""

    resolution: int | tuple[int, ...] = 128
    """Nodes per axis, the outer ones at -1 and 1: one number, or one for each coordinate."""
    features: int = 16
    """Features per node."""
    combine: Combine = "product"
    """What becomes of the interpolated features: concat, product or sum."""
    low: float = 0.1
    """The lower end of the initial values, drawn uniformly."""
    high: float = 0.5
    """The upper end of the initial values."""

    def __post_init__(self) -> None:
        for n in self.resolution if isinstance(self.resolution, tuple) else (self.resolution,):
            if n < 1:
                raise ValueError(f"resolution must be at least 1, got {n}")
        if self.features < 1:
            raise ValueError(f"features must be at least 1, got {self.features}")
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")


def axis_resolutions(config: FactorsConfig, in_dim: int) -> tuple[int, ...]:
    """Nodes of each axis.

    Raises:
        ConfigError: The config lists another number of axes.
    """
    if isinstance(config.resolution, int):
        return (config.resolution,) * in_dim
    if len(config.resolution) != in_dim:
        raise ConfigError(
            f"resolution lists {len(config.resolution)} axes for {in_dim} coordinates; "
            f"give one number, or {in_dim}"
        )
    return config.resolution


def factor(
    shape: tuple[int, ...], config: FactorsConfig, generator: torch.Generator | None
) -> nn.Parameter:
    """A parameter (\\*shape, F) drawn from U(low, high)."""
    unit = torch.rand(*shape, config.features, generator=generator)
    return nn.Parameter(unit.mul_(config.high - config.low).add_(config.low))


def combine_features(parts: list[Tensor], how: Combine) -> Float[Tensor, "*batch F"]:
    """Features of several factors as one vector: side by side, multiplied or added."""
    if how == "concat":
        return torch.cat(parts, -1)
    return reduce(mul if how == "product" else add, parts)


@register("lines", config=FactorsConfig, paper="Chen et al. 2022 (TensoRF-CP)")
class LinesEncoding(Encoding):
    """A line of features along each axis, interpolated linearly, then combined.

    Parameters: `lines`, one (nodes, F) per coordinate. Beyond the box the ends continue.
    """

    def __init__(
        self,
        config: FactorsConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.in_dim = in_dim
        counts = axis_resolutions(config, in_dim)
        self.lines = nn.ParameterList(factor((n,), config, generator) for n in counts)
        self.out_dim = config.features * (in_dim if config.combine == "concat" else 1)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x in [-1, 1]."""
        parts = [interpolate(x[..., d : d + 1], line) for d, line in enumerate(self.lines)]
        return combine_features(parts, self.config.combine)
