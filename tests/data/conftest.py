"""Tiny scenes that the loader tests make themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.data.signal import Signal
from polyfield.data.signals.load import write_signal


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
