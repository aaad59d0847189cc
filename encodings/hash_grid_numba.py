"""The grid lookup by compiled CPU kernels: same signature and table as the torch reference.

Sums have one order whatever the number of threads, so results are reproducible bit for bit on a
machine: the table's gradient is split into rows that one thread each owns, the rest by points.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.grid import GridLayout, hash_encode_torch
from polyfield.parallel import ranges, run_tasks

CHUNK = 65536  # points per task at most: long runs keep one level's table in the cache
MIN_CHUNK = 512  # fewer points are not worth a task of their own


@cache
def _arguments(layout: GridLayout) -> tuple[tuple, tuple]:
    """The layout as the kernels take it: geometry arrays, and the shapes as tuple lengths."""
    from polyfield.encodings.kernels import hash_grid as kernels

    dense = kernels.WRAP if layout.wrap else kernels.CLAMP
    geometry = (
        np.array(layout.scales, dtype=np.float32),
        np.float32(layout.shift),
        layout.smooth,
        np.array(layout.resolutions, dtype=np.int64),
        np.array((*layout.offsets, layout.entries), dtype=np.int64),
        np.array([kernels.HASH if h else dense for h in layout.hashed], dtype=np.int64),
    )
    return geometry, ((0,) * 2**layout.in_dim, (0,) * layout.features)


def _chunks(n: int) -> list[slice]:
    pieces = ranges(n, MIN_CHUNK, per_thread=1, largest=CHUNK)
    return [slice(p.start, p.stop) for p in pieces]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _forward(x: np.ndarray, table: np.ndarray, layout: GridLayout) -> Tensor:
    from polyfield.encodings.kernels import hash_grid as kernels

    geometry, like = _arguments(layout)
    features = torch.empty(len(x), layout.out_dim)
    out = features.numpy()
    tasks = [(x[c], table, geometry, like, out[c]) for c in _chunks(len(x))]
    run_tasks(kernels.forward, tasks)
    return features


def _table_gradient(x: np.ndarray, grad: np.ndarray, layout: GridLayout) -> Tensor:
    from polyfield.encodings.kernels import hash_grid as kernels

    geometry, like = _arguments(layout)
    gradient = torch.empty(layout.entries, layout.features)
    out = gradient.numpy()
    parts = -(-torch.get_num_threads() // layout.levels)
    tasks = []
    for level in reversed(range(layout.levels)):  # the slowest first, for an even finish
        size, offset = layout.sizes[level], layout.offsets[level]
        edges = [size * i // parts for i in range(parts + 1)]
        for rows in zip(edges[:-1], edges[1:], strict=True):
            target = out[offset + rows[0] : offset + rows[1]]
            tasks.append((x, grad, geometry, like, level, rows, target))
    run_tasks(kernels.backward_table, tasks)
    return gradient


def _x_gradient(x: np.ndarray, table: np.ndarray, grad: np.ndarray, layout: GridLayout) -> Tensor:
    from polyfield.encodings.kernels import hash_grid as kernels

    geometry, like = _arguments(layout)
    gradient = torch.empty(x.shape)
    out = gradient.numpy()
    tasks = [(x[c], table, grad[c], geometry, like, out[c]) for c in _chunks(len(x))]
    run_tasks(kernels.backward_x, tasks)
    return gradient


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.layout = layout
        return _forward(_array(x), _array(table), layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, table = ctx.saved_tensors
        need_x, need_table, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: the gradient itself will be differentiated
            return *_differentiable(x, table, grad, ctx), None
        points, values = _array(x), _array(grad)
        return (
            _x_gradient(points, _array(table), values, ctx.layout) if need_x else None,
            _table_gradient(points, values, ctx.layout) if need_table else None,
            None,
        )


def _differentiable(
    x: Tensor, table: Tensor, grad: Tensor, ctx: Any
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients by the torch reference, as a graph."""
    wanted = [t for t, need in zip((x, table), ctx.needs_input_grad, strict=False) if need]
    out = hash_encode_torch(x, table, ctx.layout)
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    need_x, need_table, _ = ctx.needs_input_grad
    return (next(found) if need_x else None, next(found) if need_table else None)


def hash_encode_numba(
    x: Float[Tensor, "n in_dim"], table: Float[Tensor, "entries F"], layout: GridLayout
) -> Float[Tensor, "n out_dim"]:
    """Interpolated features of all levels, level-major, for float32 tensors on the CPU.

    Differentiable in x and table; when the gradient is differentiated again
    (``create_graph=True``) the torch reference computes it.
    """
    return _HashEncode.apply(x, table, layout)
