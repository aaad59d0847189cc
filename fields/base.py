"""What a backbone is and what fields return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import CoordinateMap
from polyfield.fields.heads import linear
from polyfield.fields.insight import MOST, Insight


class Backbone(CoordinateMap):
    """A trainable `CoordinateMap` that holds the scene.

    One file: a frozen config dataclass, the module, and
    ``@register("name", config=Config, presets={...}, dims=(...))``; `dims` are the numbers of
    coordinates it is defined for (left out: 1 to 6).
    """

    kind: ClassVar[str] = "backbones"

    def first_feature(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch"]:
        """Feature 0 alone, which radiance fields take as raw density.

        Methods that can compute it without the others override this: most points are only ever
        asked for their density.
        """
        return self(x)[..., 0]

    def make_head(self, out_dim: int, generator: torch.Generator | None = None) -> nn.Module:
        """The last layer, from features to a signal's values: linear, as most methods end.

        Methods whose papers initialise it in their own way override this.
        """
        return linear(self.out_dim, out_dim, generator=generator)

    def grid(self, axes: Sequence[Float[Tensor, "_"]]) -> Float[Tensor, "*n out_dim"] | None:
        """Features on a grid of coordinates per axis, where there is a faster way than `forward`.

        None, as by default: there is none.
        """
        return None

    def insights(self, limit: int = MOST) -> list[Insight]:
        """What it has learned, to be looked at: curves, pictures, boxes; nothing by default.

        Args:
            limit: Most curves or channels of each; the strongest are shown.
        """
        return []


ALL_DIMS = (1, 2, 3, 4, 5, 6)


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


@dataclass(frozen=True)
class LidarSample:
    """What a LiDAR field says of points.

    sigma: density per scene unit, >= 0; intensity: in [0, 1]; drop, second: logits of the beam
    not coming back, and of its coming back twice; features: the backbone's output.
    """

    sigma: Float[Tensor, "*batch"]
    intensity: Float[Tensor, "*batch"]
    drop: Float[Tensor, "*batch"]
    second: Float[Tensor, "*batch"]
    features: Float[Tensor, "*batch features"] | None = None
