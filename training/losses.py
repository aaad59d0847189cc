"""Losses: functions of what was rendered and what was measured, found by name.

The ``losses`` settings give each a weight. What a loss is given depends on what it is registered
to be ``of``:

- ``values``: ``(prediction, truth)``, colours of rays or values of a signal, and nothing else;
- ``rendering``: ``(rendered, batch, field)``; ``batch.targets["rgb"]`` is composited over the same
  background as the rendering. Where inputs are absent (no proposals, no depth) it returns zero;
- ``beams``: LiDAR beams, see `polyfield.training.lidar_losses`;
- ``field``: ``(field,)``, penalties of what is fitted.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.data.batches import Batch
from polyfield.registry import register
from polyfield.renderers.compositing import distortion_loss
from polyfield.renderers.pdf import interlevel_loss
from polyfield.renderers.types import Rendered
from polyfield.training import lidar_losses as lidar_losses  # registers them

Scalar = Float[Tensor, ""]
Values = Float[Tensor, "n channels"]


def _zero(rendered: Rendered) -> Scalar:
    return rendered.rgb.new_zeros(())


@register("mse", kind="losses", paper="Mildenhall et al. 2020", of="values")
def mse(prediction: Values, truth: Values) -> Scalar:
    """Mean squared error over rays or points and channels."""
    return (prediction - truth).square().mean()


@register("l1", kind="losses", paper="", of="values")
def l1(prediction: Values, truth: Values) -> Scalar:
    """Mean absolute error."""
    return (prediction - truth).abs().mean()


@register("huber", kind="losses", paper="Müller et al. 2022", of="values")
def huber(prediction: Values, truth: Values) -> Scalar:
    """Squared error up to 0.1, linear beyond (delta 0.1, divided by 5)."""
    error = (prediction - truth).abs()
    return torch.where(error <= 0.1, error.square(), (error - 0.05) / 5).mean()


@register("charbonnier", kind="losses", paper="Barron et al. 2022", of="values")
def charbonnier(prediction: Values, truth: Values) -> Scalar:
    """Smooth absolute error sqrt(e^2 + 0.001^2)."""
    return ((prediction - truth).square() + 1e-6).sqrt().mean()


@register("coarse", kind="losses", paper="Mildenhall et al. 2020", of="rendering")
def coarse(rendered: Rendered, batch: Batch, field: Any) -> Scalar:
    """Mean squared colour error of the coarse pass of a hierarchical sampler."""
    first: Rendered | None = rendered.extras.get("coarse")
    if first is None:
        return _zero(rendered)
    behind = batch.targets["background"] * (1 - first.opacity[..., None])
    return (first.rgb + behind - batch.targets["rgb"]).square().mean()


@register("interlevel", kind="losses", paper="Barron et al. 2022", of="rendering")
def interlevel(rendered: Rendered, batch: Batch, field: Any) -> Scalar:
    """Proposal histograms must bound the final weights; only the proposals get gradients."""
    proposals = rendered.extras.get("proposals", [])
    if not proposals:
        return _zero(rendered)
    intervals = rendered.extras["intervals"]
    edges = torch.cat([intervals.t0, intervals.t1[:, -1:]], dim=-1)
    weights = rendered.extras["weights"].detach()
    total = sum(interlevel_loss(edges, weights, e, w).mean() for e, w in proposals)
    return total / len(proposals)


@register("distortion", kind="losses", paper="Barron et al. 2022", of="rendering")
def distortion(rendered: Rendered, batch: Batch, field: Any) -> Scalar:
    """Spread of the weights along each ray, in a distance that runs from 0 to 1 (equation 15).

    In scenes without an end that is t / (1 + t), even in disparity far away, as their samples are.
    """
    if "weights" not in rendered.extras:
        return _zero(rendered)
    weights, intervals = rendered.extras["weights"], rendered.extras["intervals"]
    t0, t1 = intervals.t0, intervals.t1
    if field.contraction == "none":
        far = intervals.per_ray(batch.rays.far).clamp_min(1e-6)
        s0, s1 = t0 / far, t1 / far
    else:
        s0, s1 = t0 / (1 + t0), t1 / (1 + t1)
    return distortion_loss(weights, s0, s1, intervals.ray_indices, intervals.n_rays).mean()


@register("opacity-entropy", kind="losses", paper="Kim et al. 2022", of="rendering")
def opacity_entropy(rendered: Rendered, batch: Batch, field: Any) -> Scalar:
    """Binary entropy of the ray opacity: pushes rays to be empty or full."""
    p = rendered.opacity.clamp(1e-4, 1 - 1e-4)
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean()


@register("alpha", kind="losses", paper="", of="rendering")
def alpha(rendered: Rendered, batch: Batch, field: Any) -> Scalar:
    """Mean squared error of the opacity against the image's alpha channel."""
    if "alpha" not in batch.targets:
        return _zero(rendered)
    return (rendered.opacity - batch.targets["alpha"]).square().mean()


@register("depth", kind="losses", paper="", of="rendering")
def depth(rendered: Rendered, batch: Batch, field: Any) -> Scalar:
    """Mean absolute depth error in scene units where the batch has depth (0: unknown)."""
    truth = batch.targets.get("depth")
    if truth is None:
        return _zero(rendered)
    known = truth > 0
    error = (rendered.depth - truth).abs() * known
    return error.sum() / known.sum().clamp_min(1)


@register("regularisation", kind="losses", paper="", of="field")
def regularisation(field: Any) -> Scalar:
    """Sum of the backbone's own penalties."""
    return sum(field.regularisation().values(), next(field.parameters()).new_zeros(()))
