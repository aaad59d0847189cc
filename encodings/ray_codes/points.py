"""Points along the ray (R2L; Wang et al., ECCV 2022, arXiv 2203.17261, section 3.2).

    p_k = (o + z_k d) / extent,  z_k = near (1 - k / (K - 1)) + far k / (K - 1)

While a field is trained every z_k is drawn from between the midpoints to its neighbours (those at
the ends from bins of half the size). The code depends on where the ray begins. The paper's near
and far are constants of a data set (2 and 6); here they are those of the training rays in the box.
The division by `extent`, which keeps the numbers in [-1, 1], is not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.ray_codes.base import (
    RayCode,
    RayCodes,
    RayNumbers,
    RayVectors,
    box_span,
    telling,
)
from polyfield.registry import register


@dataclass(frozen=True)
class PointsConfig:
    """Settings of the code `points`."""

    points: int = 16
    """Points per ray."""
    near: float | None = None
    """Distance of the first point (null: where the first training ray enters the box)."""
    far: float | None = None
    """Distance of the last point (null: where the last training ray leaves the box)."""
    jitter: bool = True
    """Move the points at random while a field is trained."""

    def __post_init__(self) -> None:
        if self.points < 2:
            raise ValueError(f"points must be at least 2, got {self.points}")
        if self.near is not None and self.far is not None and not self.near < self.far:
            raise ValueError(f"near must be less than far, got {self.near} and {self.far}")


def depths(near: Float[Tensor, ""], far: Float[Tensor, ""], count: int) -> Float[Tensor, "count"]:
    """Evenly spaced depths, both ends included.

    Example:
        >>> depths(torch.tensor(2.0), torch.tensor(6.0), 5)
        tensor([2., 3., 4., 5., 6.])
    """
    share = torch.linspace(0, 1, count, dtype=near.dtype, device=near.device)
    return near * (1 - share) + far * share


def jittered(
    z: Float[Tensor, "count"], n: int, generator: torch.Generator
) -> Float[Tensor, "n count"]:
    """Depths drawn from between the midpoints to the neighbours, for each of n rays."""
    middle = (z[1:] + z[:-1]) / 2
    low, high = torch.cat((z[:1], middle)), torch.cat((middle, z[-1:]))
    unit = torch.rand(n, len(z), generator=generator, device=z.device, dtype=z.dtype)
    return low + (high - low) * unit


@register("points", config=PointsConfig, paper="Wang et al. 2022 (R2L)")
class PointsCode(RayCode):
    """K points between two depths, point after point: 3 K numbers."""

    span: Tensor
    extent: Tensor

    def __init__(self, config: PointsConfig, bounded: bool = True):
        super().__init__()
        self.config, self.bounded, self.out_dim = config, bounded, 3 * config.points
        near = 0.0 if config.near is None else config.near
        far = near + 4.0 if config.far is None else config.far
        self.register_buffer("span", torch.tensor([near, far]))
        self.register_buffer("extent", torch.tensor(max(1.0, far)))

    @torch.no_grad()
    def adapt(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> None:
        """Find where rays enter and leave the box, and how far out the points get."""
        enter, leave, met = box_span(origins, directions, near, far)
        if bool(met.any()):
            found = torch.stack((enter[met].amin(), leave[met].amax()))
            for i, own in enumerate((self.config.near, self.config.far)):
                self.span[i] = found[i] if own is None else own
        told = telling(self.bounded, origins, directions, near, far)
        ends = origins[told][:, None] + self.span[:, None] * directions[told][:, None]
        self.extent.copy_(ends.abs().amax().clamp(min=1e-3))

    def forward(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> RayCodes:
        """Codes of rays; points are moved at random with a generator."""
        z = depths(*self.span.to(origins.dtype).unbind(), self.config.points)
        if generator is not None and self.config.jitter:
            z = jittered(z, len(origins), generator)[..., None]
        else:
            z = z[:, None]
        x = (origins[:, None] + z * directions[:, None]) / self.extent.to(origins.dtype)
        return RayCodes(x.flatten(1).clamp(-1, 1))
