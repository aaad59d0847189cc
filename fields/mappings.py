"""Coordinate maps that repeat a field: what lies under one period of it is learnt once.

Chen et al., "Dictionary Fields" (SIGGRAPH 2023, arXiv 2302.01226, section 3). x: coordinates in
[-1, 1]; f: frequency, the number of tiles along an axis of the box; t = f (x + 1) / 2: position
in tiles, so tile k is k <= t < k + 1. What the maps return lies in [-1, 1], but for the identity's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

MappingName = Literal["identity", "sawtooth", "triangle", "sinc", "trigonometric"]


def tiles(
    x: Float[Tensor, "*batch D"], frequency: float | Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """t: x in tiles from the near corner of the box."""
    return (x + 1) * 0.5 * frequency


def _tile_number(t: Tensor, frequency: float | Tensor) -> Tensor:
    """Whole tiles before t, not differentiable; the far side of the box is of the last tile."""
    last = torch.as_tensor(frequency, device=t.device, dtype=t.dtype).ceil() - 1
    return torch.minimum(t.detach().floor(), last)


def identity(
    x: Float[Tensor, "*batch D"], frequency: float | Float[Tensor, "..."] = 1.0
) -> Float[Tensor, "..."]:
    """``2 t - 1``: x itself at frequency 1; nothing repeats (the paper's code has t here)."""
    return 2 * tiles(x, frequency) - 1


def sawtooth(
    x: Float[Tensor, "*batch D"], frequency: float | Float[Tensor, "..."] = 1.0
) -> Float[Tensor, "..."]:
    """``2 (t mod 1) - 1``: every tile alike; jumps between tiles.

    Example:
        >>> sawtooth(torch.tensor([-1.0, -0.5, 0.0, 0.75, 1.0]), 2.0)
        tensor([-1.0000,  0.0000, -1.0000,  0.5000,  1.0000])
    """
    t = tiles(x, frequency)
    return 2 * (t - _tile_number(t, frequency)) - 1


def triangle(
    x: Float[Tensor, "*batch D"], frequency: float | Float[Tensor, "..."] = 1.0
) -> Float[Tensor, "..."]:
    """The sawtooth with every second tile mirrored: continuous; its period is two tiles."""
    t = tiles(x, frequency)
    number = _tile_number(t, frequency)
    return (2 * (t - number) - 1) * (1 - 2 * torch.remainder(number, 2))


def sinc(
    x: Float[Tensor, "*batch D"], frequency: float | Float[Tensor, "..."] = 1.0
) -> Float[Tensor, "..."]:
    """``sin(pi t - pi / 2)``: a smooth triangle (the name is the paper's)."""
    return (math.pi * tiles(x, frequency) - 0.5 * math.pi).sin()


def trigonometric(
    x: Float[Tensor, "*batch D"], frequency: float | Float[Tensor, "..."] = 1.0
) -> Float[Tensor, "..."]:
    """``[sin(2 pi t), cos(2 pi t)]``: twice as many coordinates, each with a period of a tile."""
    angle = 2 * math.pi * tiles(x, frequency)
    return torch.cat((angle.sin(), angle.cos()), -1)


MAPPINGS: Mapping[str, Callable[..., Tensor]] = {
    "identity": identity,
    "sawtooth": sawtooth,
    "triangle": triangle,
    "sinc": sinc,
    "trigonometric": trigonometric,
}
