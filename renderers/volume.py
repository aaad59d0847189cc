"""The volume renderer: C = sum_i w_i c_i + (1 - sum_i w_i) background.

w_i = T_i (1 - exp(-sigma_i delta_i)), T_i = exp(-sum_{j<i} sigma_j delta_j).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.registry import register
from polyfield.renderers.compositing import (
    accumulate,
    distortion_loss,
    exclusive_sum,
    expected_depth,
    median_depth,
    over_background,
    weights_from_density,
)
from polyfield.renderers.samplers.base import Sampler
from polyfield.renderers.types import Intervals, Rays, Rendered


@dataclass(frozen=True)
class VolumeConfig:
    """Settings of the volume renderer."""

    opaque_background: bool = False
    """The last interval of a ray absorbs all that is left, so that every ray ends in the scene."""
    early_stop_eps: float = 0.0
    """Colour is not evaluated where less than this share of the light arrives (0: everywhere)."""
    normals: bool = False
    """Also render normals, from the gradient of the density."""
    median_depth: bool = False
    """Also give the median depth."""
    distortion: bool = False
    """Also give the distortion of the weights per ray, in distance normalised by far."""

    def __post_init__(self) -> None:
        if not 0 <= self.early_stop_eps < 1:
            raise ValueError(f"early_stop_eps must be in [0, 1), got {self.early_stop_eps}")


@register(
    "volume",
    kind="renderers",
    config=VolumeConfig,
    paper="Mildenhall et al. 2020",
    field="radiance",
    levels=("point", "ray"),
    sampled=True,
)
def render_volume(
    field: Any,
    rays: Rays,
    sampler: Sampler,
    config: VolumeConfig,
    *,
    background: Float[Tensor, "3"] | Float[Tensor, "n 3"] | None = None,
    generator: torch.Generator | None = None,
) -> Rendered:
    """Emission-absorption rendering of a radiance field.

    Args:
        field: A radiance field, ``field(x, d) -> RadianceSample``.
        rays: One leading dimension N; N = 0 works.
        sampler: Picks the intervals; its extras are handed on.
        config: What to compute.
        background: Colour behind the scene, for all rays or per ray (None: black).
        generator: Jitters the samples (None: deterministic).

    Returns:
        `Rendered` with extras ``weights``, ``intervals``, ``samples`` (their number, 0-d),
        and what `config` asks for.
    """
    samples = sampler(rays, field, generator)
    rendered = render_intervals(field, rays, samples.intervals, config)
    rgb = over_background(rendered.rgb, rendered.opacity, background)
    return replace(rendered, rgb=rgb, extras={**samples.extras, **rendered.extras})


def render_intervals(
    field: Any, rays: Rays, intervals: Intervals, config: VolumeConfig | None = None
) -> Rendered:
    """Render given intervals in front of black."""
    config = config or VolumeConfig()
    t0, t1, mid = intervals.t0, intervals.t1, intervals.mid
    layout = (intervals.ray_indices, intervals.n_rays)
    x = positions(rays, intervals)

    def weigh(sigma: Tensor) -> Tensor:
        return weights_from_density(sigma, t1 - t0, *layout, opaque=config.opaque_background)

    apart = intervals.packed or config.early_stop_eps > 0
    if apart and rays.times is None and hasattr(field, "density_and_features"):
        weights, rgb = _colours_apart(field, rays, intervals, x, weigh, config.early_stop_eps)
    else:
        time = () if rays.times is None else (intervals.per_ray(rays.times),)
        sample = field(x, intervals.per_ray(rays.seen_along), *time)
        weights = weigh(sample.sigma)
        rgb = accumulate(weights, sample.rgb, *layout)

    extras = {
        "weights": weights,
        "intervals": intervals,
        "samples": torch.tensor(t0.numel(), device=t0.device),
    }
    if config.median_depth:
        extras["median_depth"] = median_depth(weights, t0, t1, *layout)
    if config.distortion:
        far = intervals.per_ray(rays.far).clamp(min=1e-6)
        extras["distortion"] = distortion_loss(weights, t0 / far, t1 / far, *layout)
    return Rendered(
        rgb=rgb,
        depth=expected_depth(weights, mid, *layout),
        opacity=accumulate(weights, None, *layout),
        normals=_normals(field, x, weights, layout) if config.normals else None,
        extras=extras,
    )


def positions(rays: Rays, intervals: Intervals) -> Float[Tensor, "*shape 3"]:
    """Midpoints of intervals in the scene box."""
    o, d = intervals.per_ray(rays.origins), intervals.per_ray(rays.directions)
    return o + intervals.mid[..., None] * d


def _colours_apart(
    field: Any, rays: Rays, intervals: Intervals, x: Tensor, weigh: Any, eps: float
) -> tuple[Tensor, Tensor]:
    """Weights of all samples and colours of the rays; directions are encoded once per ray.

    Colours are asked for only where the transmittance is at least eps.
    """
    sigma, features = field.density_and_features(x)
    weights, index = weigh(sigma), intervals.ray_indices
    arriving = weights
    if eps > 0:
        lit = 1 - exclusive_sum(weights.detach(), index) >= eps
        index = lit.nonzero()[:, 0] if index is None else index[lit]
        features, arriving = features[lit], weights[lit]
    rgb = field.colour(features, rays.seen_along, index)
    return weights, accumulate(arriving, rgb, index, intervals.n_rays)


def _normals(field: Any, x: Tensor, weights: Tensor, layout: tuple) -> Tensor:
    """Unit normals: the weighted direction in which the density falls."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        sigma = field.density(x)
        (gradient,) = torch.autograd.grad(sigma.sum(), x, create_graph=differentiable)
    normals = torch.nn.functional.normalize(-gradient, dim=-1)
    return torch.nn.functional.normalize(accumulate(weights, normals, *layout), dim=-1)
