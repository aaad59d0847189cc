"""What a ray code is: numbers in [-1, 1] that tell rays apart, for fields of rays.

o: origins and d: directions in scene-box units; near, far: range of distances t along d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

RayVectors = Float[Tensor, "n 3"]
RayNumbers = Float[Tensor, "n"]


@dataclass(frozen=True)
class RayCodes:
    """Codes of n rays.

    values: in [-1, 1]; cluster: which part of a code of several parts a ray belongs to (None:
    there is one); valid: rays that the code can tell apart from others (None: all); other, share:
    the codes in the next nearest part, and how much the own part counts, in [1/2, 1] (None: it
    counts alone).
    """

    values: Float[Tensor, "n out_dim"]
    cluster: Int64[Tensor, "n"] | None = None
    valid: Bool[Tensor, "n"] | None = None
    other: RayCodes | None = None
    share: RayNumbers | None = None


class RayCode(nn.Module):
    """A map of rays to `out_dim` numbers in [-1, 1].

    Built as ``cls(config, bounded=True)``; `bounded`: the scene ends at its box, and rays that
    miss it show nothing. `clusters` is the number of parts, each with coordinates of its own.
    What a code takes from the data is kept in buffers, set by `adapt`.
    """

    kind: ClassVar[str] = "ray-codes"
    out_dim: int
    clusters: int = 1

    def adapt(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> None:
        """Set ranges, planes and parts once, from rays like those to come; nothing by default.

        Args:
            origins: Of the rays.
            directions: Of the rays, of unit length.
            near: Least distance looked at.
            far: Largest distance looked at.
            generator: CPU generator, where anything is drawn.
        """

    def forward(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> RayCodes:
        """Codes of rays; arguments as in `adapt`, with a generator where they are jittered."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")


def normalised(directions: RayVectors) -> RayVectors:
    """Directions of unit length."""
    return directions / directions.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def box_span(
    origins: RayVectors, directions: RayVectors, near: RayNumbers, far: RayNumbers
) -> tuple[RayNumbers, RayNumbers, Bool[Tensor, "n"]]:
    """Distances at which rays enter and leave the box [-1, 1]^3, and which rays meet it at all.

    Example:
        >>> o, d = torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> box_span(o, d, torch.zeros(1), torch.full((1,), 9.0))
        (tensor([2.]), tensor([4.]), tensor([True]))
    """
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    first, second = (-1 - origins) / safe, (1 - origins) / safe
    enter = torch.minimum(first, second).amax(-1).maximum(near)
    leave = torch.maximum(first, second).amin(-1).minimum(far)
    return enter, leave, enter < leave


def telling(
    bounded: bool,
    origins: RayVectors,
    directions: RayVectors,
    near: RayNumbers,
    far: RayNumbers,
) -> Bool[Tensor, "n"]:
    """Rays whose codes must be told apart: those that meet the box, or all without an end."""
    met = box_span(origins, directions, near, far)[2]
    return met if bounded and bool(met.any()) else torch.ones_like(met)


def frame_about(axis: Float[Tensor, "*k 3"]) -> Float[Tensor, "*k 3 3"]:
    """Right-handed frames whose third row is a given direction; the second leans towards +z.

    Example:
        >>> frame_about(torch.tensor([1.0, 0.0, 0.0]))[1]
        tensor([0., 0., 1.])
    """
    z = axis / axis.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    up, forward = torch.zeros_like(z), torch.zeros_like(z)
    up[..., 2], forward[..., 1] = 1, 1
    up = torch.where(z[..., 2:].abs() > 0.999, forward, up)
    y = up - (up * z).sum(-1, keepdim=True) * z
    y = y / y.norm(dim=-1, keepdim=True)
    return torch.stack((torch.linalg.cross(y, z), y, z), -2)
