"""Files of one sweep, read and written: ``.bin``, ``.ply``, ``.pcd``, ``.npz``, ``.npy``.

Readers return what the file holds, in its number type and frame, NaN and all;
`polyfield.data.lidar.clean` makes returns of it. float32 goes through a writer and its reader
bit for bit.
"""

from __future__ import annotations

import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from polyfield.data.lidar.pcd import read_pcd, write_pcd
from polyfield.data.lidar.ply import read_ply, write_ply
from polyfield.data.lidar.sweeps import PointSweep
from polyfield.errors import InputError
from polyfield.files import replacing

SUFFIXES = (".bin", ".pcd", ".ply", ".npz", ".npy")
_FAULTS = (
    OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, MemoryError, RuntimeError,
    SyntaxError, NotImplementedError, struct.error, tokenize.TokenError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip  # what parsers of damaged archives raise
Columns = Mapping[str, Shaped[np.ndarray, "n"]]

# what files call things -> what they are; the first name that is there counts
_NAMES = {
    "intensity": ("intensity", "reflectance", "reflectivity", "scalar_intensity", "remission", "i"),
    "ring": ("ring", "laser_id", "channel", "laser", "scalar_ring"),
    "times": ("times", "time", "timestamp", "t", "time_offset", "offset_time", "scalar_time"),
    "number": ("number", "return_number", "return"),
}


@dataclass(frozen=True)
class BinLayout:
    """How many float32 a point has in the ``.bin`` files of a folder, and why that is thought."""

    columns: int
    why: str


def suffix_of(path: Path) -> str:
    """The suffix that says the format; nuScenes' ``.pcd.bin`` is ``.bin``."""
    return path.suffix.lower()


def bin_layout(paths: Sequence[Path]) -> BinLayout:
    """4 floats a point (KITTI) or 5 (nuScenes: the ring last).

    The sizes of all files decide; where both fit, the values of the first do.

    Raises:
        InputError: Neither fits, or a file is empty or cannot be read.
    """
    sizes = [_size(path) for path in paths]
    fits = {c: [size % (4 * c) == 0 for size in sizes] for c in (4, 5)}
    counts = {c: sum(fits[c]) for c in fits}
    if all(fits[4]) and all(fits[5]):
        return _by_values(paths[0])
    columns = 5 if counts[5] > counts[4] else 4
    for path, size, fit in zip(paths, sizes, fits[columns], strict=True):
        if not fit:
            raise InputError(
                f"sweep {path} has {size} bytes, expected a multiple of {4 * columns} "
                f"({columns} float32 a point); it is cut off or damaged, copy it again"
            )
    return BinLayout(columns, f"every size is a multiple of {4 * columns} bytes")


def _size(path: Path) -> int:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"sweep {path} cannot be read: {error.strerror or error}") from error
    if size == 0:
        raise InputError(f"sweep {path} is empty (0 bytes); copy it again, or remove it")
    return size


def _by_values(path: Path) -> BinLayout:
    flat = _floats(path)
    five = flat.reshape(-1, 5)
    with np.errstate(invalid="ignore"):
        whole = bool(np.all(five[:, 4] == np.round(five[:, 4])))
        rings = whole and 0 <= five[:, 4].min() and five[:, 4].max() < 256
    if rings and (five[:, 3] >= 0).all():
        return BinLayout(5, f"the fifth of 5 numbers a point is a whole ring number in {path.name}")
    return BinLayout(4, f"4 numbers a point make sense in {path.name}, 5 do not")


def _floats(path: Path) -> np.ndarray:
    try:
        return np.fromfile(path, "<f4")
    except OSError as error:
        raise InputError(f"sweep {path} cannot be read: {error.strerror or error}") from error


def read_sweep(path: Path, columns: int | None = None) -> PointSweep:
    """One sweep as its file holds it.

    Args:
        columns: Numbers a point in a ``.bin``; found from this file alone without.

    Raises:
        InputError: The file cannot be read, is cut off or damaged, or has no coordinates.
    """
    suffix = suffix_of(path)
    if suffix == ".bin":
        return _read_bin(path, columns or bin_layout([path]).columns)
    readers = {".ply": read_ply, ".pcd": read_pcd, ".npz": _read_npz, ".npy": _read_npy}
    if suffix not in readers:
        raise InputError(
            f"sweep {path} is of no known format; convert it to one of {', '.join(SUFFIXES)}"
        )
    _size(path)
    return _from_columns(readers[suffix](path), path)


def _read_bin(path: Path, columns: int) -> PointSweep:
    size = _size(path)
    if size % (4 * columns):
        raise InputError(
            f"sweep {path} has {size} bytes, expected a multiple of {4 * columns} ({columns} "
            "float32 a point); it is cut off or damaged, copy it again"
        )
    return _table(_floats(path).reshape(-1, columns))


def _table(rows: Shaped[np.ndarray, "n columns"]) -> PointSweep:
    """x, y, z, intensity, and in a fifth column rings (whole numbers) or times."""
    count, columns = rows.shape
    intensity = rows[:, 3] if columns > 3 else np.zeros(count, rows.dtype)
    ring = times = None
    if columns > 4:
        last = rows[:, 4]
        whole = np.isfinite(last).all() and (last == np.round(last)).all()
        ring, times = (last.astype(np.int64), None) if whole else (None, last)
    return PointSweep(rows[:, :3], intensity, ring, times)


