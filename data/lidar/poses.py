"""Poses of sweeps: files that hold them, checks, and motion in between."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from polyfield.data.poses import quaternion_from_rotation, rotation_from_quaternion
from polyfield.errors import InputError

SKEW_REFUSED, SKEW_NOTED = 1e-3, 1e-6  # |R'R - I| of a pose
_BOTTOM = np.array([0.0, 0.0, 0.0, 1.0])


@dataclass(frozen=True)
class PoseFile:
    """Poses as a file holds them, checked.

    frames: numbers of the sweeps they belong to; seconds: their times; notes: what was repaired.
    """

    poses: Float[np.ndarray, "n 4 4"]
    frames: Int64[np.ndarray, "n"] | None = None
    seconds: Float[np.ndarray, "n"] | None = None
    notes: tuple[str, ...] = ()


def read_poses(path: Path) -> PoseFile:
    """Poses, one a line: 12 or 16 numbers row by row (KITTI), the same after a frame's number
    (KITTI-360), or ``t x y z qx qy qz qw`` (TUM).

    Raises:
        InputError: A line is none of them, or a pose is no rotation.
    """
    rows = _rows(path)
    width = len(rows[0][1])
    for line, values in rows:
        if len(values) != width or width not in (8, 12, 13, 16, 17):
            raise InputError(
                f"{path}, line {line}: {len(values)} numbers, expected 12 (a 3x4 matrix row by "
                "row), 13 (a frame's number first) or 8 (t x y z qx qy qz qw) on every line"
            )
        if not np.isfinite(values).all():
            raise InputError(
                f"{path}, line {line}: a number is not finite; remove that pose and its sweep, or "
                "register it again"
            )
    table = np.array([values for _, values in rows])
    frames = seconds = None
    if width in (13, 17):
        frames, table = table[:, 0].astype(np.int64), table[:, 1:]
    if width == 8:
        seconds, poses = table[:, 0], _from_tum(table, path)
    else:
        poses = table.reshape(len(table), -1, 4)
        poses = np.concatenate([poses[:, :3], np.tile(_BOTTOM, (len(table), 1, 1))], axis=1)
    checked, notes = check_rotations(poses, [f"{path}, line {line}" for line, _ in rows])
    return PoseFile(checked, frames, seconds, notes)


def _rows(path: Path) -> list[tuple[int, list[float]]]:
    """(line, numbers) of the lines that hold any."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].replace(",", " ").split()
        if words:
            try:
                rows.append((number, [float(word) for word in words]))
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}, expected numbers") from error
    if not rows:
        raise InputError(f"{path} holds no poses; expected one line for every sweep")
    return rows


def _from_tum(table: np.ndarray, path: Path) -> np.ndarray:
    q = table[:, [7, 4, 5, 6]]
    length = np.linalg.norm(q, axis=1)
    if np.abs(length - 1).max() > 1e-2:
        worst = int(np.abs(length - 1).argmax())
        raise InputError(
            f"{path}: quaternion {worst} has length {length[worst]:.4g}, expected 1; a TUM file "
            "has t x y z qx qy qz qw on a line"
        )
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, :3, :3] = rotation_from_quaternion(q)
    poses[:, :3, 3] = table[:, 1:4]
    return poses


def check_rotations(
    poses: Float[np.ndarray, "n 4 4"], names: list[str]
) -> tuple[Float[np.ndarray, "n 4 4"], tuple[str, ...]]:
    """Poses whose rotations are exact, and notes of those that had to be straightened.

    Raises:
        InputError: A rotation is off by more than 1e-3, or mirrored; `names` says which.
    """
    rotation = poses[:, :3, :3]
    skew = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - np.eye(3)).max(axis=(1, 2))
    worst = int(skew.argmax())
    if skew[worst] > SKEW_REFUSED:
        raise InputError(
            f"{names[worst]}: the pose is no rotation (R'R differs from 1 by {skew[worst]:.3g}, at "
            f"most {SKEW_REFUSED:g} is put right); check that it is sensor-to-world, row by row"
        )
    mirrored = np.flatnonzero(np.linalg.det(rotation) < 0)
    if len(mirrored):
        raise InputError(
            f"{names[mirrored[0]]}: the rotation has determinant -1 (mirrored axes), expected +1; "
            "negate one column in the tool that wrote it"
        )
    left, _, right = np.linalg.svd(rotation)
    exact = poses.copy()
    exact[:, :3, :3] = left @ right
    noted = int((skew > SKEW_NOTED).sum())
    if not noted:
        return exact, ()
    note = f"{noted} of {len(poses)} rotations were straightened (off by up to {skew.max():.2g})"
    return exact, (note,)


