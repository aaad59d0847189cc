"""Products of a table of function values with coefficients, for layers of learnable activations.

The table (size * in_dim, n) of n points is large, cheap to compute and slow to move, so it is
made for a block of points at a time, and made again for the gradients. u: inputs (in_dim, n).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Values in a block's table: small enough for the cache, long enough for vector instructions.
BLOCK = 2**22
# Points that are looked at to see whether coordinates repeat, and how often they must do so.
SAMPLE = 1024
REPEATS = 4


class _Product(torch.autograd.Function):
    """The table's rows times a matrix, a block of points at a time."""

    @staticmethod
    def forward(
        ctx: Any, table: Callable[..., Tensor], u: Tensor, matrix: Tensor, *own: Tensor
    ) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(u, matrix, *own)
        out = u.new_empty(u.shape[1], matrix.shape[1])
        for points in _blocks(u, matrix):
            torch.mm(table(u[:, points], *own).T, matrix, out=out[points])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # somebody asks for second derivatives
            wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
            out = ctx.table(inputs[0], *inputs[2:]).T @ inputs[1]
            found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
            return None, *(next(found) if need else None for need in needed)
        sums = [
            torch.zeros_like(t) if need else None for t, need in zip(inputs, needed, strict=True)
        ]
        for points in _blocks(inputs[0], inputs[1]):
            _add_gradients(ctx.table, inputs, sums, points, grad[points])
        return None, *sums


def table_product(
    table: Callable[..., Tensor],
    u: Float[Tensor, "in_dim n"],
    matrix: Float[Tensor, "rows out_dim"],
    *own: Tensor,
) -> Float[Tensor, "n out_dim"]:
    """Transposed table times matrix, without ever holding the table of all points.

    It is computed once more for the gradients, a block at a time, which is faster than keeping
    it: moving it costs more than making it. Differentiable any number of times.

    Args:
        table: From a block of u, and `own`, to the values (rows, n) of its points.
        u: Squashed inputs.
        matrix: Coefficients.
        own: Further tensors that the table depends on.
    """
    # high degrees need all the digits, also where the rest of a network runs on fewer
    with torch.autocast(u.device.type, enabled=False):
        return _Product.apply(table, u.to(matrix.dtype), matrix, *own)


def _blocks(u: Tensor, matrix: Tensor) -> list[slice]:
    """Points of each block; whole ones of one size, for the sake of the vector units."""
    size = max(256, BLOCK // max(1, matrix.shape[0]))
    return [slice(i, i + size) for i in range(0, u.shape[1], size)]


def _add_gradients(
    table: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    sums: list[Tensor | None],
    points: slice,
    grad: Tensor,
) -> None:
    """Add a block's share to the gradients of u, matrix and the family's own parameters."""
    u, matrix, *own = inputs
    inner = [(u[:, points], sums[0] if sums[0] is None else sums[0][:, points])]
    inner += list(zip(own, sums[2:], strict=True))
    leaves = [t.detach().requires_grad_(s is not None) for t, s in inner]
    with torch.enable_grad():
        values = table(*leaves)
    if sums[1] is not None:
        sums[1].addmm_(values.detach(), grad)
    wanted = [(leaf, s) for leaf, (_, s) in zip(leaves, inner, strict=True) if s is not None]
    if wanted:
        found = torch.autograd.grad(values, [leaf for leaf, _ in wanted], matrix @ grad.T)
        for (_, total), share in zip(wanted, found, strict=True):
            total += share


Axis = tuple[Float[Tensor, "_"], Int64[Tensor, "n"]]


def repeated(u: Float[Tensor, "in_dim n"]) -> list[Axis] | None:
    """Per input, the values that occur and which of them every point has; None: too many.

    Points of pixel grids share their coordinates with a whole row. Asked on the CPU only, and
    not for inputs that want gradients.
    """
    n = u.shape[1]
    if n < SAMPLE or u.requires_grad or u.device.type != "cpu":
        return None
    axes: list[Axis] = []
    for row in u:
        if len(row[:SAMPLE].unique()) > 0.8 * SAMPLE:
            return None
        values, index = torch.unique(row, return_inverse=True)
        axes.append((values, index))
    return axes if REPEATS * sum(len(values) for values, _ in axes) <= n else None


def repeated_product(
    table: Callable[[Tensor], Tensor],
    axes: Sequence[Axis],
    coefficients: Float[Tensor, "size in_dim out_dim"],
) -> Float[Tensor, "n out_dim"]:
    """The sum over inputs of one-dimensional functions, each taken once per value that occurs.

    Args:
        table: From values (1, m) to those of the functions (size, 1, m), the same for all inputs.
        axes: See `repeated`.
        coefficients: Of the functions.
    """
    out = None
    for (values, index), own in zip(axes, coefficients.unbind(1), strict=True):
        curve = table(values.to(own.dtype)[None])[:, 0].T @ own
        share = curve.index_select(0, index)
        out = share if out is None else out + share
    return out
