"""Tiny scenes that the loader tests make themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.data.lidar.files import write_sweep
from polyfield.data.lidar.motion import move_points
from polyfield.data.lidar.poses import interpolate_poses
from polyfield.data.lidar.sweeps import PointSweep
from polyfield.data.poses import rotation_from_quaternion
from polyfield.data.signal import Signal
from polyfield.data.signals.load import write_signal
from polyfield.renderers.lidar_sensors import SpinningLidar


def look_at(position, target=(0.0, 0.0, 0.0), up=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Camera-to-world pose, OpenGL axes, of a camera at `position` that sees `target`."""
    back = np.array(position, float) - np.array(target, float)
    back /= np.linalg.norm(back)
    right = np.cross(np.array(up, float), back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = position
    return pose


def ring(count: int, radius: float = 4.0, height: float = 1.0) -> np.ndarray:
    """Poses on a circle around the z axis, all looking at the origin."""
    angles = [2 * math.pi * (i + 0.3) / count for i in range(count)]
    return np.stack([look_at((radius * math.cos(a), radius * math.sin(a), height)) for a in angles])


def picture(path: Path, size=(24, 16), mode: str = "RGB", seed: int = 0, **save) -> np.ndarray:
    """Write a smooth picture and return its pixels; RGBA ones have transparent surroundings."""
    x, y = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    planes = [x, y, (x * y + 0.13 * seed) % 1.0]
    if mode == "RGBA":
        planes.append(((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.16).astype(float))
    pixels = np.rint(np.stack(planes, axis=2) * 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **save)
    return pixels


@pytest.fixture
def toys() -> SimpleNamespace:
    """The helpers above, for test files (which cannot import this one)."""
    return SimpleNamespace(look_at=look_at, ring=ring, picture=picture)


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYFIELD_CACHE", str(tmp_path / "cache"))


Maker = Callable[..., Path]


@pytest.fixture
def synthetic(tmp_path: Path) -> Maker:
    """Makes a NeRF-synthetic folder; `edit(split, contents)` may change a file before writing."""

    def make(splits=(("train", 9), ("test", 3)), size=(24, 16), edit=None, name="toy") -> Path:
        folder = tmp_path / name
        for split, count in splits:
            frames = []
            for i, pose in enumerate(ring(count)):
                picture(folder / split / f"r_{i}.png", size, "RGBA", seed=i)
                frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()})
            contents: dict[str, Any] = {"camera_angle_x": 0.7, "frames": frames}
            if edit:
                edit(split, contents)
            (folder / f"transforms_{split}.json").write_text(json.dumps(contents))
        return folder

    return make


@pytest.fixture
def capture(tmp_path: Path) -> Maker:
    """Makes a transforms.json folder of photographs; `edit(contents, folder)` changes it first."""

    def make(count=9, size=(24, 16), edit=None, suffix=".jpg", mode="RGB", **shared) -> Path:
        folder = tmp_path / "capture"
        frames = []
        for i, pose in enumerate(ring(count)):
            picture(folder / "images" / f"{i:04d}{suffix}", size, mode, seed=i)
            path = f"images/{i:04d}{suffix}"
            frames.append({"file_path": path, "transform_matrix": pose.tolist()})
        lens = {"fl_x": 30.0, "fl_y": 31.0, "cx": 12.5, "cy": 7.5, "w": size[0], "h": size[1]}
        contents = {**lens, **shared, "frames": frames}
        if edit:
            edit(contents, folder)
        (folder / "transforms.json").write_text(json.dumps(contents))
        return folder

    return make


@pytest.fixture
def stored_values() -> Callable[[Signal], torch.Tensor]:
    """All values of a signal in the stored array's shape."""

    def read(signal: Signal) -> torch.Tensor:
        values = torch.cat([b.values for b in signal.samples.blocks(1000)])
        return values.reshape(*signal.grid.stored_shape, signal.channels)

    return read


@pytest.fixture
def write_back() -> Callable[..., None]:
    """Writes a signal's true values to a file, in blocks that fit nothing."""

    def write(signal: Signal, out: Path, size: int = 37) -> None:
        json.dumps(signal.meta)
        write_signal((b.values for b in signal.samples.blocks(size)), signal.meta, out)

    return write


