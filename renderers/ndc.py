"""Normalised device coordinates for forward-facing captures (NeRF, appendix C).

The frustum in front of z = -n, infinity included, becomes the box [-1, 1]^3: x' and y' are the
image position, z' = -1 is the near plane and z' = 1 infinity. All cameras of a scene share one
map, given by `scale` = (2 fx / width, 2 fy / height) of the capture and the plane n.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ndc_rays(
    origins: Float[Tensor, "*batch 3"],
    directions: Float[Tensor, "*batch 3"],
    scale: tuple[float, float],
    near: float = 1.0,
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"]]:
    """Rays in NDC as ``o' + t' d'``: t' = 0 on the near plane, t' = 1 at infinity.

    Args:
        origins: World positions of cameras that look roughly along -z.
        directions: Of any length, with z < 0.
        scale: (2 fx / width, 2 fy / height).
        near: Distance n of the near plane.
    """
    shift = -(near + origins[..., 2:]) / directions[..., 2:]
    o = origins + shift * directions
    s = torch.tensor(scale, dtype=o.dtype, device=o.device)
    ratio_o, ratio_d = o[..., :2] / o[..., 2:], directions[..., :2] / directions[..., 2:]
    depth = 2 * near / o[..., 2:]
    start = torch.cat([-s * ratio_o, 1 + depth], -1)
    return start, torch.cat([-s * (ratio_d - ratio_o), -depth], -1)


def ndc_to_world(
    x: Float[Tensor, "*batch 3"], scale: tuple[float, float], near: float = 1.0
) -> Float[Tensor, "*batch 3"]:
    """World positions of NDC points (z' < 1; infinity is kept finite)."""
    s = torch.tensor(scale, dtype=x.dtype, device=x.device)
    z = 2 * near / (x[..., 2:] - 1).clamp(max=-1e-9)
    return torch.cat([-x[..., :2] * z / s, z], -1)
