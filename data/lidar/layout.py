"""Where a LiDAR scene keeps its sweeps, poses, times and sensor."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from polyfield.data.lidar.files import SUFFIXES
from polyfield.data.lidar.poses import (
    PoseFile,
    poses_at,
    read_calibration,
    read_poses,
    read_seconds,
    steps_between,
)
from polyfield.data.prepare import some
from polyfield.data.search import natural_key
from polyfield.errors import InputError

FOLDERS = (
    "velodyne", "velodyne_points/data", "velodyne_points", "lidar", "LIDAR_TOP",
    "samples/LIDAR_TOP", "sweeps/LIDAR_TOP", "sweeps", "scans", "pointclouds", "ouster",
)  # fmt: skip
POSES = ("poses.txt", "poses.tum", "trajectory.txt", "trajectory.tum", "gt_poses.txt")
TIMES = ("times.txt", "timestamps.txt", "velodyne_points/timestamps.txt")
CALIBRATION, SENSOR = "calib.txt", "sensor.json"
LOOKS_FOR = (
    f"sweeps ({', '.join(SUFFIXES)}) in a folder such as velodyne/ or lidar/, with poses.txt"
)


@dataclass(frozen=True)
class Layout:
    """A scene's files and what they say of every sweep.

    poses: files' frame -> world; clock: when each sweep was made, in revolutions; files: all that
    was read besides the sweeps; missing: sweeps without a pose, left out.
    """

    root: Path
    sweeps: tuple[Path, ...]
    poses: Float[np.ndarray, "sweeps 4 4"]
    clock: Float[np.ndarray, "sweeps"]
    seconds: Float[np.ndarray, "sweeps"] | None
    files: tuple[Path, ...]
    sensor: Path | None = None
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)


def sweeps_folder(root: Path) -> Path | None:
    """The folder of a scene's sweeps, None if it has none.

    The root itself counts where poses lie beside the sweeps.
    """
    for name in FOLDERS:
        folder = root / name
        if folder.is_dir() and _sweeps(folder):
            return folder
    return root if poses_file(root) is not None and _sweeps(root) else None


def poses_file(root: Path) -> Path | None:
    """The file of poses; KITTI's odometry benchmark keeps it in ``../../poses/SS.txt``."""
    beside = root.resolve().parent.parent / "poses" / f"{root.resolve().name}.txt"
    return next((p for p in (*(root / name for name in POSES), beside) if p.is_file()), None)


def _sweeps(folder: Path) -> list[Path]:
    """Files of the commonest sweep format in a folder, in natural order."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    if not files:
        return []
    kind = Counter(p.suffix.lower() for p in sorted(files)).most_common(1)[0][0]
    chosen = [p for p in files if p.suffix.lower() == kind]
    return sorted(chosen, key=lambda p: natural_key(p.name))


def find_layout(path: Path) -> Layout:
    """What a folder, or a single sweep, holds.

    Raises:
        InputError: No sweeps, no poses, or their numbers differ.
    """
    if path.is_file():
        zero = np.zeros(1)
        return Layout(path.parent, (path,), np.eye(4)[None], zero, None, ())
    folder = sweeps_folder(path)
    if folder is None:
        raise InputError(f"{path} holds no LiDAR sweeps; expected {LOOKS_FOR}")
    sweeps = _sweeps(folder)
    poses_path = poses_file(path)
    times = next((path / name for name in TIMES if (path / name).is_file()), None)
    seconds = None if times is None else read_seconds(times)
    if seconds is not None and len(seconds) != len(sweeps):
        raise InputError(
            f"{times} has {len(seconds)} times, but there are {len(sweeps)} sweeps in {folder}; "
            "give one time a sweep, or remove the file"
        )
    sensor = path / SENSOR if (path / SENSOR).is_file() else None
    files = tuple(p for p in (poses_path, times, sensor) if p is not None)
    found = _Found(path, tuple(sweeps), seconds, files, sensor)
    if poses_path is not None:
        return _posed(found, read_poses(poses_path), poses_path)
    if len(sweeps) > 1:
        raise InputError(
            f"{path} has {len(sweeps)} sweeps and no poses; put a poses.txt beside their folder, "
            "one sensor-to-world pose (12 numbers) for every sweep"
        )
    return Layout(path, tuple(sweeps), np.eye(4)[None], np.zeros(1), seconds, files, sensor)


@dataclass(frozen=True)
class _Found:
    root: Path
    sweeps: tuple[Path, ...]
    seconds: np.ndarray | None
    files: tuple[Path, ...]
    sensor: Path | None


def _posed(found: _Found, poses: PoseFile, path: Path) -> Layout:
    """The layout with a pose for every sweep that has one."""
    keep, matrices, seconds, clock = _matched(found, poses, path)
    calibration = found.root / CALIBRATION
    files, notes = found.files, {"poses": f"{path.name}, sensor to world"}
    matrix = read_calibration(calibration) if calibration.is_file() else None
    if matrix is not None:
        matrices = np.linalg.inv(matrix) @ matrices @ matrix
        files += (calibration,)
        notes["poses"] = f"{path.name}, camera to world, moved to the LiDAR by {CALIBRATION}"
    left = np.setdiff1d(np.arange(len(found.sweeps)), keep)
    missing = tuple(found.sweeps[i].name for i in left)
    warnings = poses.notes
    if missing:
        count = len(found.sweeps)
        warnings += (f"{len(missing)} of {count} sweeps have no pose: {some(missing)}",)
    chosen = tuple(found.sweeps[i] for i in keep)
    return Layout(
        found.root, chosen, matrices, clock, seconds, files, found.sensor, missing,
        warnings + _jumps(matrices, clock, chosen), notes,
    )  # fmt: skip


def _matched(
    found: _Found, poses: PoseFile, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Which sweeps have a pose, their poses, seconds and clock."""
    sweeps, seconds = found.sweeps, found.seconds
    keep, matrices = np.arange(len(sweeps)), poses.poses
    clock = np.arange(len(sweeps), dtype=float)
    if poses.frames is not None:
        keep, matrices, clock = _by_frame(sweeps, poses, path)
    elif len(matrices) != len(sweeps):
        if poses.seconds is None or seconds is None:
            raise InputError(
                f"{path} has {len(matrices)} poses, but there are {len(sweeps)} sweeps in "
                f"{sweeps[0].parent}; give one pose a sweep, or put each sweep's number in front "
                "of its pose"
            )
        keep, matrices = _by_time(seconds, poses, path)
    elif seconds is None:
        seconds = poses.seconds
    if seconds is not None:
        seconds = seconds[keep]
        clock = _revolutions(seconds)
    return keep, matrices, seconds, clock


