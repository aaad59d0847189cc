"""Packed compositing by compiled CPU kernels: deterministic, first derivatives only.

Signatures as in `compositing_torch`. Rays are independent, so that results are the same bit for
bit whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from polyfield.renderers.compositing_torch import MAX_OPTICAL_DEPTH
from polyfield.renderers.kernels.launch import arrays, launch


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sigma: Tensor, delta: Tensor, offsets: Tensor, opaque: bool) -> Tensor:
        from polyfield.renderers.kernels import compositing as kernels

        weights, after = sigma.new_empty(sigma.shape), sigma.new_empty(sigma.shape)
        most = arrays(sigma)[0].dtype.type(MAX_OPTICAL_DEPTH)
        density, out = tuple(arrays(sigma, delta)), arrays(weights, after)
        launch(kernels.weights, len(offsets) - 1, *arrays(offsets), density, most, opaque, *out)
        ctx.save_for_backward(sigma, delta, offsets, weights, after)
        ctx.most, ctx.opaque = most, opaque
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from polyfield.renderers.kernels import compositing as kernels

        sigma, delta, offsets, weights, after = ctx.saved_tensors
        out = sigma.new_empty(sigma.shape)
        launch(
            kernels.weights_backward, len(offsets) - 1, *arrays(offsets),
            tuple(arrays(sigma, delta)), ctx.most, ctx.opaque, tuple(arrays(weights, after)),
            *arrays(grad, out),
        )  # fmt: skip
        need_sigma, need_delta = ctx.needs_input_grad[:2]
        return out * delta if need_sigma else None, out * sigma if need_delta else None, None, None


class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
        from polyfield.renderers.kernels import compositing as kernels

        n = len(offsets) - 1
        out = weights.new_empty(n, values.shape[1])
        launch(kernels.accumulate, n, *arrays(offsets, weights, values, out))
        ctx.save_for_backward(weights, values, offsets)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        from polyfield.renderers.kernels import compositing as kernels

        weights, values, offsets = ctx.saved_tensors
        out = weights.new_empty(weights.shape), values.new_empty(values.shape)
        passed = arrays(offsets, weights, values, grad, *out)
        launch(kernels.accumulate_backward, len(grad), *passed)
        return *out, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, offsets: Tensor) -> Tensor:
        from polyfield.renderers.kernels import compositing as kernels

        n = len(offsets) - 1
        out = weights.new_empty(n)
        launch(kernels.total, n, *arrays(offsets, weights, out))
        ctx.save_for_backward(offsets)
        ctx.samples = len(weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        from polyfield.renderers.kernels import compositing as kernels

        out = grad.new_empty(ctx.samples)
        launch(kernels.total_backward, len(grad), *arrays(*ctx.saved_tensors, grad, out))
        return out, None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, rgb: Tensor, mid: Tensor, offsets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from polyfield.renderers.kernels import compositing as kernels

        n = len(offsets) - 1
        out = weights.new_empty(n, rgb.shape[1]), weights.new_empty(n), weights.new_empty(n)
        passed = arrays(offsets, weights, rgb, mid)
        launch(kernels.composite, n, *passed, tuple(arrays(*out)))
        ctx.save_for_backward(weights, rgb, mid, offsets)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        from polyfield.renderers.kernels import compositing as kernels

        weights, rgb, mid, offsets = ctx.saved_tensors
        n = len(offsets) - 1
        shapes = ((n, rgb.shape[1]), (n,), (n,))
        grads = tuple(
            weights.new_zeros(s) if g is None else g for s, g in zip(shapes, grads, strict=True)
        )
        out = weights.new_empty(weights.shape), rgb.new_empty(rgb.shape)
        passed = arrays(offsets, weights, rgb, mid)
        launch(kernels.composite_backward, n, *passed, tuple(arrays(*grads)), *arrays(*out))
        counts = offsets.diff() if ctx.needs_input_grad[2] else None
        for_mid = None if counts is None else weights * grads[1].repeat_interleave(counts)
        return *out, for_mid, None


def packed_weights(
    sigma: Float[Tensor, "m"],
    delta: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    offsets: Int64[Tensor, "n1"],
    opaque: bool = False,
) -> Float[Tensor, "m"]:
    """Compiled form of `polyfield.renderers.compositing_torch.packed_weights`."""
    return _Weights.apply(sigma, delta, offsets, opaque)


def packed_visible(
    sigma: Float[Tensor, "m"],
    delta: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    offsets: Int64[Tensor, "n1"],
    most: float,
    faintest: float,
) -> Bool[Tensor, "m"]:
    """Compiled form of `polyfield.renderers.compositing_torch.packed_visible`."""
    from polyfield.renderers.kernels import compositing as kernels

    out = torch.empty(sigma.shape, dtype=torch.bool)
    density = tuple(arrays(sigma, delta))
    faintest = density[0].dtype.type(faintest)
    (offset,), (kept,) = arrays(offsets), arrays(out)
    launch(kernels.visible, len(offsets) - 1, offset, density, most, faintest, kept)
    return out


def packed_accumulate(
    weights: Float[Tensor, "m"],
    values: Float[Tensor, "m *c"] | None,
    ray_indices: Int64[Tensor, "m"],
    offsets: Int64[Tensor, "n1"],
) -> Float[Tensor, "n *c"]:
    """Compiled form of `polyfield.renderers.compositing_torch.packed_accumulate`."""
    if values is None:
        return _Total.apply(weights, offsets)
    if values.ndim == 1:
        return _Accumulate.apply(weights, values[:, None], offsets)[:, 0]
    return _Accumulate.apply(weights, values, offsets)


def packed_composite(
    weights: Float[Tensor, "m"],
    rgb: Float[Tensor, "m c"],
    mid: Float[Tensor, "m"],
    ray_indices: Int64[Tensor, "m"],
    offsets: Int64[Tensor, "n1"],
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Compiled form of `polyfield.renderers.compositing_torch.packed_composite`."""
    return _Composite.apply(weights, rgb, mid, offsets)


def packed_select(
    kept: Bool[Tensor, "m"], offsets: Int64[Tensor, "n1"]
) -> tuple[Int64[Tensor, "k"], Int64[Tensor, "n1"]]:
    """Compiled form of `polyfield.renderers.scans.select_packed_torch`."""
    from polyfield.renderers.kernels import compositing as kernels

    index, after = offsets.new_empty(len(kept)), offsets.new_empty(len(offsets))
    count = kernels.select(*arrays(kept, offsets, index, after))
    return index[:count], after
