"""The grid lookup by compiled CPU kernels: same signature and table as the torch reference.

Sums have one order whatever the number of threads, so results are reproducible bit for bit on a
machine: the table's gradient is split into rows that one thread each owns, the rest by points.

The lookup is linear in the table, so the derivatives close: with E the lookup, G(x, table, g) its
gradient in x and S(x, g) its gradient in the table, the gradients of S in g and x are E and G with
the cotangent as table. Those of G are E, S and G along the cotangent, a direction in x; only their
derivatives (third ones of the lookup) are left to the torch reference.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.grid import PRIMES, GridLayout, hash_encode_torch
from polyfield.parallel import ranges, run_tasks

CHUNK = 16  # blocks of points per task at most: what they write stays in the cache
MIN_CHUNK = 2  # fewer blocks are not worth a task of their own
_INT32 = (-(2**31), 2**31 - 1)


@cache
def _arguments(layout: GridLayout) -> tuple[tuple, tuple]:
    """The layout as the kernels take it: geometry arrays, and the shapes as tuple lengths."""
    from polyfield.encodings.kernels import hash_grid as kernels

    dense = kernels.WRAP if layout.wrap else kernels.CLAMP
    modes = [kernels.HASH if hashed else dense for hashed in layout.hashed]
    factors = [
        PRIMES if mode == kernels.HASH else [n**d % 2**32 for d in range(len(PRIMES))]
        for mode, n in zip(modes, layout.resolutions, strict=True)
    ]
    limits = [
        (0, n - 1) if mode == kernels.CLAMP else _INT32
        for mode, n in zip(modes, layout.resolutions, strict=True)
    ]
    geometry = (
        np.array(layout.scales, dtype=np.float32),
        np.float32(layout.shift),
        layout.smooth,
        np.array(factors, dtype=np.uint32),
        np.array(limits, dtype=np.int32),
        np.array((*layout.offsets, layout.entries), dtype=np.int64),
        np.array(modes, dtype=np.int64),
    )
    return geometry, ((0,) * 2**layout.in_dim, (0,) * layout.features, (0,) * layout.in_dim)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _flat(tensor: Tensor) -> np.ndarray:
    return _array(tensor).reshape(-1)


def _to_blocks(x: Tensor, along: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Points and directions as rows of coordinates, block by block, the last one padded."""
    from polyfield.encodings.kernels import hash_grid as kernels

    rows = np.zeros((2, _blocks(len(x)) * kernels.BLOCK * x.shape[1]), np.float32)
    kernels.to_blocks(_array(x), rows[0])
    if along is None:
        return rows[0], rows[1, :0]
    kernels.to_blocks(_array(along), rows[1])
    return rows[0], rows[1]


