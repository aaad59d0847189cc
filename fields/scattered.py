"""Scattered kernels: where to put them, how far they reach, and which of them are nearest.

What NeuRBF needs (Z. Chen et al., ICCV 2023, arXiv 2309.15426, section 3.2), exactly, and
without a tree of its own. N: points; M: centres; D: coordinates.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LEAF = 256  # points that share a list of candidate centres
NARROWEST = 1e-3
Kernel = Literal["inverse-quadratic", "tent"]


def spread_points(
    count: int, dims: int, generator: torch.Generator | None = None
) -> Float[Tensor, "count dims"]:
    """Points that cover [-1, 1]^dims evenly for any count: a Kronecker lattice, shifted.

    Its steps are powers of 1 / g with ``g^(dims + 1) = g + 1``, the golden ratio for one dimension.
    """
    g = 2.0
    for _ in range(50):
        g = (1 + g) ** (1 / (dims + 1))
    steps = torch.tensor([g ** -(d + 1) for d in range(dims)], dtype=torch.float64)
    shift = torch.rand(dims, generator=generator, dtype=torch.float64)
    lattice = (shift + torch.arange(count, dtype=torch.float64)[:, None] * steps) % 1
    return (2 * lattice - 1).float()


def cell_centres(per_axis: int, dims: int) -> Float[Tensor, "cells dims"]:
    """Centres of the cells of a regular grid over [-1, 1]^dims, the last coordinate fastest."""
    axis = (torch.arange(per_axis) + 0.5) * (2 / per_axis) - 1
    return torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)


def cell_numbers(x: Float[Tensor, "N D"], per_axis: int) -> Int64[Tensor, "N"]:
    """The cell of `cell_centres` that each point is in; outside the box the nearest one."""
    index = ((x.detach() + 1) * (0.5 * per_axis)).floor().long().clamp(0, per_axis - 1)
    number = index[:, 0]
    for axis in range(1, x.shape[1]):
        number = number * per_axis + index[:, axis]
    return number


def _leaves(points: Tensor) -> Int64[Tensor, "leaves m"]:
    """Groups of equally many neighbouring points: halves of halves, along the widest axis.

    Some points are in two groups where their number asks for it.
    """
    depth = max(0, len(points) - 1).bit_length() - LEAF.bit_length() + 1
    depth = max(0, depth)
    size = -(-len(points) // 2**depth)
    order = torch.arange(size * 2**depth, device=points.device).clamp(max=len(points) - 1)[None]
    for _ in range(depth):
        group = points[order]
        axis = (group.amax(1) - group.amin(1)).argmax(-1)
        along = group.gather(2, axis[:, None, None].expand(*group.shape[:2], 1))[..., 0]
        order = order.gather(1, along.argsort(1)).reshape(2 * len(order), -1)
    return order


def nearest(
    points: Float[Tensor, "N D"], centres: Float[Tensor, "M D"], count: int
) -> Int64[Tensor, "N count"]:
    """The `count` centres nearest to each point, the nearest first; count <= M."""
    found = torch.empty(len(points), count, dtype=torch.long, device=points.device)
    if not len(points):
        return found
    for leaf in _leaves(points):
        group = points[leaf]
        low, high = group.amin(0), group.amax(0)
        far = torch.maximum((centres - low).abs(), (centres - high).abs()).square().sum(-1)
        reach = far.topk(count, largest=False).values[-1]  # so near are `count` of them anyhow
        gap = ((low - centres).clamp(min=0) + (centres - high).clamp(min=0)).square().sum(-1)
        candidates = (gap <= reach).nonzero()[:, 0]
        offsets = group[:, None] - centres[candidates]
        order = offsets.square().sum(-1).topk(count, dim=1, largest=False).indices
        found[leaf] = candidates[order]
    return found


def weighted_means(
    values: Float[Tensor, "N F"],
    weights: Float[Tensor, "N"],
    labels: Int64[Tensor, "N"],
    otherwise: Float[Tensor, "M F"],
) -> Float[Tensor, "M F"]:
    """Means of the values of each label; `otherwise` where a label has no weight."""
    mass = weights.new_zeros(len(otherwise)).index_add(0, labels, weights)[:, None]
    sums = torch.zeros_like(otherwise).index_add(0, labels, values * weights[:, None])
    return torch.where(mass > 0, sums / mass.clamp(min=1e-30), otherwise)


def weighted_kmeans(
    points: Float[Tensor, "N D"],
    weights: Float[Tensor, "N"],
    centres: Float[Tensor, "M D"],
    iterations: int = 10,
) -> Float[Tensor, "M D"]:
    """Lloyd's iterations; centres of empty clusters stay where they are."""
    for _ in range(iterations):
        labels = nearest(points, centres, 1)[:, 0]
        centres = weighted_means(points, weights, labels, centres)
    return centres


