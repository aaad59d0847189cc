"""Sums of B-spline curves by compiled CPU kernels: same signature as the torch reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from polyfield.fields.splines import pieces, spline_sum_torch
from polyfield.parallel import arrays, ranges, run_tasks

PART = 8192  # rows whose gradients are summed before they are added to the others'
_NOTHING = np.zeros((0, 0), np.float32)


def _padded(rows: Tensor, multiple: int, around: int = 0) -> np.ndarray:
    """Zeros behind the last axis up to a multiple; `around` more on both sides of the one before.

    Nothing is copied where nothing is missing.
    """
    more = -rows.shape[-1] % multiple
    return arrays(pad(rows.detach(), (0, more, around, around)) if more or around else rows)[0]


def _geometry(knots: Tensor, order: int) -> tuple[np.ndarray, ...]:
    first, length = knots[:, :1], knots[:, -1:] - knots[:, :1]
    guess = torch.cat((first, (knots.shape[1] - 1) / length), 1)
    return tuple(arrays(knots, guess, pieces(knots, order)))


class _SplineSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, knots: Tensor, coefficients: Tensor) -> Tensor:
        from polyfield.fields.kernels import splines as kernels

        ctx.save_for_backward(x, knots, coefficients)
        order = knots.shape[1] - coefficients.shape[1] - 1
        geometry, table = _geometry(knots, order), _padded(coefficients, kernels.PAD, order)
        out = torch.empty(len(x), table.shape[2])
        shared = (arrays(x)[0], geometry, table, out.numpy())
        cuts = ranges(len(x), kernels.BLOCK)
        run_tasks(kernels.forward, [(cut.start, cut.stop, *shared) for cut in cuts])
        return out if out.shape[1] == coefficients.shape[2] else out[:, : coefficients.shape[2]]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, knots, coefficients = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.needs_input_grad[1]:
            return _differentiable(ctx, grad, x, knots, coefficients)
        return _backward(x, knots, coefficients, grad, ctx.needs_input_grad)


def _backward(
    x: Tensor, knots: Tensor, coefficients: Tensor, grad: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of x and the coefficients; parts of rows are the same for any number of threads."""
    from polyfield.fields.kernels import splines as kernels

    _, count, width = coefficients.shape
    order = knots.shape[1] - count - 1
    geometry, table = _geometry(knots, order), _padded(coefficients, kernels.PAD, order)
    grad_x = torch.empty(x.shape) if needs[0] else None
    cuts = [(low, min(low + PART, len(x))) for low in range(0, len(x), PART)]
    parts = np.zeros((len(cuts), *table.shape), np.float32)
    out = _NOTHING if grad_x is None else grad_x.numpy()
    shared = (arrays(x)[0], geometry, table, _padded(grad, kernels.PAD), out)
    tasks = [(*cut, *shared, part) for cut, part in zip(cuts, parts, strict=True)]
    run_tasks(kernels.backward, tasks)
    total = torch.from_numpy(parts.sum(0)[:, order : order + count, :width].copy())
    return grad_x, None, total if needs[2] else None


def _differentiable(ctx: Any, grad: Tensor, *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by the torch reference, as a graph where one is wanted; at aliases, since a
    tensor that is also used elsewhere has gradients from there, too."""
    graph, needs = torch.is_grad_enabled(), ctx.needs_input_grad
    with torch.enable_grad():
        alias = [t.view_as(t) if need else t for t, need in zip(inputs, needs, strict=True)]
        wanted = [t for t, need in zip(alias, needs, strict=True) if need]
        found = iter(
            torch.autograd.grad(spline_sum_torch(*alias), wanted, grad, create_graph=graph)
        )
    return tuple(next(found) if need else None for need in needs)


def spline_sum_numba(
    x: Float[Tensor, "n F"], knots: Float[Tensor, "F K"], coefficients: Float[Tensor, "F M out"]
) -> Float[Tensor, "n out"]:
    """The sum for float32 tensors on the CPU; see `spline_sum`.

    Differentiable in x and the coefficients by kernels; in the knots, and when the gradient is
    differentiated again, by the torch reference.
    """
    return _SplineSum.apply(x, knots, coefficients)
