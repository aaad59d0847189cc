"""PCD point clouds (PCL's format): ascii and binary; compressed ones through open3d."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from polyfield.data.lidar.ply import parse_rows
from polyfield.errors import InputError, MissingDependencyError
from polyfield.files import replacing

_LONGEST = 1 << 16  # bytes of a header
_WANTED = {"SIZE", "TYPE", "FIELDS", "POINTS", "DATA"}


def read_pcd(path: Path) -> dict[str, Shaped[np.ndarray, "n"]]:
    """Fields by name; those with several numbers a point are left out.

    Raises:
        InputError: No PCD file, a header that contradicts itself, or cut off.
        MissingDependencyError: It is compressed, and open3d is absent.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"sweep {path} cannot be read: {error.strerror or error}") from error
    header, start = _header(data, path)
    fields, counts, points = _layout(header, path)
    kind = header["DATA"][0]
    if kind == "binary_compressed":
        return _compressed(path)
    if kind == "ascii":
        return _ascii(data[start:], fields, counts, points, path)
    if kind != "binary":
        raise InputError(f"sweep {path}: DATA is '{kind}', expected ascii or binary")
    dtype = np.dtype(
        [(f"{i}", "<" + t, (c,)) for i, ((_, t), c) in enumerate(zip(fields, counts, strict=True))]
    )
    have = (len(data) - start) // dtype.itemsize
    if have < points:
        raise InputError(
            f"sweep {path} is cut off: {have} of {points} points are there; copy it again"
        )
    rows = np.frombuffer(data, dtype, points, start)
    return {
        name: np.ascontiguousarray(rows[f"{i}"][:, 0], t)
        for i, (name, t) in enumerate(fields)
        if counts[i] == 1
    }


def _header(data: bytes, path: Path) -> tuple[dict[str, list[str]], int]:
    header: dict[str, list[str]] = {}
    at = 0
    while at < min(len(data), _LONGEST) and "DATA" not in header:
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        words = data[at:end].decode("latin-1").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        at = end + 1
    if not header.keys() >= _WANTED or not all(header[name] for name in _WANTED):
        missing = sorted(name for name in _WANTED if not header.get(name))
        raise InputError(
            f"sweep {path} is no PCD file: its header has no {', '.join(missing)}; copy it again"
        )
    return header, at


def _layout(
    header: dict[str, list[str]], path: Path
) -> tuple[list[tuple[str, str]], list[int], int]:
    """(name, type) and count of every field, and the number of points."""
    names, sizes, types = header["FIELDS"], header["SIZE"], header["TYPE"]
    counts = header.get("COUNT") or ["1"] * len(names)
    if not len(names) == len(sizes) == len(types) == len(counts):
        raise InputError(
            f"sweep {path}: FIELDS, SIZE, TYPE and COUNT have {len(names)}, {len(sizes)}, "
            f"{len(types)} and {len(counts)} entries, expected as many of each; write it again"
        )
    kinds = [
        {"F": "f", "I": "i", "U": "u"}.get(t, "?") + s for t, s in zip(types, sizes, strict=True)
    ]
    known = {"f4", "f8", *(k + s for k in "iu" for s in "1248")}
    wrong = [k for k in kinds if k not in known]
    if wrong or not all(n.isdigit() for n in (*counts, *header["POINTS"])):
        raise InputError(
            f"sweep {path}: a field of type and size {(wrong or ['?'])[0]}, or a COUNT or POINTS "
            "that is no number; write it again"
        )
    return list(zip(names, kinds, strict=True)), [int(c) for c in counts], int(header["POINTS"][0])


def _ascii(
    data: bytes, fields: list[tuple[str, str]], counts: list[int], points: int, path: Path
) -> dict[str, np.ndarray]:
    lines = [line for line in data.split(b"\n") if line.strip()][:points]
    if len(lines) < points:
        raise InputError(
            f"sweep {path} is cut off: {len(lines)} of {points} points are there; copy it again"
        )
    spread = [
        (name if c == 1 else f"{name}[{j}]", t)
        for (name, t), c in zip(fields, counts, strict=True)
        for j in range(c)
    ]
    return parse_rows(lines, spread, path)


def _compressed(path: Path) -> dict[str, np.ndarray]:
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"sweep {path} is compressed (DATA binary_compressed), which needs open3d ({error}): "
            "pip install 'polyfield[mesh]', or write it uncompressed with pcl_convert_pcd_ascii_"
            "binary IN.pcd OUT.pcd 1"
        ) from error
    cloud = open3d.t.io.read_point_cloud(str(path)).point
    columns = dict(zip("xyz", cloud["positions"].numpy().T, strict=True))
    others = {name: cloud[name].numpy() for name in cloud if name != "positions"}
    return columns | {name: v.reshape(len(v)) for name, v in others.items() if v.size == len(v)}


def write_pcd(columns: dict[str, Shaped[np.ndarray, "n"]], out: Path) -> None:
    """Write columns as a binary PCD file; whole numbers as int32.

    Raises:
        InputError: The file cannot be written.
    """
    kinds = {n: c.dtype.str[1:] if c.dtype.kind == "f" else "i4" for n, c in columns.items()}
    count = len(next(iter(columns.values())))
    rows = np.zeros(count, np.dtype([(name, "<" + kind) for name, kind in kinds.items()]))
    for name, column in columns.items():
        rows[name] = column
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {' '.join(kinds)}\n"
        f"SIZE {' '.join(kind[1] for kind in kinds.values())}\n"
        f"TYPE {' '.join(kind[0].upper() for kind in kinds.values())}\n"
        f"COUNT {' '.join('1' for _ in kinds)}\n"
        f"WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA binary\n"
    )
    with replacing(out) as temporary:
        temporary.write_bytes(header.encode("ascii") + rows.tobytes())
