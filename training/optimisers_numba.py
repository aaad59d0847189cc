"""Adam's update by a compiled CPU kernel: one pass, no temporaries, any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfield.parallel import ranges, run_tasks
from polyfield.training.optimisers import AdamRates, adam_torch

# Fewer values are not worth a task of their own.
_FEWEST = 1 << 15


def adam_numba(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    rates: AdamRates,
    sparse: bool = False,
) -> None:
    """`adam_torch` for float32 tensors on the CPU; the result is the same for any thread count.

    Parameters that are not contiguous are left to the reference.
    """
    from polyfield.training.kernels import adam as kernels

    numbers = tuple(
        np.float32(value)
        for value in (rates.rate, 1 - rates.beta1, 1 - rates.beta2, rates.eps, rates.weight_decay)
    )
    tasks: list[tuple[Any, ...]] = []
    for parts in zip(parameters, gradients, exp_avgs, exp_avg_sqs, strict=True):
        parameter, gradient, *moments = parts
        if not all(t.is_contiguous() for t in (parameter, *moments)):
            adam_torch(*([part] for part in parts), rates, sparse)
            continue
        arrays = [_flat(t) for t in (parameter, gradient.contiguous(), *moments)]
        for part in ranges(parameter.numel(), _FEWEST):
            tasks.append((*arrays, part.start, part.stop, numbers, sparse))
    run_tasks(kernels.step, tasks)
    for parameter in parameters:  # autograd must notice a change behind its back
        torch.autograd.graph.increment_version(parameter)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().view(-1).numpy()
