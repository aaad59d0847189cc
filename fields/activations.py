"""Activations of coordinate networks, each with the initial values that belong to it.

z = W x + b: what a linear layer gives; u = gain z: what an activation here takes. The gain
(omega of the sines, s of the Gaussian) multiplies W and b before the product, which is cheaper
than multiplying z; H: inputs of a layer; U(a): uniform in [-a, a]; "default": U(1 / sqrt H).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, softplus

from polyfield.fields.heads import linear

ActivationName = Literal[
    "relu", "gelu", "siren", "gauss", "wire", "finer", "cauchy", "trainable-matrix", "hosc", "sinc"
]
# An even number of intervals of [-EXTENT, EXTENT], so that 0 is a breakpoint.
INTERVALS, EXTENT = 8, 2.0
SMALLEST_SQUARE = 1e-3  # of Cauchy's d, whose function has a pole at d = 0


@dataclass(frozen=True)
class Activation:
    """An activation with its numbers; those left at None take the defaults of `NUMBERS`.

    omega, first_omega: frequency, and that of the first layer; scale: s of the Gaussians, the
    steepness beta of HOSC; bias_scale: first biases of FINER ~ U(bias_scale) (None: default);
    detach: FINER's factor |z| + 1 counts as a constant in gradients, as in its authors' code;
    tridiagonal: trainable matrices have neighbours of the diagonal, too.

    Raises:
        ValueError: A number is not positive, or means nothing to this activation.
    """

    name: ActivationName = "relu"
    omega: float | None = None
    first_omega: float | None = None
    scale: float | None = None
    bias_scale: float | None = None
    detach: bool = True
    tridiagonal: bool = False

    def __post_init__(self) -> None:
        known = NUMBERS[self.name]
        for number in ("omega", "first_omega", "scale", "bias_scale"):
            value = getattr(self, number)
            if value is None:
                continue
            if number not in known:
                users = [name for name, numbers in NUMBERS.items() if number in numbers]
                raise ValueError(
                    f"{number} means nothing to '{self.name}', only to {', '.join(users)}; "
                    "leave it out"
                )
            if not 0 < value < math.inf:
                raise ValueError(f"{number} must be positive, got {value}")

    def number(self, name: str) -> float:
        """The value of a number, or its default."""
        value = getattr(self, name)
        return NUMBERS[self.name][name] if value is None else value

    def gain(self, first: bool) -> float:
        """What multiplies a linear layer's output."""
        if first and self.first_omega is not None:
            return self.first_omega
        if "omega" in NUMBERS[self.name]:
            return self.number("omega")
        return self.number("scale") if self.name == "gauss" else 1.0


# The numbers an activation has, and their defaults (for first_omega: omega).
NUMBERS: Mapping[str, Mapping[str, float | None]] = {
    "relu": {},
    "gelu": {},
    "siren": {"omega": 30.0, "first_omega": None},
    "gauss": {"scale": 30.0},
    "wire": {"omega": 20.0, "first_omega": None, "scale": 10.0},
    "finer": {"omega": 30.0, "first_omega": None, "bias_scale": None},
    "cauchy": {},
    "trainable-matrix": {},
    "hosc": {"omega": 30.0, "first_omega": None, "scale": 2.0},
    "sinc": {"omega": 30.0, "first_omega": None},
}
# Without frequencies of their own: they see coordinates through an encoding.
ENCODED = ("relu", "gelu", "cauchy", "trainable-matrix")