def read_calibration(path: Path) -> Float[np.ndarray, "4 4"] | None:
    """Velodyne -> camera of a KITTI ``calib.txt`` (the line ``Tr:``), None without that line.

    Raises:
        InputError: The line cannot be read, or is no rotation.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for line in lines:
        key, _, rest = line.replace(":", " ", 1).partition(" ")
        if key in ("Tr", "Tr_velo_to_cam", "Tr_velo_cam"):
            try:
                matrix = np.array([float(word) for word in rest.split()]).reshape(3, 4)
            except ValueError as error:
                raise InputError(f"{path}: '{key}' needs 12 numbers ({error})") from error
            pose = np.vstack([matrix, _BOTTOM])[None]
            return check_rotations(pose, [f"{path}, '{key}'"])[0][0]
    return None


def read_seconds(path: Path) -> Float[np.ndarray, "n"]:
    """Seconds of sweeps, one a line: numbers, or dates such as ``2011-09-26 13:02:25.964``.

    Raises:
        InputError: A line cannot be read, or time goes backwards.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        seconds = np.array([_second(line) for line in lines if line])
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as times, one a line: {error}") from error
    back = np.flatnonzero(~(np.diff(seconds) > 0))
    if len(back):
        i = int(back[0])
        raise InputError(
            f"{path}: time {i + 1} ({seconds[i + 1]:.9g} s) does not come after time {i} "
            f"({seconds[i]:.9g} s); sort the sweeps, or leave the file out"
        )
    return seconds


def _second(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        day, _, clock = text.replace("T", " ").partition(" ")
        hours, minutes, seconds = clock.split(":")
        date = datetime.date.fromisoformat(day)
        return date.toordinal() * 86400.0 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def interpolate_poses(
    start: Float[np.ndarray, "*#n 4 4"],
    end: Float[np.ndarray, "*#n 4 4"],
    share: Float[np.ndarray, "*#n"],
) -> Float[np.ndarray, "*n 4 4"]:
    """Poses between two: rotations turn at a constant rate (slerp), positions move straight.

    share: 0 at the start, 1 at the end; beyond them the motion goes on.
    """
    share = np.asarray(share, np.float64)
    shape = np.broadcast_shapes(start.shape[:-2], end.shape[:-2], share.shape)
    relative = np.swapaxes(start[..., :3, :3], -1, -2) @ end[..., :3, :3]
    turn = _rotation(rotation_vector(relative) * share[..., None])
    out = np.broadcast_to(np.eye(4), (*shape, 4, 4)).copy()
    out[..., :3, :3] = start[..., :3, :3] @ turn
    position, target = start[..., :3, 3], end[..., :3, 3]
    out[..., :3, 3] = position + share[..., None] * (target - position)
    return out


def rotation_vector(rotation: Float[np.ndarray, "*n 3 3"]) -> Float[np.ndarray, "*n 3"]:
    """Axis times angle in [0, pi] of rotations."""
    flat = rotation.reshape(-1, 3, 3)
    q = np.array([quaternion_from_rotation(r) for r in flat]).reshape(-1, 4)
    sine = np.linalg.norm(q[:, 1:], axis=1)
    angle = 2 * np.arctan2(sine, q[:, 0])
    factor = np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)
    return (q[:, 1:] * factor[:, None]).reshape(*rotation.shape[:-1])


def _rotation(vector: np.ndarray) -> np.ndarray:
    """Rotations of axis times angle."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    half = angle / 2
    factor = np.where(angle > 1e-9, np.sin(half) / np.maximum(angle, 1e-300), 0.5)
    return rotation_from_quaternion(np.concatenate([np.cos(half), factor * vector], axis=-1))


def poses_at(
    poses: Float[np.ndarray, "sweeps 4 4"],
    clock: Float[np.ndarray, "sweeps"],
    when: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "n 4 4"]:
    """Poses at any time; outside the drive the motion at its ends goes on.

    clock: times of the poses, growing; when: in the same unit.

    Raises:
        InputError: There is one pose only, so nothing is known of motion.
    """
    if len(poses) < 2:
        raise InputError("one sweep tells nothing of motion; set data.deskew=false")
    lower = np.clip(np.searchsorted(clock, when, side="right") - 1, 0, len(poses) - 2)
    share = (when - clock[lower]) / (clock[lower + 1] - clock[lower])
    return interpolate_poses(poses[lower], poses[lower + 1], share)


def steps_between(
    poses: Float[np.ndarray, "sweeps 4 4"],
) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Metres moved and radians turned from every pose to the next."""
    relative = np.linalg.inv(poses[:-1]) @ poses[1:]
    turned = np.linalg.norm(rotation_vector(relative[:, :3, :3]), axis=-1)
    return np.linalg.norm(relative[:, :3, 3], axis=1), turned
