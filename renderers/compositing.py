"""Emission and absorption along rays: densities -> weights -> measurements.

sigma: density per unit of t; delta: interval length; tau = sigma delta: optical depth;
alpha = 1 - exp(-tau): opacity of one interval; T: transmittance up to an interval's start;
w = T alpha: weight. Every function takes dense (N, S) tensors, or packed (M,) ones with a sorted
`ray_indices` (M,) and, where results are per ray, `n_rays`. Packed rays may be empty.

Source: Max 1995; Mildenhall et al. 2020, equation 3.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.backend import Choice, Implementation, implement, resolve
from polyfield.renderers.compositing_torch import MAX_OPTICAL_DEPTH
from polyfield.renderers.scans import (
    exclusive_prod,
    exclusive_sum,
    inclusive_sum,
    last_of_ray,
    pack_info,
    ray_offsets,
)

# Every packed operation: its torch reference, and the compiled form of the same name.
for _op in ("weights", "visible", "accumulate", "composite"):
    implement(
        Implementation(
            op=f"packed-{_op}",
            backend="torch",
            path=f"polyfield.renderers.compositing_torch:packed_{_op}",
            devices=None,
            dtypes=("float32", "float64", "float16", "bfloat16"),
            second_order=True,
        )
    )
    implement(
        Implementation(
            op=f"packed-{_op}",
            backend="numba",
            path=f"polyfield.renderers.compositing_numba:packed_{_op}",
            devices=("cpu",),
            dtypes=("float32", "float64"),
            requires=("numba",),
            second_order=True,
            priority=10,
        )
    )

Rayed = Int64[Tensor, "m"] | None
Offsets = Int64[Tensor, "n1"] | None


def _packed(op: str, *values: Tensor) -> tuple[Choice, list[Tensor]]:
    """What runs the operation, and its values in their common number type."""
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = torch.promote_types(dtype, value.dtype)
    choice = resolve(
        f"packed-{op}", device=values[0].device.type, dtype=str(dtype).removeprefix("torch.")
    )
    return choice, [value.to(dtype) for value in values]


def _layout(
    ray_indices: Tensor, n_rays: int | None, offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both forms of the packed layout: the ray of each sample, and the samples of each ray."""
    if offsets is None:
        assert n_rays is not None, "the packed layout needs n_rays"
        offsets = ray_offsets(ray_indices, n_rays)
    return ray_indices, offsets


def _with_last(values: Tensor, value: float, ray_indices: Tensor | None) -> Tensor:
    """Values with the last of every ray replaced."""
    if ray_indices is not None:
        return values.masked_fill(last_of_ray(ray_indices), value)
    return torch.cat([values[..., :-1], torch.full_like(values[..., -1:], value)], -1)


def _optical_depth(sigma: Tensor, delta: Tensor) -> Tensor:
    return (sigma * delta).clamp(max=MAX_OPTICAL_DEPTH)


