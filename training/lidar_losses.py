"""Losses of LiDAR beams, ``of="beams"``: ``(rendered, batch, progress)``; metres."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from polyfield.data.lidar.batches import LidarBatch
from polyfield.registry import register
from polyfield.renderers.compositing import accumulate
from polyfield.renderers.types import Rendered

Scalar = Float[Tensor, ""]
# Range errors beyond this count no more than it: their beams are told by `line-of-sight`.
LARGEST = 2.0
# Width of the kernel around a measured range, metres, at the start of a fit and from half of it.
WIDTH = (1.0, 0.15)
LEAST = 1e-3  # power that counts as none


def kernel_width(fraction: float) -> float:
    """Width at a share of the budget, falling exponentially over its first half."""
    first, last = WIDTH
    return first * (last / first) ** min(1.0, 2 * fraction)


@register("range", kind="losses", paper="Huang et al. 2023 (NFL)", of="beams")
def range_error(rendered: Rendered, batch: LidarBatch, scale: float, fraction: float) -> Scalar:
    """Mean absolute range error of the beams that came back, at most 2 m each."""
    hit = batch.hit
    error = (rendered.depth - batch.ranges)[hit].abs() / scale
    return error.clamp(max=LARGEST).sum() / max(1, len(error))


@register("line-of-sight", kind="losses", paper="Rematas et al. 2022; Deng et al. 2022", of="beams")
def line_of_sight(rendered: Rendered, batch: LidarBatch, scale: float, fraction: float) -> Scalar:
    """Negative logarithm of the power that returns from where it was measured.

    -ln sum_j w_j exp(-(t_j - z)^2 / 2 s^2): power that returns from before z is lost to it, as is
    what passes it. s falls from 1 m to 0.15 m over the first half of the fit.
    """
    intervals, weights = rendered.extras["intervals"], rendered.extras["weights"]
    z = torch.where(batch.hit, batch.ranges, torch.zeros_like(batch.ranges))
    width = kernel_width(fraction) * scale
    off = (intervals.mid - intervals.per_ray(z)) / width
    near = weights * torch.exp(-off.square() / 2)
    power = accumulate(near, None, *intervals.layout)[batch.hit]
    return -(power + LEAST).log().sum() / max(1, len(power))


@register("intensity", kind="losses", paper="Huang et al. 2023 (NFL)", of="beams")
def intensity(rendered: Rendered, batch: LidarBatch, scale: float, fraction: float) -> Scalar:
    """Mean squared error of the intensity of first returns."""
    kept = batch.hit & ~batch.again
    error = (rendered.extras["intensity"] - batch.intensity)[kept].square()
    return error.sum() / max(1, len(error))


@register("drop", kind="losses", paper="Huang et al. 2023 (NFL)", of="beams")
def drop(rendered: Rendered, batch: LidarBatch, scale: float, fraction: float) -> Scalar:
    """Cross-entropy of a beam not coming back."""
    kept = ~batch.again
    logits = rendered.extras["drop"][kept]
    return binary_cross_entropy_with_logits(logits, (~batch.hit)[kept].to(logits))


@register("second", kind="losses", paper="Huang et al. 2023 (NFL)", of="beams")
def second(rendered: Rendered, batch: LidarBatch, scale: float, fraction: float) -> Scalar:
    """Cross-entropy of a beam coming back twice, of those that came back."""
    kept = batch.hit & ~batch.again
    logits = rendered.extras["second_logit"][kept]
    if not len(logits):
        return logits.sum()
    return binary_cross_entropy_with_logits(logits, batch.twice[kept].to(logits))
