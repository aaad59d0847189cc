"""Differentiable grid lookups by compiled CPU kernels.

Sums have one order whatever the number of threads, so results are reproducible bit for bit on a
machine: the table's gradient is split into rows and features that one thread each owns, the rest
by points.

The lookup is linear in the table, so the derivatives close: with E the lookup, G(x, table, g) its
gradient in x and S(x, g) its gradient in the table, the gradients of S in g and x are E and G with
the cotangent as table. Those of G are E, S and G along the cotangent, a direction in x; only their
derivatives (third ones of the lookup) are left to the torch reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfield.parallel import arrays, ranges, run_tasks

CHUNK = 16  # blocks of points per task at most: what they write stays in the cache
MIN_CHUNK = 2  # fewer blocks are not worth a task of their own
WIDTH = 16  # features taken at once at most: one register of the widest CPUs
_INT32 = (-(2**31), 2**31 - 1)


@dataclass(frozen=True, eq=False)
class Plan:
    """A table as the kernels see it.

    sizes: entries per level; features: per entry; geometry: arrays of node spacings, index factors
    and index limits per level and axis, offsets and modes per level; like: see the kernels;
    reference: the same lookup of (x, table) in torch.
    """

    sizes: tuple[int, ...]
    features: int
    geometry: tuple
    like: tuple
    reference: Callable[[Tensor, Tensor], Tensor]


def tuples(in_dim: int, features: int) -> tuple:
    """Compile-time constants of a lookup as lengths of tuples; see the kernels."""
    step = max(n for n in range(1, WIDTH + 1) if features % n == 0)
    return (0,) * 2**in_dim, (0,) * in_dim, (0,) * step, (0,) * (1 if step == features else 2)


def limits(resolution: list[int] | None) -> list[tuple[int, int]]:
    """Lowest and highest node of each of the four axes; without end where None."""
    if resolution is None:
        return [_INT32] * 4
    return [(0, n - 1) for n in resolution] + [_INT32] * (4 - len(resolution))


def _blocks(n: int) -> int:
    from polyfield.encodings.kernels.grid import BLOCK

    return -(-n // BLOCK)


def _chunks(n: int) -> list[tuple[int, int]]:
    pieces = ranges(_blocks(n), MIN_CHUNK, per_thread=1, largest=CHUNK)
    return [(piece.start, piece.stop) for piece in pieces]


def _to_blocks(x: Tensor, along: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Points and directions as rows of coordinates, block by block, the last one padded."""
    from polyfield.encodings.kernels import grid as kernels

    rows = np.zeros((2, _blocks(len(x)) * kernels.BLOCK * x.shape[1]), np.float32)
    kernels.to_blocks(*arrays(x), rows[0])
    if along is None:
        return rows[0], rows[1, :0]
    kernels.to_blocks(*arrays(along), rows[1])
    return rows[0], rows[1]


