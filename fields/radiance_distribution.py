"""Radiance distribution fields (NeRDF; Wu et al., ICCV 2023, arXiv 2308.11130).

One evaluation per ray gives coefficients w of K functions of the depth, for density and colour:

    tau = (t - near) / (far - near),   raw_c(tau) = sum over i of w_ic phi_i(tau)
    phi_i = cos(i pi tau) for even i, sin((i + 1) pi tau) for odd i          ("fourier")
    phi_i = cos(i pi tau)                                                    ("cosine")

Volume rendering along the ray then costs no further evaluation. The published functions have
period 1, so that density leaks between near and far; cosines alone do not do so.

Density is an activation of raw_0. With "relu" (the paper's) and "softplus" the optical depth of
an interval is a quadrature: density at one point of it, times its length. With "square" (not the
paper's) it is exact: the square of a series is a series of twice the frequencies, whose integral
is known, so opacity and weights do not depend on how many intervals there are. Colour is
constant per interval in all cases. The paper's first layer also sees the ray's origin and
direction; here a backbone sees the ray code alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from polyfield.config import Spec
from polyfield.encodings.base import CoordinateMap
from polyfield.encodings.contraction import Contraction
from polyfield.encodings.ray_codes.base import RayNumbers, RayVectors
from polyfield.fields.rays import RayField
from polyfield.registry import register

Basis = Literal["fourier", "cosine"]


@dataclass(frozen=True)
class RadianceDistributionConfig:
    """Settings of the radiance distribution; the defaults are NeRDF's."""

    code: Spec = field(default_factory=lambda: {"type": "points"})
    """The ray code (polyfield list ray-codes) and its settings."""
    hidden: tuple[int, ...] = ()
    """Hidden widths of a network behind the backbone (none: the backbone's own last layer)."""
    functions: int = 24
    """Functions of the depth, for each of density, red, green and blue."""
    basis: Basis = "fourier"
    """Cosines and sines of period 1, or cosines that need not be the same at both ends."""
    density: Literal["relu", "softplus", "square"] = "relu"
    """From raw to density; the square is integrated in closed form."""
    density_scale: float = 1.0
    """Factor on the density."""

    def __post_init__(self) -> None:
        if self.functions < 1:
            raise ValueError(f"functions must be at least 1, got {self.functions}")
        if not self.density_scale > 0:
            raise ValueError(f"density_scale must be positive, got {self.density_scale}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths must be at least 1, got {self.hidden}")


def frequencies(count: int, basis: Basis) -> Float[Tensor, "count"]:
    """Half-periods in [0, 1] of each function: the k of cos(k pi tau) or sin(k pi tau)."""
    i = torch.arange(count, dtype=torch.float64)
    return i if basis == "cosine" else i + i % 2


def functions_at(tau: Float[Tensor, "s"], count: int, basis: Basis) -> Float[Tensor, "count s"]:
    """The functions phi at depths tau.

    Example:
        >>> functions_at(torch.tensor([0.25]), 3, "fourier")[:, 0]
        tensor([1.0000e+00, 1.0000e+00, 6.1232e-17], dtype=torch.float64)
    """
    angles = frequencies(count, basis).to(tau.device)[:, None] * math.pi * tau.double()
    if basis == "cosine":
        return angles.cos()
    odd = torch.arange(count, device=tau.device)[:, None] % 2 == 1
    return torch.where(odd, angles.sin(), angles.cos())


def nodes_of_square(count: int, basis: Basis) -> Float[Tensor, "m"]:
    """Depths at which the squared series determines its integrals: evenly over its period."""
    period = 1.0 if basis == "fourier" else 2.0
    highest = round(float(frequencies(count, basis)[-1]) * period / 2)
    m = 4 * highest + 1
    return torch.arange(m, dtype=torch.float64) * (period / m)


