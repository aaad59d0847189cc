"""Tensors in CP, train and Tucker form, from their factors: at scattered points and on grids.

d: axes; R: rank; c: features, each a tensor of its own with its own R columns of every factor;
u_i[k, r]: factor of axis i. With i_0 = i_d = 1 the three forms are

    CP      T_k = sum_r  u_1[k, r] u_2[k, r] ... u_d[k, r]
    train   T_k = sum    u_1[k, r_1] u_2[k, r_1, r_2] ... u_d[k, r_(d-1)]
    Tucker  T_k = sum    C_k[r_1, ..., r_d] u_1[k, r_1] ... u_d[k, r_d]

(Kolda and Bader, SIAM Review 2009; Oseledets, SIAM J. Sci. Comput. 2011.) At points, factors are
given row by row; on grids of n_1 x ... x n_d points once per coordinate of each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import mul

import torch
from jaxtyping import Float
from torch import Tensor


def cp_points(factors: Sequence[Float[Tensor, "n c R"]]) -> Float[Tensor, "n c"]:
    """The CP tensor at n points.

    Args:
        factors: Of every axis, at the points' coordinates.
    """
    return reduce(mul, factors).sum(-1)


def cp_grid(factors: Sequence[Float[Tensor, "_ c R"]]) -> Float[Tensor, "*n c"]:
    """The CP tensor on a grid: one product of two matrices per feature.

    Axes are put into two halves, whose columns are multiplied out before.

    Args:
        factors: Of every axis, (n_i, c, R).

    Returns:
        (n_1, ..., n_d, c).
    """
    counts = [len(f) for f in factors]
    if len(factors) == 1:
        return factors[0].sum(-1)
    split = _halves(counts)
    left, right = _columns(factors[:split]), _columns(factors[split:])
    return (left @ right.mT).reshape(len(left), *counts).movedim(0, -1)


def _halves(counts: list[int]) -> int:
    """Where to cut the axes for the two halves to have the fewest columns together."""

    def size(split: int) -> int:
        return reduce(mul, counts[:split]) + reduce(mul, counts[split:])

    return min(range(1, len(counts)), key=size)


def _columns(factors: Sequence[Tensor]) -> Float[Tensor, "c m R"]:
    """Products of columns over all combinations of coordinates, the last axis fastest."""
    parts = [f.movedim(1, 0) for f in factors]
    return reduce(lambda a, b: (a[:, :, None] * b[:, None]).flatten(1, 2), parts)


def train_points(factors: Sequence[Float[Tensor, "n c ..."]]) -> Float[Tensor, "n c"]:
    """The tensor train at n points.

    Args:
        factors: At the points' coordinates: (n, c, R) of the first and the last axis, and
            (n, c, R, R) of those between. With one axis: (n, c, R), summed.
    """
    first, *rest = factors
    if not rest:
        return first.sum(-1)
    row = first
    for core in rest[:-1]:
        row = (row[..., None, :] @ core).squeeze(-2)
    return (row * rest[-1]).sum(-1)


def train_grid(factors: Sequence[Float[Tensor, "_ c ..."]]) -> Float[Tensor, "*n c"]:
    """The tensor train on a grid, axis after axis.

    Args:
        factors: As in `train_points`, with (n_i, ...) of axis i.

    Returns:
        (n_1, ..., n_d, c).
    """
    counts = [len(f) for f in factors]
    first, *rest = factors
    if not rest:
        return first.sum(-1)
    rows = first.movedim(1, 0)
    for core in rest[:-1]:
        # every row times the matrices of all coordinates: one product per feature
        matrices = core.permute(1, 2, 0, 3)
        rows = (rows @ matrices.flatten(2)).unflatten(-1, matrices.shape[2:]).flatten(1, 2)
    out = rows @ rest[-1].permute(1, 2, 0)
    return out.reshape(len(out), *counts).movedim(0, -1)


def tucker_points(
    core: Float[Tensor, "c *R"], factors: Sequence[Float[Tensor, "n c _"]]
) -> Float[Tensor, "n c"]:
    """The Tucker tensor at n points; takes n c R^(d-1) values in between.

    Args:
        core: (c, R_1, ..., R_d).
        factors: Of every axis, at the points' coordinates.
    """
    *before, last = (f.movedim(1, 0) for f in factors)
    out = last @ core.flatten(1, -2).mT if before else last @ core[..., None]
    for factor in reversed(before):
        out = out.unflatten(-1, (-1, factor.shape[-1]))
        out = (out @ factor[..., None]).squeeze(-1)
    return out.squeeze(-1).mT


def tucker_grid(
    core: Float[Tensor, "c *R"], factors: Sequence[Float[Tensor, "_ c _"]]
) -> Float[Tensor, "*n c"]:
    """The Tucker tensor on a grid: the core, multiplied along one axis after the other.

    Args:
        core: (c, R_1, ..., R_d).
        factors: Of every axis, (n_i, c, R_i).

    Returns:
        (n_1, ..., n_d, c).
    """
    out = core
    for factor in factors:
        # from the front to the back: after all axes they are in order again
        rest = out.shape[2:]
        out = (out.flatten(2).mT if rest else out[:, None]) @ factor.permute(1, 2, 0)
        out = out.reshape(len(core), *rest, len(factor))
    return out.movedim(0, -1)


def diagonal_core(
    features: int, rank: int, axes: int, like: Tensor | None = None
) -> Float[Tensor, "c *R"]:
    """A Tucker core of ones on the super-diagonal: the Tucker tensor is then the CP tensor.

    Args:
        features: c.
        rank: R, along every axis.
        axes: d.
        like: Gives device and number type.
    """
    make = torch.zeros if like is None else like.new_zeros
    core = make(features, *[rank] * axes)
    diagonal = torch.arange(rank, device=core.device)
    core[(slice(None), *[diagonal] * axes)] = 1
    return core
