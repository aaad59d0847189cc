"""Integrated positional encoding (mip-NeRF; Barron et al., ICCV 2021, arXiv 2103.13415).

A pixel's cone, cut at t0 and t1, is summed up by a Gaussian (section 3.1); the encoding is the
expected frequency encoding under it, so frequencies too fine for the cone fade out.

t0, t1: interval along the ray, in multiples of the direction's length; r: cone radius at t=1;
mu = (t0 + t1) / 2; h = (t1 - t0) / 2; var: diagonal of a covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.base import Encoding
from polyfield.encodings.frequency import octave_angles
from polyfield.registry import register

Moments = tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Float[Tensor, "*batch"]]


@dataclass(frozen=True)
class IntegratedConfig:
    """Settings of the integrated encoding."""

    levels: int = 16
    """Octaves: frequencies 2^first, ... 2^(first + levels - 1)."""
    first: int = 0
    """Exponent of the lowest frequency."""

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, got {self.levels}")


def cone_moments(
    t0: Float[Tensor, "*batch"], t1: Float[Tensor, "*batch"], radii: Float[Tensor, "*batch"]
) -> Moments:
    """Mean and variance along the ray, and variance across it, of a conical frustum (eq. 7).

    In the form that stays exact for thin intervals. Values of `radii`: at t=1.
    """
    mu, h = (t0 + t1) / 2, (t1 - t0) / 2
    square = h**2
    scale = 3 * mu**2 + square
    mean = mu + 2 * mu * square / scale
    along = square / 3 - 4 / 15 * square**2 * (12 * mu**2 - square) / scale**2
    across = radii**2 * (mu**2 / 4 + 5 / 12 * square - 4 / 15 * square**2 / scale)
    return mean, along, across


def cylinder_moments(
    t0: Float[Tensor, "*batch"], t1: Float[Tensor, "*batch"], radii: Float[Tensor, "*batch"]
) -> Moments:
    """The same for a cylinder of constant radius (normalised device coordinates)."""
    across = (radii**2 / 4).expand_as(t0 + t1 + radii)
    return (t0 + t1) / 2, (t1 - t0) ** 2 / 12, across


def cone_to_gaussian(
    t0: Float[Tensor, "*batch"],
    t1: Float[Tensor, "*batch"],
    radii: Float[Tensor, "*batch"],
    origins: Float[Tensor, "*batch 3"],
    directions: Float[Tensor, "*batch 3"],
    shape: Literal["cone", "cylinder"] = "cone",
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"]]:
    """Mean and diagonal covariance of a piece of a ray's cone or cylinder (eq. 8, 16).

    Args:
        t0: Near end, in multiples of the direction's length.
        t1: Far end; the interval must not be the single point 0.
        radii: Radius at t=1 (cone), or everywhere (cylinder), in scene units.
        origins: Ray origins, scene units.
        directions: Ray directions, of any length but zero.
        shape: Which solid.
    """
    moments = cone_moments if shape == "cone" else cylinder_moments
    t_mean, along, across = moments(t0, t1, radii)
    square = directions**2
    off_axis = 1 - square / square.sum(-1, keepdim=True)
    mean = origins + t_mean[..., None] * directions
    return mean, along[..., None] * square + across[..., None] * off_axis


def integrated_encoding(
    mean: Float[Tensor, "*batch D"],
    var: Float[Tensor, "*batch D"],
    levels: int = 16,
    first: int = 0,
) -> Float[Tensor, "*batch F"]:
    """Expected ``[sin 2^k x for all k, cos 2^k x for all k]`` of a Gaussian (eq. 14).

    Each block holds levels times D features, level-major; no identity.
    """
    angles = octave_angles(mean, levels, first)
    variances = octave_angles(var.expand_as(mean), 2 * levels, 2 * first)[..., ::2, :]
    fade = torch.exp(-0.5 * variances)
    return torch.cat(((fade * angles.sin()).flatten(-2), (fade * angles.cos()).flatten(-2)), -1)


@register("integrated", config=IntegratedConfig, paper="Barron et al. 2021 (mip-NeRF)")
class IntegratedEncoding(Encoding):
    """The integrated encoding of points: 2 D L features, those of a Gaussian of zero variance.

    Cone-aware callers use `cone_to_gaussian` and `integrated_encoding`.
    """

    def __init__(
        self,
        config: IntegratedConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.in_dim = in_dim
        self.out_dim = 2 * in_dim * config.levels

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        return integrated_encoding(x, torch.zeros_like(x), self.config.levels, self.config.first)
