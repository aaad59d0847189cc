"""Where the scene box lies: centre, size, near and far, from cameras, points and hints.

Bounded scenes (synthetic objects, cut-outs) fit inside the box. Unbounded ones are contracted
outside the unit ball, so the box is centred on what the cameras look at and its half side is
their median distance from it: as in mip-NeRF 360, cameras lie near the surface of the ball, what
they surround keeps its full resolution, the rest is squeezed into the shell between 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from polyfield.data.poses import average_pose, focus_point, up_direction
from polyfield.data.scene import Description, LoadOptions, SceneTransform
from polyfield.errors import InputError

Poses = Float64[np.ndarray, "views 4 4"]
PerView = Float64[np.ndarray, "views"]

UNBOUNDED_NEAR, UNBOUNDED_FAR = 0.1, 1000.0  # box units: camera distances from the centre
NDC_MARGIN = 0.75  # LLFF's bd_factor: the nearest content lies at 1 / 0.75 of the near plane
PARALLEL = 3e-3  # conditioning of the focus below which the axes count as parallel (3 degrees)


@dataclass(frozen=True)
class Bounds:
    """The scene box. near, far: box units per view; up: unit, in the box; how: for the report."""

    transform: SceneTransform
    bounded: bool
    near: PerView
    far: PerView
    up: Float64[np.ndarray, "3"]
    how: str


@dataclass(frozen=True)
class Hints:
    """What the estimate starts from: poses in the world, half the smaller angle of view of each
    in radians, and whether the images are cut-outs on transparent ground."""

    c2w: Poses
    half_angles: PerView
    transparent: bool
    description: Description


def scene_bounds(hints: Hints, options: LoadOptions, given: SceneTransform | None = None) -> Bounds:
    """The box of a scene; `options` override the estimate, `given` fixes the transform.

    Raises:
        InputError: NDC is asked for and no near depth is known.
    """
    if options.ndc:
        return _ndc_bounds(hints, options, given)
    stated = hints.description.bounded
    bounded = hints.transparent if stated is None else stated
    if options.unbounded is not None:
        bounded = not options.unbounded
    centre, half, how = (_object_box if bounded else _surroundings_box)(hints)
    overridden = options.scale is not None or options.centre is not None
    transform = given or SceneTransform(
        scale=1 / half if options.scale is None else options.scale,
        centre=tuple(float(c) for c in (centre if options.centre is None else options.centre)),
    )
    trusted = hints.description.bounded is True and not overridden
    near, far = _range(hints, transform, bounded, trusted)
    near, far = _overridden(near, far, options, transform.scale)
    how = "given" if given or overridden else how
    return Bounds(transform, bounded, near, far, _up(hints, transform), how)


def _up(hints: Hints, transform: SceneTransform) -> np.ndarray:
    stated = hints.description.up
    world = up_direction(hints.c2w) if stated is None else np.array(stated, float)
    return np.array(transform.rotation) @ world


def _object_box(hints: Hints) -> tuple[np.ndarray, float, str]:
    """Centre and half side of the object, the tightest of what is known."""
    description = hints.description
    if description.bounded and description.box:
        centre, half = description.box
        return np.array(centre), half, "the format's own box"
    centre, _ = scene_focus(hints)
    distance = np.linalg.norm(hints.c2w[:, :3, 3] - centre, axis=1)
    half = float(np.median(distance * np.sin(hints.half_angles)))
    how = "the sphere that the images show whole"
    points = description.points
    if points is not None and len(points) >= 100:
        low, high = np.quantile(points, [0.005, 0.995], axis=0)
        if 0.55 * (high - low).max() < half:
            return (low + high) / 2, float(0.55 * (high - low).max()), "the points"
    if description.box and description.box[1] < half:
        return np.array(description.box[0]), description.box[1], "the file's aabb_scale"
    return centre, max(half, 1e-6), how


def _surroundings_box(hints: Hints) -> tuple[np.ndarray, float, str]:
    """Centre on the focus, half side the cameras' median distance from it."""
    centre, how = scene_focus(hints)
    distance = np.linalg.norm(hints.c2w[:, :3, 3] - centre, axis=1)
    return centre, max(float(np.median(distance)), 1e-6), how


