"""LLFF captures: ``poses_bounds.npy`` and folders of images at several sizes.

Each row holds a 3x5 matrix [R | t | (height, width, focal)] whose rotation columns point down,
right and backwards, then the nearest and farthest depth. Rows follow the images' sorted names;
height, width and focal belong to the full-size images. The first view and every 8th after it
are the test views; forward-facing scenes are usually fitted in normalised device coordinates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polyfield.data.poses import as_pose
from polyfield.data.scene import Description, Intrinsics, LoadOptions, View
from polyfield.data.search import best_factor, image_files, numbered_folders
from polyfield.errors import InputError
from polyfield.registry import register

COLUMNS = 17


@register("llff", kind="formats", order=30, paper="Mildenhall et al., SIGGRAPH 2019")
class Llff:
    """LLFF: poses_bounds.npy with images, images_4, images_8."""

    looks_for = "poses_bounds.npy"

    @staticmethod
    def detect(path: Path) -> str | None:
        """Whether there is a poses_bounds.npy."""
        return "found poses_bounds.npy" if _file(path) else None

    @staticmethod
    def load(path: Path, options: LoadOptions) -> Description:
        """Read poses and bounds.

        Raises:
            InputError: The array has another shape, or does not match the number of images.
        """
        file = _file(path) or path
        rows = _read(file)
        images = _images(file.parent, len(rows), options.downscale)
        views = [_view(row, image, file) for row, image in zip(rows, images, strict=True)]
        bounds = rows[:, 15:]
        if not (np.isfinite(bounds).all() and bounds.min() > 0 and (np.diff(bounds) > 0).all()):
            raise InputError(
                f"{file}: depth bounds run from {bounds.min():.4g} to {bounds.max():.4g}, expected "
                "0 < near < far in every row; run imgs2poses again"
            )
        return Description(
            views=tuple(views),
            root=file.parent,
            files=(file,),
            depth_range=(float(bounds.min()), float(bounds.max())),
            order="file",
        )


def _file(path: Path) -> Path | None:
    file = path if path.is_file() else path / "poses_bounds.npy"
    return file if file.name == "poses_bounds.npy" and file.is_file() else None


def _read(file: Path) -> np.ndarray:
    try:
        rows = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} cannot be read ({error}); copy it or make it again") from error
    if rows.ndim != 2 or rows.shape[1] != COLUMNS or not len(rows) or rows.dtype.kind != "f":
        raise InputError(
            f"{file} has shape {rows.shape} of {rows.dtype}, expected (views, {COLUMNS}) numbers"
        )
    return rows.astype(np.float64)


def _images(root: Path, count: int, downscale: int) -> list[Path]:
    """One path per row, as if all images were full size: the common stage picks the folder."""
    folders = {k: f for k, f in numbered_folders(root / "images").items() if image_files(f)}
    if not folders:
        raise InputError(f"{root} has no images; expected them in images, images_4 or images_8")
    folder = folders[best_factor(folders, downscale)]
    files = image_files(folder)
    if len(files) != count:
        extra = f", the first without a pose is {files[count].name}" if len(files) > count else ""
        raise InputError(
            f"{root}/poses_bounds.npy has {count} poses, but {folder.name} holds {len(files)} "
            f"images{extra}; remove what does not belong or make the poses again"
        )
    return [root / "images" / found.name for found in files]


def _view(row: np.ndarray, path: Path, file: Path) -> View:
    where = f"{file}, image '{path.name}'"
    matrix = row[:15].reshape(3, 5)
    down, right, back, position = matrix[:, :4].T
    pose, _ = as_pose(np.stack([right, -down, back, position], axis=1), where)
    height, width, focal = matrix[:, 4]
    if not (np.isfinite(matrix[:, 4]).all() and min(height, width, focal) > 0):
        raise InputError(
            f"{where}: height, width, focal are {height:.4g}, {width:.4g}, {focal:.4g}; expected "
            "positive numbers"
        )
    intrinsics = Intrinsics(
        fx=float(focal),
        fy=float(focal),
        cx=float(width) / 2,
        cy=float(height) / 2,
        width=round(width),
        height=round(height),
    )
    return View(name=path.name, path=path, c2w=pose, intrinsics=intrinsics, own_intrinsics=True)
