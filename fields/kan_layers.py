"""A layer of learnable activations: y_o = sum over i, k of C[k, i, o] b_k(u_i), u = squash(x).

One layer for every family of `polyfield.fields.kan_bases`. x: inputs; u: squashed inputs;
i, o, k: input, output, function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from polyfield.fields import kan_bases as bases
from polyfield.fields.kan_product import repeated, repeated_product, table_product

Init = Literal["unit", "variance", "reference", "xavier"]
Squash = Literal["tanh", "none", "norm"]


@dataclass(frozen=True)
class LayerConfig:
    """Settings of a layer, the same for every family."""

    size: int = 8
    """Functions per edge: polynomials up to degree size - 1, size / 2 harmonics, size bumps."""
    squash: Squash = "tanh"
    """Before the functions: tanh, nothing, or half a LayerNorm over features (FastKAN's
    centres on [-2, 2]; nothing if there is one feature)."""
    base: bool = False
    """Whether W_b SiLU(x) is added."""
    norm: bool = False
    """Whether a LayerNorm with scale and shift follows."""
    init: Init = "unit"
    """Coefficients: ``unit`` gives outputs variance 1 for u uniform in [-1, 1], every function
    the same share; ``variance`` N(0, 1 / (in size)); ``reference`` standard deviation
    1 / (in size), which shrinks in depth; ``xavier`` uniform, SL2A's."""
    alpha: float | None = None
    """Jacobi's a, Gegenbauer's and Laguerre's alpha (None: the reference's)."""
    beta: float | None = None
    """Jacobi's b (None: the reference's)."""


@dataclass(frozen=True)
class Family:
    """How a layer uses a family.

    evaluate: (u (in, n), config, parameters) to the table (size, in, n); smallest: least size;
    parameters: initial values of what the family itself trains; bias: when
    there is a constant per output; scale: standard deviation of ``unit`` coefficients times
    sqrt(in), where it is known for every u.
    """

    evaluate: Callable[[Tensor, LayerConfig, Mapping[str, Tensor]], Tensor]
    smallest: int = 1
    parameters: Callable[[int, int], dict[str, Tensor]] = lambda in_dim, size: {}
    bias: Literal["never", "with base", "always"] = "never"
    scale: Callable[[int], float] | None = None


def _polynomial(name: str) -> Family:
    def evaluate(u: Tensor, config: LayerConfig, own: Mapping[str, Tensor]) -> Tensor:
        return bases.polynomials(name, u, config.size, config.alpha, config.beta)

    return Family(evaluate)


def _wavelet(name: str) -> Family:
    mother = bases.WAVELETS[name]

    def evaluate(u: Tensor, config: LayerConfig, own: Mapping[str, Tensor]) -> Tensor:
        return mother((u - own["shift"][..., None]) / own["scale"][..., None])

    def parameters(in_dim: int, size: int) -> dict[str, Tensor]:
        shift, scale = bases.wavelet_frame(size)[..., None].expand(2, size, in_dim)
        return {"shift": shift, "scale": scale}

    return Family(evaluate, parameters=parameters)


def _relu_parameters(in_dim: int, size: int) -> dict[str, Tensor]:
    start, end = bases.relu_ends(size)[..., None].expand(2, size, in_dim)
    return {"start": start, "end": end}


def _gram(u: Tensor, config: LayerConfig, own: Mapping[str, Tensor]) -> Tensor:
    # the activation on the values is KAGN's
    return silu(bases.gram(u, config.size, own.get("factors", u)))


def _gram_parameters(in_dim: int, size: int) -> dict[str, Tensor]:
    return {"factors": torch.ones(size - 2, dtype=torch.float64)} if size > 2 else {}


FAMILIES: Mapping[str, Family] = {
    **{name: _polynomial(name) for name in bases.POLYNOMIALS},
    "gram": Family(_gram, parameters=_gram_parameters),
    "bernstein": Family(lambda u, config, own: bases.bernstein(u, config.size)),
    **{name: _wavelet(name) for name in bases.WAVELETS},
    "rbf": Family(lambda u, config, own: bases.rbf(u, config.size), 2, bias="with base"),
    "rswaf": Family(lambda u, config, own: bases.rswaf(u, config.size), 2),
    "spline": Family(lambda u, config, own: bases.spline(u, config.size), 4),
    "relu": Family(
        lambda u, config, own: bases.relu_bumps(u, own["start"][..., None], own["end"][..., None]),
        bases.RELU_ORDER + 1,
        _relu_parameters,
        "always",
    ),
    "fourier": Family(
        lambda u, config, own: bases.fourier(u, config.size),
        2,
        bias="always",
        scale=lambda size: math.sqrt(2 / size),
    ),
}
BASES = tuple(FAMILIES)
GLOBAL = (*bases.POLYNOMIALS, "gram", "bernstein")


