"""Real spherical harmonics of directions, in the order and signs of graphics codes.

Function l, m (0 <= l < degree, |m| <= l) has index l^2 + l + m and the Condon-Shortley sign
(-1)^m; up to degree 4 these are tiny-cuda-nn's polynomials, beyond it the same recurrences.

d = (x, y, z): unit direction; Q_l^m(z): associated Legendre function over (1 - z^2)^(m/2);
(x + i y)^m = C_m + i S_m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.base import Encoding
from polyfield.errors import ConfigError
from polyfield.registry import register

MAX_DEGREE = 8


@dataclass(frozen=True)
class SphericalHarmonicsConfig:
    """Settings of the spherical harmonics."""

    degree: int = 4
    """Bands, 1 to 8; degree**2 features."""

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= MAX_DEGREE:
            raise ValueError(f"degree must lie in 1..{MAX_DEGREE}, got {self.degree}")


def _legendre(z: Tensor, degree: int) -> dict[tuple[int, int], Tensor | float]:
    """Q_l^m(z) for 0 <= m <= l < degree, without the Condon-Shortley sign."""
    q: dict[tuple[int, int], Tensor | float] = {}
    for m in range(degree):
        q[m, m] = float(math.prod(range(1, 2 * m, 2)))
        if m + 1 < degree:
            q[m + 1, m] = (2 * m + 1) * q[m, m] * z
        for n in range(m + 2, degree):
            q[n, m] = (2 * n - 1) / (n - m) * z * q[n - 1, m] - (n + m - 1) / (n - m) * q[n - 2, m]
    return q


def _azimuth(x: Tensor, y: Tensor, degree: int) -> tuple[list, list]:
    """C_m and S_m for 0 <= m < degree."""
    cosines: list[Tensor | float] = [1.0, x]
    sines: list[Tensor | float] = [0.0, y]
    for _ in range(2, degree):
        c, s = cosines[-1], sines[-1]
        cosines.append(x * c - y * s)
        sines.append(x * s + y * c)
    return cosines, sines


def _norm(n: int, m: int) -> float:
    square = (2 * n + 1) / (4 * math.pi) * math.factorial(n - m) / math.factorial(n + m)
    return (-1) ** m * math.sqrt(square * (2 if m else 1))


def spherical_harmonics(
    d: Float[Tensor, "*batch 3"], degree: int = 4
) -> Float[Tensor, "*batch functions"]:
    """Orthonormal real spherical harmonics below `degree`, as polynomials in d.

    Args:
        d: Unit directions in [-1, 1]^3 (not shifted to [0, 1]).
        degree: Number of bands, 1 to 8.

    Example:
        >>> spherical_harmonics(torch.tensor([0.0, 0.6, 0.8]), degree=2)
        tensor([ 0.2821, -0.2932,  0.3909, -0.0000])
    """
    x, y, z = d.unbind(-1)
    q = _legendre(z, degree)
    cosines, sines = _azimuth(x, y, degree)
    values = []
    for n in range(degree):
        for m in range(-n, n + 1):
            wave = cosines[m] if m >= 0 else sines[-m]
            value = _norm(n, abs(m)) * q[n, abs(m)] * wave
            values.append(value if isinstance(value, Tensor) else torch.full_like(z, value))
    return torch.stack(values, -1)


@register("spherical-harmonics", config=SphericalHarmonicsConfig)
class SphericalHarmonicsEncoding(Encoding):
    """Real spherical harmonics of unit directions, up to 8 bands."""

    def __init__(
        self,
        config: SphericalHarmonicsConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if in_dim != 3:
            raise ConfigError(
                f"encoding 'spherical-harmonics' takes directions of 3 coordinates, got {in_dim}; "
                "choose 'frequency' for other inputs"
            )
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.degree**2

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Harmonics of the unit directions x."""
        return spherical_harmonics(x, self.config.degree)
