"""Light fields on a grid of views: geometry, rays, disparities, epipolar-plane images.

Symbols: u, v: column (left to right) and row (top to bottom) of the camera grid; s, t: column and
row of a pixel, 0 at the first pixel's centre; D: disparity, in pixels per column of the grid. A
point at s0 in the centre view, seen from column u, is at ``s0 - (u - u0) D``: D is positive for
what is nearer than the plane of zero disparity. Arrays of views are indexed [u, v, t, s, channel].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from polyfield.data.scene import PosedImages
from polyfield.errors import InputError
from polyfield.renderers.cameras import Cameras

GAP = 0.3  # of the widest gap between cameras' places: smaller ones are within a column or row
Views = Shaped[np.ndarray, "u v t s channels"]
Numbers = Float[np.ndarray, "*n"]
Vectors = Float[np.ndarray, "*n 3"]


def middle(count: int) -> int:
    """Index of the centre of `count` columns or rows: (count - 1) / 2, or count / 2 if even."""
    return count // 2


@dataclass(frozen=True)
class GridGeometry:
    """Cameras on a grid in a plane, all turned the same way.

    columns, rows: of the grid; baseline: distance between neighbouring columns and rows; focal:
    in pixels, both ways; principal: of the centre view, in pixels, the first pixel's centre at
    0.5; pose: 4x4 camera-to-world of the centre view, OpenGL axes; zero_disparity: distance from
    the cameras' plane of the plane that all views show at the same pixels (infinite: parallel
    views with equal principal points).
    """

    columns: int
    rows: int
    baseline: tuple[float, float]
    focal: tuple[float, float]
    principal: tuple[float, float]
    pose: Float[np.ndarray, "4 4"]
    zero_disparity: float = math.inf

    @property
    def centre(self) -> tuple[int, int]:
        """Column and row of the centre view."""
        return middle(self.columns), middle(self.rows)

    @property
    def row_step(self) -> float:
        """Pixels per row of the grid for every pixel of disparity per column."""
        across, down = (f * b for f, b in zip(self.focal, self.baseline, strict=True))
        return down / across

    def scaled(self, factor: float) -> GridGeometry:
        """The same grid measured in other units (`factor` per unit); the pose's place as well."""
        pose = self.pose.copy()
        pose[:3, 3] *= factor
        baseline = tuple(b * factor for b in self.baseline)
        far = self.zero_disparity * factor
        return replace(self, baseline=baseline, pose=pose, zero_disparity=far)

    def disparity(self, depth: float | Numbers) -> float | Numbers:
        """Pixels per column, of points at a distance from the cameras' plane."""
        return self.baseline[0] * self.focal[0] * (1 / depth - 1 / self.zero_disparity)

    def depth(self, disparity: float | Numbers) -> float | Numbers:
        """Distance from the cameras' plane of points with a disparity; the inverse of `disparity`.

        Infinite or negative where no point in front of the cameras has that disparity.
        """
        inverse = disparity / (self.baseline[0] * self.focal[0]) + 1 / self.zero_disparity
        with np.errstate(divide="ignore"):
            return (1 / np.asarray(inverse, float))[()]

    def shift(self, u: float | Numbers, v: float | Numbers) -> tuple:
        """How far the principal point of the camera at (u, v) is from the centre view's, pixels."""
        offsets = zip((u, v), self.centre, self.baseline, self.focal, strict=True)
        return tuple((a - c) * b * f / self.zero_disparity for a, c, b, f in offsets)

    def camera(self, u: float, v: float) -> tuple[np.ndarray, tuple[float, float]]:
        """4x4 pose and principal point of the camera at a place of the grid, whole or not."""
        pose = self.pose.copy()
        across, down = (
            (a - c) * b for a, c, b in zip((u, v), self.centre, self.baseline, strict=True)
        )
        pose[:3, 3] = self.pose[:3, 3] + across * pose[:3, 0] - down * pose[:3, 1]
        x, y = (p + d for p, d in zip(self.principal, self.shift(u, v), strict=True))
        return pose, (float(x), float(y))

    def rays(self, u: Numbers, v: Numbers, s: Numbers, t: Numbers) -> tuple[Vectors, Vectors]:
        """Origins and directions of rays in the world.

        Directions advance by 1 along the cameras' axis, so that ``origin + depth * direction``
        is the point seen. Arguments of one shape; whole numbers are not asked for.
        """
        (u0, v0), (a, b), (fx, fy) = self.centre, self.baseline, self.focal
        move, (cx, cy) = self.shift(u, v), self.principal
        zero = np.zeros_like(s)
        origins = np.stack([(u - u0) * a, -(v - v0) * b, zero], -1)
        x, y = (s + 0.5 - cx - move[0]) / fx, (t + 0.5 - cy - move[1]) / fy
        directions = np.stack([x, -y, zero - 1], -1)
        rotation = self.pose[:3, :3]
        return origins @ rotation.T + self.pose[:3, 3], directions @ rotation.T

    def coordinates(self, origins: Vectors, directions: Vectors) -> tuple[Numbers, ...]:
        """(u, v, s, t) of rays that are not parallel to the cameras' plane: `rays` backwards."""
        rotation = self.pose[:3, :3]
        o, d = (origins - self.pose[:3, 3]) @ rotation, directions @ rotation
        slope = d[..., :2] / -d[..., 2:]
        at = o[..., :2] + o[..., 2:] * slope
        u = at[..., 0] / self.baseline[0] + self.centre[0]
        v = -at[..., 1] / self.baseline[1] + self.centre[1]
        move, (cx, cy) = self.shift(u, v), self.principal
        s = slope[..., 0] * self.focal[0] + cx + move[0] - 0.5
        t = -slope[..., 1] * self.focal[1] + cy + move[1] - 0.5
        return u, v, s, t


