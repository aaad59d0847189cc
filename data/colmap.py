"""COLMAP's sparse models, binary and text, read and written as plain records.

Poses are world -> camera in OpenCV axes: ``x_camera = R(q) x + t``. The centre of the top-left
pixel is (0.5, 0.5). Layout after COLMAP's own documentation of ``cameras``, ``images`` and
``points3D``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polyfield.errors import InputError

# id -> (name, number of parameters)
MODELS: Mapping[int, tuple[str, int]] = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
_IDS = {name: number for number, (name, _) in MODELS.items()}
# fewest bytes of an image record: id, pose, camera, an empty name, no observations
_IMAGE_BYTES = 4 + 7 * 8 + 4 + 1 + 8


@dataclass(frozen=True)
class Camera:
    """Parameters in COLMAP's order for `model`."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class Registered:
    """A registered image: quaternion (w, x, y, z) and translation, world -> camera."""

    name: str
    camera: int
    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]


@dataclass(frozen=True)
class Model:
    """A sparse model; cameras and images by id; points: (P, 3) in the world."""

    cameras: dict[int, Camera]
    images: dict[int, Registered]
    points: np.ndarray


def model_files(folder: Path) -> tuple[Path, Path, Path] | None:
    """Cameras, images and points of a model folder, binary preferred; None if incomplete."""
    for suffix in (".bin", ".txt"):
        names = [folder / f"{stem}{suffix}" for stem in ("cameras", "images", "points3D")]
        if names[0].is_file() and names[1].is_file():
            return names[0], names[1], names[2]
    return None


def count_images(folder: Path) -> int:
    """Number of registered images of a model, without reading them all when binary."""
    files = model_files(folder)
    if files is None:
        return 0
    if files[1].suffix == ".bin":
        with open(files[1], "rb") as file:
            head = file.read(8)
        return struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    return len(_read_images_text(files[1]))


def read_model(folder: Path) -> Model:
    """Read a model folder; absent points count as none.

    Raises:
        InputError: A file is missing, truncated, garbled, or names an unknown camera model.
    """
    files = model_files(folder)
    if files is None:
        raise InputError(
            f"{folder} holds no COLMAP model; expected cameras and images, .bin or .txt"
        )
    cameras_file, images_file, points_file = files
    binary = cameras_file.suffix == ".bin"
    cameras = (_read_cameras_binary if binary else _read_cameras_text)(cameras_file)
    images = (_read_images_binary if binary else _read_images_text)(images_file)
    points = np.zeros((0, 3))
    if points_file.is_file():
        points = (_read_points_binary if binary else _read_points_text)(points_file)
    for image in images.values():
        if image.camera not in cameras:
            raise InputError(
                f"{images_file}: image '{image.name}' uses camera {image.camera}, which "
                f"{cameras_file.name} does not hold; export the model again"
            )
    return Model(cameras, images, points)


