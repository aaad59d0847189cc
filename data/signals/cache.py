"""Arrays that are made once: decoded video, points around a shape. They lie in the image cache."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from polyfield.data.images import cache_folder
from polyfield.errors import InputError
from polyfield.files import write_json

LAYOUT = 1  # raise when the meaning of cached rows changes
_WHOLE = 1 << 26  # files up to this size are hashed whole
_END = 1 << 20  # bytes hashed at each end of larger ones

Figures = dict[str, Any]
Make = Callable[[Figures], Iterable[np.ndarray]]


def content_hash(path: Path, *options: Any) -> str:
    """Hash of a file (of both ends and the size of one above 64 MB) and of plain options.

    Raises:
        InputError: The file cannot be read.
    """
    digest = hashlib.blake2b(repr((LAYOUT, options)).encode(), digest_size=16)
    try:
        size = path.stat().st_size
        digest.update(f"{size}\0".encode())
        with open(path, "rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
            else:
                digest.update(file.read(_END))
                file.seek(size - _END)
                digest.update(file.read())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def cached_rows(
    key: str, row: tuple[int, ...], dtype: type, make: Make
) -> tuple[np.ndarray, Figures, str | None]:
    """The rows kept under `key`, made first where they are not there.

    Args:
        key: Names what the rows depend on.
        row: Shape of one row.
        dtype: Of its numbers.
        make: Given a dictionary for plain figures, yields arrays ``(some, *row)``.

    Returns:
        A read-only map ``(rows, *row)``, the figures, and a warning if it could not be kept.

    Raises:
        InputError: The rows fit nowhere; what `make` raises.
    """
    about = {"layout": LAYOUT, "row": list(row), "dtype": np.dtype(dtype).name}
    folder = cache_folder()
    try:
        rows, figures = _reuse(folder, key, about) or _build(folder, key, about, make)
        return rows, figures, None
    except OSError as error:
        reason = error.strerror or str(error)
    warning = (
        f"decoded data cannot be kept in {folder} ({reason}), a temporary file is used; set "
        "POLYFIELD_CACHE to a folder with room to decode only once"
    )
    try:
        with tempfile.TemporaryFile() as file:
            figures = _fill(file, about, make)
            return _mapped(file, about), figures, warning
    except OSError as error:
        raise InputError(
            f"the decoded data fit neither in {folder} nor in the temporary folder "
            f"({error.strerror or error}); set POLYFIELD_CACHE to a folder with room, or use less "
            "of the file"
        ) from error


def _paths(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"{key}.rows", folder / f"{key}.rows.json"


def _reuse(folder: Path, key: str, about: Figures) -> tuple[np.ndarray, Figures] | None:
    rows, sidecar = _paths(folder, key)
    try:
        stored = json.loads(sidecar.read_text(encoding="utf-8"))
        if stored["about"] != about or rows.stat().st_size != stored["bytes"]:
            return None
        return _mapped(rows, about), stored["figures"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _build(folder: Path, key: str, about: Figures, make: Make) -> tuple[np.ndarray, Figures]:
    folder.mkdir(parents=True, exist_ok=True)
    rows, sidecar = _paths(folder, key)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{key[:16]}-")
    try:
        with os.fdopen(handle, "wb") as file:
            figures = _fill(file, about, make)
            size = file.tell()
        os.replace(name, rows)
    finally:
        Path(name).unlink(missing_ok=True)
    try:
        write_json(sidecar, {"about": about, "bytes": size, "figures": figures})
    except InputError as error:
        raise OSError(str(error)) from error
    return _mapped(rows, about), figures


def _fill(file: BinaryIO, about: Figures, make: Make) -> Figures:
    figures: Figures = {}
    for rows in make(figures):
        assert list(rows.shape[1:]) == about["row"], (rows.shape, about)
        file.write(memoryview(np.ascontiguousarray(rows, about["dtype"])).cast("B"))
    file.flush()
    return figures


def _mapped(file: Path | BinaryIO, about: Figures) -> np.ndarray:
    size = Path(file).stat().st_size if isinstance(file, Path) else file.tell()
    bytes_per_row = int(np.prod(about["row"])) * np.dtype(about["dtype"]).itemsize
    shape = (size // bytes_per_row, *about["row"])
    return np.memmap(file, dtype=about["dtype"], mode="r", shape=shape)
