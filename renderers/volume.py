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
    composite,
    distortion_loss,
    exclusive_sum,
    last_of_ray,
    median_depth,
    over_background,
    weights_from_density,
)
from polyfield.renderers.positions import positions
from polyfield.renderers.samplers.base import Sampler
from polyfield.renderers.types import Intervals, Rays, Rendered
from polyfield.renderers.visible import visible_samples


@dataclass(frozen=True)
class VolumeConfig:
    """Settings of the volume renderer."""

    opaque_background: bool = False
    """The last interval of a ray absorbs all that is left, so that every ray ends in the scene."""
    early_stop_eps: float = 0.0
    """Samples that less than this share of the light reaches are left out (0: none are)."""
    alpha_threshold: float = 0.0
    """Samples of less opacity than this are left out (while training, than half the mean where
    that is lower); only packed ones of scenes without time, others are all kept."""
    normals: bool = False
    """Also render normals, from the gradient of the density."""
    median_depth: bool = False
    """Also give the median depth."""
    distortion: bool = False
    """Also give the distortion of the weights per ray, in distance normalised by far."""

    def __post_init__(self) -> None:
        for name in ("early_stop_eps", "alpha_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


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
        generator: Jitters the samples, and says that the field is being trained, see
            `render_intervals` (None: deterministic).

    Returns:
        `Rendered` with extras ``weights``, ``intervals``, ``samples`` (at how many the whole
        field was evaluated, 0-d), ``marched`` (how many the sampler gave), and what `config`
        asks for.
    """
    samples = sampler(rays, field, generator)
    growing = generator is not None
    rendered = render_intervals(field, rays, samples.intervals, config, growing=growing)
    rgb = over_background(rendered.rgb, rendered.opacity, background)
    return replace(rendered, rgb=rgb, extras={**samples.extras, **rendered.extras})


def render_intervals(
    field: Any,
    rays: Rays,
    intervals: Intervals,
    config: VolumeConfig | None = None,
    *,
    growing: bool = False,
) -> Rendered:
    """Render given intervals in front of black; those that hardly count are left out.

    Args:
        field: A radiance field.
        rays: One leading dimension N.
        intervals: Dense or packed.
        config: What to compute.
        growing: The field is being trained: no opacity threshold may take all its samples.
    """
    config = config or VolumeConfig()
    marched = intervals.t0.numel()
    static = rays.times is None and hasattr(field, "density_and_features")
    if static and intervals.packed:
        if config.early_stop_eps > 0 or config.alpha_threshold > 0:
            intervals = _lit(field, rays, intervals, config, growing)
        x = positions(rays, intervals)
        sigma, features = field.density_and_features(x)
        weights = _weigh(sigma, intervals, config)
        rgb = field.colour(features, rays.seen_along, intervals.ray_indices)
    elif static and config.early_stop_eps > 0:
        x = positions(rays, intervals)
        weights, rgb = _colour_lit(field, rays, intervals, x, config)
    else:
        x = positions(rays, intervals)
        time = () if rays.times is None else (intervals.per_ray(rays.times),)
        sample = field(x, intervals.per_ray(rays.seen_along), *time)
        weights, rgb = _weigh(sample.sigma, intervals, config), sample.rgb
    colour, depth, opacity = composite(weights, rgb, intervals.mid, *intervals.layout)
    return Rendered(
        rgb=colour,
        depth=depth,
        opacity=opacity,
        normals=_normals(field, x, weights, intervals) if config.normals else None,
        extras={"marched": marched, **_extras(weights, rays, intervals, config)},
    )


def _weigh(sigma: Tensor, intervals: Intervals, config: VolumeConfig) -> Tensor:
    delta = intervals.t1 - intervals.t0
    return weights_from_density(
        sigma, delta, *intervals.layout, opaque=config.opaque_background
    )  # fmt: skip


def _lit(
    field: Any, rays: Rays, intervals: Intervals, config: VolumeConfig, growing: bool
) -> Intervals:
    """The intervals that count; the first look is at densities only."""
    seen = visible_samples(
        field.density, rays, intervals, config.early_stop_eps, config.alpha_threshold, growing
    )
    if config.opaque_background:
        seen = seen | last_of_ray(intervals.ray_indices)
    return intervals.select(seen)[0]


def _colour_lit(
    field: Any, rays: Rays, intervals: Intervals, x: Tensor, config: VolumeConfig
) -> tuple[Tensor, Tensor]:
    """Weights and colours of dense intervals, zero where the transmittance is below eps."""
    sigma, features = field.density_and_features(x)
    weights = _weigh(sigma, intervals, config)
    lit = ~(1 - exclusive_sum(weights.detach()) < config.early_stop_eps)
    if config.opaque_background:
        lit[:, -1] = True
    weights = torch.where(lit, weights, 0)
    colours = field.colour(features[lit], rays.seen_along, lit.nonzero()[:, 0])
    rgb = colours.new_zeros(*weights.shape, colours.shape[-1])
    return weights, rgb.index_put((lit,), colours)


def _extras(
    weights: Tensor, rays: Rays, intervals: Intervals, config: VolumeConfig
) -> dict[str, Any]:
    t0, t1 = intervals.t0, intervals.t1
    extras: dict[str, Any] = {
        "weights": weights,
        "intervals": intervals,
        "samples": torch.tensor(t0.numel(), device=t0.device),
    }
    if config.median_depth:
        extras["median_depth"] = median_depth(weights, t0, t1, *intervals.layout)
    if config.distortion:
        far = intervals.per_ray(rays.far).clamp(min=1e-6)
        extras["distortion"] = distortion_loss(weights, t0 / far, t1 / far, *intervals.layout)
    return extras


def _normals(field: Any, x: Tensor, weights: Tensor, intervals: Intervals) -> Tensor:
    """Unit normals: the weighted direction in which the density falls."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        sigma = field.density(x)
        (gradient,) = torch.autograd.grad(sigma.sum(), x, create_graph=differentiable)
    normals = torch.nn.functional.normalize(-gradient, dim=-1)
    return torch.nn.functional.normalize(accumulate(weights, normals, *intervals.layout), dim=-1)
