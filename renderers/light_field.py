"""The light-field renderer: one evaluation of the field per ray.

A field of light answers with the colour; one of distributions with density and colour along the
ray, as functions of the distance, which are composited here without asking it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.registry import register
from polyfield.renderers.compositing import composite, over_background, weights_from_density
from polyfield.renderers.types import Intervals, Rays, Rendered


@dataclass(frozen=True)
class LightFieldConfig:
    """Settings of the light-field renderer."""

    samples: int = 64
    """Intervals along a ray at which a distribution is composited."""
    opaque_background: bool = False
    """The last interval of a distribution absorbs all that is left."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, got {self.samples}")


PRESETS = {
    "cpu": {"fit": {"rays": 4096, "lr": 1e-3}},
    "paper": {"fit": {"rays": 16384, "lr": 5e-4}},
}


@register(
    "light-field",
    kind="renderers",
    config=LightFieldConfig,
    paper="Wang et al. 2022 (R2L)",
    field=("light", "radiance-distribution"),
    levels=("ray",),
    presets=PRESETS,
    backbone_presets=("signal", "light-field"),
)
def render_light_field(
    field: Any,
    rays: Rays,
    sampler: None,
    config: LightFieldConfig,
    *,
    background: Float[Tensor, "3"] | Float[Tensor, "n 3"] | None = None,
    generator: torch.Generator | None = None,
) -> Rendered:
    """What a field of rays shows.

    Args:
        field: ``field(origins, directions, near, far, generator)`` gives a sample with ``rgb,
            depth, opacity, valid``, or one with
            ``valid`` and ``along(edges, generator)``: optical depths (n, s) and colours (n, s, 3)
            of intervals, edges being shares of the way from near to far.
        rays: One leading dimension N; N = 0 works.
        sampler: None: there is nothing to sample.
        config: How distributions are composited.
        background: Colour behind the scene (None: black); seen through what is not opaque, and
            along rays that the field cannot tell apart.
        generator: Jitters the code and the samples, while the field is trained.

    Returns:
        `Rendered` with extras ``samples`` (evaluations of the field, 0-d), ``depth_known`` and
        ``opacity_known``: where not, depth is 0, and opacity 1.
    """
    sample = field(rays.origins, rays.directions, rays.near, rays.far, generator)
    extras: dict[str, Any] = {"samples": torch.tensor(len(rays), device=rays.near.device)}
    if hasattr(sample, "along"):
        rgb, depth, opacity, more = _composite(sample, rays, config, generator)
        extras |= {**more, "depth_known": True, "opacity_known": True}
    else:
        rgb, depth, opacity = sample.rgb, sample.depth, sample.opacity
        extras |= {"depth_known": depth is not None, "opacity_known": opacity is not None}
        depth = torch.zeros_like(rays.near) if depth is None else depth
        rgb = rgb if opacity is None else rgb * opacity[:, None]
        opacity = torch.ones_like(rays.near) if opacity is None else opacity
    if sample.valid is not None:
        rgb = torch.where(sample.valid[:, None], rgb, torch.zeros_like(rgb))
        depth, opacity = (
            torch.where(sample.valid, v, torch.zeros_like(v)) for v in (depth, opacity)
        )
    rgb = over_background(rgb, opacity, background)
    return Rendered(rgb=rgb, depth=depth, opacity=opacity, extras=extras)


def _composite(
    sample: Any, rays: Rays, config: LightFieldConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Colour in front of black, depth, opacity, and weights with their intervals."""
    share = torch.linspace(0, 1, config.samples + 1, dtype=rays.near.dtype, device=rays.near.device)
    edges = rays.near[:, None] + (rays.far - rays.near)[:, None] * share
    intervals = Intervals(edges[:, :-1], edges[:, 1:], len(rays))
    optical_depth, rgb = sample.along(share, generator)
    weights = weights_from_density(
        optical_depth, torch.ones_like(optical_depth), opaque=config.opaque_background
    )
    rgb, depth, opacity = composite(weights, rgb, intervals.mid)
    return rgb, depth, opacity, {"weights": weights, "intervals": intervals}
