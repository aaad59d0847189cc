"""Marching cubes (Lorensen and Cline, SIGGRAPH 1987), a layer of the grid at a time.

The table of the 256 cases is derived, not listed. On each face of a cube corners inside are cut
off from those outside, each corner on its own where two opposite ones are inside; that depends on
the face alone, so neighbouring cubes agree and surfaces that do not leave the grid are closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
from jaxtyping import Float, Float64, Int64

# corner c of a cube lies at (c & 1, c >> 1 & 1, c >> 2 & 1); edge -> lower corner and axis
_EDGES = [(c, axis) for axis in range(3) for c in range(8) if not c >> axis & 1]
_ENDS = {frozenset((c, c | 1 << axis)): i for i, (c, axis) in enumerate(_EDGES)}
_MOST = 5  # triangles in a cube


def _faces() -> list[list[int]]:
    """Corners of the six faces, anticlockwise as seen from outside."""
    out = []
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        out.append([0, v, u | v, u])
        out.append([1 << axis | c for c in (0, u, u | v, v)])
    return out


_FACES = _faces()


def _next_edges(case: int) -> dict[int, int]:
    """The surface's outline on the cube's faces: which cut edge follows which."""
    following = {}
    for corners in _FACES:
        inside = [case >> c & 1 for c in corners]
        for k in range(4):
            if inside[k] and not inside[(k + 1) % 4]:
                first = k
                while inside[first - 1]:
                    first -= 1
                leaving = _ENDS[frozenset((corners[k], corners[(k + 1) % 4]))]
                entering = _ENDS[frozenset((corners[first - 1], corners[first]))]
                following[leaving] = entering
    return following


def _loops(case: int) -> Iterator[list[int]]:
    following = _next_edges(case)
    while following:
        loop = [min(following)]
        while (after := following.pop(loop[-1])) != loop[0]:
            loop.append(after)
        yield loop


def _fan(loop: list[int]) -> list[tuple[int, int, int]]:
    """Triangles of a loop, turned outwards, from the corner whose diagonals stay off the cube's
    faces: on a face the neighbouring cube could draw the same diagonal."""
    on = {e: {f for f, cs in enumerate(_FACES) if ends <= set(cs)} for ends, e in _ENDS.items()}
    for turn in range(len(loop)):
        root, *others = loop[turn:] + loop[:turn]
        if not any(on[root] & on[other] for other in others[1:-1]):
            return [(root, b, a) for a, b in zip(others, others[1:], strict=False)]
    raise AssertionError(f"no fan for {loop}")  # there is one for every case


@cache
def case_table() -> tuple[np.ndarray, np.ndarray]:
    """(256, 5, 3) edges of each case's triangles, and (256,) how many there are."""
    table, count = np.zeros((256, _MOST, 3), np.int64), np.zeros(256, np.int64)
    for case in range(256):
        triangles = [triangle for loop in _loops(case) for triangle in _fan(loop)]
        count[case] = len(triangles)
        table[case, : len(triangles)] = np.array(triangles).reshape(-1, 3)
    return table, count


def marching_cubes(
    layers: Iterable[Float[np.ndarray, "ny nz"]], level: float = 0.0
) -> tuple[Float64[np.ndarray, "v 3"], Int64[np.ndarray, "f 3"]]:
    """The surface between values below `level` (inside) and the others.

    Args:
        layers: The grid's values, one layer of the first axis after the other.

    Returns:
        Vertices in units of the grid's indices, and triangles whose normals point to larger
        values; none where nothing is inside or nothing outside.
    """
    keys, places, corners = [], [], []
    below = None
    for i, layer in enumerate(layers):
        above = np.asarray(layer, np.float64) - level
        if below is not None:
            found, triangles = _slab(np.stack([below, above]), i - 1)
            if len(triangles):
                which, place = found
                keys.append(which)
                places.append(place)
                corners.append(which[triangles])
        below = above
    if not keys:
        return np.empty((0, 3)), np.empty((0, 3), np.int64)
    # vertices between two slabs were made by both
    distinct, first = np.unique(np.concatenate(keys), return_index=True)
    faces = np.searchsorted(distinct, np.concatenate(corners))
    return np.concatenate(places)[first], faces


def _slab(values: np.ndarray, start: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Keys and places of the vertices between two layers, and triangles of them."""
    _, ny, nz = values.shape
    inside = values < 0
    case = np.zeros((ny - 1, nz - 1), np.int64)
    for c in range(8):
        x, y, z = c & 1, c >> 1 & 1, c >> 2 & 1
        case |= inside[x, y : ny - 1 + y, z : nz - 1 + z].astype(np.int64) << c
    j, k = np.nonzero((case > 0) & (case < 255))
    table, count = case_table()
    cases = case[j, k]
    used = np.arange(_MOST) < count[cases][:, None]
    cell, edge = np.nonzero(used)[0], table[cases][used]  # (T,), (T, 3)
    lower, axis = np.array(_EDGES).T
    corner = lower[edge]
    x = start + (corner & 1)
    y = j[cell, None] + (corner >> 1 & 1)
    z = k[cell, None] + (corner >> 2 & 1)
    keys, triangles = np.unique(((x * ny + y) * nz + z) * 3 + axis[edge], return_inverse=True)
    return (keys, _place(keys, values, start)), triangles.reshape(-1, 3)


def _place(keys: np.ndarray, values: np.ndarray, start: int) -> np.ndarray:
    """Where the values cross zero along each edge, by linear interpolation."""
    _, ny, nz = values.shape
    corner, axis = np.divmod(keys, 3)
    low = np.stack([corner // (ny * nz), corner // nz % ny, corner % nz], axis=1)
    step = np.eye(3, dtype=np.int64)[axis]
    high = low + step
    a = values[low[:, 0] - start, low[:, 1], low[:, 2]]
    b = values[high[:, 0] - start, high[:, 1], high[:, 2]]
    return low + step * (a / (a - b))[:, None]
