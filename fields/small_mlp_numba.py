"""Small networks by compiled CPU kernels: same signature and parameters as the torch reference.

Nothing is kept for the backward pass but the inputs: a block's layers are computed again while
it is in the cache, which costs less than writing and reading their values. The rows are cut in
the same places whatever the number of threads, and the parts' weight gradients added in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.fields.small_mlp import small_mlp_torch
from polyfield.parallel import arrays, ranges, run_tasks

PART = 2048  # rows whose weight gradients are summed before they are added to the others'
_NO_ROWS = np.zeros((0, 0), np.float32)
_NO_INDEX = np.zeros(0, np.int64)


def _padded(width: int, pad: int) -> int:
    return -(-width // pad) * pad


class _Network:
    """The layers' padded widths, and their parameters in the kernels' layout."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]):
        from polyfield.fields.kernels import small_mlp as kernels

        self.shapes = [tuple(w.shape) for w in weights]
        sizes = [weights[0].shape[1], *(w.shape[0] for w in weights)]
        self.widths = np.array([_padded(s, kernels.PAD) for s in sizes], np.int64)
        self.packed = np.zeros(sum(j * k + j for j, k in self._layers()), np.float32)
        for (matrix, column), w, b in zip(self.views(self.packed), weights, biases, strict=True):
            matrix[: w.shape[0], : w.shape[1]] = w.detach().numpy()
            if b is not None:
                column[: len(b)] = b.detach().numpy()

    def _layers(self) -> list[tuple[int, int]]:
        return [(int(j), int(k)) for k, j in zip(self.widths[:-1], self.widths[1:], strict=True)]

    def views(self, packed: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """The padded matrix and biases of every layer inside a packed array."""
        found, at = [], 0
        for j, k in self._layers():
            found.append((packed[at : at + j * k].reshape(j, k), packed[at + j * k :][:j]))
            at += j * k + j
        return found

    def transposed(self) -> np.ndarray:
        """The matrices as (in, out), one after the other."""
        return np.concatenate([matrix.T.ravel() for matrix, _ in self.views(self.packed)])


def _inputs(x: Tensor, extra: Tensor | None, index: Tensor | None) -> tuple[np.ndarray, ...]:
    if extra is None:
        return *arrays(x), _NO_ROWS, _NO_INDEX
    return tuple(arrays(x, extra, index))


class _SmallMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, extra: Tensor | None, index: Tensor | None, *parameters: Tensor | None
    ) -> Tensor:
        from polyfield.fields.kernels import small_mlp as kernels

        ctx.save_for_backward(x, extra, index, *parameters)
        half = len(parameters) // 2
        network = _Network(parameters[:half], parameters[half:])
        out = torch.empty(len(x), parameters[half - 1].shape[0])
        arrays = (*_inputs(x, extra, index), network.widths, network.packed, out.numpy())
        cuts = ranges(len(x), kernels.BLOCK, largest=16 * kernels.BLOCK)
        run_tasks(kernels.forward, [(cut.start, cut.stop, *arrays) for cut in cuts])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, extra, index, *parameters = ctx.saved_tensors
        half = len(parameters) // 2
        weights, biases = parameters[:half], parameters[half:]
        if torch.is_grad_enabled() or ctx.needs_input_grad[1]:
            return _differentiable(ctx, grad, x, extra, index, weights, biases)
        grad_x, grads = _backward(
            _inputs(x, extra, index), arrays(grad)[0], weights, biases, ctx.needs_input_grad[0]
        )
        needs = ctx.needs_input_grad[3:]
        wanted = (g if need else None for g, need in zip(grads, needs, strict=True))
        return grad_x, None, None, *wanted


def _backward(
    inputs: tuple[np.ndarray, ...],
    grad: np.ndarray,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    need_x: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of x, and of the weights and biases."""
    from polyfield.fields.kernels import small_mlp as kernels

    network = _Network(weights, biases)
    x = inputs[0]
    grad_x = torch.empty(x.shape) if need_x else None
    out = _NO_ROWS if grad_x is None else grad_x.numpy()
    cuts = [(low, min(low + PART, len(x))) for low in range(0, len(x), PART)]
    parts = np.zeros((len(cuts), len(network.packed)), np.float32)
    shared = (inputs, network.widths, network.packed, network.transposed(), grad, out)
    tasks = [(*cut, *shared, part) for cut, part in zip(cuts, parts, strict=True)]
    run_tasks(kernels.backward, tasks)
    layers = network.views(parts.sum(0))
    grads = [
        torch.from_numpy(matrix[:j, :k].copy())
        for (matrix, _), (j, k) in zip(layers, network.shapes, strict=True)
    ]
    columns = [
        None if b is None else torch.from_numpy(column[: len(b)].copy())
        for (_, column), b in zip(layers, biases, strict=True)
    ]
    return grad_x, [*grads, *columns]


def _differentiable(
    ctx: Any,
    grad: Tensor,
    x: Tensor,
    extra: Tensor | None,
    index: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradients by the torch reference, as a graph where one is wanted.

    They are taken at aliases: a tensor that is also used elsewhere has gradients from there, too,
    which are not this function's to give.
    """
    graph, needs = torch.is_grad_enabled(), ctx.needs_input_grad
    with torch.enable_grad():
        inputs = (x, extra, index, *weights, *biases)
        alias = [
            t.view_as(t) if need else t for t, need in zip(inputs, needs, strict=True)
        ]  # fmt: skip
        half = len(weights)
        out = small_mlp_torch(alias[0], alias[3 : 3 + half], alias[3 + half :], *alias[1:3])
        wanted = [t for t, need in zip(alias, needs, strict=True) if need]
        found = iter(torch.autograd.grad(out, wanted, grad, create_graph=graph))
    return tuple(next(found) if need else None for need in needs)


def small_mlp_numba(
    x: Float[Tensor, "n in_dim"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    extra: Float[Tensor, "m more"] | None = None,
    index: Int64[Tensor, "n"] | None = None,
) -> Float[Tensor, "n out_dim"]:
    """The network for float32 tensors on the CPU; see `small_mlp`.

    Differentiable in x, weights and biases by kernels; in `extra`, and when the gradient is
    differentiated again, by the torch reference.
    """
    return _SmallMLP.apply(x, extra, index, *weights, *biases)
