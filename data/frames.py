"""Frames of ``transforms*.json`` files: what NeRF-synthetic, instant-ngp and nerfstudio share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyfield.data.poses import as_pose
from polyfield.data.scene import Intrinsics, Split, View
from polyfield.data.search import declared_path
from polyfield.errors import InputError
from polyfield.files import read_json

Json = Mapping[str, Any]

# nerfstudio's and instant-ngp's names -> our model and the coefficients it reads, in its order
_OPENCV = ("k1", "k2", "k3", "k4", "p1", "p2")
CAMERA_MODELS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "PINHOLE": ("pinhole", ()),
    "SIMPLE_PINHOLE": ("pinhole", ()),
    "PERSPECTIVE": ("pinhole", ()),
    "SIMPLE_RADIAL": ("opencv", _OPENCV),
    "RADIAL": ("opencv", _OPENCV),
    "OPENCV": ("opencv", _OPENCV),
    "OPENCV_FISHEYE": ("opencv-fisheye", ("k1", "k2", "k3", "k4")),
    "FULL_OPENCV": ("full-opencv", ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    "EQUIRECTANGULAR": ("equirectangular", ()),
}
_INTRINSIC_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y")
_UNSUPPORTED = ("ftheta_p0", "latlong", "orthographic", "is_orthographic")


def read_frames(path: Path) -> tuple[Json, list[Json]]:
    """The global part and the frames of a transforms file.

    Raises:
        InputError: Not JSON, or no list of frames with file paths and poses.
    """
    data = read_json(path, "scene file")
    frames = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(frames, list):
        raise InputError(
            f"{path} has no list 'frames'; expected a transforms file with posed images"
        )
    if not frames:
        raise InputError(f"{path} lists no frames; expected at least one posed image")
    for index, frame in enumerate(frames):
        for key in ("file_path", "transform_matrix"):
            if not isinstance(frame, dict) or key not in frame:
                raise InputError(f"{path}: frame {index} has no '{key}'; write it again")
        if not isinstance(frame["file_path"], str):
            raise InputError(f"{path}: file_path of frame {index} is not text; write it again")
    return data, frames


@dataclass(frozen=True)
class FrameReader:
    """Turns frames of one file into views. `shared` is the file's global part."""

    path: Path
    shared: Json

    def view(self, frame: Json, split: Split | None = None) -> tuple[View, str | None]:
        """The view of a frame, and a note if its pose was rescaled.

        Raises:
            InputError: A value cannot be used; the message names file and frame.
        """
        where = f"{self.path}, frame '{frame['file_path']}'"
        c2w, note = as_pose(frame["transform_matrix"], where)
        intrinsics, angles = self._intrinsics(frame, where)
        root = self.path.parent
        time = self._number(frame, "time", where, shared=False)
        view = View(
            name=frame["file_path"].strip().replace("\\", "/").removeprefix("./"),
            path=declared_path(root, frame["file_path"]),
            c2w=c2w,
            intrinsics=intrinsics,
            camera_angle_x=angles[0],
            camera_angle_y=angles[1],
            own_intrinsics=any(key in frame for key in _INTRINSIC_KEYS),
            split=split,
            mask_path=self._path(frame, "mask_path", where),
            depth_path=self._path(frame, "depth_file_path", where)
            or self._path(frame, "depth_path", where),
            depth_scale=self._depth_scale(frame, where),
            time=time,
            sharpness=self._number(frame, "sharpness", where, shared=False),
        )
        return view, note

    def _number(self, frame: Json, key: str, where: str, shared: bool = True) -> float | None:
        value = frame.get(key, self.shared.get(key) if shared else None)
        if value is None:
            return None
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not numeric or not math.isfinite(value):
            raise InputError(f"{where}: {key} is {value!r}, expected a finite number")
        return float(value)

    def _path(self, frame: Json, key: str, where: str) -> Path | None:
        value = frame.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise InputError(f"{where}: {key} is {value!r}, expected a path")
        return declared_path(self.path.parent, value)

    def _depth_scale(self, frame: Json, where: str) -> float:
        """World units per stored unit: as the file says, else millimetres."""
        for key in ("depth_scale", "depth_unit_scale_factor", "integer_depth_scale"):
            scale = self._number(frame, key, where)
            if scale is not None and scale > 0:
                return scale
        return 1e-3

    def _model(self, frame: Json, where: str) -> tuple[str, tuple[float, ...]]:
        both = {**self.shared, **frame}
        foreign = next((key for key in _UNSUPPORTED if both.get(key)), None)
        if foreign:
            raise InputError(f"{where}: lens '{foreign}' is not supported; undistort the images")
        given = both.get("camera_model")
        name = "OPENCV_FISHEYE" if both.get("is_fisheye") else str(given or "OPENCV").upper()
        if name not in CAMERA_MODELS:
            raise InputError(
                f"{where}: unknown camera_model '{given}', expected one of "
                f"{', '.join(CAMERA_MODELS)}; undistort the images to PINHOLE"
            )
        model, keys = CAMERA_MODELS[name]
        values = tuple(self._number(frame, key, where) or 0.0 for key in keys)
        return (model, values) if any(values) or model != "opencv" else ("pinhole", ())

    def _intrinsics(
        self, frame: Json, where: str
    ) -> tuple[Intrinsics, tuple[float | None, float | None]]:
        number = {key: self._number(frame, key, where) for key in _INTRINSIC_KEYS}
        model, distortion = self._model(frame, where)
        angles = [number[f"camera_angle_{axis}"] for axis in "xy"]
        for i, axis in enumerate("xy"):  # instant-ngp also writes degrees
            degrees = self._number(frame, f"{axis}_fov", where)
            if angles[i] is None and degrees is not None:
                angles[i] = math.radians(degrees)
        focal = number["fl_x"] or number["fl_y"]
        for name, value in [("focal length", focal), *(("camera angle", a) for a in angles)]:
            if value is not None and not 0 < value < (math.pi if "angle" in name else math.inf):
                raise InputError(f"{where}: {name} is {value:.6g}, expected a positive value")
        if focal is None and angles == [None, None] and model != "equirectangular":
            raise InputError(
                f"{where}: no focal length; expected fl_x or camera_angle_x in the file"
            )
        unknown = math.nan
        intrinsics = Intrinsics(
            fx=number["fl_x"] or focal or unknown,
            fy=number["fl_y"] or focal or unknown,
            cx=unknown if number["cx"] is None else number["cx"],
            cy=unknown if number["cy"] is None else number["cy"],
            width=round(number["w"] or 0),
            height=round(number["h"] or 0),
            model=model,
            distortion=distortion,
        )
        return intrinsics, (angles[0], angles[1])


def with_times(views: list[View]) -> list[View]:
    """D-NeRF times: where only some frames carry one, the others get index / (n - 1)."""
    if all(view.time is None for view in views):
        return views
    last = max(len(views) - 1, 1)
    return [
        replace(view, time=i / last) if view.time is None else view for i, view in enumerate(views)
    ]
