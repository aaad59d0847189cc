"""Pluecker coordinates of lines: direction and moment (Pluecker 1865).

    (d, o x d) / (1, extent),  |d| = 1

Six numbers with two constraints, so that rays are points of a four-dimensional surface. As a code
of light fields: Sitzmann et al., NeurIPS 2021 (arXiv 2106.02634), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyfield.encodings.ray_codes.base import (
    RayCode,
    RayCodes,
    RayNumbers,
    RayVectors,
    normalised,
    telling,
)
from polyfield.registry import register


@dataclass(frozen=True)
class PluckerConfig:
    """Settings of the code `plucker`."""

    extent: float | None = None
    """Moments are divided by this (null: the largest component of the training rays')."""

    def __post_init__(self) -> None:
        if self.extent is not None and not self.extent > 0:
            raise ValueError(f"extent must be positive or null, got {self.extent}")


@register("plucker", config=PluckerConfig, paper="Sitzmann et al. 2021 (LFN)")
class PluckerCode(RayCode):
    """Unit direction and moment: 6 numbers, the same wherever on the ray its origin lies."""

    extent: Tensor

    def __init__(self, config: PluckerConfig, bounded: bool = True):
        super().__init__()
        self.config, self.bounded, self.out_dim = config, bounded, 6
        # no ray that meets the box passes its centre at a distance of more than sqrt(3)
        self.register_buffer("extent", torch.tensor(config.extent or 3**0.5))

    @torch.no_grad()
    def adapt(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> None:
        """Measure the moments."""
        if self.config.extent is None:
            told = telling(self.bounded, origins, directions, near, far)
            moments = torch.linalg.cross(origins[told], normalised(directions[told]))
            self.extent.copy_(moments.abs().amax().clamp(min=1e-3))

    def forward(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> RayCodes:
        """Codes of rays."""
        d = normalised(directions)
        moment = torch.linalg.cross(origins, d) / self.extent.to(d.dtype)
        return RayCodes(torch.cat((d, moment.clamp(-1, 1)), -1))