def _table(entries: int, features: int) -> np.ndarray:
    """Room for a table, from a cache line's first byte on.

    From numpy, which asks for huge pages: a fresh table is written several times faster.
    """
    buffer = np.empty(entries * features + 16, np.float32)
    skip = -(buffer.ctypes.data // 4) % 16
    return buffer[skip : skip + entries * features].reshape(entries, features)


def _lookup(x: Tensor, along: Tensor | None, table: Tensor, plan: Plan) -> Tensor:
    """Features (N, L * F), or their derivatives along directions in x."""
    from polyfield.encodings.kernels import grid as kernels

    out = torch.empty(len(x), len(plan.sizes) * plan.features)
    (entries,) = arrays(table.reshape(-1))
    shared = (_to_blocks(x, along), entries, plan.geometry, plan.like, out.numpy())
    run_tasks(kernels.forward, [(chunk, *shared) for chunk in _chunks(len(x))])
    return out


def _cut(n: int, parts: int) -> list[tuple[int, int]]:
    edges = [n * i // parts for i in range(parts + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _shares(plan: Plan) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    """(level, rows, columns) for every thread to have work; the slowest levels first."""
    levels, step = len(plan.sizes), len(plan.like[2])
    groups = plan.features // step
    wanted = -(-torch.get_num_threads() // levels)
    columns = [(a * step, b * step) for a, b in _cut(groups, min(groups, wanted))]
    parts = -(-wanted // len(columns))
    return [
        (level, rows, features)
        for level in reversed(range(levels))
        for rows in _cut(plan.sizes[level], parts)
        for features in columns
    ]


def _scatter(x: Tensor, along: Tensor | None, grad: Tensor, plan: Plan) -> Tensor:
    """Gradient of `_lookup` in the table."""
    from polyfield.encodings.kernels import grid as kernels

    out = _table(sum(plan.sizes), plan.features)
    levels = np.split(out, plan.geometry[5][1:-1])
    shared = (_to_blocks(x, along), *arrays(grad), plan.geometry, plan.like)
    run_tasks(
        kernels.backward_table, [(share, *shared, levels[share[0]]) for share in _shares(plan)]
    )
    return torch.from_numpy(out)


def _slope(x: Tensor, along: Tensor | None, table: Tensor, grad: Tensor, plan: Plan) -> Tensor:
    """Gradient of `_lookup` in x."""
    from polyfield.encodings.kernels import grid as kernels

    out = torch.empty(x.shape)
    values = arrays(table.reshape(-1), grad)
    shared = (_to_blocks(x, along), *values, plan.geometry, plan.like, out.numpy())
    run_tasks(kernels.backward_x, [(chunk, *shared) for chunk in _chunks(len(x))])
    return out


class Lookup(torch.autograd.Function):
    """Features (N, L * F) of points x (N, D) from a table (entries, F), as a `Plan` says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, plan: Plan) -> Tensor:
        """The lookup."""
        ctx.save_for_backward(x, table)
        ctx.plan = plan
        return _lookup(x, None, table, plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients in x and the table."""
        x, table = ctx.saved_tensors
        need_x, need_table, _ = ctx.needs_input_grad
        return (
            _GradientInX.apply(x, table, grad, ctx.plan) if need_x else None,
            _GradientInTable.apply(x, grad, ctx.plan) if need_table else None,
            None,
        )


class _GradientInTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.plan = plan
        return _scatter(x, None, grad, plan)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, grad = ctx.saved_tensors
        need_x, need_grad, _ = ctx.needs_input_grad
        return (
            _GradientInX.apply(x, cotangent, grad, ctx.plan) if need_x else None,
            Lookup.apply(x, cotangent, ctx.plan) if need_grad else None,
            None,
        )


class _GradientInX(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, grad: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, table, grad)
        ctx.plan = plan
        return _slope(x, None, table, grad, plan)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        x, table, grad = ctx.saved_tensors
        need_x, need_table, need_grad, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return *_third_order(x, table, grad, along, ctx), None
        return (
            _slope(x, along, table, grad, ctx.plan) if need_x else None,
            _scatter(x, along, grad, ctx.plan) if need_table else None,
            _lookup(x, along, table, ctx.plan) if need_grad else None,
            None,
        )


def _third_order(
    x: Tensor, table: Tensor, grad: Tensor, along: Tensor, ctx: Any
) -> list[Tensor | None]:
    """The gradients of the gradient in x by the torch reference, as a graph."""
    # aliases: what x, table and grad may have in common is not to be differentiated here
    needs = ctx.needs_input_grad[:3]
    inputs = [t.view_as(t) for t in (x, table, grad)]
    out = ctx.plan.reference(inputs[0], inputs[1])
    (first,) = torch.autograd.grad(out, inputs[0], inputs[2], create_graph=True)
    first = first + 0 * inputs[0]  # linear weights in one dimension leave no graph
    wanted = [t for t, need in zip(inputs, needs, strict=True) if need]
    options = {"create_graph": True, "materialize_grads": True}
    found = iter(torch.autograd.grad(first, wanted, along, **options))
    return [next(found) if need else None for need in needs]
