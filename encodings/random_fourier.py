"""Random Fourier features (Tancik et al., NeurIPS 2020, arXiv 2006.10739, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.base import Encoding
from polyfield.registry import register


@dataclass(frozen=True)
class RandomFourierConfig:
    """Settings of random Fourier features."""

    frequencies: int = 128
    """Random frequencies; each gives a sine and a cosine."""
    scale: float = 1.0
    """Standard deviation of the frequencies, in cycles per unit of x."""
    include_input: bool = False
    """Put the coordinates themselves in front."""

    def __post_init__(self) -> None:
        if self.frequencies < 1:
            raise ValueError(f"frequencies must be at least 1, got {self.frequencies}")
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}")


@register("random-fourier", config=RandomFourierConfig, paper="Tancik et al. 2020")
class RandomFourierEncoding(Encoding):
    """``[sin 2 pi B x, cos 2 pi B x]`` with Gaussian B, fixed and saved with the weights."""

    def __init__(
        self,
        config: RandomFourierConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.in_dim = in_dim
        self.out_dim = 2 * config.frequencies + in_dim * config.include_input
        matrix = torch.randn(config.frequencies, in_dim, generator=generator) * config.scale
        self.register_buffer("matrix", matrix)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        angles = x @ (2 * math.pi * self.matrix.to(x.dtype)).T
        parts = (angles.sin(), angles.cos())
        return torch.cat((x, *parts) if self.config.include_input else parts, -1)