@dataclass(frozen=True)
class LightFieldGrid:
    """A sampled light field: views[u, v, t, s, channel], usually memory-mapped, and its geometry.

    depths[u, v, t, s]: distances along the cameras' axis in the geometry's units, 0 = unknown.
    """

    views: UInt8[np.ndarray, "u v t s channels"]
    geometry: GridGeometry
    depths: Float32[np.ndarray, "u v t s"] | None = None

    def view(self, u: int, v: int) -> UInt8[np.ndarray, "t s channels"]:
        """One sub-aperture view, not copied."""
        return self.views[u, v]

    def disparities(self, u: int, v: int) -> Float32[np.ndarray, "t s"]:
        """Disparity of every pixel of a view, nan where its depth is unknown.

        Raises:
            InputError: The light field has no depths.
        """
        if self.depths is None:
            raise InputError("this light field has no depths; give depth pictures with its views")
        depth = self.depths[u, v].astype(np.float64)
        known = np.where(depth > 0, depth, np.nan)
        return self.geometry.disparity(known).astype(np.float32)

    def rgbd_rays(self, u: int, v: int) -> tuple[Vectors, Vectors, np.ndarray, np.ndarray]:
        """Origins, directions, colours (uint8) and depths of a view's rays, pixel by pixel.

        ``origin + depth * direction`` is the point that a ray sees.

        Raises:
            InputError: The light field has no depths.
        """
        if self.depths is None:
            raise InputError("this light field has no depths; give depth pictures with its views")
        height, width = self.views.shape[2:4]
        t, s = (g.ravel().astype(np.float64) for g in np.mgrid[:height, :width])
        origins, directions = self.geometry.rays(np.full_like(s, u), np.full_like(s, v), s, t)
        colours = self.views[u, v].reshape(len(s), -1)
        return origins, directions, colours, self.depths[u, v].ravel()


def horizontal_epi(views: Views, v: int, t: int) -> Shaped[np.ndarray, "u s channels"]:
    """Epipolar-plane image of pixel row `t` over the grid's row `v`: a point moves by -D a row."""
    return views[:, v, t]


def vertical_epi(views: Views, u: int, s: int) -> Shaped[np.ndarray, "v t channels"]:
    """Epipolar-plane image of pixel column `s` over the grid's column `u`."""
    return views[u, :, :, s]