def gaussian(u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """exp(-u^2) (Ramasinghe and Lucey, ECCV 2022); u = s z is a deviation of 1 / (sqrt(2) s)."""
    return (-u.square()).exp()


def finer(
    u: Float[Tensor, "*batch n"], omega: float, detach: bool = True
) -> Float[Tensor, "*batch n"]:
    """sin(omega (|z| + 1) z) at u = omega z (FINER; Liu et al., CVPR 2024, arXiv 2312.02434).

    Args:
        u: omega z.
        omega: Frequency at z = 0; locally it is omega (2 |z| + 1).
        detach: Take |z| + 1 for a constant in gradients, which then are not the derivative.
    """
    factor = (u.detach() if detach else u).abs() / omega + 1
    return (u * factor).sin()


class _Gabor(torch.autograd.Function):
    """The derivatives follow from the values, without another exponential or sine.

    P + jQ = exp(j u - c |u|^2), u = a + jb, has the derivatives (j - 2ca)(P + jQ) in a and
    (-1 - 2cb)(P + jQ) in b.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor | None, c: float) -> Tensor:
        size = (
            a.square() * -c if b is None else b.square().add_(a.square()).mul_(-c).sub_(b)
        ).exp_()
        n = a.shape[-1]
        out = a.new_empty(*a.shape[:-1], 2 * n)
        torch.mul(size, a.cos(), out=out[..., :n])
        torch.mul(size, a.sin(), out=out[..., n:])
        ctx.c = c
        ctx.save_for_backward(a, b, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, out = ctx.saved_tensors
        (p, q), (grad_p, grad_q) = out.chunk(2, -1), grad.chunk(2, -1)
        along = grad_p * p + grad_q * q
        grad_a = grad_q * p - grad_p * q - 2 * ctx.c * a * along
        grad_b = None if b is None else -(1 + 2 * ctx.c * b) * along
        return grad_a, grad_b, None


def gabor(
    real: Float[Tensor, "*batch n"], imaginary: Float[Tensor, "*batch n"] | None, ratio: float
) -> Float[Tensor, "*batch 2*n"]:
    """exp(j u - ratio^2 |u|^2) as [real parts, imaginary parts] (WIRE; Saragadam et al., CVPR
    2023, arXiv 2301.05187), which is exp(j omega z - s^2 |z|^2) at u = omega z.

    Args:
        real: Real part of u.
        imaginary: Its imaginary part (None: zero, as in the first layer).
        ratio: s / omega.
    """
    return _Gabor.apply(real, imaginary, ratio**2)


def hosc(u: Float[Tensor, "*batch n"], beta: Float[Tensor, ""]) -> Float[Tensor, "*batch n"]:
    """tanh(beta sin u): between a sine and a square wave."""
    return (beta * u.sin()).tanh()


def sinc(u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """sin(u) / u, and 1 at 0."""
    return torch.sinc(u / math.pi)


def cauchy(
    u: Float[Tensor, "*batch n"],
    odd: Float[Tensor, ""],
    even: Float[Tensor, ""],
    square: Float[Tensor, ""],
) -> Float[Tensor, "*batch n"]:
    """(odd u + even) / (u^2 + square) (XNet; Li, Xia and Zhang, arXiv 2409.19221)."""
    return (odd * u + even) / (u.square() + square)


def matrix_product(
    z: Float[Tensor, "*batch n"], values: Float[Tensor, "diagonals intervals n"]
) -> Float[Tensor, "*batch n"]:
    """T(z) z with a matrix whose entries are steps of z (Liu et al., arXiv 2109.09948).

    Column i has ``values[0, p, i]`` on the diagonal, p being the interval of z_i between the
    breakpoints; with three diagonals, ``values[1, p, i]`` in the row below and ``values[2, p, i]``
    in the row above. The paper's details could not be read: this form is a reconstruction.
    """
    rows = z.reshape(-1, z.shape[-1])
    step = 2 * EXTENT / INTERVALS
    with torch.no_grad():
        interval = ((rows + EXTENT) / step).floor() + 1
        interval = interval.clamp(0, INTERVALS + 1).long()
    parts = [torch.gather(v, 0, interval) * rows for v in values]
    out = parts[0]
    if len(parts) > 1:
        below = nn.functional.pad(parts[1][:, :-1], (1, 0))
        out = out + below + nn.functional.pad(parts[2][:, 1:], (0, 1))
    return out.reshape(z.shape)


def _relu_matrix(activation: Activation, width: int) -> dict[str, Tensor]:
    values = torch.zeros(3 if activation.tridiagonal else 1, INTERVALS + 2, width)
    values[0, INTERVALS // 2 + 1 :] = 1
    return {"table": values}


def _ones(activation: Activation, width: int) -> dict[str, Tensor]:
    """lambda_1 = lambda_2 = d = 1; `raw` is what softplus makes the square of d from."""
    raw = math.log(math.expm1(1 - SMALLEST_SQUARE))
    return {"odd": torch.tensor(1.0), "even": torch.tensor(1.0), "raw": torch.tensor(raw)}


def _steepness(activation: Activation, width: int) -> dict[str, Tensor]:
    return {"beta": torch.tensor(float(activation.number("scale")))}


_OWN: Mapping[str, Callable[[Activation, int], dict[str, Tensor]]] = {
    "trainable-matrix": _relu_matrix,
    "cauchy": _ones,
    "hosc": _steepness,
}


def own_parameters(activation: Activation, width: int) -> nn.ParameterDict:
    """What the activation of one layer has to train, mostly nothing."""
    make = _OWN.get(activation.name)
    found = {} if make is None else make(activation, width)
    return nn.ParameterDict({name: nn.Parameter(value) for name, value in found.items()})


Values = Mapping[str, Tensor] | nn.ParameterDict


def _wire(a: Activation, u: Tensor, first: bool, own: Values) -> Tensor:
    ratio = a.number("scale") / a.gain(first)
    return gabor(u, None, ratio) if first else gabor(*u.chunk(2, -1), ratio)


def _cauchy(a: Activation, u: Tensor, first: bool, own: Values) -> Tensor:
    return cauchy(u, own["odd"], own["even"], softplus(own["raw"]) + SMALLEST_SQUARE)


_APPLY: Mapping[str, Callable[[Activation, Tensor, bool, Values], Tensor]] = {
    "relu": lambda a, u, first, own: relu(u),
    "gelu": lambda a, u, first, own: gelu(u),
    "siren": lambda a, u, first, own: u.sin(),
    "gauss": lambda a, u, first, own: gaussian(u),
    "wire": _wire,
    "finer": lambda a, u, first, own: finer(u, a.gain(first), a.detach),
    "cauchy": _cauchy,
    "trainable-matrix": lambda a, u, first, own: matrix_product(u, own["table"]),
    "hosc": lambda a, u, first, own: hosc(u, own["beta"]),
    "sinc": lambda a, u, first, own: sinc(u),
}


def activate(
    activation: Activation,
    u: Float[Tensor, "*batch n"],
    first: bool = False,
    own: Values | None = None,
) -> Float[Tensor, "*batch m"]:
    """The activation of a layer's output times its gain.

    Args:
        activation: Which one.
        u: The output times `Activation.gain`; of WIRE's later layers, [real, imaginary parts].
        first: Whether the layer is the first one.
        own: What it has to train, see `own_parameters`.

    Returns:
        As many values; twice as many, [real, imaginary parts], of WIRE's first layer.
    """
    return _APPLY[activation.name](activation, u, first, {} if own is None else own)


class ComplexLinear(nn.Module):
    """A complex linear layer in real arithmetic, on [real inputs, real parts, imaginary parts].

    Args:
        real_in: Inputs without imaginary part.
        complex_in: Complex inputs.
        out_dim: Complex outputs, given as [real parts, imaginary parts].
        generator: CPU generator of the initial values: both parts of weights and biases default,
            as torch starts complex layers.
    """

    def __init__(
        self, real_in: int, complex_in: int, out_dim: int, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.real_in, bound = real_in, (real_in + complex_in) ** -0.5
        self.weight = _uniform((2, out_dim, real_in + complex_in), bound, generator)
        self.bias = _uniform((2, out_dim), bound, generator)

    def real_form(self) -> tuple[Tensor, Tensor]:
        """Weights (2 out_dim, real_in + 2 complex_in) and biases of the same real layer."""
        real, imaginary = self.weight
        a, b = real[:, self.real_in :], imaginary[:, self.real_in :]
        rows = torch.cat((real, -b), 1), torch.cat((imaginary, a), 1)
        return torch.cat(rows), self.bias.flatten()


def _uniform(
    shape: tuple[int, ...], bound: float, generator: torch.Generator | None
) -> nn.Parameter:
    return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)


def _start(layer: nn.Linear, weight: float, bias: float, generator: torch.Generator | None) -> None:
    nn.init.uniform_(layer.weight, -weight, weight, generator=generator)
    nn.init.uniform_(layer.bias, -bias, bias, generator=generator)


def _sine_bound(activation: Activation, inputs: int) -> float:
    """Bound of weights behind sines: SIREN, arXiv 2006.09661, section 3.2."""
    return math.sqrt(6 / inputs) / activation.number("omega")


def dense(
    activation: Activation,
    plain: int,
    hidden: int,
    width: int,
    generator: torch.Generator | None = None,
) -> nn.Linear | ComplexLinear:
    """The linear layer in front of an activation, with initial values for it.

    Glorot for those on encodings (zero biases); SIREN's for sines: W ~ U(1/H) in the first layer
    and U(sqrt(6/H) / omega) in others, default biases (FINER: U(bias_scale) in the first);
    default for the others.

    Args:
        activation: What follows.
        plain: Inputs that are encoded coordinates.
        hidden: Inputs that are activations, 0 in the first layer; complex ones for WIRE.
        width: Outputs; complex ones for WIRE, but in its first layer.
        generator: CPU generator of the initial values.
    """
    if activation.name == "wire" and hidden:
        return ComplexLinear(plain, hidden, width, generator)
    inputs = plain + hidden
    layer = linear(inputs, width, generator=generator)
    usual = inputs**-0.5
    if activation.name in ("siren", "finer", "hosc"):
        bound = _sine_bound(activation, inputs) if hidden else 1 / inputs
        first = usual if activation.bias_scale is None else activation.bias_scale
        _start(layer, bound, usual if hidden else first, generator)
    elif activation.name not in ENCODED:
        _start(layer, usual, usual, generator)
    return layer


def last_layer(
    activation: Activation, width: int, out_dim: int, generator: torch.Generator | None = None
) -> nn.Linear:
    """The linear layer behind `width` units, with the initial values of the method.

    WIRE ends in a complex layer of which the real part is taken; on [real, imaginary parts] that
    is this real one.
    """
    layer = linear(features(activation, width), out_dim, generator=generator)
    if activation.name in ("siren", "finer", "hosc"):
        _start(layer, _sine_bound(activation, width), width**-0.5, generator)
    elif activation.name not in ENCODED:
        _start(layer, width**-0.5, width**-0.5, generator)
    return layer


def features(activation: Activation, width: int) -> int:
    """Real numbers that `width` units give: two each for WIRE."""
    return 2 * width if activation.name == "wire" else width


def with_gain(layer: nn.Linear | ComplexLinear, gain: float) -> tuple[Tensor, Tensor]:
    """Weights and biases of the real layer whose outputs are `gain` times those of `layer`."""
    real = isinstance(layer, nn.Linear)
    weight, bias = (layer.weight, layer.bias) if real else layer.real_form()
    return (weight, bias) if gain == 1 else (weight * gain, bias * gain)
