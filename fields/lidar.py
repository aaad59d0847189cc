"""The LiDAR field: density, and what a laser sees of a surface.

x: positions in scene-box units; d: unit directions; F: backbone features; sigma: density per
unit of x, as light meets it on one way (renderers square the transmittance: it goes two ways).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.config import Spec
from polyfield.encodings.base import CoordinateMap
from polyfield.encodings.contraction import Contraction
from polyfield.fields.base import LidarSample
from polyfield.fields.density import DensityConfig, DensityField
from polyfield.fields.heads import SmallMLP
from polyfield.registry import build, register


def _harmonics() -> dict[str, Any]:
    return {"type": "spherical-harmonics", "degree": 4}


@dataclass(frozen=True)
class LidarConfig(DensityConfig):
    """Settings of the heads; the defaults are those of Neural LiDAR Fields."""

    direction: Spec | None = field(default_factory=_harmonics)
    """Encoding of beam directions (None: nothing depends on them)."""
    hidden: tuple[int, ...] = (64,)
    """Hidden widths of the network of intensity, drop and second returns."""
    bias: bool = False
    """Whether the layers of the heads have biases."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths must be at least 1, got {self.hidden}")


@register("lidar", kind="fields", config=LidarConfig, paper="Huang et al. 2023 (NFL)")
class LidarField(DensityField):
    """Density, intensity, and logits of ray drop and of a second return.

    Intensity is the corrected one that data sets store: without the fall-off with range.

    Args:
        config: The heads.
        backbone: Positions in [-1, 1] to features.
        contraction: See `DensityField`.
        generator: CPU generator of the initial weights.

    Buffer: `scale`, scene units per metre, set when a fit begins.
    """

    config: LidarConfig
    scale: Tensor

    def __init__(
        self,
        config: LidarConfig,
        backbone: CoordinateMap,
        contraction: Contraction = "none",
        generator: torch.Generator | None = None,
    ):
        super().__init__(config, backbone, contraction, config.bias, generator)
        self.register_buffer("scale", torch.ones(()))
        width = backbone.out_dim
        self.direction = None
        if config.direction is not None:
            self.direction = build("encodings", config.direction, in_dim=3, generator=generator)
            width += self.direction.out_dim
        self.head = SmallMLP(width, config.hidden, 3, config.bias, generator)

    def forward(
        self, x: Float[Tensor, "*batch 3"], d: Float[Tensor, "*batch 3"] | None = None
    ) -> LidarSample:
        """Density, intensity and logits at x.

        Args:
            x: Positions, scene-box units.
            d: Unit directions of the beams; None: their code is all zeros, so that no direction
                is preferred.
        """
        sigma, features = self.density_and_features(x)
        flat = features.reshape(-1, features.shape[-1])
        seen = self.attributes(flat, None if d is None else d.expand_as(x).reshape(-1, 3))
        seen = seen.reshape(*x.shape[:-1], 3)
        return LidarSample(sigma, *seen.unbind(-1), features)

    def attributes(
        self,
        features: Float[Tensor, "m F"],
        d: Float[Tensor, "n 3"] | None = None,
        index: Int64[Tensor, "m"] | None = None,
    ) -> Float[Tensor, "m 3"]:
        """Intensity in [0, 1], logit of being dropped, logit of a second return.

        Args:
            features: The features, see `density_and_features`.
            d: A direction per point, or the directions of n beams.
            index: Beam of each point, when d is per beam.
        """
        if self.direction is None:
            raw = self.head(features)
        elif d is not None and index is not None:
            raw = self.head(features, self.direction(d), index)
        else:
            shape = (len(features), self.direction.out_dim)
            code = features.new_zeros(shape) if d is None else self.direction(d)
            raw = self.head(torch.cat((features, code.to(features.dtype)), -1))
        return torch.cat((raw[:, :1].sigmoid(), raw[:, 1:]), -1)
