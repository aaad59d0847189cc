"""Light fields: a grid of views in a folder, or one mosaic of microlenses.

Cameras stand in the plane z = 0 of a world of their own, x right, y up, and look along -z. All have
one focal length; where the views were rectified to a plane (``zero_disparity``), their principal
points move with the camera, which is what makes that plane stand still.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from polyfield.data import light_field_files as files
from polyfield.data.decode import decode, read_header
from polyfield.data.images import cache_folder
from polyfield.data.lenslets import central_views, mosaic_to_views
from polyfield.data.light_field import middle
from polyfield.data.light_field_files import LightFieldFile, Place, ViewFiles
from polyfield.data.prepare import some
from polyfield.data.scene import Description, Intrinsics, LoadOptions, View
from polyfield.errors import InputError
from polyfield.registry import register

MARGIN = 0.05  # around the stated depths
OTHERS = (  # files and folders that place cameras better than names do
    "transforms.json", "transforms_train.json", "transforms_test.json", "poses_bounds.npy",
    "sparse", "colmap", "cameras.bin", "cameras.txt",
)  # fmt: skip


@register("light-field", kind="formats", order=5, paper="Levoy and Hanrahan, SIGGRAPH 1996")
class LightField:
    """Light fields: a grid of views, named or numbered, or a mosaic of microlenses."""

    looks_for = "light-field.json, or views named view_RR_CC.png or as Stanford's gantry does"

    @staticmethod
    def detect(path: Path) -> str | None:
        """Whether there is a light-field.json, or views named by row and column."""
        file = files.described(path)
        if file is not None:
            return f"found {file.name}"
        if not path.is_dir() or any((path / name).exists() for name in OTHERS):
            return None
        views = files.named_views(path)
        return views and f"found {views.how}"

    @staticmethod
    def load(path: Path, options: LoadOptions) -> Description:
        """Describe the grid as posed images; a mosaic is taken apart into the cache first.

        Raises:
            InputError: Views are missing or of several sizes, the grid is not full, or nothing
                says where the cameras stood.
            ConfigError: light-field.json cannot be used.
        """
        file = files.described(path)
        root = file.parent if file else path
        settings = files.read_description(file)
        views = _views(root, settings)
        absent = files.missing_places(views)
        if absent:
            raise InputError(
                f"{len(absent)} views of the light field in {root} are missing: {some(absent)}; "
                "put them there, or remove the rows or columns that are not complete"
            )
        size = _common_size(views)
        where = file or root / files.NAME
        focal = _focal(settings, size[0], where)
        places = _places(views, settings, where)
        columns, rows = files.grid_size(views.paths)
        every = settings.train_every if options.holdout is None else 0
        made = [
            _view((row, column), views.paths[row, column], places[row, column],
                  _lens(places[row, column], focal, size, settings.zero_disparity),
                  _split(row, column, (rows, columns), every), settings.depth_scale)
            for row in range(rows) for column in range(columns)
        ]  # fmt: skip
        notes = {"columns": columns, "rows": rows, "views": views.how}
        if every > 1:
            notes["fitted"] = f"views whose row and column are multiples of {every}, and the last"
        box = settings.depth and _box(made, settings.depth)
        return Description(
            views=tuple(made),
            root=root,
            files=(file,) if file else (made[0].path,),
            depth_range=_depth_range(settings),
            box=box or None,
            bounded=True if box else None,
            up=(0.0, 1.0, 0.0),
            warnings=() if box else (_unknown_depths(settings, where),),
            notes={"light_field": notes},
        )


def _views(root: Path, settings: LightFieldFile) -> ViewFiles:
    if settings.lenslet is not None:
        views = _unpacked(root / settings.lenslet, settings)
    else:
        views = files.named_views(root) or files.numbered_views(root, settings)
    flip_rows, flip_columns = (settings.flip in (side, "both") for side in ("rows", "columns"))
    columns, rows = files.grid_size(views.paths)

    def turned(place: Place) -> Place:
        row, column = place
        return (
            rows - 1 - row if flip_rows else row,
            columns - 1 - column if flip_columns else column,
        )

    paths = {turned(place): path for place, path in views.paths.items()}
    placed = {turned(place): numbers for place, numbers in views.placed.items()}
    return ViewFiles(paths, views.how, placed)


def _common_size(views: ViewFiles) -> tuple[int, int]:
    first, *rest = views.paths.values()
    size = read_header(first).size
    for path in rest:
        other = read_header(path).size
        if other != size:
            raise InputError(
                f"the views of a light field have one size, but {first.name} is {size[0]}x{size[1]}"
                f" and {path.name} is {other[0]}x{other[1]}; bring them to one size"
            )
    return size


def _focal(settings: LightFieldFile, width: int, where: Path) -> float:
    if settings.focal is not None:
        return settings.focal
    if settings.field_of_view is not None:
        return width / 2 / float(np.tan(np.radians(settings.field_of_view) / 2))
    raise InputError(_wanted(where, "the focal length of its cameras", width))


def _wanted(where: Path, what: str, width: int = 0) -> str:
    focal = width or 800
    return (
        f"nothing says {what}: write {where} with "
        f'{{"focal": {focal}, "baseline": 0.01, "zero_disparity": null, "depth": [1, 5]}}: focal '
        "length in pixels, distance between neighbouring views, distance of the plane the views "
        "are aligned on (null: parallel views), nearest and farthest content, in one unit"
    )


def _places(views: ViewFiles, settings: LightFieldFile, where: Path) -> dict[Place, tuple]:
    """Right and down of every camera from the centre view, from the steps or the names."""
    columns, rows = files.grid_size(views.paths)
    row0, column0 = middle(rows), middle(columns)
    if settings.steps is not None:
        across, down = settings.steps
        return {(r, c): ((c - column0) * across, (r - row0) * down) for r, c in views.paths}
    if not views.placed:
        raise InputError(_wanted(where, "how far apart the cameras are"))
    order = sorted(views.placed)
    numbers = np.array([views.placed[place] for place in order])
    index = np.array(order, float)
    index -= index.mean(0)
    slopes = index.T @ (numbers - numbers.mean(0)) / np.maximum((index**2).sum(0), 1)[:, None]
    # the names hold (y, x) or (x, y): x is what changes along a row
    swapped = abs(slopes[1, 0]) > abs(slopes[1, 1])
    x, y = (numbers.T if swapped else numbers.T[::-1]) * np.ones((2, 1))
    along_x, along_y = slopes[1, 0 if swapped else 1], slopes[0, 1 if swapped else 0]
    if (columns > 1 and along_x == 0) or (rows > 1 and along_y == 0):
        raise InputError(_wanted(where, "how far apart the cameras are; their names do not"))
    # rows count downwards and columns to the right, whichever way the gantry counted
    x, y = x * (np.sign(along_x) or 1), y * (np.sign(along_y) or 1)
    centre = order.index((row0, column0))
    pairs = zip(x - x[centre], y - y[centre], strict=True)
    return {place: (float(a), float(b)) for place, (a, b) in zip(order, pairs, strict=True)}


def _lens(
    place: tuple[float, float], focal: float, size: tuple[int, int], zero: float | None
) -> Intrinsics:
    moves = (0.0, 0.0) if zero is None else tuple(p * focal / zero for p in place)
    cx, cy = (side / 2 + move for side, move in zip(size, moves, strict=True))
    return Intrinsics(fx=focal, fy=focal, cx=cx, cy=cy, width=size[0], height=size[1])


def _view(
    at: Place, path: Path, place: tuple[float, float], lens: Intrinsics, split: str | None,
    depth_scale: float,
) -> View:  # fmt: skip
    pose = np.eye(4)
    pose[:2, 3] = place[0], -place[1]
    return View(
        name=f"view_{at[0]:02d}_{at[1]:02d}",
        path=path,
        c2w=pose,
        intrinsics=lens,
        own_intrinsics=True,
        split=split,
        depth_path=files.depth_picture(path),
        depth_scale=depth_scale,
    )


def _split(row: int, column: int, size: tuple[int, int], every: int) -> str | None:
    if every <= 1:
        return None
    kept = (i % every == 0 or i == n - 1 for i, n in zip((row, column), size, strict=True))
    return "train" if all(kept) else "test"


def _depth_range(settings: LightFieldFile) -> tuple[float, float] | None:
    if settings.depth is not None:
        return settings.depth[0] * (1 - MARGIN), settings.depth[1] * (1 + MARGIN)
    zero = settings.zero_disparity
    return None if zero is None else (zero / 2, zero * 2)


def _unknown_depths(settings: LightFieldFile, where: Path) -> str:
    guess = "from half to twice zero_disparity" if settings.zero_disparity else "far away"
    return (
        f"{where.name} states no depth of the nearest and farthest content (taken to be {guess}); "
        'with "depth": [NEAR, FAR] the box fits what is seen'
    )


def _box(views: list[View], depth: tuple[float, float]) -> tuple[tuple[float, float, float], float]:
    """The cube around what all cameras see between the stated depths."""
    near, far = depth[0] * (1 - MARGIN), depth[1] * (1 + MARGIN)
    corners = []
    for view in views:
        lens, (x, y) = view.intrinsics, view.c2w[:2, 3]
        for z in (near, far):
            for a, b in ((0, 0), (lens.width, lens.height)):
                corner = x + z * (a - lens.cx) / lens.fx, y - z * (b - lens.cy) / lens.fy, -z
                corners.append(corner)
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    return tuple(float(c) for c in (low + high) / 2), float((high - low).max() / 2)


def _unpacked(mosaic: Path, settings: LightFieldFile) -> ViewFiles:
    """Views of a mosaic as pictures in the cache, made once."""
    if settings.pixels_per_lens is None:
        raise InputError(f"{files.NAME} names a lenslet mosaic; it needs pixels_per_lens as well")
    if not mosaic.is_file():
        raise InputError(f"the lenslet mosaic {mosaic} does not exist; correct {files.NAME}")
    facts = f"{settings.pixels_per_lens} {settings.use}".encode()
    key = hashlib.blake2b(mosaic.read_bytes() + facts, digest_size=12).hexdigest()
    folder = cache_folder() / f"lenslet-{key}"
    if not folder.is_dir():
        views = mosaic_to_views(decode(mosaic)[..., :3], settings.pixels_per_lens)
        if settings.use is not None:
            views = central_views(views, settings.use)
        _write_views(views, folder)
    found = files.named_views(folder)
    if found is None:
        raise InputError(f"{folder} is damaged; delete it, it will be made again")
    return ViewFiles(found.paths, f"{len(found.paths)} views of {mosaic.name}")


def _write_views(views: np.ndarray, folder: Path) -> None:
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        for u in range(views.shape[0]):
            for v in range(views.shape[1]):
                path = temporary / "views" / f"view_{v:02d}_{u:02d}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(np.ascontiguousarray(views[u, v])).save(path, compress_level=1)
        os.rename(temporary / "views", folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise InputError(
                f"the views of the mosaic cannot be kept in {folder.parent} "
                f"({error.strerror or error}); set POLYFIELD_CACHE to a folder with room"
            ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
