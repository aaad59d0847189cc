"""Rays of cameras without a lens by a compiled CPU kernel."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.parallel import arrays
from polyfield.renderers.kernels.launch import launch
from polyfield.renderers.pinhole import FOOTPRINT, pinhole_rays_torch
from polyfield.renderers.types import Rays


def pinhole_rays_numba(
    view: Int64[Tensor, "n"],
    xy: Float[Tensor, "n 2"],
    c2w: Float[Tensor, "views 3 4"],
    intrinsics: Float[Tensor, "views 4"],
    near: Float[Tensor, "views"],
    far: Float[Tensor, "views"],
) -> Rays:
    """Compiled form of `polyfield.renderers.pinhole.pinhole_rays_torch`.

    Cameras that are fitted are rare: where a gradient is asked for, the reference computes. It
    also says what is wrong with a view that does not exist.
    """
    given = (xy, c2w, intrinsics, near, far)
    wanted = torch.is_grad_enabled() and any(v.requires_grad for v in given)
    if wanted or len({v.dtype for v in given}) > 1 or not _exist(view, len(c2w)):
        return pinhole_rays_torch(view, *given)
    from polyfield.renderers.kernels import pinhole as kernels

    n = len(view)
    origins, directions = xy.new_empty(n, 3), xy.new_empty(n, 3)
    each = xy.new_empty(4, n)
    cameras = tuple(arrays(c2w, intrinsics, near, far))
    out = tuple(arrays(origins, directions, each))
    launch(kernels.rays, n, *arrays(view, xy), cameras, FOOTPRINT, out, fewest=4096)
    near, far, radii, cosine = each.unbind(0)
    return Rays(origins, directions, near=near, far=far, radii=radii, z_scale=cosine)


def _exist(view: Tensor, count: int) -> bool:
    if not len(view):
        return True
    low, high = view.aminmax()
    return int(low) >= 0 and int(high) < count
