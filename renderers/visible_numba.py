"""The first look along rays by compiled CPU kernels; signatures as in `visible`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.parallel import arrays


def next_wave(
    offsets: Int64[Tensor, "n1"],
    done: Int64[Tensor, "n"],
    depth: Float[Tensor, "n"],
    most: float,
    size: int,
) -> tuple[Int64[Tensor, "k"], Int64[Tensor, "n1"]]:
    """Compiled form of `polyfield.renderers.visible.next_wave_torch`."""
    from polyfield.renderers.kernels import visible as kernels

    at, first = offsets.new_empty(int(offsets[-1])), torch.empty_like(offsets)
    count = kernels.next_wave(*arrays(offsets, done, depth), float(most), size, *arrays(at, first))
    return at[:count], first


def absorb(
    at: Int64[Tensor, "k"],
    first: Int64[Tensor, "n1"],
    found: Float[Tensor, "k"],
    delta: Float[Tensor, "m"],
    sigma: Float[Tensor, "m"],
    depth: Float[Tensor, "n"],
) -> None:
    """Compiled form of `polyfield.renderers.visible.absorb_torch`."""
    from polyfield.renderers.kernels import visible as kernels

    kernels.absorb(*arrays(at, first, found, delta, sigma, depth))