def lidar_room(
    origins: np.ndarray, directions: np.ndarray, height: float = 4.0, floor: float = -1.7
) -> np.ndarray:
    """Distances along rays to the floor and four walls of a room of 30 x 20 m; NaN over them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        down = (floor - origins[:, 2]) / directions[:, 2]
        walls = [
            (side * half - origins[:, axis]) / directions[:, axis]
            for axis, half in ((0, 15.0), (1, 10.0))
            for side in (-1, 1)
        ]
        hits = np.stack([down, *walls])
    nearest = np.where(hits > 1e-9, hits, np.inf).min(axis=0)
    z = origins[:, 2] + nearest * directions[:, 2]
    return np.where(np.isfinite(nearest) & (z < height), nearest, np.nan)


def toy_sensor(rings: int = 12, columns: int = 180, **changes) -> SpinningLidar:
    """A sensor whose rings start at different heights."""
    return SpinningLidar(
        name="toy",
        elevations=tuple(np.radians(np.linspace(20.0, -25.0, rings)).tolist()),
        heights=tuple(np.linspace(0.2, 0.1, rings).tolist()),
        azimuth_offsets=(0.0,) * rings,
        columns=columns,
        **{"nearest": 0.5, "farthest": 60.0, "direction": -1, "start": math.pi, **changes},
    )


def toy_sweep(sensor: SpinningLidar, start: np.ndarray, end: np.ndarray | None = None):
    """What a sensor sees of the room: a sweep stored ring after ring, azimuth growing in each."""
    beams = sensor.beams()
    origins, directions = beams.origins.numpy(), beams.directions.numpy()
    times = beams.times.numpy()
    poses = start if end is None else interpolate_poses(start, end, times)
    ranges = lidar_room(
        move_points(origins, poses),
        np.einsum("...ij,...j->...i", poses[..., :3, :3], directions),
    )
    points = origins + ranges[:, None] * directions
    azimuth = np.arctan2(directions[:, 1], directions[:, 0]) % (2 * np.pi)
    order = np.lexsort((azimuth, beams.ring.numpy()))
    order = order[np.isfinite(ranges[order])]
    shade = 0.5 + 0.4 * np.sin(azimuth)
    return PointSweep(points[order], shade[order], beams.ring.numpy()[order], times[order])


def drive_poses(count: int, step: float = 0.5, turn: float = 0.02) -> np.ndarray:
    """Poses of a slightly tilted sensor that goes on along a gentle curve."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for i in range(count):
        c, s = math.cos(turn * i), math.sin(turn * i)
        tilt = rotation_from_quaternion(np.array([1.0, 0.01, -0.012 + 0.002 * i, 0.0]))
        poses[i, :3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ tilt
        poses[i, :2, 3] = [step * i, 0.02 * i * i]
    return poses


@pytest.fixture
def drive(tmp_path: Path) -> Maker:
    """Makes a KITTI-style folder of a toy drive; `edit(folder)` changes it afterwards."""

    def make(count=6, sensor=None, suffix=".bin", moving=False, edit=None, name="drive") -> Path:
        folder, sensor = tmp_path / name, sensor or toy_sensor()
        (folder / "velodyne").mkdir(parents=True)
        poses = drive_poses(count + 1)
        for i in range(count):
            sweep = toy_sweep(sensor, poses[i], poses[i + 1] if moving else None)
            sweep = sweep if moving else replace(sweep, times=None)
            write_sweep(sweep, folder / "velodyne" / f"{i:06d}{suffix}")
        np.savetxt(folder / "poses.txt", poses[:count, :3].reshape(-1, 12), fmt="%.12g")
        if edit:
            edit(folder)
        return folder

    return make


@pytest.fixture
def lidar_toys() -> SimpleNamespace:
    """The LiDAR helpers above."""
    return SimpleNamespace(
        room=lidar_room, sensor=toy_sensor, sweep=toy_sweep, drive_poses=drive_poses
    )