def grid_geometry(cameras: Cameras) -> GridGeometry:
    """The grid that cameras stand on, row by row from the top left, in the cameras' units.

    Raises:
        InputError: The cameras are no such grid: turned differently, not in a plane, irregular.
    """
    poses = cameras.c2w.detach().double().cpu().numpy()
    lens = cameras.intrinsics.detach().double().cpu().numpy()
    turned = np.abs(poses[:, :, :3] - poses[:1, :, :3]).max()
    local = (poses[:, :, 3] - poses[0, :, 3]) @ poses[0, :, :3]
    reach = np.abs(local[:, :2]).max() if len(local) > 1 else 0.0
    if set(cameras.models) != {"pinhole"} or turned > 1e-4 or reach <= 0:
        raise InputError(_no_grid("cameras of one pinhole lens, turned alike, at several places"))
    if (
        np.abs(local[:, 2]).max() > 0.02 * reach
        or np.ptp(lens[:, :2], axis=0).max() > 1e-3 * lens[0, 0]
    ):
        raise InputError(_no_grid("cameras in one plane with one focal length"))
    u, columns, across = _steps(local[:, 0], 0.02 * reach)
    v, rows, down = _steps(-local[:, 1], 0.02 * reach)
    in_order = np.arange(len(u))
    if columns * rows != len(u) or (v * columns + u != in_order).any():
        raise InputError(_no_grid(f"every place of {columns} columns and {rows} rows, row by row"))
    focal = float(lens[0, 0]), float(lens[0, 1])
    steps = across or down, down or across
    offset = np.stack([u - middle(columns), v - middle(rows)], 1)
    shear, zero = _shear(lens[:, 2:], local[:, :2] * [1, -1], focal)
    pose = np.eye(4)
    pose[:3] = poses[0]
    mean = (local - np.concatenate([offset * steps * [1, -1], 0 * local[:, 2:]], 1)).mean(0)
    pose[:3, 3] = poses[0, :, 3] + poses[0, :, :3] @ mean
    principal = (lens[:, 2:] - shear * offset * steps * focal).mean(0)
    return GridGeometry(
        columns, rows, steps, focal, tuple(map(float, principal)), pose, zero
    )  # fmt: skip


def _no_grid(expected: str) -> str:
    return f"these cameras are no light field's: expected {expected}"


def _steps(places: np.ndarray, least: float) -> tuple[np.ndarray, int, float]:
    """Column of each place along one side, how many there are, and the mean distance of two."""
    order = np.argsort(places)
    gaps = np.diff(places[order])
    widest = gaps.max(initial=0.0)
    if widest <= least:
        return np.zeros(len(places), int), 1, 0.0
    index = np.empty(len(places), int)
    index[order] = np.concatenate([[0], np.cumsum(gaps > GAP * widest)])
    count = int(index.max()) + 1
    slope = np.polyfit(index, places, 1)[0]
    return index, count, float(slope)


def _shear(
    principal: np.ndarray, places: np.ndarray, focal: tuple[float, float]
) -> tuple[float, float]:
    """1 / distance of the plane of zero disparity, and the distance: from principal points."""
    moves = (principal - principal.mean(0)) / focal
    apart = places - places.mean(0)
    inverse = float((moves * apart).sum() / (apart * apart).sum())
    if np.abs(inverse * apart * focal).max() < 1e-2:
        return 0.0, math.inf
    return inverse, 1 / inverse


def light_field_grid(scene: PosedImages) -> LightFieldGrid:
    """A loaded scene as a grid of views, over the same memory; geometry in world units.

    Args:
        scene: Loaded with all its views.

    Raises:
        InputError: Its cameras are no full grid.
    """
    geometry = grid_geometry(scene.cameras)
    pose = scene.transform.pose_to_world(geometry.pose)
    geometry = replace(geometry.scaled(1 / scene.transform.scale), pose=pose)
    shape = geometry.rows, geometry.columns
    stacked = scene.images.stacked()
    views = stacked.reshape(*shape, *stacked.shape[1:]).swapaxes(0, 1)
    depths = None
    if scene.depths is not None:
        stacked = scene.depths.stacked()[..., 0]
        depths = stacked.reshape(*shape, *stacked.shape[1:]).swapaxes(0, 1)
    return LightFieldGrid(views, geometry, depths)
