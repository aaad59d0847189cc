"""Sines and cosines at octave frequencies (Mildenhall et al., ECCV 2020, arXiv 2003.08934, eq. 4).

x: coordinates in [-1, 1]; f_k = 2^k: frequency of level k (times pi on request); L: levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.base import Encoding
from polyfield.registry import register


@dataclass(frozen=True)
class FrequencyConfig:
    """Settings of the frequency encoding."""

    levels: int = 10
    """Octaves: frequencies 1, 2, ... 2^(levels - 1)."""
    include_input: bool = True
    """Put the coordinates themselves in front."""
    pi: bool = False
    """Multiply frequencies by pi, as the paper's formula does and its code does not."""
    first: int = 0
    """Exponent of the lowest frequency: they then begin at 2^first."""

    def __post_init__(self) -> None:
        if self.levels < 0:
            raise ValueError(f"levels must not be negative, got {self.levels}")
        if self.levels == 0 and not self.include_input:
            raise ValueError("levels=0 without include_input leaves no features")


def octave_angles(
    x: Float[Tensor, "*batch D"], levels: int, first: int = 0
) -> Float[Tensor, "*batch L D"]:
    """``2^k x`` for k = first, ..., first + levels - 1."""
    octaves = torch.arange(first, first + levels, device=x.device, dtype=x.dtype)
    return x[..., None, :] * torch.exp2(octaves)[:, None]


def frequency_encoding(
    x: Float[Tensor, "*batch D"],
    levels: int,
    include_input: bool = True,
    pi: bool = False,
    first: int = 0,
) -> Float[Tensor, "*batch F"]:
    """``[x, sin f_0 x, cos f_0 x, sin f_1 x, ...]``, each block D wide; ``f_0 = 2^first``.

    Example:
        >>> frequency_encoding(torch.zeros(2), levels=1)
        tensor([0., 0., 0., 0., 1., 1.])
    """
    angles = octave_angles(x * math.pi if pi else x, levels, first)
    waves = torch.stack((angles.sin(), angles.cos()), -2).flatten(-3)
    return torch.cat((x, waves), -1) if include_input else waves


@register("frequency", config=FrequencyConfig, paper="Mildenhall et al. 2020 (NeRF)")
class FrequencyEncoding(Encoding):
    """Sines and cosines of the coordinates at octave frequencies; D (2 L + 1) features."""

    def __init__(
        self,
        config: FrequencyConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.in_dim = in_dim
        self.out_dim = in_dim * (2 * config.levels + config.include_input)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        c = self.config
        return frequency_encoding(x, c.levels, c.include_input, c.pi, c.first)