def alpha_from_density(
    sigma: Float[Tensor, "*shape"], delta: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Opacity ``1 - exp(-sigma delta)`` of each interval."""
    return -torch.expm1(-_optical_depth(sigma, delta))


def transmittance_from_density(
    sigma: Float[Tensor, "*shape"], delta: Float[Tensor, "*shape"], ray_indices: Rayed = None
) -> Float[Tensor, "*shape"]:
    """Transmittance ``exp(-sum of earlier sigma delta)`` up to the start of each interval."""
    return torch.exp(-exclusive_sum(_optical_depth(sigma, delta), ray_indices))


def weights_from_density(
    sigma: Float[Tensor, "*shape"],
    delta: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
    offsets: Offsets = None,
    *,
    opaque: bool = False,
) -> Float[Tensor, "*shape"]:
    """Weight ``T alpha`` of each interval.

    Args:
        sigma: Densities, (N, S) or packed (M,).
        delta: Interval lengths.
        ray_indices: Ray of each packed interval.
        n_rays: Number of rays of the packed layout (None: as many as have intervals).
        offsets: First packed interval of each ray, and their number M, where known.
        opaque: The last interval of every ray absorbs all that is left (opaque background).
    """
    if ray_indices is not None:
        if n_rays is None:
            n_rays = int(ray_indices[-1]) + 1 if len(ray_indices) else 0
        choice, values = _packed("weights", sigma, delta)
        return choice.function(*values, *_layout(ray_indices, n_rays, offsets), opaque)
    tau = _optical_depth(sigma, delta)
    if opaque:
        tau = _with_last(tau, MAX_OPTICAL_DEPTH, None)
    return torch.exp(-exclusive_sum(tau)) * -torch.expm1(-tau)


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


@torch.no_grad()
def visibility_from_density(
    sigma: Float[Tensor, "*shape"],
    delta: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
    offsets: Offsets = None,
    *,
    early_stop_eps: float = 1e-4,
    alpha_threshold: float = 0.0,
) -> Bool[Tensor, "*shape"]:
    """`visibility` of intervals, found without exponentials; arguments as `weights_from_density`.

    T >= eps and alpha >= threshold are compared as optical depths, -ln(eps) and
    -ln(1 - threshold); what is not a number is visible. Not differentiable.
    """
    most = -math.log(early_stop_eps) if early_stop_eps > 0 else math.inf
    faintest = -math.log1p(-alpha_threshold)
    if ray_indices is not None:
        choice, values = _packed("visible", sigma, delta)
        return choice.function(*values, *_layout(ray_indices, n_rays, offsets), most, faintest)
    tau = _optical_depth(sigma, delta)
    return ~((exclusive_sum(tau.double()) > most) | (tau < faintest))


def accumulate(
    weights: Float[Tensor, "*shape"],
    values: Float[Tensor, "*shape_c"] | None = None,
    ray_indices: Rayed = None,
    n_rays: int | None = None,
    offsets: Offsets = None,
) -> Float[Tensor, "n *c"]:
    """Weighted sum along rays.

    Args:
        weights: (N, S) or packed (M,).
        values: One value or vector per interval: `weights`' shape with or without a last
            dimension C. None sums the weights (the opacity).
        ray_indices: Ray of each packed interval.
        n_rays: Number of rays of the packed layout.
        offsets: First packed interval of each ray, and their number M, where known.

    Returns:
        (N,), or (N, C) for vectors.
    """
    if ray_indices is not None:
        given = (weights,) if values is None else (weights, values)
        choice, given = _packed("accumulate", *given)
        layout = _layout(ray_indices, n_rays, offsets)
        return choice.function(given[0], given[1] if given[1:] else None, *layout)
    if values is None:
        return weights.sum(1)
    scalar = values.ndim == weights.ndim
    return (weights * values if scalar else weights[..., None] * values).sum(1)


def expected_depth(
    weights: Float[Tensor, "*shape"],
    mid: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
    offsets: Offsets = None,
) -> Float[Tensor, "n"]:
    """Mean distance ``sum w t / sum w``; 0 where a ray has no weight (below machine epsilon)."""
    layout = (ray_indices, n_rays, offsets)
    return _mean(accumulate(weights, mid, *layout), accumulate(weights, None, *layout))


def _mean(total: Tensor, opacity: Tensor) -> Tensor:
    return total / opacity.clamp(min=torch.finfo(opacity.dtype).eps)


def composite(
    weights: Float[Tensor, "*shape"],
    rgb: Float[Tensor, "*shape c"],
    mid: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
    offsets: Offsets = None,
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Colour (in front of black), expected depth and opacity of rays.

    The same as ``accumulate(weights, rgb)``, `expected_depth` and ``accumulate(weights)``, in
    one pass over packed intervals.
    """
    if ray_indices is None:
        colour, total, opacity = (accumulate(weights, v) for v in (rgb, mid, None))
    else:
        choice, values = _packed("composite", weights, rgb, mid)
        layout = _layout(ray_indices, n_rays, offsets)
        colour, total, opacity = choice.function(*values, *layout)
    return colour, _mean(total, opacity), opacity


@torch.no_grad()
def median_depth(
    weights: Float[Tensor, "*shape"],
    t0: Float[Tensor, "*shape"],
    t1: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
    offsets: Offsets = None,
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
    return accumulate(first.to(t.dtype), torch.where(first, t, 0.0), ray_indices, n_rays, offsets)


def distortion_loss(
    weights: Float[Tensor, "*shape"],
    t0: Float[Tensor, "*shape"],
    t1: Float[Tensor, "*shape"],
    ray_indices: Rayed = None,
    n_rays: int | None = None,
    offsets: Offsets = None,
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
    spread = pairs + weights.square() * delta / 3
    return accumulate(spread, None, ray_indices, n_rays, offsets)


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
    "composite",
    "distortion_loss",
    "exclusive_prod",
    "exclusive_sum",
    "expected_depth",
    "inclusive_sum",
    "median_depth",
    "over_background",
    "pack_info",
    "ray_offsets",
    "transmittance_from_alpha",
    "transmittance_from_density",
    "visibility",
    "visibility_from_density",
    "weights_from_alpha",
    "weights_from_density",
]
