"""Positions of samples by a compiled CPU kernel."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.parallel import arrays
from polyfield.renderers.kernels.launch import launch
from polyfield.renderers.positions import sample_positions_torch


def sample_positions(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t0: Float[Tensor, "m"],
    t1: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    at: Int64[Tensor, "k"] | None = None,
) -> Float[Tensor, "k 3"]:
    """Compiled form of `polyfield.renderers.positions.sample_positions_torch`.

    Cameras that are fitted are rare: where a gradient is asked for, the reference computes.
    """
    given = (origins, directions, t0, t1)
    wanted = torch.is_grad_enabled() and any(v.requires_grad for v in given)
    if wanted or len({v.dtype for v in given}) > 1:
        return sample_positions_torch(*given, ray_indices, at)
    from polyfield.renderers.kernels import positions as kernels

    chosen = ray_indices[:0] if at is None else at
    out = t0.new_empty(len(t0) if at is None else len(at), 3)
    launch(kernels.positions, len(out), *arrays(*given, ray_indices, chosen, out), fewest=8192)
    return out
