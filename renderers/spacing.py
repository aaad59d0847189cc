"""Normalised ray distance s in [0, 1] <-> distance t, and stratified edges."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.renderers.boxes import clip_to_box
from polyfield.renderers.pdf import uniforms
from polyfield.renderers.types import Intervals, Rays

Spacing = Literal["uniform", "disparity"]

# Disparity 1/t has no t = 0; nothing is seen this close to a camera.
CLOSEST = 1e-3


def distances(
    s: Float[Tensor, "n k"], near: Float[Tensor, "n"], far: Float[Tensor, "n"], spacing: Spacing
) -> Float[Tensor, "n k"]:
    """Distances t of s: linear in t, or linear in 1/t (``disparity``)."""
    near, far = near[:, None], far[:, None]
    if spacing == "uniform":
        return near + (far - near) * s
    low = near.clamp(min=CLOSEST)
    high = torch.maximum(far, low)
    return 1 / ((1 - s) / low + s / high)


def bounded(rays: Rays, contraction: str) -> Rays:
    """Rays cut to the scene box where the scene ends there (contraction ``none``)."""
    return clip_to_box(rays) if contraction == "none" else rays


def even_edges(
    n_rays: int, n: int, like: Float[Tensor, "*any"], generator: torch.Generator | None
) -> Float[Tensor, "n_rays n1"]:
    """n + 1 edges over s in [0, 1] for every ray: even, or inner edges jittered by +-1/2 step.

    Jittered edges stay ascending and the ends stay put, so the intervals always cover [0, 1].
    """
    steps = torch.arange(n + 1, dtype=like.dtype, device=like.device).expand(n_rays, n + 1)
    if generator is not None:
        jitter = uniforms((n_rays, n + 1), like, generator) - 0.5
        jitter[:, [0, -1]] = 0
        steps = steps + jitter
    return steps / n


def dense_intervals(edges: Float[Tensor, "n k1"]) -> Intervals:
    """Intervals between neighbouring edges."""
    return Intervals(edges[:, :-1], edges[:, 1:], n_rays=len(edges))
