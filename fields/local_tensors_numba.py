"""Local tensors by compiled CPU kernels: same signature and parameters as the torch reference.

Which tensors cover a point is remembered for the backward pass, where the slots are sorted by
tensor: each tensor's gradient is then one thread's and one tensor at a time is in the cache. All
sums have one order whatever the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyfield.fields.local_tensors import MOST_AXES, Boxes, local_tensors_torch
from polyfield.parallel import arrays, ranges, run_tasks

WIDTH = 16  # ranks taken at once at most: one register of the widest CPUs
SMALLEST, LARGEST = 256, 2048  # points per task
PER_THREAD = 8  # ranges of tensors
_NOTHING = (np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32))


def _like(vectors: Tensor, boxes: Boxes) -> tuple[tuple, tuple]:
    """Compile-time constants of the kernels: axes, and a divisor of both kinds of ranks."""
    common = math.gcd(boxes.density_ranks, vectors.shape[3] - boxes.density_ranks)
    step = max(n for n in range(1, WIDTH + 1) if common % n == 0)
    return (0,) * vectors.shape[1], (0,) * step


def _shape(vectors: Tensor, boxes: Boxes) -> tuple[int, int, int, int, int]:
    """Nodes, ranks, density ranks, ranks that are used, and the slots of a point."""
    _, axes, nodes, ranks = vectors.shape
    used = boxes.density_ranks if boxes.density_only else ranks
    slots = min(boxes.neighbours, boxes.per_axis**axes)
    return nodes, ranks, boxes.density_ranks, used, slots


def _evaluate(
    x: Tensor, vectors: Tensor, index: Tensor, boxes: Boxes, kept: tuple[np.ndarray, ...]
) -> tuple[Tensor, Tensor]:
    """Features and cover, with the slots written to `kept` where it has room."""
    from polyfield.fields.kernels import local_tensors as kernels

    axes, shape = vectors.shape[1], _shape(vectors, boxes)
    out = torch.empty(len(x), 1 + shape[3] - shape[2])
    covered = torch.empty(len(x), dtype=torch.bool)
    absent = MOST_AXES - axes
    counts = (len(index),) * axes + (1,) * absent, (boxes.per_axis,) * axes + (0,) * absent
    search = (np.float32(boxes.pitch), np.float32(boxes.half)), counts, boxes.window
    inputs = tuple(arrays(x, vectors.reshape(-1), index.reshape(-1)))
    shared = (inputs, search, shape, _like(vectors, boxes))
    results = (out.view(-1).numpy(), covered.numpy())
    cuts = ranges(len(x), SMALLEST, largest=LARGEST)
    run_tasks(kernels.forward, [(cut.start, cut.stop, *shared, results, kept) for cut in cuts])
    return out, covered


def _cut(first: np.ndarray, parts: int) -> list[tuple[int, int]]:
    """Ranges of tensors with about as many slots each."""
    wanted = np.linspace(0, first[-1], parts + 1)[1:-1]
    edges = [0, *np.searchsorted(first[1:], wanted).tolist(), len(first) - 1]
    return [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]


def _backward(vectors: Tensor, grad: Tensor, boxes: Boxes, slots: tuple[np.ndarray, ...]) -> Tensor:
    """Gradient in the vectors."""
    from polyfield.fields.kernels import local_tensors as kernels

    tensors = slots[0]
    first, order = np.zeros(len(vectors) + 1, np.int64), np.empty(len(tensors), np.int32)
    kernels.sort_slots(tensors, first, order)
    # from numpy, which asks for huge pages: fresh memory is written several times faster
    out = np.empty(vectors.numel(), np.float32)
    inputs = tuple(arrays(vectors.reshape(-1), grad.reshape(-1)))
    shared = (inputs, slots, (first, order), _shape(vectors, boxes), _like(vectors, boxes), out)
    cuts = _cut(first, PER_THREAD * torch.get_num_threads())
    run_tasks(kernels.backward, [(*cut, *shared) for cut in cuts])
    return torch.from_numpy(out).view(vectors.shape)


class _LocalTensors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, vectors: Tensor, index: Tensor, boxes: Boxes
    ) -> tuple[Tensor, Tensor]:
        slots, axes = len(x) * _shape(vectors, boxes)[-1], vectors.shape[1]
        kept = (
            np.empty(slots, np.int32),
            *(np.empty(n, np.float32) for n in (slots, slots * axes)),
        )
        ctx.save_for_backward(x, vectors, index)
        ctx.boxes, ctx.slots = boxes, kept
        out, covered = _evaluate(x, vectors, index, boxes, kept)
        ctx.mark_non_differentiable(covered)
        return out, covered

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, vectors, index = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.needs_input_grad[0]:
            return *_differentiable(ctx, grad, x, vectors, index), None, None
        return None, _backward(vectors, grad, ctx.boxes, ctx.slots), None, None


def _differentiable(
    ctx: Any, grad: Tensor, x: Tensor, vectors: Tensor, index: Tensor
) -> list[Tensor | None]:
    """The gradients by the torch reference, as a graph where one is wanted.

    They are taken at aliases: a tensor that is also used elsewhere has gradients from there, too,
    which are not this function's to give.
    """
    graph, needs = torch.is_grad_enabled(), ctx.needs_input_grad[:2]
    with torch.enable_grad():
        alias = [
            t.view_as(t) if need else t for t, need in zip((x, vectors), needs, strict=True)
        ]  # fmt: skip
        out, _ = local_tensors_torch(*alias, index, ctx.boxes)
        wanted = [t for t, need in zip(alias, needs, strict=True) if need]
        found = iter(torch.autograd.grad(out, wanted, grad, create_graph=graph))
    return [next(found) if need else None for need in needs]


def local_tensors_numba(
    x: Float[Tensor, "N A"],
    vectors: Float[Tensor, "M A n R"],
    index: Int[Tensor, "*voxels"],
    boxes: Boxes,
) -> tuple[Float[Tensor, "N F"], Bool[Tensor, "N"]]:
    """What the tensors around points say, for float32 on the CPU and 1 to 4 axes.

    Differentiable in the vectors by kernels; in x, and when the gradient is differentiated again,
    by the torch reference. See `local_tensors`.
    """
    if torch.is_grad_enabled() and (x.requires_grad or vectors.requires_grad):
        return _LocalTensors.apply(x, vectors, index, boxes)
    return _evaluate(x, vectors, index, boxes, _NOTHING)
