"""Coordinates as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.base import Encoding
from polyfield.registry import register


@dataclass(frozen=True)
class IdentityConfig:
    """The identity has no settings."""


@register("identity", config=IdentityConfig)
class IdentityEncoding(Encoding):
    """The coordinates themselves."""

    def __init__(
        self,
        config: IdentityConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.in_dim = self.out_dim = in_dim

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch in_dim"]:
        """x."""
        return x