def check_layer(basis: str, config: LayerConfig) -> None:
    """Refuse settings that a family cannot be built with.

    Raises:
        ValueError: Unknown family, too few functions, or a squash that leaves its domain.
    """
    if basis not in FAMILIES:
        raise ValueError(f"basis must be one of {', '.join(BASES)}, got {basis!r}")
    smallest = FAMILIES[basis].smallest
    if config.size < smallest:
        raise ValueError(f"{basis} needs at least {smallest} functions, got size {config.size}")
    if basis == "fourier" and config.size % 2:
        raise ValueError(f"fourier needs an even size (cosines and sines), got {config.size}")
    if config.squash == "norm" and basis in GLOBAL:
        raise ValueError(
            f"{basis} polynomials are made for [-1, 1], which a LayerNorm leaves; use squash "
            "'tanh', and norm in the layer before"
        )


@torch.no_grad()
def unit_init(
    coefficients: Float[Tensor, "size in_dim out_dim"],
    family: Family,
    config: LayerConfig,
    generator: torch.Generator | None = None,
) -> None:
    """Normal coefficients with which outputs have variance 1 and functions equal shares of it.

    Over u uniform in [-1, 1]; for Fourier's at every u.
    """
    size, in_dim, _ = coefficients.shape
    if family.scale is not None:
        scale = torch.full((size,), family.scale(size), dtype=torch.float64)
    else:
        u = torch.linspace(-1, 1, 1001, dtype=torch.float64)[None]
        power = family.evaluate(u, config, family.parameters(1, size)).square().mean((1, 2))
        scale = (power * size).rsqrt()
    nn.init.normal_(coefficients, generator=generator)
    coefficients *= (scale / math.sqrt(in_dim)).to(coefficients)[:, None, None]


