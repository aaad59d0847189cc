"""Packed compositing by compiled CPU kernels, deterministic.

Signatures as in `compositing_torch`. Rays are independent, so that results are the same bit for
bit whatever the number of threads. Gradients that are differentiated again are those of the
torch reference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.parallel import arrays
from polyfield.renderers import compositing_torch as reference
from polyfield.renderers.compositing_torch import MAX_OPTICAL_DEPTH
from polyfield.renderers.kernels.launch import launch


def _as_graph(
    ctx: Any,
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    offsets: Tensor,
    grads: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """The gradients in the inputs by the reference `function`, as a graph.

    They are taken at aliases: what the inputs depend on in common, or on each other, is not to
    be differentiated here.
    """
    needs = ctx.needs_input_grad[: len(inputs)]
    rays = torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())
    given = [t.view_as(t) if need else t for t, need in zip(inputs, needs, strict=True)]
    out = function(*given, rays, offsets)
    outs = (out,) if isinstance(out, Tensor) else out
    wanted = [t for t, need in zip(given, needs, strict=True) if need]
    pairs = [(o, g) for o, g in zip(outs, grads, strict=True) if g is not None and o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    outs, grads = zip(*pairs, strict=True)
    options = {"create_graph": True, "allow_unused": True}
    found = iter(torch.autograd.grad(outs, wanted, grads, **options))
    return [next(found) if need else None for need in needs]


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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from polyfield.renderers.kernels import compositing as kernels

        sigma, delta, offsets, weights, after = ctx.saved_tensors
        if torch.is_grad_enabled():
            function = partial(reference.packed_weights, opaque=ctx.opaque)
            return *_as_graph(ctx, function, (sigma, delta), offsets, (grad,)), None, None
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from polyfield.renderers.kernels import compositing as kernels

        weights, values, offsets = ctx.saved_tensors
        if torch.is_grad_enabled():
            function, inputs = reference.packed_accumulate, (weights, values)
            return *_as_graph(ctx, function, inputs, offsets, (grad,)), None
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        from polyfield.renderers.kernels import compositing as kernels

        if torch.is_grad_enabled():
            (offsets,) = ctx.saved_tensors
            return grad.repeat_interleave(offsets.diff()), None
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
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        from polyfield.renderers.kernels import compositing as kernels

        weights, rgb, mid, offsets = ctx.saved_tensors
        if torch.is_grad_enabled():
            function = reference.packed_composite
            return *_as_graph(ctx, function, (weights, rgb, mid), offsets, grads), None
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
