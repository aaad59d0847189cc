"""Polynomials of the coordinates (Pi-Nets; Chrysos et al., CVPR 2020 and TPAMI).

z: encoded coordinates, E values; k: width; N: degree. There is no activation function:

    CCP    x_1 = U_1 z                x_n = (U_n z) * x_{n-1} + x_{n-1}
    NCP    x_1 = (A_1 z) * c_1        x_n = (A_n z) * (S_n x_{n-1} + c_n)

with * between elements, so x_N is a polynomial of degree N in z. The coupled form has a low-rank
tensor of coefficients, the nested one shares them along a chain. The papers' c_n is a product of
a matrix and a vector that see no input; here it is the vector that they make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from polyfield.config import Spec
from polyfield.fields.base import Backbone
from polyfield.fields.heads import linear as linear_layer
from polyfield.fields.recipes import ADAM, FEW_STEPS, LINEAR_HEADS, SMALL_BATCH, two_cores
from polyfield.registry import build, register


def _identity() -> dict[str, Any]:
    return {"type": "identity"}


@dataclass(frozen=True)
class PiNetConfig:
    """Settings of polynomial networks. The papers have none for coordinates."""

    encoding: Spec = field(default_factory=_identity)
    """Encoding of the coordinates, of whose values the polynomial is one."""
    form: Literal["ccp", "ncp"] = "ccp"
    """Coupled (CCP) or nested (NCP) decomposition of the coefficients."""
    degree: int = 4
    """Degree of the polynomial."""
    width: int = 64
    """Components, and number of features."""
    blocks: int = 1
    """Polynomials of polynomials: degrees multiply."""
    constant: bool = True
    """Put a 1 in front of z, so that every factor has a constant term."""

    def __post_init__(self) -> None:
        for name in ("degree", "width", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class CoupledPolynomial(nn.Module):
    """CCP: z to x_N; N E k parameters.

    Args:
        in_dim: E.
        width: k.
        degree: N.
        generator: CPU generator of the initial values, Glorot's (the papers': not known).
    """

    def __init__(
        self, in_dim: int, width: int, degree: int, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.width, self.degree = width, degree
        weights = [linear_layer(in_dim, width, False, generator).weight for _ in range(degree)]
        self.weight = nn.Parameter(torch.cat([w.detach() for w in weights]))

    def forward(self, z: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch k"]:
        """x_N at z."""
        out, *factors = linear(z, self.weight).split(self.width, -1)
        for factor in factors:
            out = torch.addcmul(out, factor, out)
        return out


class NestedPolynomial(nn.Module):
    """NCP: z to x_N; N E k + (N - 1) k^2 + N k parameters.

    Args:
        in_dim: E.
        width: k.
        degree: N.
        generator: CPU generator of the initial values: Glorot's, and ones for c_n (the papers':
            not known).
    """

    def __init__(
        self, in_dim: int, width: int, degree: int, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.factors = CoupledPolynomial(in_dim, width, degree, generator)
        self.shared = nn.ModuleList(
            linear_layer(width, width, generator=generator) for _ in range(degree - 1)
        )
        for layer in self.shared:
            nn.init.ones_(layer.bias)
        self.first = nn.Parameter(torch.ones(width))

    def forward(self, z: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch k"]:
        """x_N at z."""
        first, *factors = linear(z, self.factors.weight).split(self.factors.width, -1)
        out = first * self.first
        for factor, layer in zip(factors, self.shared, strict=True):
            out = factor * layer(out)
        return out


FORMS = {"ccp": CoupledPolynomial, "ncp": NestedPolynomial}
_FREQUENCIES = {"type": "frequency", "levels": 8, "pi": True}
PRESETS = {
    "paper": {
        "backbone": {"width": 64, "degree": 4, "constant": False},
        "field": {"type": "radiance", "density": "linear", "bias": True},
        "fit": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8},
    },
    "cpu": two_cores(
        {
            "encoding": {"type": "frequency", "levels": 6, "pi": True},
            "form": "ncp",
            "width": 64,
            "degree": 4,
        },
        LINEAR_HEADS,
        FEW_STEPS,
        lr=3e-3,
        betas=[0.9, 0.999],
    ),
    "signal": {
        "backbone": {"encoding": _FREQUENCIES, "form": "ncp", "width": 128, "degree": 6},
        "fit": {**ADAM, "lr": 3e-3, "points": SMALL_BATCH},
    },
    "tiny": {"backbone": {"width": 8, "degree": 3, "form": "ncp", "blocks": 2}},
}


@register(
    "pi-net",
    config=PiNetConfig,
    paper="Chrysos et al. 2020 (Pi-Nets)",
    presets=PRESETS,
    size=("width",),
)
class PiNet(Backbone):
    """A polynomial of the encoded coordinates, as products of linear layers.

    Features are x_N; the linear layer behind them completes the papers' C x_N + beta. On raw
    coordinates it is a polynomial in them and smooth; details take an encoding or high degrees.
    """

    def __init__(
        self, config: PiNetConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.width
        self.encoding = build("encodings", config.encoding, in_dim=in_dim, generator=generator)
        inputs = [self.encoding.out_dim] + [config.width] * (config.blocks - 1)
        form = FORMS[config.form]
        self.blocks = nn.ModuleList(
            form(n + config.constant, config.width, config.degree, generator) for n in inputs
        )

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        out = self.encoding(x)
        for block in self.blocks:
            out = block(pad(out, (1, 0), value=1.0) if self.config.constant else out)
        return out

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What the encoding has to train, and the polynomials."""
        groups = [g for g in self.encoding.parameter_groups(lr) if g["params"]]
        return [*groups, {"params": list(self.blocks.parameters()), "lr": lr}]
