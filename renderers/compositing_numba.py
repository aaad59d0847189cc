"""Packed compositing weights as compiled loops, one ray per task: deterministic.

Same signature and results as `polyfield.renderers.compositing.packed_weights`; first
derivatives only.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from polyfield.renderers.scans import pack_info


@numba.njit(parallel=True, cache=True)
def _forward(tau, starts, counts, weights, reached):
    for ray in numba.prange(starts.shape[0]):
        depth = 0.0
        for i in range(starts[ray], starts[ray] + counts[ray]):
            reached[i] = math.exp(-depth)
            weights[i] = reached[i] * -math.expm1(-tau[i])
            depth += tau[i]


@numba.njit(parallel=True, cache=True)
def _backward(grad, tau, weights, reached, starts, counts, out):
    # dw_i/dtau_j = T_j exp(-tau_j) for i = j, -w_i for i > j.
    for ray in numba.prange(starts.shape[0]):
        behind = 0.0
        for i in range(starts[ray] + counts[ray] - 1, starts[ray] - 1, -1):
            out[i] = grad[i] * (reached[i] - weights[i]) - behind
            behind += grad[i] * weights[i]


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tau: Tensor, ray_indices: Tensor, n_rays: int) -> Tensor:
        use_torch_threads()
        starts, counts = pack_info(ray_indices, n_rays)
        tau = tau.contiguous()
        weights, reached = torch.empty_like(tau), torch.empty_like(tau)
        _forward(*_arrays(tau, starts, counts, weights, reached))
        ctx.save_for_backward(tau, weights, reached, starts, counts)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        use_torch_threads()
        tau, weights, reached, starts, counts = ctx.saved_tensors
        out = torch.empty_like(tau)
        _backward(*_arrays(grad.contiguous(), tau, weights, reached, starts, counts, out))
        return out, None, None


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().numpy() for t in tensors]


def use_torch_threads() -> None:
    """Let compiled loops use as many threads as torch does."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def packed_weights(
    tau: Float[Tensor, "m"], ray_indices: Int64[Tensor, "m"], n_rays: int | None = None
) -> Float[Tensor, "m"]:
    """Weights of packed optical depths (operation ``composite-weights``)."""
    if n_rays is None:
        n_rays = int(ray_indices[-1]) + 1 if len(ray_indices) else 0
    return _Weights.apply(tau, ray_indices, n_rays)
