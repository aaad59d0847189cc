"""The field of a signal: a backbone and the last layer to its values.

x: coordinates in [-1, 1]; C: channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import CoordinateMap, Progress
from polyfield.encodings.contraction import Contraction
from polyfield.errors import ConfigError
from polyfield.registry import register


@dataclass(frozen=True)
class SignalConfig:
    """Settings of a signal's field; a fit takes the first two from the signal."""

    dims: int = 2
    """Number of coordinates."""
    channels: int = 3
    """Number of values."""
    head: Literal["layer", "none"] = "layer"
    """The backbone's own last layer (linear, in most), or none: its first features are the
    values."""
    output: Literal["linear", "sigmoid", "tanh"] = "linear"
    """What keeps values in range: nothing, (0, 1) or (-1, 1)."""
    scale: float = 1.0
    """Values are this times what the network gives, plus `shift`: 0.5 and 0.5 let it work in
    [-1, 1] where values lie in [0, 1]."""
    shift: float = 0.0
    """See `scale`."""

    def __post_init__(self) -> None:
        if not 1 <= self.dims <= 6:
            raise ValueError(f"dims must lie in 1..6, got {self.dims}")
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if self.scale == 0:
            raise ValueError("scale must not be zero")


OUTPUTS = {"linear": nn.Identity(), "sigmoid": torch.sigmoid, "tanh": torch.tanh}


@register("signal", kind="fields", config=SignalConfig)
class SignalField(nn.Module):
    """Values of a signal at coordinates, without any renderer.

    Args:
        config: Sizes and the last layer.
        backbone: Coordinates in [-1, 1] to features.
        contraction: Has no meaning here; ``"none"``.
        generator: CPU generator of the initial weights.

    Raises:
        ConfigError: Without a last layer, the backbone has fewer features than channels.
    """

    kind: ClassVar[str] = "fields"

    def __init__(
        self,
        config: SignalConfig,
        backbone: CoordinateMap,
        contraction: Contraction = "none",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config, self.backbone, self.contraction = config, backbone, contraction
        self.head: nn.Module | None = None
        if config.head == "layer":
            self.head = backbone.make_head(config.channels, generator)
        elif backbone.out_dim < config.channels:
            raise ConfigError(
                f"field.head is 'none', but the backbone has {backbone.out_dim} features for "
                f"{config.channels} channels; give it more features, or leave the head in"
            )

    def forward(self, x: Float[Tensor, "*batch dims"]) -> Float[Tensor, "*batch channels"]:
        """Values at x."""
        return self._values(self.backbone(x))

    def grid(self, axes: list[Float[Tensor, "_"]]) -> Float[Tensor, "*shape channels"] | None:
        """Values on a grid of coordinates, where the backbone has a faster way (else None).

        Args:
            axes: Coordinates along each axis.
        """
        features = self.backbone.grid(axes)
        return None if features is None else self._values(features)

    def _values(self, features: Tensor) -> Tensor:
        c = self.config
        raw = features[..., : c.channels] if self.head is None else self.head(features)
        values = OUTPUTS[c.output](raw)
        return values if (c.scale, c.shift) == (1.0, 0.0) else values * c.scale + c.shift

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The backbone's groups, and the last layer's at base rate `lr`."""
        groups = self.backbone.parameter_groups(lr)
        head = [] if self.head is None else list(self.head.parameters())
        return [*groups, {"params": head, "lr": lr}] if head else groups

    def regularisation(self) -> dict[str, Tensor]:
        """The backbone's named penalties."""
        return self.backbone.regularisation()

    def grow(self, progress: Progress) -> bool:
        """Let the backbone change with the fit; whether parameters were replaced."""
        return self.backbone.grow(progress)

    def slim(self, rank: int) -> None:
        """Keep the first `rank` components of the backbone only."""
        self.backbone.slim(rank)
