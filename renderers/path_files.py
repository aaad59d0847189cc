"""Camera paths as JSON files that people can write.

``{"space": "world", "width": 800, "height": 600, "fov": 50, "frames": [{"c2w": [[...], ...]}]}``:
`space` is ``world`` (the units of the scene's own files; the default) or ``box``; `c2w` is 3x4 or
4x4, row by row, OpenGL style; `fov` is the horizontal angle in degrees, or `intrinsics`
``[fx, fy, cx, cy]`` in pixels; a frame may have its own. Further keys are ignored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.errors import InputError
from polyfield.files import read_json, write_json
from polyfield.renderers.cameras import Cameras, pinhole_cameras

_LARGEST = 16384


@runtime_checkable
class WorldToBox(Protocol):
    """World units of a scene's files <-> the box (`polyfield.data.scene.SceneTransform`)."""

    def pose_to_box(self, c2w: Any) -> Any:
        """Poses camera-to-world as camera-to-box."""

    def pose_to_world(self, c2w: Any) -> Any:
        """Poses camera-to-box as camera-to-world."""


def read_path(
    path: str | Path,
    transform: WorldToBox | None = None,
    *,
    near: float | Float[Tensor, "*any"] = 0.0,
    far: float | Float[Tensor, "*any"] = 10.0,
) -> Cameras:
    """Cameras of a path file, in the scene box.

    Args:
        path: The JSON file.
        transform: The scene's world-to-box transform, for files in world units.
        near: Range of t for all frames, in box units (of a tensor, the median).
        far: The same.

    Raises:
        InputError: Anything in the file cannot be used; names the file, the frame and what
            was expected.
    """
    path = Path(path)
    data = read_json(path, "camera path")
    if not isinstance(data, dict):
        raise _bad(path, "the file", "is no object", "an object with the key 'frames'")
    frames = data.get("frames")
    if not isinstance(frames, list) or not frames:
        raise _bad(path, "'frames'", "is missing or empty", "a list with at least one frame")
    size = (_pixels(path, data, "width"), _pixels(path, data, "height"))
    poses = np.stack([_pose(path, i, frame) for i, frame in enumerate(frames)])
    intrinsics = np.stack(
        [_intrinsics(path, i, data, frame, size) for i, frame in enumerate(frames)]
    )
    if _space(path, data) == "world":
        if transform is None:
            raise _bad(
                path,
                "'space'",
                "is 'world', which needs a scene's transform",
                "'space': 'box' here",
            )
        poses = np.asarray(transform.pose_to_box(poses))
    bounds = [float(torch.as_tensor(v, dtype=torch.float32).median()) for v in (near, far)]
    return pinhole_cameras(
        torch.from_numpy(poses).float(), torch.from_numpy(intrinsics).float(), size, *bounds
    )


def write_path(path: str | Path, cameras: Cameras, transform: WorldToBox | None = None) -> None:
    """Write cameras as a path file; in world units with a transform, else in box units.

    Only the pose and the four pinhole intrinsics of each camera are kept, and one image size.

    Raises:
        InputError: No cameras, sizes that differ, or the file cannot be written.
    """
    if len(cameras) == 0 or bool((cameras.sizes != cameras.sizes[0]).any()):
        raise InputError("a camera path holds one or more cameras of one image size; resize them")
    poses = cameras.c2w.double().cpu().numpy()
    if transform is not None:
        poses = np.asarray(transform.pose_to_world(poses))
    width, height = cameras.sizes[0].tolist()
    frames = [
        {"c2w": pose.tolist(), "intrinsics": list(k)}
        for pose, k in zip(poses, cameras.intrinsics.tolist(), strict=True)
    ]
    space = "box" if transform is None else "world"
    write_json(Path(path), {"space": space, "width": width, "height": height, "frames": frames})


def _bad(path: Path, where: str, found: str, expected: str) -> InputError:
    return InputError(f"camera path {path}: {where} {found}; expected {expected}")


def _space(path: Path, data: dict) -> str:
    space = data.get("space", "world")
    if space not in ("box", "world"):
        raise _bad(path, "'space'", f"is {space!r}", "'box' or 'world'")
    return space


def _pixels(path: Path, data: dict, name: str) -> int:
    value = data.get(name)
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
    if not whole or not 1 <= value <= _LARGEST:
        raise _bad(path, f"'{name}'", f"is {value!r}", f"a whole number from 1 to {_LARGEST}")
    return int(value)


def _numbers(value: Any) -> np.ndarray | None:
    """The value as float64 if it is a regular nested list of numbers."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array


def _pose(path: Path, index: int, frame: Any) -> np.ndarray:
    where = f"frame {index}"
    if not isinstance(frame, dict) or "c2w" not in frame:
        raise _bad(path, where, "has no 'c2w'", "an object with a 3x4 or 4x4 matrix 'c2w'")
    c2w = _numbers(frame["c2w"])
    if c2w is None or c2w.shape not in ((3, 4), (4, 4)):
        shape = "no matrix of numbers" if c2w is None else f"of shape {c2w.shape}"
        raise _bad(path, f"{where}: 'c2w'", f"is {shape}", "3 or 4 rows of 4 numbers")
    if not np.isfinite(c2w).all():
        raise _bad(path, f"{where}: 'c2w'", "holds NaN or infinity", "finite numbers")
    rotation = c2w[:3, :3]
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if error > 1e-3 or np.linalg.det(rotation) < 0:
        raise _bad(
            path, f"{where}: 'c2w'",
            f"has no rotation in its left 3x3 part (determinant {np.linalg.det(rotation):.3g})",
            "orthonormal right-handed columns: right, up, back",
        )  # fmt: skip
    return c2w[:3]


def _intrinsics(
    path: Path, index: int, data: dict, frame: dict, size: tuple[int, int]
) -> np.ndarray:
    where, (width, height) = f"frame {index}", size
    data = frame if frame.keys() & {"fov", "intrinsics"} else data
    if data.get("intrinsics") is not None:
        k = _numbers(data["intrinsics"])
        if k is None or k.shape != (4,) or not np.isfinite(k).all() or (k[:2] <= 0).any():
            raise _bad(
                path, f"{where}: 'intrinsics'", f"is {data['intrinsics']!r}",
                "[fx, fy, cx, cy] in pixels with positive focal lengths",
            )  # fmt: skip
        return k
    fov = data.get("fov")
    number = isinstance(fov, (int, float)) and not isinstance(fov, bool)
    if not number or not 0 < fov < 180:
        raise _bad(
            path, f"{where}: 'fov'", f"is {fov!r}",
            "the horizontal angle in degrees between 0 and 180, or 'intrinsics'",
        )  # fmt: skip
    focal = width / 2 / math.tan(math.radians(fov) / 2)
    return np.array([focal, focal, width / 2, height / 2])
