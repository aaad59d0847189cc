"""COLMAP captures: a sparse model beside a folder of images.

Every registered image becomes a view. Views are sorted by name; ``train_list.txt`` and
``test_list.txt`` say the split where they exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polyfield.data.colmap import Camera, Model, Registered, count_images, model_files, read_model
from polyfield.data.poses import as_pose, flip_convention, rotation_from_quaternion
from polyfield.data.scene import Description, Intrinsics, LoadOptions, Split, View
from polyfield.data.search import Finder, best_factor, image_files, numbered_folders
from polyfield.errors import InputError
from polyfield.registry import register

MODEL_FOLDERS = ("sparse", "colmap/sparse", "colmap", "distorted/sparse", "")
IMAGE_FOLDERS = ("images", "input", "rgb", "imgs", "image", "")
FEWEST_VIEWS = 3
MOST_POINTS = 200_000

# COLMAP model -> (ours, positions of fx fy cx cy, coefficients: position or None for 0)
_FXFY, _F = (0, 1, 2, 3), (0, 0, 1, 2)
_LENSES: Mapping[str, tuple[str, tuple[int, ...], tuple[int | None, ...]]] = {
    "SIMPLE_PINHOLE": ("pinhole", _F, ()),
    "PINHOLE": ("pinhole", _FXFY, ()),
    "SIMPLE_RADIAL": ("opencv", _F, (3, None, None, None, None, None)),
    "RADIAL": ("opencv", _F, (3, 4, None, None, None, None)),
    "OPENCV": ("opencv", _FXFY, (4, 5, None, None, 6, 7)),
    "OPENCV_FISHEYE": ("opencv-fisheye", _FXFY, (4, 5, 6, 7)),
    "FULL_OPENCV": ("full-opencv", _FXFY, (4, 5, 6, 7, 8, 9, 10, 11)),
    "FOV": ("fov", _FXFY, (4,)),
    "SIMPLE_RADIAL_FISHEYE": ("opencv-fisheye", _F, (3, None, None, None)),
    "RADIAL_FISHEYE": ("opencv-fisheye", _F, (3, 4, None, None)),
    "THIN_PRISM_FISHEYE": ("thin-prism-fisheye", _FXFY, (4, 5, 6, 7, 8, 9, 10, 11)),
}


@register("colmap", kind="formats", order=40, paper="Schoenberger and Frahm, CVPR 2016")
class Colmap:
    """COLMAP: sparse/0 with cameras, images and points3D (.bin or .txt), and the images."""

    looks_for = "sparse/0, colmap/sparse/0 or cameras.bin/.txt with images.bin/.txt"

    @staticmethod
    def detect(path: Path) -> str | None:
        """Which model folders there are; None without any."""
        found = _model_folders(path)
        return f"found {_short(found[0], path)}" if found else None

    @staticmethod
    def load(path: Path, options: LoadOptions) -> Description:
        """Read the model with the most images.

        Raises:
            InputError: The model cannot be used, or fewer than three images are registered.
        """
        counts = {folder: count_images(folder) for folder in _model_folders(path)}
        folder = max(counts, key=lambda f: counts[f])
        model = read_model(folder)
        if len(model.images) < FEWEST_VIEWS:
            raise InputError(
                f"{folder} registered {len(model.images)} images, expected at least "
                f"{FEWEST_VIEWS}; take pictures with more overlap and use COLMAP's exhaustive "
                "matching"
            )
        root = _root(path, folder)
        warnings = []
        if len(counts) > 1:
            listed = ", ".join(f"{_short(f, path)}: {n}" for f, n in counts.items())
            warnings.append(
                f"COLMAP made {len(counts)} separate models ({listed} images); the largest is used"
            )
        registered = sorted(model.images.values(), key=lambda image: image.name)
        images = _locate_images(root, [i.name for i in registered], options.downscale)
        warnings += images.warnings
        splits = _split_lists(root)
        views = [
            _view(image, model, images.path(image.name), _split(splits, image.name), folder, root)
            for image in registered
        ]
        points = model.points[np.isfinite(model.points).all(axis=1)]
        return Description(
            views=tuple(v for v in views if v.split is not None or not splits),
            root=root,
            files=tuple(file for file in model_files(folder) or () if file.is_file()),
            points=points[:: max(1, -(-len(points) // MOST_POINTS))],
            order="file",
            warnings=tuple(warnings),
            notes={"points": len(points), "model": _short(folder, path)},
        )


def _short(folder: Path, path: Path) -> str:
    relative = folder.relative_to(path) if folder.is_relative_to(path) else folder
    return str(relative) if str(relative) != "." else folder.name


def _model_folders(path: Path) -> list[Path]:
    found = []
    for name in MODEL_FOLDERS if path.is_dir() else ():
        base = path / name if name else path
        numbered = sorted(base.iterdir()) if name and base.is_dir() else []
        for folder in [base, *(f for f in numbered if f.name.isdigit() and f.is_dir())]:
            if model_files(folder):
                found.append(folder)
    return found


def _root(path: Path, folder: Path) -> Path:
    """The folder that holds the images: `path`, or above it when `path` is the model itself."""
    for candidate in [path, *path.parents[:3]]:
        if any((candidate / name).is_dir() for name in IMAGE_FOLDERS if name):
            return candidate
        if any(numbered_folders(candidate / "images")):
            return candidate
    return path


@dataclass(frozen=True)
class _Images:
    folder: Path
    by_order: Mapping[str, Path]
    warnings: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        return self.by_order.get(name, self.folder / name)


def _locate_images(root: Path, names: Sequence[str], downscale: int) -> _Images:
    """The folder that holds most of the named images.

    Shrunk copies are often renamed; where no name matches but the counts agree they are paired
    in the order of their names, as multinerf does.
    """
    finder = Finder(root)
    best, most = root / "images", 0
    for name in IMAGE_FOLDERS:
        for folder in numbered_folders(root / name).values() if name else [root]:
            hits = sum(finder.match(folder, image) is not None for image in names)
            if hits > most:
                plain = root / name if name else root
                best, most = plain, hits
    if most:
        return _Images(best, {})
    files = {k: image_files(folder) for k, folder in numbered_folders(best).items()}
    files = {k: paths for k, paths in files.items() if len(paths) == len(names)}
    if not files:
        return _Images(best, {})
    paths = files[best_factor(files, downscale)]
    note = (
        f"no image name of the COLMAP model exists; the {len(paths)} files of "
        f"{paths[0].parent.name} were paired with them in the order of their names"
    )
    plain = [best / path.name for path in paths]
    return _Images(best, dict(zip(names, plain, strict=True)), (note,))


def _split_lists(root: Path) -> dict[str, Split]:
    lists: dict[str, Split] = {"train_list.txt": "train", "test_list.txt": "test"}
    found: dict[str, Split] = {}
    for name, split in lists.items():
        file = root / name
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            found.update({line.strip(): split for line in lines if line.strip()})
    return found


def _split(splits: Mapping[str, Split], name: str) -> Split | None:
    return splits.get(name, splits.get(Path(name).name))


def intrinsics(camera: Camera) -> Intrinsics:
    """Our camera model of a COLMAP camera."""
    model, where, coefficients = _LENSES[camera.model]
    fx, fy, cx, cy = (camera.params[i] for i in where)
    distortion = tuple(0.0 if i is None else camera.params[i] for i in coefficients)
    return Intrinsics(fx, fy, cx, cy, camera.width, camera.height, model, distortion)


def _view(
    image: Registered, model: Model, path: Path, split: Split | None, folder: Path, root: Path
) -> View:
    where = f"{folder}, image '{image.name}'"
    norm = float(np.linalg.norm(image.quaternion))
    if not abs(norm - 1) < 1e-2:
        raise InputError(
            f"{where}: quaternion {image.quaternion} has length {norm:.4g}, expected 1; export "
            "the model again"
        )
    rotation = rotation_from_quaternion(np.array(image.quaternion))
    w2c = np.eye(4)
    w2c[:3, :3], w2c[:3, 3] = rotation, image.translation
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = rotation.T, -rotation.T @ w2c[:3, 3]
    pose, _ = as_pose(flip_convention(c2w), where)
    mask = root / "masks" / f"{image.name}.png"  # COLMAP's own place and polarity for masks
    return View(
        name=image.name,
        path=path,
        c2w=pose,
        intrinsics=intrinsics(model.cameras[image.camera]),
        own_intrinsics=True,
        split=split,
        mask_path=mask if mask.is_file() else None,
    )
