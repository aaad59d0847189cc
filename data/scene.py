"""Scene types: what a loader returns and the trainer reads.

World axes are the file's; the scene box is [-1, 1]^3, reached by `SceneTransform`. Cameras are
OpenGL style (x right, y up, looking along -z). Images stay uint8 and memory-mapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.config import from_plain, to_plain
from polyfield.data.images import RaggedStore
from polyfield.renderers.cameras import Cameras

Split = Literal["train", "val", "test"]
Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class Intrinsics:
    """A camera model: focal lengths and principal point in pixels of `width` x `height`.

    The top-left pixel's centre is (0.5, 0.5). `distortion` follows `model`'s order
    (`polyfield.renderers.cameras.MODELS`). Until the image has been opened, ``nan`` marks a
    focal length to be derived from the view's angle or a principal point to be put in the
    middle, and a width and height of 0 mean "the image's own".
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

    c2w: 4x4 float64, OpenGL camera -> file's world. `camera_angle_x`, `camera_angle_y`: full
    angles of view in radians, used where `intrinsics` is None or holds no focal length.
    `own_intrinsics`: they were given for this view, not once for all. `alpha_path`: an image
    whose first channel is this view's alpha. Masks and depths are resized to the nearest pixel;
    depth is along the camera's axis, `depth_scale` takes the stored numbers to world units.
    `sharpness`: what the file says of it, in its own unit.
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
    camera_angle_y: float | None = None
    own_intrinsics: bool = False
    alpha_path: Path | None = None
    sharpness: float | None = None


@dataclass(frozen=True)
class Description:
    """What a format makes of a scene folder: poses and hints, no pixels.

    files: everything that was read (hashed); depth_range: nearest and farthest content as seen
    from the cameras, world units; box: centre and half side of the scene in the world;
    points: (P, 3) in the world; order: how the views are sorted before views are held out.
    """

    views: tuple[View, ...]
    root: Path
    files: tuple[Path, ...]
    depth_range: tuple[float, float] | None = None
    box: tuple[tuple[float, float, float], float] | None = None
    bounded: bool | None = None
    up: tuple[float, float, float] | None = None
    background: Literal["white", "black"] | None = None
    points: np.ndarray | None = None
    order: Literal["file", "natural", "name"] = "file"
    warnings: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SceneTransform:
    """Similarity from the file's world to the scene box: ``x_box = scale * R @ (x - centre)``.

    Every method takes numpy arrays or tensors and answers in kind, in the argument's precision.

    >>> SceneTransform(scale=0.5, centre=(1.0, 0.0, 0.0)).to_box(np.array([3.0, 0.0, 2.0]))
    array([1., 0., 1.])
    """

    scale: float = 1.0
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: tuple[tuple[float, float, float], ...] = ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0))

    def to_box(self, x: Array) -> Array:
        """World points (..., 3) in the box."""
        rotation, centre = self._parts(x)
        return (x - centre) @ rotation.T * self.scale

    def to_world(self, x: Array) -> Array:
        """Box points (..., 3) in the world."""
        rotation, centre = self._parts(x)
        return x / self.scale @ rotation + centre

    def pose_to_box(self, c2w: Array) -> Array:
        """Camera-to-world poses (..., 3 or 4, 4) as camera-to-box; the rotation stays one."""
        rotation, _ = self._parts(c2w)
        return _with(c2w, rotation @ c2w[..., :3, :3], self.to_box(c2w[..., :3, 3]))

    def pose_to_world(self, c2w: Array) -> Array:
        """Camera-to-box poses (..., 3 or 4, 4) as camera-to-world."""
        rotation, _ = self._parts(c2w)
        return _with(c2w, rotation.T @ c2w[..., :3, :3], self.to_world(c2w[..., :3, 3]))

    def to_plain(self) -> dict[str, Any]:
        """Plain data for the run directory."""
        return to_plain(self)

    @staticmethod
    def from_plain(data: Mapping[str, Any]) -> SceneTransform:
        """The transform that `to_plain` described.

        Raises:
            ConfigError: A name or value does not fit.
        """
        return from_plain(SceneTransform, data, where="scene transform")

    def _parts(self, like: Array) -> tuple[Array, Array]:
        if isinstance(like, Tensor):
            return like.new_tensor(self.rotation), like.new_tensor(self.centre)
        return np.array(self.rotation, like.dtype), np.array(self.centre, like.dtype)


def _with(c2w: Array, rotation: Array, position: Array) -> Array:
    out = c2w.clone() if isinstance(c2w, Tensor) else c2w.copy()
    out[..., :3, :3] = rotation
    out[..., :3, 3] = position
    return out


@dataclass(frozen=True)
class LoadOptions:
    """How to read a scene (the ``data`` settings of a run)."""

    format: str | None = None
    """Force a format instead of detecting it."""
    downscale: int = 1
    """Divide image width and height by this (area average of straight-alpha colour)."""
    holdout: str | int | float | None = None
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

    def __post_init__(self) -> None:
        if self.downscale < 1:
            raise ValueError(f"downscale must be at least 1, got {self.downscale}")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")
        if self.near is not None and self.near < 0:
            raise ValueError(f"near must not be negative, got {self.near}")
        if self.far is not None and not self.far > (self.near or 0):
            raise ValueError(f"far must exceed near, got near {self.near} and far {self.far}")


@dataclass(frozen=True)
class LoadReport:
    """What a loader noticed: shown by ``polyfield data`` and at the start of a fit."""

    format: str
    why: str
    missing: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PosedImages:
    """A scene measured by posed images.

    cameras: all views, in box units; images, masks (one uint8 channel, 0 = ignore), depths (one
    float32 channel along the camera's axis, world units, 0 = unknown): memory-mapped, one entry
    per view; splits: view indices per split, every key present; bounded: the scene ends at the
    box; up: unit vector in the box; points: (P, 3) in the box; times: (V,) in [0, 1];
    sharpness: the file's own figure per view; content_hash: of the description files and of
    the images' names, sizes and ends.
    """

    name: str
    root: Path
    cameras: Cameras
    images: RaggedStore
    names: tuple[str, ...]
    splits: dict[str, tuple[int, ...]]
    transform: SceneTransform
    bounded: bool
    background: Literal["white", "black", "random"]
    up: tuple[float, float, float]
    report: LoadReport
    content_hash: str
    masks: RaggedStore | None = None
    depths: RaggedStore | None = None
    points: Float[Tensor, "points 3"] | None = None
    times: Float[Tensor, "views"] | None = None
    sharpness: tuple[float | None, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def memory_bytes(self) -> int:
        """Bytes the scene asks for when every pixel has been touched (memory-mapped, so the
        system may take the pages back)."""
        stores = [s.nbytes for s in (self.images, self.masks, self.depths) if s is not None]
        points = 0 if self.points is None else self.points.numel() * self.points.element_size()
        return sum(stores) + points

    def depth(self, view: int) -> Float[Tensor, "height width"] | None:
        """Depth of a view along its camera's axis, box units, 0 = unknown; None without any."""
        if self.depths is None:
            return None
        stored = np.array(self.depths.image(view)[..., 0])
        return torch.from_numpy(stored) * self.transform.scale
