"""Emission and absorption along rays: densities -> weights -> measurements.

sigma: density per unit of t; delta: interval length; tau = sigma delta: optical depth;
alpha = 1 - exp(-tau): opacity of one interval; T: transmittance up to an interval's start;
w = T alpha: weight. Every function takes dense (N, S) tensors, or packed (M,) ones with a sorted
`ray_indices` (M,) and, where results are per ray, `n_rays`. Packed rays may be empty.

Source: Max 1995; Mildenhall et al. 2020, equation 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.backend import Implementation, implement, resolve
from polyfield.renderers.scans import (
    exclusive_prod,
    exclusive_sum,
    inclusive_sum,
    last_of_ray,
    pack_info,
)

# exp(-1000) is 0 in float64: a larger optical depth changes nothing, an infinite one would turn
# the differences of running totals into NaN.
MAX_OPTICAL_DEPTH = 1e3

implement(
    Implementation(
        op="composite-weights",
        backend="torch",
        path="polyfield.renderers.compositing:packed_weights",
        dtypes=("float32", "float64", "float16", "bfloat16"),
        second_order=True,
    )
)
implement(
    Implementation(
        op="composite-weights",
        backend="numba",
        path="polyfield.renderers.compositing_numba:packed_weights",
        devices=("cpu",),
        dtypes=("float32", "float64"),
        requires=("numba",),
        priority=10,
    )
)

Rayed = Int64[Tensor, "m"] | None


def _optical_depth(
    sigma: Tensor, delta: Tensor, ray_indices: Tensor | None, opaque: bool = False
) -> Tensor:
    tau = (sigma * delta).clamp(max=MAX_OPTICAL_DEPTH)
    return _with_last(tau, MAX_OPTICAL_DEPTH, ray_indices) if opaque else tau


def _with_last(values: Tensor, value: float, ray_indices: Tensor | None) -> Tensor:
    """Values with the last of every ray replaced."""
    if ray_indices is not None:
        return values.masked_fill(last_of_ray(ray_indices), value)
    return torch.cat([values[..., :-1], torch.full_like(values[..., -1:], value)], -1)


def alpha_from_density(
    sigma: Float[Tensor, "*shape"], delta: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Opacity ``1 - exp(-sigma delta)`` of each interval."""
    return -torch.expm1(-_optical_depth(sigma, delta, None))


def transmittance_from_density(
    sigma: Float[Tensor, "*shape"], delta: Float[Tensor, "*shape"], ray_indices: Rayed = None
) -> Float[Tensor, "*shape"]:
    """Transmittance ``exp(-sum of earlier sigma delta)`` up to the start of each interval."""
    return torch.exp(-exclusive_sum(_optical_depth(sigma, delta, ray_indices), ray_indices))


def weights_from_density(
    sigma: Float[Tensor, "*shape"],
    delta: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
    *,
    opaque: bool = False,
) -> Float[Tensor, "*shape"]:
    """Weight ``T alpha`` of each interval.

    Args:
        sigma: Densities, (N, S) or packed (M,).
        delta: Interval lengths.
        ray_indices: Ray of each packed interval.
        n_rays: Number of rays of the packed layout.
        opaque: The last interval of every ray absorbs all that is left (opaque background).
    """
    tau = _optical_depth(sigma, delta, ray_indices, opaque)
    if ray_indices is None:
        return torch.exp(-exclusive_sum(tau)) * -torch.expm1(-tau)
    choice = resolve(
        "composite-weights", device=tau.device.type, dtype=str(tau.dtype).removeprefix("torch.")
    )
    return choice.function(tau, ray_indices, n_rays)


def packed_weights(
    tau: Float[Tensor, "m"], ray_indices: Int64[Tensor, "m"], n_rays: int | None = None
) -> Float[Tensor, "m"]:
    """Weights of packed optical depths: the reference of the operation ``composite-weights``."""
    return torch.exp(-exclusive_sum(tau, ray_indices)) * -torch.expm1(-tau)


def transmittance_from_alpha(
    alpha: Float[Tensor, "*shape"], ray_indices: Rayed = None
) -> Float[Tensor, "*shape"]:
    """Transmittance, the product of earlier ``1 - alpha``, up to the start of each interval."""
    return exclusive_prod(1 - alpha, ray_indices)


def weights_from_alpha(
    alpha: Float[Tensor, "*shape"], ray_indices: Rayed = None, *, opaque: bool = False
) -> Float[Tensor, "*shape"]:
    """Weight ``T alpha`` of each interval; arguments as `weights_from_density`."""
    if opaque:
        alpha = _with_last(alpha, 1.0, ray_indices)
    return transmittance_from_alpha(alpha, ray_indices) * alpha


