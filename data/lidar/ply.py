"""PLY point clouds: ascii and binary, either byte order, any scalar property."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from polyfield.errors import InputError
from polyfield.files import replacing

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8",
}  # fmt: skip
_WRITTEN = {"f4": "float", "f8": "double", "i8": "int", "i4": "int", "u1": "uchar"}
_FORMATS = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST = 1 << 16  # bytes of a header


def read_ply(path: Path) -> dict[str, Shaped[np.ndarray, "n"]]:
    """Properties of the vertices by name.

    Raises:
        InputError: No PLY file, no vertices in front, or cut off.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"sweep {path} cannot be read: {error.strerror or error}") from error
    lines, start = _header(data, path)
    order, count, fields = _layout(lines, path)
    if order is None:
        return _ascii(data[start:], count, fields, path)
    dtype = np.dtype([(name, order + kind) for name, kind in fields])
    have = (len(data) - start) // dtype.itemsize if dtype.itemsize else 0
    if have < count:
        raise _cut_off(path, have, count)
    rows = np.frombuffer(data, dtype, count, start)
    return {name: np.ascontiguousarray(rows[name], kind) for name, kind in fields}


def _header(data: bytes, path: Path) -> tuple[list[list[str]], int]:
    head = data[:_LONGEST]
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0:
        raise InputError(f"sweep {path} is no PLY file: its header is missing; copy it again")
    start = data.index(b"\n", end) + 1 if b"\n" in data[end:] else len(data)
    return [line.split() for line in head[:end].decode("latin-1").splitlines()], start


def _layout(lines: list[list[str]], path: Path) -> tuple[str | None, int, list[tuple[str, str]]]:
    """Byte order (None: ascii), number of vertices, and (name, type) of their properties."""
    form, count, fields, element = "", None, [], ""
    for words in lines:
        if words[:1] == ["format"] and len(words) > 1:
            form = words[1]
        elif words[:1] == ["element"] and len(words) == 3:
            if count is None and words[1] != "vertex":
                raise InputError(
                    f"sweep {path}: element '{words[1]}' comes before the vertices; write the "
                    "points first"
                )
            element = words[1]
            count = int(words[2]) if element == "vertex" and words[2].isdigit() else count
        elif words[:1] == ["property"] and element == "vertex":
            if len(words) != 3 or words[1] not in _TYPES:
                raise InputError(
                    f"sweep {path}: property '{' '.join(words[1:])}' of a point cannot be read, "
                    "expected one number; write the points without it"
                )
            fields.append((words[2], _TYPES[words[1]]))
    names = [name for name, _ in fields]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"sweep {path}: points have the properties {', '.join(names) or 'none'}, expected x, "
            "y, z and others, each once"
        )
    if form not in _FORMATS or count is None:
        raise InputError(
            f"sweep {path}: the header has format '{form}' and "
            f"{'no' if count is None else count} vertices, expected one of {', '.join(_FORMATS)}"
        )
    return _FORMATS[form], count, fields


def _ascii(
    data: bytes, count: int, fields: list[tuple[str, str]], path: Path
) -> dict[str, np.ndarray]:
    lines = data.split(b"\n", count)[:count]
    lines = [line for line in lines if line.strip()]
    if len(lines) < count:
        raise _cut_off(path, len(lines), count)
    return parse_rows(lines, fields, path)


def parse_rows(
    lines: list[bytes], fields: list[tuple[str, str]], path: Path
) -> dict[str, Shaped[np.ndarray, "n"]]:
    """Columns of points written as text, one a line.

    Raises:
        InputError: A line has another number of entries, or one is no number.
    """
    try:
        rows = np.array([line.split() for line in lines], dtype=np.float64)
        rows = rows.reshape(len(lines), -1)
    except ValueError as error:
        raise InputError(f"sweep {path}: a point cannot be read ({error}); write it again") from (
            error
        )
    if len(lines) and rows.shape[1] != len(fields):
        raise InputError(
            f"sweep {path}: points have {rows.shape[1]} numbers, expected {len(fields)} as its "
            "header says; write it again"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        return {
            name: rows[:, i].astype(kind) if len(lines) else np.zeros(0, kind)
            for i, (name, kind) in enumerate(fields)
        }


def _cut_off(path: Path, have: int, count: int) -> InputError:
    return InputError(f"sweep {path} is cut off: {have} of {count} points are there; copy it again")


def write_ply(columns: dict[str, Shaped[np.ndarray, "n"]], out: Path) -> None:
    """Write columns as a little-endian binary PLY; whole numbers as int32.

    Raises:
        InputError: The file cannot be written.
    """
    kinds = {n: c.dtype.str[1:] if c.dtype.kind == "f" else "i4" for n, c in columns.items()}
    count = len(next(iter(columns.values())))
    rows = np.zeros(count, np.dtype([(name, "<" + kind) for name, kind in kinds.items()]))
    for name, column in columns.items():
        rows[name] = column
    properties = "".join(f"property {_WRITTEN[kind]} {name}\n" for name, kind in kinds.items())
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
    )
    with replacing(out) as temporary:
        temporary.write_bytes(header.encode("ascii") + rows.tobytes())
