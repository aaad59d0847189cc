"""Packed compositing in plain torch: the reference of every operation, on every device.

Each function has a compiled form of the same name and signature in `compositing_numba`.
ray_indices: sorted ray of each sample; offsets: ray r owns the samples offsets[r]:offsets[r + 1]
(the compiled forms need them; here the indices say it all).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.renderers.scans import exclusive_sum, last_of_ray

# exp(-1000) is 0 in float64: a larger optical depth changes nothing, an infinite one would turn
# the differences of running totals into NaN.
MAX_OPTICAL_DEPTH = 1e3


def packed_weights(
    sigma: Float[Tensor, "m"],
    delta: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    offsets: Int64[Tensor, "n1"],
    opaque: bool = False,
) -> Float[Tensor, "m"]:
    """Weights ``T alpha``; opaque: the last sample of every ray absorbs all that is left."""
    tau = (sigma * delta).clamp(max=MAX_OPTICAL_DEPTH)
    if opaque:
        tau = tau.masked_fill(last_of_ray(ray_indices), MAX_OPTICAL_DEPTH)
    return torch.exp(-exclusive_sum(tau, ray_indices)) * -torch.expm1(-tau)


def packed_visible(
    sigma: Float[Tensor, "m"],
    delta: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    offsets: Int64[Tensor, "n1"],
    most: float,
    faintest: float,
) -> Bool[Tensor, "m"]:
    """Samples up to the optical depth `most` along the ray, of at least `faintest` themselves.

    What is not a number is visible, so that it is noticed.
    """
    tau = (sigma * delta).clamp(max=MAX_OPTICAL_DEPTH)
    return ~((exclusive_sum(tau.double(), ray_indices) > most) | (tau < faintest))


def packed_accumulate(
    weights: Float[Tensor, "m"],
    values: Float[Tensor, "m *c"] | None,
    ray_indices: Int64[Tensor, "m"],
    offsets: Int64[Tensor, "n1"],
) -> Float[Tensor, "n *c"]:
    """Sum of weights times values (None: of the weights) per ray."""
    if values is None:
        weighted = weights
    else:
        weighted = weights * values if values.ndim == 1 else weights[:, None] * values
    out = weighted.new_zeros(len(offsets) - 1, *weighted.shape[1:])
    return out.index_add(0, ray_indices, weighted)


def packed_composite(
    weights: Float[Tensor, "m"],
    rgb: Float[Tensor, "m c"],
    mid: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    offsets: Int64[Tensor, "n1"],
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Per ray: sum of weights times rgb, of weights times mid, and of the weights."""
    return (
        packed_accumulate(weights, rgb, ray_indices, offsets),
        packed_accumulate(weights, mid, ray_indices, offsets),
        packed_accumulate(weights, None, ray_indices, offsets),
    )
