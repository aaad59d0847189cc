"""Numba kernels of ray marching; see `polyfield.renderers.marching` for conventions.

rays: origins, directions, near, far, start, steps; lattice: step and ln(1 + c); cells: occupied
cells and the clearance of their blocks; marks: a bit per step. Floating point stays strict and
positions are float32, in the reference's order of operations, so that they fall into the same
cells.
"""

from __future__ import annotations

import math

import numpy as np

from polyfield.encodings.kernels.jit import jit

# Side of the blocks of cells that are jumped at once when empty.
BLOCK = 8
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_TWO = np.float32(2)


@jit
def _distance(n, step, q):
    if n * q <= 1.0:
        return n * step
    return step / q * math.exp(n * q - 1.0)


@jit
def _count(t, step, q):
    ratio = t * q / step
    if ratio <= 1.0:
        return t / step
    return (math.log(ratio) + 1.0) / q


@jit
def _cell(v, scale, resolution):
    i = int(math.floor((v + _ONE) * scale))
    return min(max(i, 0), resolution - 1)


@jit
def occupied_blocks(low, high, occupied, clearance):
    """Set clearance to 0 in blocks of cells that hold an occupied one (layers low to high)."""
    resolution = occupied.shape[0]
    for bx in range(low, high):
        for x in range(bx * BLOCK, min((bx + 1) * BLOCK, resolution)):
            for y in range(resolution):
                for z in range(resolution):
                    if occupied[x, y, z]:
                        clearance[bx, y // BLOCK, z // BLOCK] = 0


@jit
def spread(clearance):
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


@jit
def _leave(o, inverse, block, clear, size):
    """Distance t at which one coordinate leaves the empty cube around its block of cells."""
    if inverse > 0.0:
        return (-1.0 + (block + clear) * size - o) * inverse
    return (-1.0 + (block + 1 - clear) * size - o) * inverse


@jit
def _to_face(v, block, size):
    """Distance of one contracted coordinate to the nearer face of its block."""
    low = -1.0 + block * size
    return min(v - low, low + size - v)


@jit
def _inverse(d):
    """1 / d with a huge value for 0."""
    return 1.0 / d if d != 0.0 else 1e30


@jit
def mark(low, high, rays, lattice, cells, sphere, marks, counts):
    """Set the bits of the kept steps and their number, for rays low to high."""
    origins, directions, near, far, start, steps = rays
    step, q = lattice
    occupied, clearance = cells
    resolution = occupied.shape[0]
    scale = np.float32(resolution / 2)
    size = BLOCK * 2.0 / resolution
    for ray in range(low, high):
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
            i, j, m = i // BLOCK, j // BLOCK, m // BLOCK
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


@jit
def write(low, high, rays, lattice, marks, ends, counts, samples):
    """Write out the marked steps of rays low to high."""
    _, _, near, far, start, _ = rays
    step, q = lattice
    t0, t1, ray_indices = samples
    for ray in range(low, high):
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
