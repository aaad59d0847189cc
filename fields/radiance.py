"""The radiance field: a backbone, a density head and a view-dependent colour branch.

x: positions in scene-box units; d: unit directions; F: backbone features; sigma: density per
unit of x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.config import Spec
from polyfield.encodings.base import CoordinateMap
from polyfield.encodings.contraction import Contraction
from polyfield.encodings.spherical_harmonics import MAX_DEGREE, spherical_harmonics
from polyfield.errors import ConfigError
from polyfield.fields.base import RadianceSample
from polyfield.fields.density import DensityConfig, DensityField
from polyfield.fields.heads import SmallMLP, linear
from polyfield.registry import build, register


def _harmonics() -> dict[str, Any]:
    return {"type": "spherical-harmonics", "degree": 4}


# The constant function among the spherical harmonics, 1 / sqrt(4 pi).
FIRST_HARMONIC = 0.5 / math.pi**0.5


@dataclass(frozen=True)
class RadianceConfig(DensityConfig):
    """Settings of the heads; the defaults are Instant-NGP's."""

    direction: Spec | None = field(default_factory=_harmonics)
    """Encoding of view directions (None: colour does not depend on them)."""
    colour: Literal["network", "harmonics"] = "network"
    """Colour from a network on features and direction, or features 1 to 3 `degree`**2 as
    coefficients of spherical harmonics per channel (Plenoxels): relu(sum + 1/2)."""
    degree: int = 3
    """Bands of harmonic colour, 1 to 8."""
    feature_encoding: Spec | None = None
    """Encoding of the features the network sees (None: none; TensoRF: frequency)."""
    bottleneck: int | None = None
    """Width of a linear layer without activation before the colour branch (None: no layer)."""
    hidden: tuple[int, ...] = (64, 64)
    """Hidden widths of the colour branch."""
    bias: bool = False
    """Whether the layers of the heads have biases."""
    rgb_padding: float = 0.0
    """Colour reaches this far beyond [0, 1], so that 0 and 1 can be met exactly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bottleneck is not None and self.bottleneck < 1:
            raise ValueError(f"bottleneck must be at least 1 or null, got {self.bottleneck}")
        if not 1 <= self.degree <= MAX_DEGREE:
            raise ValueError(f"degree must lie in 1..{MAX_DEGREE}, got {self.degree}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths must be at least 1, got {self.hidden}")
        if self.rgb_padding < 0:
            raise ValueError(f"rgb_padding must not be negative, got {self.rgb_padding}")


def _check_harmonics(width: int, degree: int) -> None:
    if width < 1 + 3 * degree**2:
        raise ConfigError(
            f"colour by harmonics of {degree} bands takes {1 + 3 * degree**2} features of the "
            f"backbone (one is the density), got {width}; set its number of features"
        )


@register("radiance", kind="fields", config=RadianceConfig)
class RadianceField(DensityField):
    """Density and view-dependent colour of points.

    Density depends on position only; colour on the features there and the encoded direction,
    features first. Time is accepted and ignored: this field is static.

    Args:
        config: The heads.
        backbone: Positions in [-1, 1] to features.
        contraction: ``"none"``: density is zero outside the box; ``"sphere"``: all of space is
            folded into the box before the backbone sees it.
        generator: CPU generator of the initial weights.
    """

    config: RadianceConfig

    def __init__(
        self,
        config: RadianceConfig,
        backbone: CoordinateMap,
        contraction: Contraction = "none",
        generator: torch.Generator | None = None,
    ):
        super().__init__(config, backbone, contraction, config.bias, generator)
        width = backbone.out_dim
        self.bottleneck = self.direction = self.feature_encoding = None
        self.colour_head: SmallMLP | None = None
        if config.colour == "harmonics":
            _check_harmonics(width, config.degree)
            return
        if config.bottleneck is not None:
            self.bottleneck = linear(width, config.bottleneck, config.bias, generator)
            width = config.bottleneck
        if config.feature_encoding is not None:
            spec = config.feature_encoding
            self.feature_encoding = build("encodings", spec, in_dim=width, generator=generator)
            width = self.feature_encoding.out_dim
        if config.direction is not None:
            self.direction = build("encodings", config.direction, in_dim=3, generator=generator)
            width += self.direction.out_dim
        self.colour_head = SmallMLP(width, config.hidden, 3, config.bias, generator)

    def forward(
        self,
        x: Float[Tensor, "*batch 3"],
        d: Float[Tensor, "*#batch 3"] | None = None,
        t: Float[Tensor, "*#batch"] | None = None,
    ) -> RadianceSample:
        """Density, colour and features at x.

        Args:
            x: Positions, scene-box units.
            d: Unit directions the points are seen along, broadcast over x; None: see `colour`.
            t: Time; ignored.
        """
        sigma, features = self.density_and_features(x)
        return RadianceSample(sigma=sigma, rgb=self.colour(features, d), features=features)

    def colour(
        self,
        features: Float[Tensor, "*batch F"],
        d: Float[Tensor, "*#batch 3"] | Float[Tensor, "n 3"] | None = None,
        index: Int64[Tensor, "m"] | None = None,
    ) -> Float[Tensor, "*batch 3"]:
        """Colour of points with these features, seen along unit directions d.

        Without directions their code is all zeros: no direction is preferred, and since codes
        average to about zero over the sphere this is close to the mean over directions.

        Args:
            features: The features, see `density_and_features`.
            d: A direction per point, or the directions of n rays.
            index: Ray of each of m points, when d is per ray.
        """
        if self.colour_head is None:
            return self._harmonic_colour(features, d, index)
        branch = features if self.bottleneck is None else self.bottleneck(features)
        if self.feature_encoding is not None:
            branch = self.feature_encoding(branch)
        if self.direction is None:
            raw = self.colour_head(branch)
        elif d is not None and index is not None:
            raw = self.colour_head(branch, self.direction(d), index)
        else:
            code = self._direction_code(features, d)
            raw = self.colour_head(torch.cat((branch, code.to(branch.dtype)), -1))
        padding = self.config.rgb_padding
        rgb = raw.to(features.dtype).sigmoid()
        return rgb * (1 + 2 * padding) - padding if padding else rgb

    def _harmonic_colour(self, features: Tensor, d: Tensor | None, index: Tensor | None) -> Tensor:
        """relu(1/2 + sum of harmonics), unbounded above; without directions their mean."""
        count = self.config.degree**2
        coefficients = features[..., 1 : 1 + 3 * count].unflatten(-1, (3, count))
        if d is None:
            colour = coefficients[..., 0] * FIRST_HARMONIC
        else:
            code = spherical_harmonics(d, self.config.degree)
            code = code if index is None else code.index_select(0, index)
            colour = (coefficients * code[..., None, :]).sum(-1)
        return (colour + 0.5).relu()

    def _direction_code(self, features: Tensor, d: Tensor | None) -> Tensor:
        shape = (*features.shape[:-1], self.direction.out_dim)
        if d is None:
            return features.new_zeros(shape)
        return self.direction(d).expand(shape)