class KANLayer(nn.Module):
    """One family, coefficients per input and output; nothing after the sum but a LayerNorm.

    Args:
        basis: A name of `BASES`.
        in_dim: Inputs.
        out_dim: Outputs.
        config: The settings.
        generator: CPU generator of the initial values.

    Raises:
        ValueError: See `check_layer`.
    """

    def __init__(
        self,
        basis: str,
        in_dim: int,
        out_dim: int,
        config: LayerConfig,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_layer(basis, config)
        self.family, self.config = FAMILIES[basis], config
        self.in_dim, self.out_dim, self.size = in_dim, out_dim, config.size
        own = self.family.parameters(in_dim, config.size)
        dtype = torch.get_default_dtype()
        self.own = nn.ParameterDict({k: nn.Parameter(v.to(dtype).clone()) for k, v in own.items()})
        shape = (config.size, in_dim, out_dim)
        self.coefficients = nn.Parameter(torch.empty(shape))
        self._draw(generator)
        wanted = self.family.bias
        has_bias = wanted == "always" or (wanted == "with base" and config.base)
        self.bias = nn.Parameter(torch.zeros(out_dim)) if has_bias else None
        self.base_weight = None
        if config.base:
            self.base_weight = nn.Parameter(torch.empty(in_dim, out_dim))
            nn.init.xavier_uniform_(self.base_weight, generator=generator)
        norm_input = config.squash == "norm" and in_dim > 1
        self.norm_input = nn.LayerNorm(in_dim) if norm_input else None
        self.norm = nn.LayerNorm(out_dim) if config.norm else None

    def _draw(self, generator: torch.Generator | None) -> None:
        edges, init = self.in_dim * self.size, self.config.init
        c = self.coefficients
        if init == "xavier":
            bound = math.sqrt(6 / ((self.in_dim + self.out_dim) * self.size))
            nn.init.uniform_(c, -bound, bound, generator=generator)
        elif init == "unit":
            unit_init(c, self.family, self.config, generator)
        else:
            std = 1 / edges if init == "reference" else 1 / math.sqrt(edges)
            nn.init.normal_(c, std=std, generator=generator)

    def squash(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "in_dim n"]:
        """u, inputs first."""
        if self.config.squash == "tanh":
            x = x.tanh()
        elif self.norm_input is not None:
            x = self.norm_input(x) / 2
        return x.T.contiguous()

    def basis(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "size in_dim n"]:
        """The table of the functions' values at x."""
        return self.family.evaluate(self.squash(x), self.config, dict(self.own.items()))

    def expand(self, u: Float[Tensor, "in_dim n"]) -> Float[Tensor, "n out_dim"]:
        """The sum over functions at squashed inputs, without bias, base and LayerNorm.

        On the points of a pixel grid it is computed once for each coordinate that occurs.
        """
        names, evaluate, config = tuple(self.own), self.family.evaluate, self.config
        axes = None if names else repeated(u)
        if axes is not None:
            return repeated_product(lambda v: evaluate(v, config, {}), axes, self.coefficients)

        def table(u: Tensor, *own: Tensor) -> Tensor:
            return evaluate(u, config, dict(zip(names, own, strict=True))).flatten(0, 1)

        return table_product(table, u, self.coefficients.flatten(0, 1), *self.own.values())

    def edges(self, u: Float[Tensor, "n"]) -> Float[Tensor, "n in_dim out_dim"]:
        """Every edge by itself at squashed inputs, without the base, for looking at a network."""
        own = dict(self.own.items())
        table = self.family.evaluate(u.expand(self.in_dim, -1).contiguous(), self.config, own)
        return torch.einsum("kin,kio->nio", table, self.coefficients)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Outputs at x."""
        rows = x.reshape(-1, self.in_dim)
        out = self.expand(self.squash(rows))
        if self.bias is not None:
            out = out + self.bias
        if self.base_weight is not None:
            out = torch.addmm(out, silu(rows), self.base_weight)
        if self.norm is not None:
            out = self.norm(out)
        return out.reshape(*x.shape[:-1], self.out_dim)


class EdgeWavelets(nn.Module):
    """Wav-KAN's layer: sum_i w_oi psi((x_i - t_oi) / s_oi) + W SiLU(x), LayerNorm if asked.

    A shift and a scale per edge, hence (points, in, out) values: exact to the paper and slow.
    The paper's BatchNorm would make a point's value depend on its batch. Weights are uniform in
    +-1 / sqrt(in), scales 1, shifts 0.

    Args:
        basis: A name of `polyfield.fields.kan_bases.WAVELETS`.
        in_dim: Inputs.
        out_dim: Outputs.
        norm: Whether a LayerNorm follows.
        generator: CPU generator of the initial values.

    Raises:
        ValueError: Unknown wavelet.
    """

    def __init__(
        self,
        basis: str,
        in_dim: int,
        out_dim: int,
        norm: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if basis not in bases.WAVELETS:
            raise ValueError(f"wavelet must be one of {', '.join(bases.WAVELETS)}, got {basis!r}")
        self.mother = bases.WAVELETS[basis]
        self.in_dim, self.out_dim = in_dim, out_dim
        bound = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim))
        self.base_weight = nn.Parameter(torch.empty(out_dim, in_dim))
        for weight in (self.weight, self.base_weight):
            nn.init.uniform_(weight, -bound, bound, generator=generator)
        self.shift = nn.Parameter(torch.zeros(out_dim, in_dim))
        self.scale = nn.Parameter(torch.ones(out_dim, in_dim))
        self.norm = nn.LayerNorm(out_dim) if norm else None

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Outputs at x."""
        waves = self.mother((x[..., None, :] - self.shift) / self.scale)
        out = (self.weight * waves).sum(-1) + silu(x) @ self.base_weight.T
        return out if self.norm is None else self.norm(out)


def uniform_linear(
    in_dim: int, out_dim: int, bound: float, generator: torch.Generator | None = None
) -> nn.Linear:
    """A linear layer with weights in +-bound and biases in +-1 / sqrt(in_dim), as torch draws."""
    layer = nn.utils.skip_init(nn.Linear, in_dim, out_dim)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    edge = 1 / math.sqrt(in_dim)
    nn.init.uniform_(layer.bias, -edge, edge, generator=generator)
    return layer


def make_layer(
    basis: str,
    in_dim: int,
    out_dim: int,
    config: LayerConfig | None = None,
    generator: torch.Generator | None = None,
) -> KANLayer:
    """A layer of learnable activations of one family.

    Args:
        basis: A name of `BASES`.
        in_dim: Inputs.
        out_dim: Outputs.
        config: The settings (None: the defaults).
        generator: CPU generator of the initial values.

    Raises:
        ValueError: See `check_layer`.
    """
    return KANLayer(basis, in_dim, out_dim, config or LayerConfig(), generator)