def _blocks(n: int) -> int:
    from polyfield.encodings.kernels.hash_grid import BLOCK

    return -(-n // BLOCK)


def _chunks(n: int) -> list[tuple[int, int]]:
    pieces = ranges(_blocks(n), MIN_CHUNK, per_thread=1, largest=CHUNK)
    return [(piece.start, piece.stop) for piece in pieces]


def _lookup(x: Tensor, along: Tensor | None, table: Tensor, layout: GridLayout) -> Tensor:
    """Features (N, L * F), or their derivatives along directions in x."""
    from polyfield.encodings.kernels import hash_grid as kernels

    geometry, like = _arguments(layout)
    n = len(x)
    out = torch.empty(n, layout.out_dim)
    shared = (n, _to_blocks(x, along), _flat(table), geometry, like, _flat(out))
    run_tasks(kernels.forward, [(chunk, *shared) for chunk in _chunks(n)])
    return out


def _scatter(x: Tensor, along: Tensor | None, grad: Tensor, layout: GridLayout) -> Tensor:
    """Gradient of `_lookup` in the table."""
    from polyfield.encodings.kernels import hash_grid as kernels

    geometry, like = _arguments(layout)
    features = layout.features
    # numpy asks for huge pages: a fresh table is written several times faster
    out = np.empty(layout.entries * features, np.float32)
    shared = (len(x), _to_blocks(x, along), _flat(grad), geometry, like)
    parts = -(-torch.get_num_threads() // layout.levels)
    tasks = []
    for level in reversed(range(layout.levels)):  # the slowest first, for an even finish
        size, offset = layout.sizes[level], layout.offsets[level]
        edges = [size * i // parts for i in range(parts + 1)]
        for rows in zip(edges[:-1], edges[1:], strict=True):
            target = out[(offset + rows[0]) * features : (offset + rows[1]) * features]
            tasks.append((level, rows, *shared, target))
    run_tasks(kernels.backward_table, tasks)
    return torch.from_numpy(out).view(layout.entries, features)


def _slope(
    x: Tensor, along: Tensor | None, table: Tensor, grad: Tensor, layout: GridLayout
) -> Tensor:
    """Gradient of `_lookup` in x."""
    from polyfield.encodings.kernels import hash_grid as kernels

    geometry, like = _arguments(layout)
    n = len(x)
    out = torch.empty(x.shape)
    values = _flat(table), _flat(grad)
    shared = (n, _to_blocks(x, along), *values, geometry, like, out.numpy())
    run_tasks(kernels.backward_x, [(chunk, *shared) for chunk in _chunks(n)])
    return out


class _Encode(torch.autograd.Function):
    """The lookup."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.layout = layout
        return _lookup(x, None, table, layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, table = ctx.saved_tensors
        need_x, need_table, _ = ctx.needs_input_grad
        return (
            _GradientInX.apply(x, table, grad, ctx.layout) if need_x else None,
            _GradientInTable.apply(x, grad, ctx.layout) if need_table else None,
            None,
        )


class _GradientInTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, layout: GridLayout) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.layout = layout
        return _scatter(x, None, grad, layout)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, grad = ctx.saved_tensors
        need_x, need_grad, _ = ctx.needs_input_grad
        return (
            _GradientInX.apply(x, cotangent, grad, ctx.layout) if need_x else None,
            _Encode.apply(x, cotangent, ctx.layout) if need_grad else None,
            None,
        )


class _GradientInX(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, grad: Tensor, layout: GridLayout) -> Tensor:
        ctx.save_for_backward(x, table, grad)
        ctx.layout = layout
        return _slope(x, None, table, grad, layout)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        x, table, grad = ctx.saved_tensors
        need_x, need_table, need_grad, _ = ctx.needs_input_grad
        layout = ctx.layout
        if torch.is_grad_enabled():
            return *_third_order(x, table, grad, along, ctx), None
        return (
            _slope(x, along, table, grad, layout) if need_x else None,
            _scatter(x, along, grad, layout) if need_table else None,
            _lookup(x, along, table, layout) if need_grad else None,
            None,
        )


def _third_order(
    x: Tensor, table: Tensor, grad: Tensor, along: Tensor, ctx: Any
) -> list[Tensor | None]:
    """The gradients of the gradient in x by the torch reference, as a graph."""
    # aliases: what x, table and grad may have in common is not to be differentiated here
    needs = ctx.needs_input_grad[:3]
    with torch.enable_grad():
        inputs = [t.view_as(t) for t in (x, table, grad)]
        out = hash_encode_torch(inputs[0], inputs[1], ctx.layout)
        (first,) = torch.autograd.grad(out, inputs[0], inputs[2], create_graph=True)
        first = first + 0 * inputs[0]  # linear weights in one dimension leave no graph
        wanted = [t for t, need in zip(inputs, needs, strict=True) if need]
        found = iter(
            torch.autograd.grad(first, wanted, along, create_graph=True, materialize_grads=True)
        )
    return [next(found) if need else None for need in needs]


def hash_encode_numba(
    x: Float[Tensor, "n in_dim"], table: Float[Tensor, "entries F"], layout: GridLayout
) -> Float[Tensor, "n out_dim"]:
    """Interpolated features of all levels, level-major, for float32 tensors on the CPU.

    Differentiable any number of times in x and table; third derivatives in x run on the torch
    reference.
    """
    return _Encode.apply(x, table, layout)
