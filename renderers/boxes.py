"""Where rays are inside the scene box [-1, 1]^3."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.renderers.types import Rays


def intersect_box(
    rays: Rays, half: float = 1.0
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Entry and exit distance t of the box [-half, half]^3, by the slab test.

    Behind the origin t is negative. Where entry >= exit the line misses the box.
    """
    # An exact zero would make 0/0 on the slab; the smallest step off it decides the same way.
    tiny = torch.finfo(rays.directions.dtype).tiny * 4
    d = torch.where(rays.directions.abs() < tiny, tiny, rays.directions)
    low, high = (-half - rays.origins) / d, (half - rays.origins) / d
    return torch.minimum(low, high).amax(-1), torch.maximum(low, high).amin(-1)


def clip_to_box(rays: Rays) -> Rays:
    """The rays with [near, far] cut to the box; far = near where a ray misses it."""
    enter, leave = intersect_box(rays)
    near = torch.maximum(rays.near, enter)
    far = torch.minimum(rays.far, leave)
    missed = ~(far > near)
    return replace(
        rays, near=torch.where(missed, rays.near, near), far=torch.where(missed, rays.near, far)
    )
