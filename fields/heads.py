"""Small dense networks and the activations of densities: what fields put behind a backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from polyfield.fields.small_mlp import small_mlp

# Beyond this the exponential's gradient is held: one outlier must not throw the whole field.
EXP_LIMIT = 15.0
# Density beyond this is the same to any renderer; its square is still a single-precision number.
EXP_HIGHEST = 40.0


def linear(
    in_dim: int, out_dim: int, bias: bool = True, generator: torch.Generator | None = None
) -> nn.Linear:
    """A linear layer with Glorot-uniform weights and zero bias, drawn from `generator` alone."""
    layer = nn.utils.skip_init(nn.Linear, in_dim, out_dim, bias=bias)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class SmallMLP(nn.Module):
    """Linear layers with ReLU between them and nothing after the last.

    Args:
        in_dim: Inputs.
        hidden: Widths of the hidden layers, possibly none.
        out_dim: Outputs.
        bias: Whether layers have biases.
        generator: CPU generator of the initial weights (Glorot uniform).
    """

    def __init__(
        self,
        in_dim: int,
        hidden: tuple[int, ...],
        out_dim: int,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        widths = (in_dim, *hidden, out_dim)
        self.in_dim, self.out_dim = in_dim, out_dim
        self.layers = nn.ModuleList(
            linear(a, b, bias, generator) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(
        self,
        x: Float[Tensor, "*batch own"],
        extra: Float[Tensor, "m more"] | None = None,
        index: Int64[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "*batch out_dim"]:
        """Outputs at x, or at x with row ``index[i]`` of `extra` appended to its row i."""
        weights = [layer.weight for layer in self.layers]
        biases = [layer.bias for layer in self.layers]
        return small_mlp(x, weights, biases, extra, index)


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        ctx.save_for_backward(raw)
        return raw.clamp(max=EXP_HIGHEST).exp()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (raw,) = ctx.saved_tensors
        held = grad * raw.clamp(-EXP_LIMIT, EXP_LIMIT).exp()
        # What is opaque already is not driven on: Adam makes whole steps of the least gradient,
        # and raw density would run away from where it can be brought back.
        return torch.where((raw > EXP_LIMIT) & (held < 0), torch.zeros_like(held), held)


def truncated_exp(raw: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """exp(raw) up to exp(40), whose gradient is that of raw clamped to [-15, 15].

    As Instant-NGP's density; above 15 only gradients that make it smaller pass.
    """
    return _TruncatedExp.apply(raw)


DENSITY_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "exp": truncated_exp,
    "softplus": softplus,
    "relu": relu,
}
