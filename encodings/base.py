"""The one signature that encodings and backbones share, so that they nest.

x: coordinates in [-1, 1]; F: features.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn


class CoordinateMap(nn.Module):
    """A map R^in_dim -> R^out_dim on coordinates in [-1, 1], any leading shape, empty included.

    Subclasses set `in_dim` and `out_dim`, are constructed as
    ``cls(config, in_dim=3, generator=None)`` and implement `forward`. The rest is optional.
    Initial values are drawn from `generator`, on the CPU.
    """

    in_dim: int
    out_dim: int

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups (``params``, ``lr`` and optimiser options) at base rate `lr`."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def regularisation(self) -> dict[str, Tensor]:
        """Named scalar penalties of the parameters, to be weighted by the ``losses`` settings."""
        return {}

    def sizes(self) -> dict[str, Any]:
        """Plain data enough to rebuild the parameter shapes when they differ from the config."""
        return {}

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take the shapes of `sizes()`; called before weights are loaded."""


class Encoding(CoordinateMap):
    """A `CoordinateMap` that knows nothing of scenes."""

    kind: ClassVar[str] = "encodings"