def _by_frame(
    sweeps: tuple[Path, ...], found: PoseFile, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sweeps whose file number has a pose, the poses, and the numbers."""
    numbers = [re.findall(r"\d+", sweep.name.split(".")[0]) for sweep in sweeps]
    place = {int(frame): i for i, frame in enumerate(found.frames)}
    keep = [i for i, n in enumerate(numbers) if n and int(n[-1]) in place]
    if not keep:
        raise InputError(
            f"none of the {len(found.poses)} frame numbers of {path} (first {found.frames[0]}) is "
            f"the number of a sweep (first {sweeps[0].name})"
        )
    frames = np.array([int(numbers[i][-1]) for i in keep])
    return np.array(keep), found.poses[[place[f] for f in frames.tolist()]], frames.astype(float)


def _by_time(seconds: np.ndarray, found: PoseFile, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sweeps within the time of the poses, and poses interpolated to them."""
    inside = (seconds >= found.seconds[0]) & (seconds <= found.seconds[-1])
    if not inside.any() or not (np.diff(found.seconds) > 0).all():
        raise InputError(
            f"{path} covers {found.seconds[0]:.9g} to {found.seconds[-1]:.9g} s, the sweeps "
            f"{seconds[0]:.9g} to {seconds[-1]:.9g} s; expected the same clock, growing"
        )
    return np.flatnonzero(inside), poses_at(found.poses, found.seconds, seconds[inside])


def _revolutions(seconds: np.ndarray) -> np.ndarray:
    """Seconds in units of the shortest time between sweeps, at most a quarter of a second."""
    if len(seconds) < 2:
        return np.zeros(len(seconds))
    period = float(np.median(np.diff(seconds)))
    return (seconds - seconds[0]) / (period if period <= 0.25 else 0.1)


def _jumps(poses: np.ndarray, clock: np.ndarray, sweeps: tuple[Path, ...]) -> tuple[str, ...]:
    """Warnings of leaps between sweeps that follow each other, and of motion along z."""
    if len(poses) < 2:
        return ()
    moved, turned = steps_between(poses)
    gaps = np.maximum(np.diff(clock), 1.0)
    leap = np.flatnonzero((moved > 10 * gaps) | (turned > np.radians(30) * gaps))
    warnings = []
    if len(leap):
        i = int(leap[0])
        warnings.append(
            f"{len(leap)} leaps between neighbouring sweeps, the first of {moved[i]:.3g} m and "
            f"{np.degrees(turned[i]):.3g} degrees before {sweeps[i + 1].name}; check that poses "
            "and sweeps belong together"
        )
    relative = np.linalg.inv(poses[:-1]) @ poses[1:]
    if moved.sum() > 1 and np.abs(relative[:, 2, 3]).sum() > 0.7 * moved.sum():
        warnings.append(
            "the sensor moves mostly along its own z axis, so the poses may be those of a camera "
            "(z forward); put KITTI's calib.txt beside poses.txt"
        )
    return tuple(warnings)