def _from_columns(columns: Columns, path: Path) -> PointSweep:
    missing = [name for name in "xyz" if name not in columns]
    if missing:
        raise InputError(
            f"sweep {path} has no {', '.join(missing)} (it has {', '.join(columns) or 'nothing'}); "
            "expected x, y, z and if possible intensity, ring, time"
        )
    count = len(columns["x"])
    found = {
        what: next((columns[name] for name in names if name in columns), None)
        for what, names in _NAMES.items()
    }
    points = np.stack([columns[name] for name in "xyz"], axis=-1)
    if points.dtype.kind != "f":
        points = points.astype(np.float64)
    intensity = found["intensity"]
    intensity = np.zeros(count, np.float32) if intensity is None else _floating(intensity)
    ring, number = (
        None if found[name] is None else _whole(found[name]) for name in ("ring", "number")
    )
    times = None if found["times"] is None else _floating(found["times"])
    return PointSweep(points, intensity, ring, times, number)


def _whole(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        values = np.clip(np.nan_to_num(values, nan=-1.0), -1, 2**31)
    return values.astype(np.int64)


def _floating(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _read_npz(path: Path) -> Columns:
    arrays = _load(path)
    if "points" not in arrays:
        raise InputError(
            f"sweep {path} has no array 'points' (it has {', '.join(arrays) or 'none'}); expected "
            "points (n, 3) and if known intensity, ring, times, number (n,)"
        )
    points = arrays.pop("points")
    if points.ndim != 2 or points.shape[1] < 3:
        raise InputError(f"sweep {path}: points have shape {points.shape}, expected (n, 3)")
    wrong = [name for name, array in arrays.items() if array.shape != (len(points),)]
    if wrong:
        raise InputError(
            f"sweep {path}: {wrong[0]} has shape {arrays[wrong[0]].shape}, expected "
            f"({len(points)},) as there are points"
        )
    return dict(zip("xyz", points.T[:3], strict=True)) | arrays


def _read_npy(path: Path) -> Columns:
    rows = _load(path)[""]
    if rows.ndim != 2 or not 3 <= rows.shape[1] <= 5:
        raise InputError(
            f"sweep {path} has shape {rows.shape}, expected (n, 3), (n, 4) with intensity or "
            "(n, 5) with rings too"
        )
    sweep = _table(rows)
    columns = dict(zip("xyz", rows.T[:3], strict=True)) | {"intensity": sweep.intensity}
    extra = {"ring": sweep.ring, "times": sweep.times}
    return columns | {name: array for name, array in extra.items() if array is not None}


def _load(path: Path) -> dict[str, np.ndarray]:
    """Arrays of numbers by name ("" in ``.npy``); nothing that would run code."""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            plain = isinstance(loaded, np.ndarray)
            arrays = {"": loaded} if plain else {name: loaded[name] for name in loaded.files}
    except _FAULTS as error:
        raise InputError(
            f"sweep {path} cannot be read ({error}); it is cut off or damaged, copy it again"
        ) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise InputError(f"sweep {path}: {name or 'it'} holds no numbers ({array.dtype})")
    return arrays


def write_sweep(sweep: PointSweep, out: Path) -> None:
    """Write a sweep; the suffix says the format.

    ``.bin`` holds x, y, z, intensity as float32 (and the ring where one is known and the name ends
    in ``.pcd.bin``); ``.ply``, ``.pcd`` and ``.npz`` everything.

    Raises:
        InputError: The format cannot be written, or the file cannot.
    """
    out = Path(out)
    suffix = suffix_of(out)
    columns = sweep_columns(sweep)
    if suffix == ".bin":
        names = ["x", "y", "z", "intensity"]
        if re.search(r"\.pcd\.bin$", out.name.lower()) and sweep.ring is not None:
            names.append("ring")
        rows = np.stack([columns[name].astype("<f4") for name in names], axis=-1)
        with replacing(out) as temporary:
            rows.tofile(temporary)
    elif suffix == ".ply":
        write_ply(columns, out)
    elif suffix == ".pcd":
        write_pcd(columns, out)
    elif suffix == ".npz":
        arrays = {n: c for n, c in columns.items() if n not in "xyz"}
        with replacing(out) as temporary:
            np.savez_compressed(temporary, points=sweep.points, **arrays)
    else:
        raise InputError(f"cannot write {out}: use one of .bin, .ply, .pcd, .npz")


def sweep_columns(sweep: PointSweep) -> dict[str, np.ndarray]:
    """The sweep as columns by name: x, y, z, intensity and what else is known."""
    columns = dict(zip("xyz", np.asarray(sweep.points).T, strict=True))
    columns["intensity"] = np.asarray(sweep.intensity)
    extra = {"ring": sweep.ring, "times": sweep.times, "number": sweep.number}
    return columns | {name: value for name, value in extra.items() if value is not None}
