"""The one signature that encodings and backbones share, so that they nest.

x: coordinates in [-1, 1]; F: features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.errors import ConfigError


@dataclass(frozen=True)
class Cells:
    """Where something is: centres of equal cubes of the box, and half their side."""

    centres: Float[Tensor, "cells dims"]
    half: float

    @property
    def box(self) -> Float[Tensor, "2 dims"]:
        """Lowest and highest corner of all cubes together; the whole box if there are none."""
        if not len(self.centres):
            return self.centres.new_tensor([[-1.0], [1.0]]).repeat(1, self.centres.shape[1])
        low, high = self.centres.amin(0) - self.half, self.centres.amax(0) + self.half
        return torch.stack([low, high]).clamp(-1, 1)


@dataclass(frozen=True)
class Progress:
    """Where a fit stands, for parts that change with it.

    step: optimisation steps done; fraction: share of the budget that is spent, in [0, 1]; mse:
    mean squared error of the last step (None before the first); occupied: asks for the cells in
    which anything was found so far (None, or an answer of None: nobody knows).
    """

    step: int
    fraction: float
    mse: float | None = None
    occupied: Callable[[], Cells | None] | None = None


def require_dims(name: str, in_dim: int, dims: Iterable[int]) -> None:
    """Refuse coordinates that a method is not defined for.

    Raises:
        ConfigError: `in_dim` is not one of `dims`.
    """
    allowed = list(dims)
    if in_dim not in allowed:
        known = ", ".join(map(str, allowed[:-1])) + " or " * (len(allowed) > 1) + str(allowed[-1])
        raise ConfigError(
            f"'{name}' is defined for coordinates of {known} dimensions, got {in_dim}; see "
            "'polyfield list backbones --json' for others"
        )


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

    def grow(self, progress: Progress) -> bool:
        """Change with the fit, before every step: sizes, ranks, masks.

        What it does follows from `progress` and from what `sizes` and the buffers hold, so that a
        resumed fit goes on as it was.

        Returns:
            Whether parameters were replaced: their optimiser state is then begun anew.
        """
        return False

    def slim(self, rank: int) -> None:
        """Keep the first `rank` components only, for good.

        Raises:
            ConfigError: There are no ranks to choose from, or not so many.
        """
        raise ConfigError(f"{type(self).__name__} has no ranks; leave --rank out")

    def sizes(self) -> dict[str, Any]:
        """Plain data enough to rebuild the parameter shapes when they differ from the config."""
        return {}

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take the shapes of `sizes()`; called before weights are loaded."""


class Encoding(CoordinateMap):
    """A `CoordinateMap` that knows nothing of scenes."""

    kind: ClassVar[str] = "encodings"