def visibility(
    transmittance: Float[Tensor, "*shape"],
    alpha: Float[Tensor, "*shape"],
    early_stop_eps: float = 1e-4,
    alpha_threshold: float = 0.0,
) -> Bool[Tensor, "*shape"]:
    """Intervals that light still reaches (T >= eps) and that absorb any (alpha >= threshold)."""
    return (transmittance >= early_stop_eps) & (alpha >= alpha_threshold)


def accumulate(
    weights: Float[Tensor, "*shape"],
    values: Float[Tensor, "*shape_c"] | None = None,
    ray_indices: Rayed = None,
    n_rays: int | None = None,
) -> Float[Tensor, "n *c"]:
    """Weighted sum along rays.

    Args:
        weights: (N, S) or packed (M,).
        values: One value or vector per interval: `weights`' shape with or without a last
            dimension C. None sums the weights (the opacity).
        ray_indices: Ray of each packed interval.
        n_rays: Number of rays of the packed layout.

    Returns:
        (N,), or (N, C) for vectors.
    """
    if values is None:
        weighted = weights
    else:
        scalar = values.ndim == weights.ndim
        weighted = weights * values if scalar else weights[..., None] * values
    if ray_indices is None:
        return weighted.sum(1)
    assert n_rays is not None, "the packed layout needs n_rays"
    return weighted.new_zeros(n_rays, *weighted.shape[1:]).index_add(0, ray_indices, weighted)


def expected_depth(
    weights: Float[Tensor, "*shape"],
    mid: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
) -> Float[Tensor, "n"]:
    """Mean distance ``sum w t / sum w``; 0 where a ray has no weight (below machine epsilon)."""
    opacity = accumulate(weights, None, ray_indices, n_rays)
    total = accumulate(weights, mid, ray_indices, n_rays)
    return total / opacity.clamp(min=torch.finfo(opacity.dtype).eps)


@torch.no_grad()
def median_depth(
    weights: Float[Tensor, "*shape"],
    t0: Float[Tensor, "*shape"],
    t1: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
) -> Float[Tensor, "n"]:
    """First distance t with transmittance <= 1/2; 0 where the ray never gets that dark.

    Exact inside the interval for a constant density there. Not differentiable.
    """
    before = (1 - exclusive_sum(weights, ray_indices)).clamp(min=1e-10)
    after = (1 - inclusive_sum(weights, ray_indices)).clamp(min=1e-10)
    crossing = (before > 0.5) & (after <= 0.5)
    drop = torch.where(crossing, (before / after).log(), 1.0)
    t = t0 + (t1 - t0) * (2 * before).log() / drop
    # Rounding can make a second crossing only where T hovers at 1/2: the sum of a product with
    # the first one's mask is that one's distance.
    first = crossing & (exclusive_sum(crossing.to(t.dtype), ray_indices) == 0)
    return accumulate(first.to(t.dtype), torch.where(first, t, 0.0), ray_indices, n_rays)


def distortion_loss(
    weights: Float[Tensor, "*shape"],
    t0: Float[Tensor, "*shape"],
    t1: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
) -> Float[Tensor, "n"]:
    """Spread of the weights, per ray, in time linear in the samples.

    ``sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 (t1_i - t0_i)`` with midpoints m in ascending
    order. Use distances normalised to about [0, 1], as the paper does.

    Source: Barron et al. 2022 (mip-NeRF 360), equation 15.
    """
    mid, delta = (t0 + t1) / 2, t1 - t0
    mass = exclusive_sum(weights, ray_indices)
    moment = exclusive_sum(weights * mid, ray_indices)
    pairs = 2 * weights * (mid * mass - moment)
    return accumulate(pairs + weights.square() * delta / 3, None, ray_indices, n_rays)


def over_background(
    rgb: Float[Tensor, "n 3"],
    opacity: Float[Tensor, "n"],
    background: Float[Tensor, "3"] | Float[Tensor, "n 3"] | None,
) -> Float[Tensor, "n 3"]:
    """Colour in front of a background: rgb + (1 - opacity) background (None: black)."""
    return rgb if background is None else rgb + (1 - opacity[:, None]) * background


__all__ = [
    "MAX_OPTICAL_DEPTH",
    "accumulate",
    "alpha_from_density",
    "distortion_loss",
    "exclusive_prod",
    "exclusive_sum",
    "expected_depth",
    "inclusive_sum",
    "median_depth",
    "over_background",
    "pack_info",
    "packed_weights",
    "transmittance_from_alpha",
    "transmittance_from_density",
    "visibility",
    "weights_from_alpha",
    "weights_from_density",
]