def scene_focus(hints: Hints) -> tuple[np.ndarray, str]:
    """The point the cameras look at, and how it was found.

    The least-squares meeting point of the optical axes; where these are nearly parallel, the
    mean camera's axis at a depth taken from depth bounds (LLFF's weighting of disparities),
    points, or the spread of the cameras.
    """
    point, conditioning = focus_point(hints.c2w)
    if conditioning > PARALLEL:
        return point, "the point nearest to all optical axes"
    pose = average_pose(hints.c2w)
    depth, source = _typical_depth(hints, pose)
    return pose[:3, 3] - depth * pose[:3, 2], f"straight ahead at a depth from {source}"


def _typical_depth(hints: Hints, pose: np.ndarray) -> tuple[float, str]:
    description = hints.description
    if description.depth_range:
        near, far = description.depth_range
        return 1 / (0.25 / (0.9 * near) + 0.75 / (5 * far)), "the depth bounds"
    if description.points is not None and len(description.points):
        depths = -(description.points - pose[:3, 3]) @ pose[:3, 2]
        if (depths > 0).any():
            return float(np.median(depths[depths > 0])), "the points"
    spread = np.linalg.norm(hints.c2w[:, :3, 3] - pose[:3, 3], axis=1).max()
    return (4 * float(spread) if spread > 0 else 1.0), "the spread of the cameras"


def _range(
    hints: Hints, transform: SceneTransform, bounded: bool, trusted: bool
) -> tuple[PerView, PerView]:
    """near and far of every view in box units."""
    count, scale = len(hints.c2w), transform.scale
    stated = hints.description.depth_range
    if bounded and trusted and stated:
        return np.full(count, stated[0] * scale), np.full(count, stated[1] * scale)
    if bounded:
        distance = np.linalg.norm(transform.to_box(hints.c2w[:, :3, 3]), axis=1)
        reach = 3**0.5
        return np.maximum(distance - reach, 0.02 * distance), distance + reach
    near = UNBOUNDED_NEAR
    closest = stated[0] if stated else _closest_point(hints)
    if closest is not None:
        near = float(np.clip(0.5 * closest * scale, 0.1 * UNBOUNDED_NEAR, 2 * UNBOUNDED_NEAR))
    return np.full(count, near), np.full(count, UNBOUNDED_FAR)


def _closest_point(hints: Hints) -> float | None:
    """Depth that one point in a thousand stays below, over all views; None without points."""
    points = hints.description.points
    if points is None or len(points) < 100:
        return None
    points = points[:: -(-len(points) // 2000)]
    axes, positions = hints.c2w[:, :3, 2], hints.c2w[:, :3, 3]
    depths = (axes * positions).sum(1)[:, None] - axes @ points.T
    return float(np.quantile(depths[depths > 0], 1e-3)) if (depths > 0).any() else None


def _overridden(
    near: PerView, far: PerView, options: LoadOptions, scale: float
) -> tuple[PerView, PerView]:
    if options.near is not None:
        near = np.full_like(near, options.near * scale)
    if options.far is not None:
        far = np.full_like(far, options.far * scale)
    if not (far > near).all():
        raise InputError(
            f"near {near.max() / scale:.4g} is not below far {far.min() / scale:.4g} (world "
            "units); give both near and far"
        )
    return near, far


def _ndc_bounds(hints: Hints, options: LoadOptions, given: SceneTransform | None) -> Bounds:
    """LLFF's recentring: the mean camera looks along -z from the origin, near plane at 1."""
    if given is None:
        given = _recentred(hints, options)
    count = len(hints.c2w)
    scale = given.scale
    stated = hints.description.depth_range
    far = UNBOUNDED_FAR if stated is None else max(stated[1] * scale, 2.0)
    near, far = _overridden(np.ones(count), np.full(count, far), replace(options, near=None), scale)
    how = "normalised device coordinates of the mean camera"
    return Bounds(given, True, near, far, np.array([0.0, 1.0, 0.0]), how)


def _recentred(hints: Hints, options: LoadOptions) -> SceneTransform:
    pose = average_pose(hints.c2w)
    stated = hints.description.depth_range
    closest = options.near or (stated[0] if stated else _closest_point(hints))
    if closest is None:
        raise InputError(
            "normalised device coordinates need the depth of the nearest content, and the scene "
            "states none; give it in world units with --set data.near=..."
        )
    return SceneTransform(
        scale=1 / (NDC_MARGIN * closest) if options.scale is None else options.scale,
        centre=tuple(float(c) for c in pose[:3, 3]),
        rotation=tuple(tuple(float(v) for v in row) for row in pose[:3, :3].T),
    )
