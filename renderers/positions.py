"""Where the samples of rays are."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.backend import Implementation, implement, resolve
from polyfield.renderers.types import Intervals, Rays

implement(
    Implementation(
        op="sample-positions",
        backend="torch",
        path="polyfield.renderers.positions:sample_positions_torch",
        devices=None,
        dtypes=("float32", "float64", "float16", "bfloat16"),
        second_order=True,
    )
)
implement(
    Implementation(
        op="sample-positions",
        backend="numba",
        path="polyfield.renderers.positions_numba:sample_positions",
        devices=("cpu",),
        dtypes=("float32", "float64"),
        requires=("numba",),
        priority=10,
    )
)


def positions(rays: Rays, intervals: Intervals) -> Float[Tensor, "*shape 3"]:
    """Midpoints of intervals in the scene box."""
    if intervals.ray_indices is not None:
        along = (intervals.t0, intervals.t1, intervals.ray_indices)
        return sample_positions(rays.origins, rays.directions, *along)
    return rays.origins[:, None] + intervals.mid[..., None] * rays.directions[:, None]


def sample_positions(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t0: Float[Tensor, "m"],
    t1: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
) -> Float[Tensor, "m 3"]:
    """Midpoints of packed intervals: o + d (t0 + t1) / 2, of each interval's ray."""
    choice = resolve(
        "sample-positions", device=t0.device.type, dtype=str(t0.dtype).removeprefix("torch.")
    )
    return choice.function(origins, directions, t0, t1, ray_indices)


def sample_positions_torch(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t0: Float[Tensor, "m"],
    t1: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
) -> Float[Tensor, "m 3"]:
    """Reference of the operation ``sample-positions``; differentiable."""
    o, d = origins.index_select(0, ray_indices), directions.index_select(0, ray_indices)
    return o + ((t0 + t1) / 2)[:, None] * d
