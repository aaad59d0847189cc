"""Posed cameras: pixels -> rays, points -> pixels.

Cameras are OpenGL style (x right, y up, looking along -z); pixel coordinates run from the image's
top-left corner, so the first pixel's centre is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.errors import InputError, UnknownNameError
from polyfield.renderers.distortion import (
    MAX_PARAMETERS,
    MODELS,
    distort,
    flatten,
    lift,
    pixel_steps,
    undistort,
)
from polyfield.renderers.ndc import ndc_rays, ndc_to_world
from polyfield.renderers.pinhole import FOOTPRINT, pinhole_rays
from polyfield.renderers.types import Rays

__all__ = ["MODELS", "Cameras", "pinhole_cameras"]


@dataclass(frozen=True)
class Cameras:
    """V cameras in the scene box.

    c2w: camera to box, rotation and position; intrinsics: fx, fy, cx, cy in pixels; sizes: width,
    height; models: a key of `MODELS` per view; distortion: in that model's order, zero padded;
    near, far: range of t, in box units.

    With `ndc` the box holds normalised device coordinates and c2w, near and far are in the
    recentred world they are made from (cameras looking along -z, near plane at z = -ndc_near);
    rays then run over the whole box. `ndc_scale` is shared by all views of a scene; `with_ndc`
    finds it, and must be called before the views are split.
    """

    c2w: Float[Tensor, "views 3 4"]
    intrinsics: Float[Tensor, "views 4"]
    sizes: Int64[Tensor, "views 2"]
    models: tuple[str, ...]
    distortion: Float[Tensor, "views 12"]
    near: Float[Tensor, "views"]
    far: Float[Tensor, "views"]
    ndc: bool = False
    ndc_scale: tuple[float, float] | None = None
    ndc_near: float = 1.0

    def __post_init__(self) -> None:
        for model in set(self.models) - MODELS.keys():
            raise UnknownNameError("camera model", model, MODELS)
        if len(self.models) != len(self.c2w):
            raise InputError(
                f"{len(self.c2w)} cameras but {len(self.models)} camera models; give one per view"
            )
        if self.ndc and self.ndc_scale is None:
            raise InputError("cameras with ndc need ndc_scale; make them with Cameras.with_ndc()")

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Cameras:
        """A subset of the views (one integer gives one view)."""
        chosen = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        chosen = chosen.reshape(-1)
        on = chosen.to(self.c2w.device)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: v[on] for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **tensors, models=tuple(self.models[i] for i in chosen.tolist()))

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        )

    def rays(self, view: Int64[Tensor, "*batch"], xy: Float[Tensor, "*batch 2"]) -> Rays:
        """Rays through pixel positions, with unit directions.

        `radii` is mip-NeRF's: the mean distance to the rays of the pixels to the right and below,
        on the image plane at t = 1, times 2 / sqrt(12). In NDC it is the radius of a cylinder.
        `z_scale` is the cosine to the optical axis (1 for equirectangular views, whose depth is
        the distance; None in NDC).

        Args:
            view: Indices of the views.
            xy: Pixel coordinates (column, row), pixel centres at +0.5.
        """
        shape, view, xy = view.shape, view.reshape(-1), xy.reshape(-1, 2)
        if not self.ndc and set(self.models) == {"pinhole"}:
            rays = pinhole_rays(view, xy, self.c2w, self.intrinsics, self.near, self.far)
            return rays._map(lambda v: v.reshape(*shape, *v.shape[1:]))
        with torch.no_grad():
            local, beside, z_scale = self._local(view, xy)
        pose = self.c2w[view]
        length = local.norm(dim=-1)
        rotation, origins = pose[..., :3], pose[..., 3]
        directions = _rotate(rotation, local / length[:, None])
        if self.ndc:
            rays = self._ndc_rays(origins, directions, _rotate(rotation[:, None], beside))
        else:
            spacing = (beside - local[:, None]).norm(dim=-1).mean(-1)
            rays = Rays(
                origins,
                directions,
                near=self.near[view],
                far=self.far[view],
                radii=spacing / length * FOOTPRINT,
                z_scale=z_scale,
            )
        return rays._map(lambda v: v.reshape(*shape, *v.shape[1:]))

    def _ndc_rays(self, origins: Tensor, directions: Tensor, beside: Tensor) -> Rays:
        start, along = ndc_rays(origins, directions, self.ndc_scale, self.ndc_near)
        neighbours, _ = ndc_rays(
            origins[:, None].expand_as(beside), beside, self.ndc_scale, self.ndc_near
        )
        far = along.norm(dim=-1)
        return Rays(
            start,
            along / far[:, None],
            near=torch.zeros_like(far),
            far=far,
            radii=(neighbours - start[:, None]).norm(dim=-1).mean(-1) * FOOTPRINT,
            view_directions=directions,
        )

    def _groups(self, view: Tensor) -> list[tuple[str, Tensor | slice]]:
        """The camera models in use with the rays that have them."""
        distinct = sorted(set(self.models))
        if len(distinct) == 1:
            return [(distinct[0], slice(None))]
        which = torch.tensor([distinct.index(m) for m in self.models], device=view.device)[view]
        masks = [(model, which == i) for i, model in enumerate(distinct)]
        return [(model, mask) for model, mask in masks if bool(mask.any())]

    def _local(self, view: Tensor, xy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """OpenGL camera directions (B, 3), those one pixel right and below (B, 2, 3), cosines."""
        focal, centre = self.intrinsics[view].split(2, -1)
        measured = (xy - centre) / focal
        points, cosines = xy.new_empty(len(xy), 3, 3), xy.new_ones(len(xy))
        for model, mine in self._groups(view):
            params = self.distortion[view[mine]]
            n = undistort(model, params, measured[mine])
            moved = n[:, None] + pixel_steps(model, params, n, focal[mine])
            points[mine] = lift(model, torch.cat([n[:, None], moved], 1))
            if model != "equirectangular":
                centre_points = points[mine][:, 0]
                cosines[mine] = centre_points[:, 2] / centre_points.norm(dim=-1)
        points[..., 1:] *= -1  # OpenCV axes -> OpenGL axes
        return points[:, 0], points[:, 1:], cosines

    def image_rays(self, view: int) -> Rays:
        """Rays of all pixel centres of one view, shape (height, width)."""
        width, height = self.sizes[view].tolist()
        dtype, device = self.c2w.dtype, self.c2w.device
        x = torch.arange(width, dtype=dtype, device=device) + 0.5
        y = torch.arange(height, dtype=dtype, device=device) + 0.5
        xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        views = torch.full(xy.shape[:-1], view, dtype=torch.int64, device=device)
        return self.rays(views, xy)

    def project(
        self, view: Int64[Tensor, "*batch"], x: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
        """Pixel coordinates of points in the box, and their z-depth.

        z <= 0 is behind the camera: its pixel means nothing (except for fisheye lenses, which
        see up to their field of view). Equirectangular views give the distance as z. In NDC z is
        in units of the recentred world.
        """
        shape, view, x = view.shape, view.reshape(-1), x.reshape(-1, 3)
        if self.ndc:
            x = ndc_to_world(x, self.ndc_scale, self.ndc_near)
        pose = self.c2w[view]
        local = _rotate(pose[..., :3].transpose(-1, -2), x - pose[..., 3])
        local = local * local.new_tensor([1.0, -1.0, -1.0])
        focal, centre = self.intrinsics[view].split(2, -1)
        xy, z = torch.empty_like(x[:, :2]), local[:, 2].clone()
        for model, mine in self._groups(view):
            n = flatten(model, local[mine])
            xy[mine] = distort(model, self.distortion[view[mine]], n) * focal[mine] + centre[mine]
            if model == "equirectangular":
                z[mine] = local[mine].norm(dim=-1)
        return xy.reshape(*shape, 2), z.reshape(shape)

    def resized(
        self, width: int | Int64[Tensor, "views"], height: int | Int64[Tensor, "views"]
    ) -> Cameras:
        """Cameras of the same views at another image size, intrinsics scaled per axis."""
        sizes = self.sizes.clone()
        sizes[:, 0], sizes[:, 1] = width, height
        ratio = (sizes / self.sizes).to(self.intrinsics.dtype).repeat(1, 2)
        return replace(self, sizes=sizes, intrinsics=self.intrinsics * ratio)

    def with_ndc(self, near: float = 1.0) -> Cameras:
        """The same cameras seen in normalised device coordinates.

        The scale is that of the median view, shrunk where needed so that every view's rays stay
        in the box (a camera off the centre sees beyond the central frustum).

        Args:
            near: Distance of the near plane in the world of c2w.

        Raises:
            InputError: A camera does not look along -z.
        """
        focal = (2 * self.intrinsics[:, :2] / self.sizes).median(0).values
        scale = (float(focal[0]), float(focal[1]))
        plain = replace(self, ndc=False)
        reach = torch.ones(2, dtype=self.c2w.dtype, device=self.c2w.device)
        for view, (width, height) in enumerate(self.sizes.tolist()):
            rays = plain.rays(*_border(view, width, height, self.c2w))
            if bool((rays.directions[:, 2] > -1e-3).any()):
                raise InputError(
                    f"view {view} does not look along -z, so normalised device coordinates cannot "
                    "hold what it sees; fit without ndc"
                )
            start, along = ndc_rays(rays.origins, rays.directions, scale, near)
            ends = torch.cat([start, start + along]).abs()[:, :2]
            reach = torch.maximum(reach, ends.max(0).values)
        fitted = (scale[0] / float(reach[0]), scale[1] / float(reach[1]))
        return replace(self, ndc=True, ndc_scale=fitted, ndc_near=float(near))


def _rotate(rotation: Tensor, v: Tensor) -> Tensor:
    return (rotation * v[..., None, :]).sum(-1)


def _border(view: int, width: int, height: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates around the image, 17 a side."""
    s = torch.linspace(0, 1, 17, dtype=like.dtype, device=like.device)
    zero, one = torch.zeros_like(s), torch.ones_like(s)
    x, y = torch.cat([s, s, zero, one]) * width, torch.cat([zero, one, s, s]) * height
    views = torch.full(x.shape, view, dtype=torch.int64, device=like.device)
    return views, torch.stack([x, y], -1)


def pinhole_cameras(
    c2w: Float[Tensor, "views 3 4"],
    intrinsics: Float[Tensor, "views 4"] | Float[Tensor, "4"],
    size: tuple[int, int],
    near: float = 0.0,
    far: float = 10.0,
) -> Cameras:
    """Undistorted cameras of one image size (width, height)."""
    n = len(c2w)
    on = {"dtype": c2w.dtype, "device": c2w.device}
    return Cameras(
        c2w=c2w,
        intrinsics=intrinsics.expand(n, 4).to(**on),
        sizes=torch.tensor(size, device=c2w.device).expand(n, 2),
        models=("pinhole",) * n,
        distortion=torch.zeros(n, MAX_PARAMETERS, **on),
        near=torch.full((n,), float(near), **on),
        far=torch.full((n,), float(far), **on),
    )
