"""Packed compositing weights by compiled CPU kernels: deterministic, first derivatives only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from polyfield.renderers.kernels.threads import share
from polyfield.renderers.scans import pack_info


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tau: Tensor, ray_indices: Tensor, n_rays: int) -> Tensor:
        from polyfield.renderers.kernels import compositing as kernels

        starts, counts = pack_info(ray_indices, n_rays)
        tau = tau.contiguous()
        weights, reached = torch.empty_like(tau), torch.empty_like(tau)
        share(kernels.forward, n_rays, *_arrays(starts, counts, tau, weights, reached))
        ctx.save_for_backward(starts, counts, weights, reached)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        from polyfield.renderers.kernels import compositing as kernels

        starts, counts, weights, reached = ctx.saved_tensors
        grad = grad.contiguous()
        out = torch.empty_like(grad)
        arrays = _arrays(starts, counts, weights, reached, grad, out)
        share(kernels.backward, len(starts), *arrays)
        return out, None, None


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().numpy() for t in tensors]


def packed_weights(
    tau: Float[Tensor, "m"], ray_indices: Int64[Tensor, "m"], n_rays: int | None = None
) -> Float[Tensor, "m"]:
    """Compiled form of `polyfield.renderers.compositing.packed_weights`."""
    if n_rays is None:
        n_rays = int(ray_indices[-1]) + 1 if len(ray_indices) else 0
    return _Weights.apply(tau, ray_indices, n_rays)
