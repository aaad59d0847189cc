"""Which files of a folder are a light field's views, and what its ``light-field.json`` says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polyfield.config import from_plain
from polyfield.data.search import EXTENSIONS, image_files, natural_key
from polyfield.errors import InputError
from polyfield.files import read_json

NAME = "light-field.json"
FOLDERS = ("", "views", "rectified", "images")
DEPTH = "_depth"  # ends the name of a view's depth picture
_NUMBER = r"(-?\d+\.\d+)"
# prefix_ROW_COLUMN_Y_X, as Stanford's gantry pictures are called, and prefix_ROW_COLUMN
_PLACED = re.compile(rf"(?:.*?_)?(\d+)_(\d+)_{_NUMBER}_{_NUMBER}_?")
_GRID = re.compile(r"view_(\d+)_(\d+)")

Place = tuple[int, int]  # row and column


@dataclass(frozen=True)
class LightFieldFile:
    """What ``light-field.json`` may say; lengths in any one unit."""

    focal: float | None = None
    """Focal length in pixels of the views."""
    field_of_view: float | None = None
    """Horizontal angle of view in degrees, instead of `focal`."""
    baseline: float | tuple[float, float] | None = None
    """Distance between neighbouring views, or between columns and between rows."""
    zero_disparity: float | None = None
    """Distance of the plane that all views show at the same pixels (null: parallel views)."""
    depth: tuple[float, float] | None = None
    """Distances of the nearest and farthest content."""
    columns: int | None = None
    """Of the grid, for views without row and column in their names."""
    rows: int | None = None
    """Of the grid."""
    order: Literal["rows", "columns"] = "rows"
    """Numbered views follow each other along rows or along columns."""
    flip: Literal["none", "rows", "columns", "both"] = "none"
    """Row 0 is the bottom one, column 0 the right one, or both."""
    train_every: int = 2
    """Rows and columns used to fit; the views in between are held out."""
    depth_scale: float = 1e-3
    """Length per step of the depth pictures."""
    lenslet: str | None = None
    """A mosaic of microlenses instead of views."""
    pixels_per_lens: int | None = None
    """Pixels of the mosaic per microlens, each way."""
    use: int | None = None
    """Views each way taken from the middle of the lenses (null: all)."""

    def __post_init__(self) -> None:
        lengths = {"focal": self.focal, "zero_disparity": self.zero_disparity}
        lengths |= {f"baseline {i}": b for i, b in enumerate(self.steps or ())}
        lengths |= {"depth_scale": self.depth_scale}
        for name, value in lengths.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number, got {value}")
        if self.field_of_view is not None and not 0 < self.field_of_view < 180:
            raise ValueError(f"field_of_view must be in (0, 180) degrees, got {self.field_of_view}")
        if self.depth is not None and not 0 < self.depth[0] < self.depth[1] < math.inf:
            raise ValueError(f"depth must be a nearer and a farther distance, got {self.depth}")
        counts = ("columns", "rows", "train_every", "pixels_per_lens", "use")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def steps(self) -> tuple[float, float] | None:
        """Distances between columns and between rows."""
        both = isinstance(self.baseline, Sequence)
        return self.baseline if both or self.baseline is None else (self.baseline,) * 2


@dataclass(frozen=True)
class ViewFiles:
    """Views by row (from the top) and column (from the left), and the two numbers in their names
    that say where a camera stood, where there are any."""

    paths: Mapping[Place, Path]
    how: str
    placed: Mapping[Place, tuple[float, float]] = field(default_factory=dict)


def described(path: Path) -> Path | None:
    """The ``light-field.json`` of a folder, or that file itself."""
    file = path if path.is_file() else path / NAME
    return file if file.name == NAME and file.is_file() else None


def read_description(file: Path | None) -> LightFieldFile:
    """The settings of a light field; defaults without a file.

    Raises:
        InputError: Not JSON, or no object.
        ConfigError: A name or value cannot be used.
    """
    if file is None:
        return LightFieldFile()
    plain = read_json(file, "light-field file")
    if not isinstance(plain, dict):
        raise InputError(f"{file} holds no settings; expected an object such as {{'focal': 800}}")
    return from_plain(LightFieldFile, plain, str(file))


def named_views(root: Path) -> ViewFiles | None:
    """Views with row and column in their names, in a folder or where captures keep them."""
    for folder in FOLDERS:
        files = [f for f in image_files(root / folder) if not f.stem.endswith(DEPTH)]
        for pattern, how in ((_PLACED, "row, column and position"), (_GRID, "row and column")):
            found = {f: m for f in files if (m := pattern.fullmatch(f.stem))}
            if len(found) >= 4 and 2 * len(found) >= len(files):
                return _by_name(found, f"{len(found)} views named by {how}")
    return None


def _by_name(found: Mapping[Path, re.Match], how: str) -> ViewFiles:
    paths: dict[Place, Path] = {}
    placed: dict[Place, tuple[float, float]] = {}
    rows, columns = (sorted({int(m[i]) for m in found.values()}) for i in (1, 2))
    for path, match in found.items():
        place = int(match[1]) - rows[0], int(match[2]) - columns[0]
        if place in paths:
            raise InputError(
                f"{path} and {paths[place].name} have the same row and column; keep one of them"
            )
        paths[place] = path
        if match.re is _PLACED:
            placed[place] = float(match[3]), float(match[4])
    return ViewFiles(paths, how, placed)


def numbered_views(root: Path, settings: LightFieldFile) -> ViewFiles:
    """Views in the order of their names' numbers, on a square grid unless the settings say another.

    Raises:
        InputError: Their number fits no grid.
    """
    files: list[Path] = []
    for folder in FOLDERS:
        files = [f for f in image_files(root / folder) if not f.stem.endswith(DEPTH)]
        if len(files) > 1:
            break
    files.sort(key=lambda f: natural_key(f.name))
    columns, rows = settings.columns, settings.rows
    side = math.isqrt(len(files))
    if columns is None and rows is None:
        columns = rows = side
    columns, rows = columns or len(files) // rows, rows or len(files) // columns
    if not files or columns * rows != len(files):
        raise InputError(
            f"{root} holds {len(files)} views, expected {columns}x{rows}; name them view_RR_CC.png "
            f"(row, column), or write the grid's columns and rows into {NAME}"
        )
    along_rows = settings.order == "rows"
    places = [
        divmod(i, columns) if along_rows else divmod(i, rows)[::-1] for i in range(len(files))
    ]
    return ViewFiles(dict(zip(places, files, strict=True)), f"{len(files)} numbered views")


def grid_size(places: Iterable[Place]) -> tuple[int, int]:
    """Columns and rows that hold all places."""
    rows, columns = zip(*places, strict=True)
    return max(columns) + 1, max(rows) + 1


def missing_places(views: ViewFiles) -> list[str]:
    """Names that the views which are missing from the grid should have."""
    columns, rows = grid_size(views.paths)
    absent = [(r, c) for r in range(rows) for c in range(columns) if (r, c) not in views.paths]
    return [f"row {r} column {c}" for r, c in absent]


def depth_picture(view: Path) -> Path | None:
    """The picture of depths beside a view, if there is one."""
    options = (view.with_name(f"{view.stem}{DEPTH}.{e}") for e in ("png", "npy", *EXTENSIONS))
    return next((option for option in options if option.is_file()), None)