def second_moments(
    points: Float[Tensor, "N D"], weights: Float[Tensor, "N"], centres: Float[Tensor, "M D"]
) -> Float[Tensor, "M D D"]:
    """Weighted mean of d d^T over the points nearest to each centre, d: offset from the centre.

    Clusters without weight have the variance 1e-10.
    """
    dims = points.shape[1]
    labels = nearest(points, centres, 1)[:, 0]
    offset = points - centres[labels]
    outer = (offset[:, :, None] * offset[:, None]).flatten(1)
    least = 1e-10 * torch.eye(dims, dtype=points.dtype, device=points.device)
    least = least.flatten().expand(len(centres), -1)
    return weighted_means(outer, weights, labels, least).unflatten(1, (dims, dims))


def limited(
    covariance: Float[Tensor, "M D D"], narrowest: float = NARROWEST, widest: float = 0.2
) -> Float[Tensor, "M D D"]:
    """Covariances with widths per axis within limits, and correlations 0.999 of what they were.

    The result is positive definite in any number of dimensions; clipping each correlation to
    0.999, as NeuRBF's code does, ensures that for two only.
    """
    widths = covariance.diagonal(dim1=1, dim2=2).clamp(min=1e-20).sqrt()
    correlation = 0.999 * covariance / (widths[:, :, None] * widths[:, None])
    unit = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
    correlation = correlation * (1 - unit) + unit
    widths = widths.clamp(narrowest, widest)
    return correlation * widths[:, :, None] * widths[:, None]


def packed(matrices: Float[Tensor, "M D D"]) -> Float[Tensor, "M P"]:
    """Coefficients of the quadratic form of symmetric matrices, P = D (D + 1) / 2."""
    pairs = list(combinations_with_replacement(range(matrices.shape[-1]), 2))
    parts = [matrices[:, i, j] * (1 if i == j else 2) for i, j in pairs]
    return torch.stack(parts, -1)


def quadratic_form(
    offset: Float[Tensor, "*batch D"], coefficients: Float[Tensor, "*batch P"]
) -> Float[Tensor, "*batch"]:
    """d^T S d of matrices that are `packed`."""
    dims = offset.shape[-1]
    first, second = zip(*combinations_with_replacement(range(dims), 2), strict=True)
    return (offset[..., list(first)] * offset[..., list(second)] * coefficients).sum(-1)


def kernel_values(
    offset: Float[Tensor, "*batch D"], shape: Float[Tensor, "*batch P"], kernel: Kernel
) -> Float[Tensor, "*batch"]:
    """phi in [0, 1] at offsets from the centres; shape: `packed` matrices, or inverse widths."""
    if kernel == "tent":
        return (1 - offset.abs() * shape).clamp(0, 1).prod(-1)
    return 1 / (1 + quadratic_form(offset, shape))


def half_widths(
    shape: Float[Tensor, "M P"], kernel: Kernel, dims: int
) -> Float[Tensor, "M {dims}"]:
    """How far from its centre, along each axis, a kernel reaches half its height.

    Of inverse quadratics: the sides of the box around the ellipsoid at half height.
    """
    if kernel == "tent":
        return (0.5 / shape).expand(-1, dims)
    matrices = shape.new_zeros(len(shape), dims, dims)
    for (i, j), part in zip(
        combinations_with_replacement(range(dims), 2), shape.unbind(1), strict=True
    ):
        matrices[:, i, j] = matrices[:, j, i] = part if i == j else part / 2
    return torch.linalg.inv(matrices).diagonal(dim1=1, dim2=2).sqrt()


def kernel_shapes(
    covariance: Float[Tensor, "M D D"], kernel: Kernel, narrowing: float
) -> Float[Tensor, "M P"]:
    """Shapes of kernels from the second moments of their clusters.

    A tent has half its height at the width, hence four times the variance (of all axes together).
    """
    if kernel == "tent":
        variance = covariance.diagonal(dim1=1, dim2=2).sum(-1) * (4 / narrowing)
        return limited(variance[:, None, None]).rsqrt()[:, :, 0]
    return packed(torch.linalg.inv(limited(covariance / narrowing)))
