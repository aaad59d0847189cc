"""Scene types: what a loader returns and the trainer reads.

World axes are the file's; the scene box is [-1, 1]^3, reached by `SceneTransform`. Cameras are
OpenGL style (x right, y up, looking along -z). Images stay uint8 and memory-mapped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Intrinsics:
    """A camera model: focal lengths and principal point in pixels of `width` x `height`.

    The top-left pixel's centre is (0.5, 0.5). `distortion` follows `model`'s order
    (`polyfield.renderers.cameras.MODELS`).
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    model: str = "pinhole"
    distortion: tuple[float, ...] = ()


@dataclass(frozen=True)
class View:
    """One posed image as a file names it, before any pixel is read.

    c2w: 4x4 float64, OpenGL camera -> file's world. `intrinsics` None, or with width/height
    None-like 0, mean "take the size from the image" (`camera_angle_x`: full horizontal angle in
    radians, used when intrinsics are None).
    """

    name: str
    path: Path
    c2w: np.ndarray
    intrinsics: Intrinsics | None = None
    camera_angle_x: float | None = None
    split: Split | None = None
    mask_path: Path | None = None
    mask_zero_ignores: bool = True
    depth_path: Path | None = None
    depth_scale: float = 1.0
    time: float | None = None


@dataclass(frozen=True)
class SceneTransform:
    """Similarity from the file's world to the scene box: ``x_box = scale * R @ (x - centre)``."""

    scale: float = 1.0
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: tuple[tuple[float, float, float], ...] = ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0))


@dataclass(frozen=True)
class LoadOptions:
    """How to read a scene (the ``data`` settings of a run)."""

    format: str | None = None
    """Force a format instead of detecting it."""
    downscale: int = 1
    """Divide image width and height by this (area average of straight-alpha colour)."""
    holdout: str | None = None
    """Views kept for evaluation where the format does not say: '2,7', 'every:8' or '0.1'."""
    scale: float | None = None
    """World -> box scale, overriding the estimate."""
    centre: tuple[float, float, float] | None = None
    """Centre of the box in the file's world, overriding the estimate."""
    unbounded: bool | None = None
    """Whether the scene goes on outside the box (None: estimated)."""
    near: float | None = None
    """Nearest t in world units."""
    far: float | None = None
    """Farthest t in world units."""
    ndc: bool = False
    """Normalised device coordinates, for forward-facing captures."""
    background: Literal["white", "black", "random"] | None = None
    """Behind transparent pixels (None: white for RGBA images)."""


@dataclass(frozen=True)
class LoadReport:
    """What a loader noticed: shown by ``polyfield data`` and at the start of a fit."""

    format: str
    why: str
    missing: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
