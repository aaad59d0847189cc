"""Camera poses as 4x4 matrices, camera -> world, OpenGL axes: pure float64 numpy.

Columns of a pose: right, up, backwards, position. OpenCV's and COLMAP's cameras have y down and
z forward instead: `flip_convention` goes both ways.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64

from polyfield.errors import InputError

Poses = Float64[np.ndarray, "*views 4 4"]
Vector = Float64[np.ndarray, "3"]

SKEW_LIMIT = 1e-2  # files printed with few digits are off by 1e-3; shears are not


def flip_convention(c2w: Poses) -> Poses:
    """OpenCV camera axes as OpenGL's, or back: ``c2w @ diag(1, -1, -1, 1)``."""
    return c2w * np.array([1.0, -1.0, -1.0, 1.0])


def as_pose(matrix: Any, where: str) -> tuple[Float64[np.ndarray, "4 4"], str | None]:
    """A checked pose from nested lists (4x4 or 3x4), and a note if its axes were rescaled.

    `where` names file and frame in messages.

    Raises:
        InputError: Wrong shape, not a number, left-handed, or sheared axes.
    """
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: the pose is no 4x4 matrix of numbers ({error}); write it again"
        ) from error
    if pose.shape == (3, 4):
        pose = np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])
    if pose.shape != (4, 4):
        raise InputError(f"{where}: the pose has shape {pose.shape}, expected (4, 4) or (3, 4)")
    if not np.isfinite(pose).all():
        raise InputError(
            f"{where}: the pose holds a value that is not finite; remove that frame or register "
            "it again"
        )
    rotation, note = _checked_rotation(pose[:3, :3], where)
    pose[:3, :3], pose[3] = rotation, (0.0, 0.0, 0.0, 1.0)
    return pose, note


def _checked_rotation(axes: np.ndarray, where: str) -> tuple[np.ndarray, str | None]:
    lengths = np.linalg.norm(axes, axis=0)
    if lengths.min() < 1e-8:
        raise InputError(f"{where}: the pose has an axis of length 0, expected a rotation")
    unit = axes / lengths
    if np.linalg.det(unit) < 0:
        raise InputError(
            f"{where}: the rotation has determinant -1 (a mirrored, left-handed camera), expected "
            "+1; negate one column of the rotation (usually y or z) in the tool that wrote it"
        )
    skew = np.abs(unit.T @ unit - np.eye(3)).max()
    if skew > SKEW_LIMIT:
        raise InputError(
            f"{where}: the axes of the pose are not perpendicular (off by {skew:.3g}), expected a "
            "rotation; check that the matrix is camera-to-world, row by row"
        )
    left, _, right = np.linalg.svd(unit)
    scaled = np.abs(lengths - 1).max() > 1e-3
    note = f"{where}: axes of length {lengths.mean():.4g} scaled to 1" if scaled else None
    return left @ right, note


def rotation_from_quaternion(q: Float64[np.ndarray, "*n 4"]) -> Float64[np.ndarray, "*n 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z), which are normalised first."""
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_rotation(rotation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "4"]:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation: the dominant eigenvector of a
    symmetric matrix (Bar-Itzhack 2000), which needs no case distinction."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]
    return q if q[0] >= 0 else -q


def focus_point(c2w: Float64[np.ndarray, "views 4 4"]) -> tuple[Vector, float]:
    """Point nearest to all optical axes in the least-squares sense, and how well it is fixed.

    The second value is the smallest over the largest eigenvalue of the normal matrix: near 0
    when all axes are parallel and the point can slide along them.
    """
    axes = c2w[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.mean(0)
    right = (across @ c2w[:, :3, 3:]).mean(0)[:, 0]
    values = np.linalg.eigvalsh(normal)
    point = np.linalg.lstsq(normal, right, rcond=1e-9)[0]
    return point, float(max(values[0], 0.0) / values[-1])


def up_direction(c2w: Float64[np.ndarray, "views 4 4"]) -> Vector:
    """World direction that is up in the images.

    The direction most perpendicular to all cameras' right axes where that is well defined
    (cameras held level, on an arc), else the mean of the cameras' up axes.
    """
    right, up = c2w[:, :3, 0], c2w[:, :3, 1].mean(0)
    length = np.linalg.norm(up)
    mean = up / length if length > 1e-6 else np.array([0.0, 0.0, 1.0])
    values, vectors = np.linalg.eigh(right.T @ right / len(right))
    level = vectors[:, 0] * np.sign(vectors[:, 0] @ mean)
    defined = values[1] > 0.05 and values[0] < 0.1 * values[1]
    return level if defined and level @ mean > 0.5 else mean


def average_pose(c2w: Float64[np.ndarray, "views 4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Mean position, mean viewing axis and mean up, made orthonormal (LLFF's recentring)."""
    back = c2w[:, :3, 2].mean(0)
    back /= np.linalg.norm(back)
    right = np.cross(c2w[:, :3, 1].mean(0), back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = c2w[:, :3, 3].mean(0)
    return pose


def facing(c2w: Float64[np.ndarray, "views 4 4"], point: Vector) -> Float64[np.ndarray, "views"]:
    """Angle in radians between each camera's viewing direction and the way to `point`."""
    to = point - c2w[:, :3, 3]
    distance = np.maximum(np.linalg.norm(to, axis=1), 1e-12)
    cosine = -(c2w[:, :3, 2] * to).sum(1) / distance
    return np.arccos(np.clip(cosine, -1.0, 1.0))
