"""Where the ray's line enters and leaves a sphere around the scene.

With ``points``: both points over the radius, 6 numbers. With ``charts``: each point on a plane by
Lambert's azimuthal equal-area projection (Lambert 1772) about the mean entry and the mean exit of
the training rays, 4 numbers: for a unit vector u, a pole p and e_1, e_2 orthogonal to it,

    y_i = (u . e_i) / sqrt(2 (1 + u . p))

No four numbers can be continuous on all lines, since no map of a sphere to the plane is; these
break only opposite the poles, which suits captures from one side. (Spherical angles break along a
whole meridian, and at the poles.) The two-sphere parametrisation: Camahort, Lerios and Fussell,
EGWR 1998 [recall].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.encodings.ray_codes.base import (
    RayCode,
    RayCodes,
    RayNumbers,
    RayVectors,
    frame_about,
    normalised,
    telling,
)
from polyfield.registry import register


@dataclass(frozen=True)
class SpherePairConfig:
    """Settings of the code `sphere-pair`."""

    form: Literal["points", "charts"] = "points"
    """6 numbers without a seam, or 4 that break opposite the mean entry and the mean exit."""
    radius: float | None = None
    """Of the sphere about the centre of the box (null: just large enough for the training rays)."""

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius must be positive or null, got {self.radius}")


def sphere_crossings(
    origins: RayVectors, directions: RayVectors, radius: Float[Tensor, ""]
) -> tuple[RayVectors, RayVectors, Bool[Tensor, "n"]]:
    """Unit vectors to where lines enter and leave a sphere about 0, and which lines meet it.

    Lines that miss it give the point of the sphere next to them, twice.
    """
    d = normalised(directions)
    closest = origins - (origins * d).sum(-1, keepdim=True) * d
    square = radius**2 - (closest * closest).sum(-1, keepdim=True)
    half = torch.where(square > 0, square, torch.ones_like(square)).sqrt() * (square > 0)
    return (
        normalised(closest - half * d),
        normalised(closest + half * d),
        square[:, 0] > 0,
    )


def equal_area(u: RayVectors, frame: Float[Tensor, "3 3"]) -> Float[Tensor, "n 2"]:
    """Lambert's projection of unit vectors about the third row of a frame, to the unit disc."""
    local = u @ frame.to(u.dtype).T
    return local[:, :2] / (2 * (1 + local[:, 2:])).clamp(min=1e-6).sqrt()


@register("sphere-pair", config=SpherePairConfig, paper="Camahort et al. 1998")
class SpherePairCode(RayCode):
    """Entry and exit on a bounding sphere: 6 numbers, or 4; lines that miss it are not valid."""

    radius: Tensor
    frames: Tensor

    def __init__(self, config: SpherePairConfig, bounded: bool = True):
        super().__init__()
        self.config, self.bounded = config, bounded
        self.out_dim = 6 if config.form == "points" else 4
        self.register_buffer("radius", torch.tensor(config.radius or 3**0.5))
        self.register_buffer("frames", frame_about(torch.tensor([[0.0, 0, 1], [0.0, 0, -1]])))

    @torch.no_grad()
    def adapt(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> None:
        """Find the radius and the poles."""
        told = telling(self.bounded, origins, directions, near, far)
        o, d = origins[told], normalised(directions[told])
        if self.config.radius is None:
            distance = torch.linalg.cross(o, d).norm(dim=-1).amax()
            self.radius.copy_(1.01 * distance.clamp(min=1e-3))
        enter, leave, _ = sphere_crossings(o, d, self.radius.to(o.dtype))
        self.frames.copy_(frame_about(torch.stack((enter.mean(0), leave.mean(0)))))

    def forward(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> RayCodes:
        """Codes of rays."""
        enter, leave, met = sphere_crossings(origins, directions, self.radius.to(origins.dtype))
        if self.config.form == "charts":
            enter, leave = equal_area(enter, self.frames[0]), equal_area(leave, self.frames[1])
        return RayCodes(torch.cat((enter, leave), -1).clamp(-1, 1), valid=met)
