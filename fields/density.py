"""What fields with a density share: the backbone's place in space and the density head.

x: positions in scene-box units; F: backbone features; sigma: density per unit of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import CoordinateMap, Progress
from polyfield.encodings.contraction import Contraction, contract
from polyfield.fields.base import Backbone
from polyfield.fields.heads import DENSITY_ACTIVATIONS, linear


@dataclass(frozen=True)
class DensityConfig:
    """Settings of the density; the defaults are Instant-NGP's."""

    density: Literal["feature", "linear"] = "feature"
    """Raw density: the backbone's first feature, or a linear layer on all of them."""
    density_activation: Literal["exp", "softplus", "relu"] = "exp"
    """From raw to density; exp has its gradient clamped at raw = 15."""
    density_shift: float = 0.0
    """Added to the raw density."""
    density_scale: float = 1.0
    """Factor on the density (TensoRF's distance scale)."""

    def __post_init__(self) -> None:
        if not self.density_scale > 0:
            raise ValueError(f"density_scale must be positive, got {self.density_scale}")


class DensityField(nn.Module):
    """Density of points, and the features that further heads take.

    Args:
        config: The density head.
        backbone: Positions in [-1, 1] to features.
        contraction: ``"none"``: density is zero outside the box; ``"sphere"``: all of space is
            folded into the box before the backbone sees it.
        bias: Whether the density head has a bias.
        generator: CPU generator of the initial weights.
    """

    kind: ClassVar[str] = "fields"

    def __init__(
        self,
        config: DensityConfig,
        backbone: CoordinateMap,
        contraction: Contraction = "none",
        bias: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.contraction = contraction
        self.backbone = backbone
        self.density_head: nn.Module | None = None
        if config.density == "linear":
            self.density_head = linear(backbone.out_dim, 1, bias, generator)

    def density(self, x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Density at x, without further heads."""
        if self.density_head is not None or not isinstance(self.backbone, Backbone):
            return self.density_and_features(x)[0]
        inside = self.contraction == "none" and _all_inside(x)
        return self._density(self.backbone.first_feature(self._place(x, inside)), x, inside)

    def features(self, x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch F"]:
        """The backbone's features at x (supervision level ``feature``)."""
        return self._features(x, self.contraction == "none" and _all_inside(x))

    def _features(self, x: Tensor, inside: bool) -> Tensor:
        """Features; inside: no point needs to be brought into the box."""
        return self.backbone(self._place(x, inside))

    def _place(self, x: Tensor, inside: bool) -> Tensor:
        """Where the backbone is asked."""
        if self.contraction != "none":
            return contract(x, self.contraction)
        return x if inside else x.clamp(-1, 1)

    def density_and_features(
        self, x: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch F"]]:
        """Density at x, and the features that further heads take."""
        inside = self.contraction == "none" and _all_inside(x)
        features = self._features(x, inside)
        raw = features if self.density_head is None else self.density_head(features)
        return self._density(raw[..., 0], x, inside), features

    def _density(self, raw: Tensor, x: Tensor, inside: bool) -> Tensor:
        """From raw density at x; it is zero outside the box of a scene that ends there."""
        shifted = raw.to(x.dtype) + self.config.density_shift
        sigma = DENSITY_ACTIVATIONS[self.config.density_activation](shifted)
        if self.config.density_scale != 1:
            sigma = sigma * self.config.density_scale
        if self.contraction == "none" and not inside:
            sigma = torch.where((x.abs() <= 1).all(-1), sigma, torch.zeros_like(sigma))
        return sigma

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The backbone's groups and one of the heads, at base rate `lr`."""
        inside = {id(p) for p in self.backbone.parameters()}
        heads = [p for p in self.parameters() if p.requires_grad and id(p) not in inside]
        groups = [{"params": heads, "lr": lr}] if heads else []
        return [*self.backbone.parameter_groups(lr), *groups]

    def regularisation(self) -> dict[str, Tensor]:
        """The backbone's named penalties."""
        return self.backbone.regularisation()

    def grow(self, progress: Progress) -> bool:
        """Let the backbone change with the fit; whether parameters were replaced."""
        return self.backbone.grow(progress)

    def slim(self, rank: int) -> None:
        """Keep the first `rank` components of the backbone only."""
        self.backbone.slim(rank)


def _all_inside(x: Tensor) -> bool:
    """Whether all points are known to lie in the box: samplers that clip rays to it see to that.

    Only asked on the CPU, where the answer is cheap; elsewhere it would wait for the device.
    """
    if x.device.type != "cpu" or not x.numel():
        return False
    low, high = x.detach().aminmax()
    return float(low) >= -1 and float(high) <= 1
