"""What a backbone is and what fields return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.base import CoordinateMap


class Backbone(CoordinateMap):
    """A trainable `CoordinateMap` that holds the scene.

    One file: a frozen config dataclass, the module, and
    ``@register("name", config=Config, presets={...})``.
    """

    kind: ClassVar[str] = "backbones"


@dataclass(frozen=True)
class RadianceSample:
    """What a radiance field says of points.

    sigma: density per scene unit, >= 0; rgb: colour in [0, 1]; features: the backbone's
    output (supervision level ``feature``); extras: named further outputs.
    """

    sigma: Float[Tensor, "*batch"]
    rgb: Float[Tensor, "*batch 3"]
    features: Float[Tensor, "*batch features"] | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
