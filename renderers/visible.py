"""Which samples count: found front to back, so that hidden ones are never evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.renderers.compositing import accumulate, visibility_from_density
from polyfield.renderers.types import Intervals

# Samples of a ray that are looked at before asking whether any light is left; then twice as many.
FIRST_WAVE = 12


@torch.no_grad()
def visible_samples(
    density: Callable[[Float[Tensor, "k 3"]], Float[Tensor, "k"]],
    x: Float[Tensor, "m 3"],
    intervals: Intervals,
    early_stop_eps: float,
    alpha_threshold: float,
    growing: bool = False,
) -> Bool[Tensor, "m"]:
    """Packed samples that light reaches (T >= eps) and that absorb any (alpha >= threshold).

    The field is asked for densities in waves, the nearest samples of every ray first, and no more
    about rays whose light is used up. The answer is that of asking about all samples.

    Args:
        density: The field.
        x: Positions of the samples.
        intervals: Packed.
        early_stop_eps: Share of the light (0: all samples are looked at).
        alpha_threshold: Opacity.
        growing: The threshold is at most half the mean opacity of what was looked at, so that a
            field that is thin everywhere does not lose all its samples.
    """
    delta = intervals.t1 - intervals.t0
    sigma = torch.zeros_like(delta)
    most = -math.log(early_stop_eps) if early_stop_eps > 0 else math.inf
    looked, total = 0, 0.0
    for at in _waves(intervals, sigma, delta, most):
        sigma[at] = density(x.index_select(0, at)).to(sigma.dtype)
        if growing and alpha_threshold > 0:
            looked += len(at)
            total += float(-torch.expm1(-(sigma[at] * delta[at])).sum())
    if growing and looked and total / looked < 2 * alpha_threshold:
        alpha_threshold = 0.5 * total / looked
    return visibility_from_density(
        sigma, delta, *intervals.layout, early_stop_eps=early_stop_eps,
        alpha_threshold=alpha_threshold,
    )  # fmt: skip


def _waves(
    intervals: Intervals, sigma: Tensor, delta: Tensor, most: float
) -> Iterator[Int64[Tensor, "k"]]:
    """Positions to fill sigma at, wave after wave."""
    everything = torch.arange(len(sigma), device=sigma.device)
    if most == math.inf or sigma.device.type != "cpu":  # elsewhere, waiting costs more
        yield everything
        return
    offsets = intervals.filled_offsets()
    counts, n = offsets.diff(), intervals.n_rays
    done, depth = torch.zeros_like(counts), sigma.new_zeros(n)
    size = FIRST_WAVE
    while True:
        take = (counts - done).clamp(max=size) * ~(depth > most)
        ends = take.cumsum(0)
        first = torch.cat([torch.zeros_like(ends[:1]), ends])
        ray = torch.repeat_interleave(take)
        if not len(ray):
            return
        start = offsets[:-1] + done - first[:-1]
        at = start.index_select(0, ray) + everything[: len(ray)]
        yield at
        tau = sigma.index_select(0, at) * delta.index_select(0, at)
        depth = depth + accumulate(tau, None, ray, n, first)
        done, size = done + take, 2 * size
