"""Marching as compiled loops: the same steps as the reference, empty blocks jumped.

Pass one marks the kept steps of each ray in a bit set, pass two writes them out; rays are
independent, so the result does not depend on the number of threads. Positions are computed in
float32 in the reference's order of operations; only a midpoint within rounding of a cell face
(of the sphere contraction) can fall on the other side.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from polyfield.renderers.compositing_numba import use_torch_threads
from polyfield.renderers.marching import Lattice
from polyfield.renderers.types import Rays

# Side of the blocks of cells that are jumped at once when empty.
_BLOCK = 8
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_TWO = np.float32(2)


@numba.njit(cache=True, inline="always")
def _distance(n, step, q):
    if n * q <= 1.0:
        return n * step
    return step / q * math.exp(n * q - 1.0)


@numba.njit(cache=True, inline="always")
def _count(t, step, q):
    ratio = t * q / step
    if ratio <= 1.0:
        return t / step
    return (math.log(ratio) + 1.0) / q


@numba.njit(cache=True, inline="always")
def _cell(v, scale, resolution):
    i = int(math.floor((v + _ONE) * scale))
    return min(max(i, 0), resolution - 1)


@numba.njit(parallel=True, cache=True)
def _occupied_blocks(occupied, clearance):
    """Set clearance to 0 in blocks of cells that hold an occupied one."""
    resolution = occupied.shape[0]
    for bx in numba.prange(clearance.shape[0]):
        for x in range(bx * _BLOCK, min((bx + 1) * _BLOCK, resolution)):
            for y in range(resolution):
                for z in range(resolution):
                    if occupied[x, y, z]:
                        clearance[bx, y // _BLOCK, z // _BLOCK] = 0


@numba.njit(cache=True)
def _spread(clearance):
    """Chessboard distance in blocks to the nearest occupied block, by one sweep each way.

    The neighbours before a block in scan order are (-1, *, *), (0, -1, *) and (0, 0, -1); the
    other 13 come after it.
    """
    side = clearance.shape[0]
    for sweep in range(2):
        sign = -1 if sweep == 0 else 1
        for i in range(side**3):
            at = i if sweep == 0 else side**3 - 1 - i
            x, y, z = at // (side * side), (at // side) % side, at % side
            best = clearance[x, y, z]
            for code in range(14, 27):
                u = x + sign * (code // 9 - 1)
                v = y + sign * ((code // 3) % 3 - 1)
                w = z + sign * (code % 3 - 1)
                if 0 <= u < side and 0 <= v < side and 0 <= w < side:
                    best = min(best, clearance[u, v, w] + 1)
            clearance[x, y, z] = best


@numba.njit(cache=True, inline="always")
def _leave(o, inverse, block, clear, size):
    """Distance t at which one coordinate leaves the empty cube around its block of cells."""
    if inverse > 0.0:
        return (-1.0 + (block + clear) * size - o) * inverse
    return (-1.0 + (block + 1 - clear) * size - o) * inverse


@numba.njit(cache=True, inline="always")
def _to_face(v, block, size):
    """Distance of one contracted coordinate to the nearer face of its block."""
    low = -1.0 + block * size
    return min(v - low, low + size - v)


@numba.njit(cache=True, inline="always")
def _inverse(d):
    """1 / d with a huge value for 0."""
    return 1.0 / d if d != 0.0 else 1e30


@numba.njit(parallel=True, cache=True)
def _mark(rays, lattice, cells, sphere, marks):
    """Set the bits of the kept steps; return their number per ray."""
    origins, directions, near, far, start, steps = rays
    step, q = lattice
    occupied, clearance = cells
    resolution = occupied.shape[0]
    scale = np.float32(resolution / 2)
    size = _BLOCK * 2.0 / resolution
    counts = np.zeros(origins.shape[0], np.int64)
    for ray in numba.prange(origins.shape[0]):
        ox, oy, oz = origins[ray, 0], origins[ray, 1], origins[ray, 2]
        dx, dy, dz = directions[ray, 0], directions[ray, 1], directions[ray, 2]
        ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
        first, last, kept, k = start[ray], steps[ray], 0, 0
        edge = np.float32(_distance(first, step, q))
        while k < last:
            t0 = max(edge, near[ray])
            edge = np.float32(_distance(first + k + 1, step, q))
            t1 = min(edge, far[ray])
            t = (t0 + t1) * _HALF
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            norm = _ONE
            if sphere:
                norm = np.float32(math.sqrt(max(x * x + y * y + z * z, _ONE)))
                fold = (_TWO - _ONE / norm) / norm / _TWO
                x, y, z = x * fold, y * fold, z * fold
            i, j = _cell(x, scale, resolution), _cell(y, scale, resolution)
            m = _cell(z, scale, resolution)
            k += 1
            if occupied[i, j, m]:
                if t1 > t0:
                    marks[ray, (k - 1) >> 6] |= np.uint64(1) << np.uint64((k - 1) & 63)
                    kept += 1
                continue
            i, j, m = i // _BLOCK, j // _BLOCK, m // _BLOCK
            clear = clearance[i, j, m]
            if clear == 0:
                continue
            if sphere:
                # The contraction shrinks distances by at least 2 everywhere, and by at least r
                # outside the unit ball: so far the contracted point stays in the empty cube.
                free = min(_to_face(x, i, size), _to_face(y, j, size), _to_face(z, m, size))
                free += (clear - 1) * size - 1e-6
                leave = t + max(2.0 * free, free * norm / (1.0 + free))
            else:
                leave = min(
                    _leave(ox, ix, i, clear, size),
                    _leave(oy, iy, j, clear, size),
                    _leave(oz, iz, m, clear, size),
                )
            if leave >= far[ray]:
                break
            # A little less than the whole jump: rounding must not skip an occupied step.
            jump = int(math.floor(_count(leave, step, q) - first - 1e-2))
            if jump > k:
                k = jump
                edge = np.float32(_distance(first + k, step, q))
        counts[ray] = kept
    return counts


@numba.njit(parallel=True, cache=True)
def _write(rays, lattice, marks, ends, counts, out_arrays):
    """Write out the marked steps of every ray."""
    _, _, near, far, start, _ = rays
    step, q = lattice
    t0, t1, ray_indices = out_arrays
    for ray in numba.prange(marks.shape[0]):
        out = ends[ray] - counts[ray]
        for word in range(marks.shape[1]):
            bits = marks[ray, word]
            k = word * 64
            while bits != np.uint64(0):
                if bits & np.uint64(1):
                    n = start[ray] + k
                    t0[out] = max(np.float32(_distance(n, step, q)), near[ray])
                    t1[out] = min(np.float32(_distance(n + 1, step, q)), far[ray])
                    ray_indices[out] = ray
                    out += 1
                bits >>= np.uint64(1)
                k += 1


def march_lattice(
    rays: Rays,
    occupied: Bool[Tensor, "r r r"],
    lattice: Lattice,
    contraction: str,
    start: Float64[Tensor, "n"],
    steps: Int64[Tensor, "n"],
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"], Int64[Tensor, "m"]]:
    """Compiled form of `polyfield.renderers.marching.march_lattice`."""
    use_torch_threads()
    n, most = len(rays), int(steps.max()) if len(steps) else 0
    grid = occupied.contiguous().numpy()
    side = -(-grid.shape[0] // _BLOCK)
    clearance = np.full((side, side, side), 4 * side, np.int64)
    _occupied_blocks(grid, clearance)
    _spread(clearance)
    tensors = (rays.origins, rays.directions, rays.near, rays.far, start, steps)
    arrays = tuple(v.contiguous().numpy() for v in tensors)
    walk = (lattice.step, lattice.growth)
    marks = np.zeros((n, -(-most // 64)), np.uint64)
    counts = _mark(arrays, walk, (grid, clearance), contraction == "sphere", marks)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if n else 0
    t0, t1 = np.empty(total, np.float32), np.empty(total, np.float32)
    ray_indices = np.empty(total, np.int64)
    _write(arrays, walk, marks, ends, counts, (t0, t1, ray_indices))
    return torch.from_numpy(t0), torch.from_numpy(t1), torch.from_numpy(ray_indices)
