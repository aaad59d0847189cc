"""The light field: the colour that is seen along a ray, from one network evaluation.

Light fields: Levoy and Hanrahan, SIGGRAPH 1996; as networks: R2L (Wang et al., ECCV 2022, arXiv
2203.17261) and LightSpeed (Gupta et al., NeurIPS 2023, arXiv 2310.16832).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.config import Spec
from polyfield.encodings.base import CoordinateMap
from polyfield.encodings.contraction import Contraction
from polyfield.encodings.ray_codes.base import RayNumbers, RayVectors
from polyfield.fields.rays import RayField
from polyfield.registry import register


@dataclass(frozen=True)
class LightSample:
    """What a light field says of n rays.

    rgb: colour in [0, 1], not weighted by opacity; depth: distance along the ray, in
    [near, far]; opacity in [0, 1]; None where the field does not know; valid: rays that it can say
    anything of (None: all).
    """

    rgb: Float[Tensor, "n 3"]
    depth: Float[Tensor, "n"] | None = None
    opacity: Float[Tensor, "n"] | None = None
    valid: Bool[Tensor, "n"] | None = None


@dataclass(frozen=True)
class LightConfig:
    """Settings of the light field."""

    code: Spec = field(default_factory=lambda: {"type": "slab"})
    """The ray code (polyfield list ray-codes) and its settings."""
    hidden: tuple[int, ...] = ()
    """Hidden widths of a network behind the backbone (none: the backbone's own last layer)."""
    output: Literal["sigmoid", "linear"] = "sigmoid"
    """From raw to colour: sigmoid, or (1 + raw) / 2, which suits networks of waves."""
    opacity: bool = False
    """Also learn how much of the background is hidden; without, the background is part of the
    colours."""
    depth: bool = False
    """Also learn a distance, from the loss `depth`."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths must be at least 1, got {self.hidden}")


@register("light", kind="fields", config=LightConfig, paper="Wang et al. 2022 (R2L)")
class LightField(RayField):
    """Colour of rays, and opacity and depth where asked for, by one evaluation per ray."""

    def __init__(
        self,
        config: LightConfig,
        backbone: Sequence[CoordinateMap],
        contraction: Contraction = "none",
        generator: torch.Generator | None = None,
    ):
        channels = 3 + config.opacity + config.depth
        super().__init__(config, channels, backbone, contraction, generator)

    @property
    def opaque(self) -> bool:
        """Whether the background is part of the colours."""
        return not self.config.opacity

    def finish(self, raw: Float[Tensor, "n channels"]) -> Float[Tensor, "n channels"]:
        """Colour, then opacity and the share of the way from near to far, all in [0, 1]."""
        if self.config.output == "sigmoid":
            return raw.sigmoid()
        return torch.cat(((1 + raw[:, :3]) / 2, raw[:, 3:].sigmoid()), -1)

    def forward(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> LightSample:
        """What is seen along rays; arguments as in `RayField.outputs`."""
        values, valid = self.outputs(origins, directions, near, far, generator)
        rest: list[Any] = list(values[:, 3:].unbind(-1))
        opacity = rest.pop(0) if self.config.opacity else None
        depth = near + (far - near) * rest.pop(0) if self.config.depth else None
        return LightSample(values[:, :3], depth, opacity, valid)
