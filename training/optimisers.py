"""Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980) that knows tables of features.

    m <- m + (1 - beta1) (g - m)        v <- v + (1 - beta2) (g^2 - v)
    p <- p - rate m / (sqrt(v) + eps')

p: parameter; g: gradient, plus weight_decay p; m, v: moments. With the number of steps t and
c = sqrt(1 - beta2^t): rate = lr c / (1 - beta1^t) and eps' = eps c, which is the usual bias
correction of both moments (end of section 2 of the paper).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyfield.backend import Implementation, implement, resolve
from polyfield.errors import ConfigError

implement(
    Implementation(
        op="adam",
        backend="torch",
        path="polyfield.training.optimisers:adam_torch",
        devices=None,
        dtypes=("float32", "float64", "float16", "bfloat16"),
    )
)
implement(
    Implementation(
        op="adam",
        backend="numba",
        path="polyfield.training.optimisers_numba:adam_numba",
        devices=("cpu",),
        requires=("numba",),
        priority=10,
    )
)


@dataclass(frozen=True)
class AdamRates:
    """Numbers of one step; `rate` and `eps` have the bias corrections in them."""

    rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float = 0.0

    @classmethod
    def at(cls, step: int, group: dict[str, Any]) -> AdamRates:
        """The rates of step number `step`, counted from 1, of an optimiser's group."""
        beta1, beta2 = group["betas"]
        root = math.sqrt(1 - beta2**step)
        rate = group["lr"] * root / (1 - beta1**step)
        return cls(rate, beta1, beta2, group["eps"] * root, group["weight_decay"])


class Adam(torch.optim.Optimizer):
    """Adam with L2 penalty, as `torch.optim.Adam`, by a compiled kernel on the CPU.

    State per parameter is torch's: ``step`` (a float32 number, always on the CPU), ``exp_avg``
    and ``exp_avg_sq``. A group with ``sparse=True`` leaves a value whose gradient is exactly
    zero as it is, and its moments too, which is how Instant-NGP treats its tables (Müller et al.
    2022, section 4): what no sample touched neither drifts on old momentum nor forgets. It
    differs from Adam in that, in that only touched values feel the L2 penalty, and in that the
    bias correction, which goes by the steps of the whole, is that of a later step when a value
    is touched for the first time: it then moves by lr (1 - beta1) / sqrt(1 - beta2), which for
    betas of 0.9 and 0.99 is lr, as in Adam's first step.

    Args:
        params: Tensors or groups of them; groups may set any of the options.
        lr: Learning rate.
        betas: Decays of the moments.
        eps: Added to the root of the second moment.
        weight_decay: L2 penalty.
        sparse: Whether values without gradient stay as they are.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        sparse: bool = False,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"Adam's betas must be in [0, 1), got {betas}")
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ConfigError(f"Adam's {name} must not be negative, got {value}")
        defaults = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay, "sparse": sparse})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for all parameters that have a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for (step, device, dtype), parameters in self._alike(group).items():
                states = [self.state[p] for p in parameters]
                resolve("adam", device=device, dtype=dtype).function(
                    parameters,
                    [p.grad for p in parameters],
                    [s["exp_avg"] for s in states],
                    [s["exp_avg_sq"] for s in states],
                    AdamRates.at(step, group),
                    group["sparse"],
                )
        return loss

    def _alike(self, group: dict[str, Any]) -> dict[tuple[int, str, str], list[Tensor]]:
        """Parameters with gradients by the number of this step, device and dtype; counts steps."""
        alike: dict[tuple[int, str, str], list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
                state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
            state["step"] += 1
            key = (int(state["step"]), p.device.type, str(p.dtype).removeprefix("torch."))
            alike.setdefault(key, []).append(p)
        return alike


def adam_torch(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    rates: AdamRates,
    sparse: bool = False,
) -> None:
    """Update parameters and moments of one device in place; the reference, not differentiable.

    Args:
        parameters: Tensors of any shapes.
        gradients: One each, of the same shapes.
        exp_avgs: First moments.
        exp_avg_sqs: Second moments.
        rates: Numbers of the step.
        sparse: Whether values whose gradient is zero, and their moments, stay as they are.
    """
    if sparse:
        old = [[t.clone() for t in tensors] for tensors in (parameters, exp_avgs, exp_avg_sqs)]
        adam_torch(parameters, gradients, exp_avgs, exp_avg_sqs, rates)
        for kept, tensors in zip(old, (parameters, exp_avgs, exp_avg_sqs), strict=True):
            for before, now, gradient in zip(kept, tensors, gradients, strict=True):
                now.copy_(torch.where(gradient != 0, now, before))
        return
    if rates.weight_decay:
        gradients = torch._foreach_add(gradients, parameters, alpha=rates.weight_decay)
    torch._foreach_lerp_(exp_avgs, gradients, 1 - rates.beta1)
    torch._foreach_mul_(exp_avg_sqs, rates.beta2)
    torch._foreach_addcmul_(exp_avg_sqs, gradients, gradients, value=1 - rates.beta2)
    below = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_add_(below, rates.eps)
    torch._foreach_addcdiv_(parameters, exp_avgs, below, value=-rates.rate)