def integrals_of_square(
    edges: Float[Tensor, "s1"], count: int, basis: Basis
) -> Float[Tensor, "m s"]:
    """Weights that turn squared values at `nodes_of_square` into integrals between edges.

    Exact for the square of any series: with M = 4 F + 1 nodes over a period P all frequencies of
    the square, up to 2 F, are told apart, and each is integrated by its antiderivative.
    """
    period = 1.0 if basis == "fourier" else 2.0
    nodes = nodes_of_square(count, basis).to(edges.device)
    edges = edges.double()
    omega = 2 * math.pi / period * torch.arange(
        1, (len(nodes) + 1) // 2, dtype=torch.float64, device=edges.device
    )  # fmt: skip
    angles = omega[:, None, None] * (edges - nodes[:, None])
    waves = (angles.sin() / omega[:, None, None]).sum(0)
    return (edges.diff() + 2 * waves.diff(dim=-1)) / len(nodes)


@dataclass(frozen=True)
class RadianceDistribution:
    """Density and colour along n rays, as coefficients; near, far: where tau is 0 and 1.

    valid: rays that the field can say anything of (None: all).
    """

    coefficients: Float[Tensor, "n 4 functions"]
    near: RayNumbers
    far: RayNumbers
    config: RadianceDistributionConfig
    valid: Bool[Tensor, "n"] | None = None

    def raw(self, tau: Float[Tensor, "s"]) -> Float[Tensor, "n 4 s"]:
        """The series at depths tau in [0, 1]."""
        table = functions_at(tau, self.config.functions, self.config.basis)
        return self.coefficients @ table.to(self.coefficients.dtype)

    def density(self, tau: Float[Tensor, "s"]) -> Float[Tensor, "n s"]:
        """Density per scene unit."""
        return self._density(self.raw(tau)[:, 0])

    def colour(self, tau: Float[Tensor, "s"]) -> Float[Tensor, "n s 3"]:
        """Colour in [0, 1]."""
        return self.raw(tau)[:, 1:].sigmoid().transpose(1, 2)

    def _density(self, raw: Tensor) -> Tensor:
        kind = self.config.density
        made = {"relu": torch.relu, "softplus": softplus, "square": torch.square}[kind](raw)
        return made * self.config.density_scale

    def along(
        self, edges: Float[Tensor, "s1"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s 3"]]:
        """Optical depth and colour of the intervals between edges.

        Args:
            edges: Ascending values of tau.
            generator: Draws where in each interval the series are looked at, for all rays alike
                (None: in the middle).
        """
        tau = (edges[:-1] + edges[1:]) / 2
        if generator is not None:
            unit = torch.rand(len(tau), generator=generator, device=tau.device, dtype=tau.dtype)
            tau = torch.lerp(edges[:-1], edges[1:], unit)
        raw = self.raw(tau)
        if self.config.density == "square":
            share = self._exact(edges)
        else:
            share = self._density(raw[:, 0]) * edges.diff()
        return share * (self.far - self.near)[:, None], raw[:, 1:].sigmoid().transpose(1, 2)

    def _exact(self, edges: Tensor) -> Tensor:
        """Integrals of the squared series over tau."""
        w, config = self.coefficients[:, 0], self.config
        nodes = nodes_of_square(config.functions, config.basis).to(w.device)
        table = functions_at(nodes, config.functions, config.basis).to(w.dtype)
        weights = integrals_of_square(edges, config.functions, config.basis).to(w.dtype)
        return ((w @ table).square() @ weights).clamp(min=0) * config.density_scale


# What fits in minutes: density that never dies, and ends that need not be alike.
PRESETS = {"cpu": {"field": {"type": "radiance-distribution", "basis": "cosine",
                             "density": "softplus"}}}  # fmt: skip


@register(
    "radiance-distribution",
    kind="fields",
    config=RadianceDistributionConfig,
    paper="Wu et al. 2023 (NeRDF)",
    presets=PRESETS,
)
class RadianceDistributionField(RayField):
    """Density and colour along rays as series in the depth, from one evaluation per ray."""

    config: RadianceDistributionConfig

    def __init__(
        self,
        config: RadianceDistributionConfig,
        backbone: Sequence[CoordinateMap],
        contraction: Contraction = "none",
        generator: torch.Generator | None = None,
    ):
        super().__init__(config, 4 * config.functions, backbone, contraction, generator)

    def forward(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> RadianceDistribution:
        """The distributions along rays; arguments as in `RayField.outputs`."""
        values, valid = self.outputs(origins, directions, near, far, generator)
        coefficients = values.unflatten(-1, (4, self.config.functions))
        return RadianceDistribution(coefficients, near, far, self.config, valid)
