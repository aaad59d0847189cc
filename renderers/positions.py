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


def positions(
    rays: Rays, intervals: Intervals, at: Int64[Tensor, "k"] | None = None
) -> Float[Tensor, "*shape 3"]:
    """Midpoints of intervals in the scene box; of packed ones, only those `at` if given."""
    if intervals.ray_indices is not None:
        along = (intervals.t0, intervals.t1, intervals.ray_indices)
        return sample_positions(rays.origins, rays.directions, *along, at)
    assert at is None, "of dense intervals all are asked for"
    return rays.origins[:, None] + intervals.mid[..., None] * rays.directions[:, None]


def sample_positions(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t0: Float[Tensor, "m"],
    t1: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    at: Int64[Tensor, "k"] | None = None,
) -> Float[Tensor, "k 3"]:
    """Midpoints of packed intervals: o + d (t0 + t1) / 2, of each interval's ray.

    at: Positions of the intervals that are asked for (None: all, in order).
    """
    choice = resolve(
        "sample-positions", device=t0.device.type, dtype=str(t0.dtype).removeprefix("torch.")
    )
    return choice.function(origins, directions, t0, t1, ray_indices, at)


def sample_positions_torch(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t0: Float[Tensor, "m"],
    t1: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    at: Int64[Tensor, "k"] | None = None,
) -> Float[Tensor, "k 3"]:
    """Reference of the operation ``sample-positions``; differentiable."""
    if at is not None:
        t0, t1, ray_indices = (v.index_select(0, at) for v in (t0, t1, ray_indices))
    o, d = origins.index_select(0, ray_indices), directions.index_select(0, ray_indices)
    return o + ((t0 + t1) / 2)[:, None] * d