class _Reader:
    """Little-endian values from a file that must not end early."""

    def __init__(self, path: Path):
        self.path = path
        self.data = path.read_bytes()
        self.at = 0

    def take(self, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        self.need(size)
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += size
        return values

    def need(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise InputError(
                f"{self.path} ends after {len(self.data)} bytes, expected at least "
                f"{self.at + size}; copy it again or export the model again"
            )

    def count(self, least: int) -> int:
        """A number of records of at least `least` bytes each, which must fit."""
        (count,) = self.take("Q")
        self.need(count * least)
        return count

    def name(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            self.need(len(self.data) - self.at + 1)
        text = self.data[self.at : end].decode("utf-8", errors="surrogateescape")
        self.at = end + 1
        return text


def _camera(path: Path, model: str, size: tuple[int, int], params: tuple[float, ...]) -> Camera:
    if model not in _IDS:
        raise InputError(
            f"{path}: unknown camera model '{model}', expected one of {', '.join(_IDS)}; run "
            "COLMAP's image_undistorter to get PINHOLE cameras"
        )
    expected = MODELS[_IDS[model]][1]
    if len(params) != expected:
        raise InputError(f"{path}: {model} takes {expected} parameters, got {len(params)}")
    if not np.isfinite(params).all() or min(size) < 1:
        raise InputError(f"{path}: camera of size {size} has parameters {params}; export it again")
    return Camera(model, *size, params)


def _read_cameras_binary(path: Path) -> dict[int, Camera]:
    reader, cameras = _Reader(path), {}
    for _ in range(reader.count(24)):
        number, model, width, height = reader.take("iiQQ")
        if model not in MODELS:
            raise InputError(
                f"{path}: unknown camera model number {model}, expected 0 to {max(MODELS)}; run "
                "COLMAP's image_undistorter to get PINHOLE cameras"
            )
        name, size = MODELS[model]
        cameras[number] = _camera(path, name, (width, height), reader.take(f"{size}d"))
    return cameras


def _read_images_binary(path: Path) -> dict[int, Registered]:
    reader, images = _Reader(path), {}
    for _ in range(reader.count(_IMAGE_BYTES)):
        number, *pose, camera = reader.take("i7di")
        name = reader.name()
        skipped = reader.count(24) * 24  # observations: x, y, point
        reader.at += skipped
        images[number] = Registered(name, camera, tuple(pose[:4]), tuple(pose[4:]))
    return images


def _read_points_binary(path: Path) -> np.ndarray:
    reader = _Reader(path)
    points = np.empty((reader.count(51), 3))
    for row in range(len(points)):
        _, *points[row] = reader.take("Q3d")
        reader.take("3Bd")
        tracked = reader.count(8) * 8
        reader.at += tracked
    return points


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are no comments; empty ones included, they mean something."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("#"):
            yield number, line.strip()


def _garbled(path: Path, number: int, line: str, error: Exception) -> InputError:
    return InputError(
        f"{path}, line {number}: cannot read '{line[:60]}' ({error}); export it again"
    )


def _read_cameras_text(path: Path) -> dict[int, Camera]:
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        try:
            key, model, width, height, *params = line.split()
            values = int(key), (int(width), int(height)), tuple(map(float, params))
        except ValueError as error:
            raise _garbled(path, number, line, error) from error
        cameras[values[0]] = _camera(path, model, *values[1:])
    return cameras


def _read_images_text(path: Path) -> dict[int, Registered]:
    images = {}
    lines = _lines(path)
    for number, line in lines:
        if not line:
            continue
        try:
            key, *pose, camera, name = line.split(maxsplit=9)
            q, t = tuple(map(float, pose[:4])), tuple(map(float, pose[4:]))
            images[int(key)] = Registered(name, int(camera), q, t)
        except ValueError as error:
            raise _garbled(path, number, line, error) from error
        next(lines, None)  # the observations, an empty line where there are none
    return images


def _read_points_text(path: Path) -> np.ndarray:
    points = []
    for number, line in _lines(path):
        if not line:
            continue
        try:
            _, x, y, z = line.split(maxsplit=4)[:4]
            points.append((float(x), float(y), float(z)))
        except ValueError as error:
            raise _garbled(path, number, line, error) from error
    return np.array(points).reshape(-1, 3)


def write_model(folder: Path, model: Model, binary: bool = True) -> None:
    """Write a model as COLMAP would, without observations and tracks."""
    folder.mkdir(parents=True, exist_ok=True)
    if binary:
        _write_binary(folder, model)
    else:
        _write_text(folder, model)


def _write_binary(folder: Path, model: Model) -> None:
    with open(folder / "cameras.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.cameras)))
        for key, c in model.cameras.items():
            file.write(struct.pack("<iiQQ", key, _IDS[c.model], c.width, c.height))
            file.write(struct.pack(f"<{len(c.params)}d", *c.params))
    with open(folder / "images.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.images)))
        for key, i in model.images.items():
            file.write(struct.pack("<i7di", key, *i.quaternion, *i.translation, i.camera))
            file.write(i.name.encode() + b"\0" + struct.pack("<Q", 0))
    with open(folder / "points3D.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.points)))
        for key, point in enumerate(model.points, start=1):
            file.write(struct.pack("<Q3d3BdQ", key, *point, 128, 128, 128, 0.0, 0))


def _write_text(folder: Path, model: Model) -> None:
    def numbers(values) -> str:
        return " ".join(repr(float(v)) for v in values)

    cameras = [
        f"{key} {c.model} {c.width} {c.height} {numbers(c.params)}"
        for key, c in model.cameras.items()
    ]
    images = [
        f"{key} {numbers(i.quaternion)} {numbers(i.translation)} {i.camera} {i.name}\n"
        for key, i in model.images.items()
    ]
    points = [
        f"{key} {numbers(point)} 128 128 128 0.0" for key, point in enumerate(model.points, start=1)
    ]
    for stem, lines in [("cameras", cameras), ("images", images), ("points3D", points)]:
        text = "\n".join([f"# {len(lines)} {stem}", *lines, ""])
        (folder / f"{stem}.txt").write_text(text, encoding="utf-8")
