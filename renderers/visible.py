"""Which samples count: found front to back, so that hidden ones are never evaluated.

A wave holds the next samples of every ray: positions `at` (K,), those of ray r at
first[r]:first[r + 1]. done (N,): how many samples of each ray were looked at; depth (N,): their
optical depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.backend import Implementation, implement, resolve
from polyfield.renderers.compositing import visibility_from_density
from polyfield.renderers.positions import positions
from polyfield.renderers.types import Intervals, Rays

# Samples of a ray that are looked at before asking whether any light is left; then twice as many.
FIRST_WAVE = 12

for _op in ("next-wave", "absorb"):
    _name = _op.replace("-", "_")
    implement(
        Implementation(
            op=_op,
            backend="torch",
            path=f"polyfield.renderers.visible:{_name}_torch",
            devices=None,
            dtypes=("float32", "float64", "float16", "bfloat16"),
        )
    )
    implement(
        Implementation(
            op=_op,
            backend="numba",
            path=f"polyfield.renderers.visible_numba:{_name}",
            devices=("cpu",),
            dtypes=("float32", "float64"),
            requires=("numba",),
            priority=10,
        )
    )


@torch.no_grad()
def visible_samples(
    density: Callable[[Float[Tensor, "k 3"]], Float[Tensor, "k"]],
    rays: Rays,
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
        rays: One leading dimension.
        intervals: Packed, of these rays.
        early_stop_eps: Share of the light (0: all samples are looked at).
        alpha_threshold: Opacity.
        growing: The threshold is at most half the mean optical depth of what was looked at, so
            that a field that is thin everywhere does not lose all its samples. That mean depends
            on how far was looked, hence a little on the device.
    """
    delta = intervals.t1 - intervals.t0
    most = -math.log(early_stop_eps) if early_stop_eps > 0 else math.inf
    sigma, looked, depth = _look(density, rays, intervals, delta, most)
    if growing and looked:
        alpha_threshold = min(alpha_threshold, 0.5 * depth / looked)
    return visibility_from_density(
        sigma, delta, *intervals.layout, early_stop_eps=early_stop_eps,
        alpha_threshold=alpha_threshold,
    )  # fmt: skip


def _look(
    density: Callable[[Tensor], Tensor],
    rays: Rays,
    intervals: Intervals,
    delta: Tensor,
    most: float,
) -> tuple[Tensor, int, float]:
    """Densities, 0 where they were not asked for; how many were, and their optical depth."""
    # Waiting for the answer of every wave costs more than it saves on other devices.
    size = FIRST_WAVE if delta.device.type == "cpu" and most < math.inf else len(delta)
    dtype, device = str(delta.dtype).removeprefix("torch."), delta.device.type
    step, keep = (resolve(op, device=device, dtype=dtype) for op in ("next-wave", "absorb"))
    offsets, sigma = intervals.filled_offsets(), torch.zeros_like(delta)
    done, depth = torch.zeros_like(offsets[:-1]), delta.new_zeros(intervals.n_rays)
    while True:
        at, first = step.function(offsets, done, depth, most, size)
        if not len(at):
            return sigma, int(done.sum()), float(depth.sum())
        found = density(positions(rays, intervals, at)).to(sigma.dtype)
        keep.function(at, first, found, delta, sigma, depth)
        size *= 2


def next_wave_torch(
    offsets: Int64[Tensor, "n1"],
    done: Int64[Tensor, "n"],
    depth: Float[Tensor, "n"],
    most: float,
    size: int,
) -> tuple[Int64[Tensor, "k"], Int64[Tensor, "n1"]]:
    """The next samples, at most `size` each, of rays with a depth up to `most`; `done` moves on."""
    take = (offsets.diff() - done).clamp(max=size) * ~(depth > most)
    first = torch.cat([torch.zeros_like(offsets[:1]), take.cumsum(0)])
    ray = torch.repeat_interleave(take)
    start = offsets[:-1] + done - first[:-1]
    at = start.index_select(0, ray) + torch.arange(len(ray), device=ray.device)
    done += take
    return at, first


def absorb_torch(
    at: Int64[Tensor, "k"],
    first: Int64[Tensor, "n1"],
    found: Float[Tensor, "k"],
    delta: Float[Tensor, "m"],
    sigma: Float[Tensor, "m"],
    depth: Float[Tensor, "n"],
) -> None:
    """Put densities found in a wave into `sigma` and add to the rays' optical depths `depth`."""
    sigma[at] = found
    ray = torch.repeat_interleave(first.diff())
    depth.index_add_(0, ray, found * delta.index_select(0, at))
