"""Rays of cameras without a lens: what a training step of most captures draws."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.backend import Implementation, implement, resolve
from polyfield.renderers.types import Rays

# Standard deviation of a uniform pixel footprint -> radius of the disc with the same variance
# per axis (mip-NeRF, section 3.1).
FOOTPRINT = 2 / 12**0.5

implement(
    Implementation(
        op="pinhole-rays",
        backend="torch",
        path="polyfield.renderers.pinhole:pinhole_rays_torch",
        devices=None,
        dtypes=("float32", "float64", "float16", "bfloat16"),
        second_order=True,
    )
)
implement(
    Implementation(
        op="pinhole-rays",
        backend="numba",
        path="polyfield.renderers.pinhole_numba:pinhole_rays_numba",
        devices=("cpu",),
        dtypes=("float32", "float64"),
        requires=("numba",),
        priority=10,
    )
)


def pinhole_rays(
    view: Int64[Tensor, "n"],
    xy: Float[Tensor, "n 2"],
    c2w: Float[Tensor, "views 3 4"],
    intrinsics: Float[Tensor, "views 4"],
    near: Float[Tensor, "views"],
    far: Float[Tensor, "views"],
) -> Rays:
    """Rays through pixel positions of `polyfield.renderers.cameras.Cameras` without distortion.

    Args:
        view: Indices of the views.
        xy: Pixel coordinates (column, row), pixel centres at +0.5.
        c2w: Camera to box.
        intrinsics: fx, fy, cx, cy in pixels.
        near, far: Range of t, per view.
    """
    dtype = str(xy.dtype).removeprefix("torch.")
    choice = resolve("pinhole-rays", device=xy.device.type, dtype=dtype)
    return choice.function(view, xy, c2w, intrinsics, near, far)


def pinhole_rays_torch(
    view: Int64[Tensor, "n"],
    xy: Float[Tensor, "n 2"],
    c2w: Float[Tensor, "views 3 4"],
    intrinsics: Float[Tensor, "views 4"],
    near: Float[Tensor, "views"],
    far: Float[Tensor, "views"],
) -> Rays:
    """Reference of the operation ``pinhole-rays``; differentiable."""
    focal, centre = intrinsics[view].split(2, -1)
    x, y = ((xy - centre) / focal).unbind(-1)
    length = (x * x + y * y + 1).sqrt()
    cosine = 1 / length
    pose = c2w[view]
    right, up, back = pose[..., 0], pose[..., 1], pose[..., 2]
    along = right * x[:, None] - up * y[:, None] - back
    return Rays(
        pose[..., 3],
        along * cosine[:, None],
        near=near[view],
        far=far[view],
        radii=(1 / focal).mean(-1) * cosine * FOOTPRINT,
        z_scale=cosine,
    )
