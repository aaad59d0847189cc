"""Running sums and products along rays, dense and packed.

Dense values are (..., S) and run along the last dimension. Packed values are (M,) with a sorted
`ray_indices` (M,) and start afresh at every ray; rays may own no values. Packed scans are
differences of one running total kept in float64, so millions of values do not lose precision.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from polyfield.backend import Implementation, implement, resolve

implement(
    Implementation(
        op="packed-select",
        backend="torch",
        path="polyfield.renderers.scans:select_packed_torch",
        devices=None,
        dtypes=("bool",),
    )
)
implement(
    Implementation(
        op="packed-select",
        backend="numba",
        path="polyfield.renderers.compositing_numba:packed_select",
        devices=("cpu",),
        dtypes=("bool",),
        requires=("numba",),
        priority=10,
    )
)


def pack_info(
    ray_indices: Int64[Tensor, "m"], n_rays: int
) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "n"]]:
    """First position and number of values of each ray.

    >>> pack_info(torch.tensor([0, 0, 2]), 3)
    (tensor([0, 2, 2]), tensor([2, 0, 1]))
    """
    counts = torch.zeros(n_rays, dtype=torch.int64, device=ray_indices.device)
    counts = counts.index_add(0, ray_indices, torch.ones_like(ray_indices))
    return counts.cumsum(0) - counts, counts


def ray_offsets(ray_indices: Int64[Tensor, "m"], n_rays: int) -> Int64[Tensor, "n1"]:
    """Where the values of each ray begin, and the end: ray r owns offsets[r]:offsets[r + 1].

    >>> ray_offsets(torch.tensor([0, 0, 2]), 3)
    tensor([0, 2, 2, 3])
    """
    counts = torch.zeros(n_rays + 1, dtype=torch.int64, device=ray_indices.device)
    return counts.index_add(0, ray_indices + 1, torch.ones_like(ray_indices)).cumsum(0)


def select_packed(
    kept: Bool[Tensor, "m"], offsets: Int64[Tensor, "n1"]
) -> tuple[Int64[Tensor, "k"], Int64[Tensor, "n1"]]:
    """Positions of the packed values that are kept, and the offsets of what is left.

    >>> select_packed(torch.tensor([True, False, True]), torch.tensor([0, 2, 2, 3]))
    (tensor([0, 2]), tensor([0, 1, 1, 2]))
    """
    return resolve("packed-select", device=kept.device.type, dtype="bool").function(kept, offsets)


def select_packed_torch(
    kept: Bool[Tensor, "m"], offsets: Int64[Tensor, "n1"]
) -> tuple[Int64[Tensor, "k"], Int64[Tensor, "n1"]]:
    """Reference of the operation ``packed-select``."""
    before = torch.cat([offsets[:1], kept.cumsum(0)])
    return kept.nonzero()[:, 0], before[offsets]


def last_of_ray(ray_indices: Int64[Tensor, "m"]) -> Bool[Tensor, "m"]:
    """Whether a packed value is the last of its ray."""
    end = torch.ones_like(ray_indices[:1], dtype=torch.bool)
    return torch.cat([ray_indices[1:] != ray_indices[:-1], end])


def _shifted(values: Tensor, first: float) -> Tensor:
    """Values moved one place back along the last dimension, led by `first`."""
    return torch.cat([torch.full_like(values[..., :1], first), values[..., :-1]], -1)


def inclusive_sum(
    values: Float[Tensor, "*shape"], ray_indices: Int64[Tensor, "m"] | None = None
) -> Float[Tensor, "*shape"]:
    """Sum of the values up to and including each one.

    Args:
        values: (..., S), or packed (M,).
        ray_indices: Ray of each packed value.
    """
    if ray_indices is None:
        return values.cumsum(-1)
    return (_packed_sum(values, ray_indices) + values.double()).to(values.dtype)


def exclusive_sum(
    values: Float[Tensor, "*shape"], ray_indices: Int64[Tensor, "m"] | None = None
) -> Float[Tensor, "*shape"]:
    """Sum of the values before each one; arguments as `inclusive_sum`."""
    if ray_indices is None:
        return _shifted(values.cumsum(-1), 0.0)
    return _packed_sum(values, ray_indices).to(values.dtype)


def _packed_sum(values: Tensor, ray_indices: Tensor) -> Tensor:
    before = _shifted(values.double().cumsum(0), 0.0)
    return before - before[_ray_starts(ray_indices)]


def _ray_starts(ray_indices: Tensor) -> Tensor:
    """Position of the first value of the same ray, for every packed value."""
    here = torch.arange(len(ray_indices), device=ray_indices.device)
    first = torch.ones_like(ray_indices, dtype=torch.bool)
    first[1:] = ray_indices[1:] != ray_indices[:-1]
    return torch.where(first, here, 0).cummax(0).values


def exclusive_prod(
    values: Float[Tensor, "*shape"], ray_indices: Int64[Tensor, "m"] | None = None
) -> Float[Tensor, "*shape"]:
    """Product of the values before each one; arguments as `inclusive_sum`.

    Gradients are right where values are zero, too. The packed form can be differentiated once.
    """
    if ray_indices is None:
        return _shifted(values.cumprod(-1), 1.0)
    return _PackedProduct.apply(values, ray_indices)


def inclusive_prod(
    values: Float[Tensor, "*shape"], ray_indices: Int64[Tensor, "m"] | None = None
) -> Float[Tensor, "*shape"]:
    """Product of the values up to and including each one; arguments as `inclusive_sum`."""
    if ray_indices is None:
        return values.cumprod(-1)
    return exclusive_prod(values, ray_indices) * values


class _PackedProduct(torch.autograd.Function):
    """Exclusive product through sums of logarithms, zeros and signs counted apart.

    With P the product of the non-zero values before and z the number of zeros before, the
    result is P where z = 0. A value x moves every later result by result / x; the first zero
    of a ray moves those with z = 1 by P.
    """

    @staticmethod
    def forward(ctx, values: Tensor, ray_indices: Tensor) -> Tensor:
        zero = values == 0
        size = torch.where(zero, 1.0, values.double().abs())
        logs = _packed_sum(size.log(), ray_indices)
        flips = _packed_sum((values < 0).double(), ray_indices)
        product = logs.exp() * (1 - 2 * (flips.round() % 2))
        zeros = _packed_sum(zero.double(), ray_indices).round()
        ctx.save_for_backward(values, ray_indices, product, zeros)
        return torch.where(zeros == 0, product, 0.0).to(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        values, ray_indices, product, zeros = ctx.saved_tensors
        moved = grad.double() * product
        direct = _packed_sum_after(torch.where(zeros == 0, moved, 0.0), ray_indices)
        through = _packed_sum_after(torch.where(zeros == 1, moved, 0.0), ray_indices)
        is_zero = values == 0
        plain = direct / torch.where(is_zero, 1.0, values.double())
        out = torch.where(is_zero, torch.where(zeros == 0, through, 0.0), plain)
        return out.to(values.dtype), None


def _packed_sum_after(values: Tensor, ray_indices: Tensor) -> Tensor:
    """Sum of the values after each one, within its ray."""
    last = len(ray_indices) - 1
    backwards = (ray_indices.max() if last >= 0 else 0) - ray_indices.flip(0)
    return _packed_sum(values.flip(0), backwards).flip(0)
