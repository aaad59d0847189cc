"""Numba kernels of ray marching; see `polyfield.renderers.marching` for conventions.

rays: origins, directions, near, far and offset; lattice: step and q = ln(1 + c); clearance: see
there, by octant of directions for straight rays (0: occupied). Floating point stays
strict and positions are float32, in the reference's order of operations, so that they fall into
the same cells.
"""

from __future__ import annotations

import math

import numpy as np

from polyfield.encodings.kernels.jit import jit

# Bound of the rounding errors of positions and distances, relative to the farthest distance.
_ROUNDING = np.float32(1e-6)
_TINY = np.finfo(np.float32).tiny * 4
_MOST = np.uint8(254)
_ZERO, _HALF, _ONE, _TWO = (np.float32(v) for v in (0, 0.5, 1, 2))


@jit
def _from_rows(last, this, j, occupied, row):
    """Distances of a row of cells along z from the windows of four rows, and its own cells.

    last: windows of the plane before, rows j to j + 2; this: of the same plane, row j.
    """
    for z in range(row.shape[0]):
        least = min(min(last[j, z], last[j + 1, z]), min(last[j + 2, z], this[j, z]))
        row[z] = 0 if occupied[z] else min(row[z], np.uint8(least + 1))


@jit
def _along(row, sweep, window):
    """Let distances spread along a row; window: the least of each three neighbours."""
    r, run = row.shape[0], _MOST
    if sweep == 0:
        for z in range(r):
            run = min(row[z], np.uint8(run + 1))
            row[z] = run
    else:
        for z in range(r - 1, -1, -1):
            run = min(row[z], np.uint8(run + 1))
            row[z] = run
    window[0], window[r - 1] = min(row[0], row[min(1, r - 1)]), min(row[r - 1], row[max(r - 2, 0)])
    for z in range(1, r - 1):
        window[z] = min(min(row[z - 1], row[z]), row[z + 1])


@jit
def clearance(occupied, out):
    """Chessboard distance to the nearest occupied cell, at most 254, by one sweep each way.

    The 13 neighbours before a cell lie in the rows (x - 1, y - 1 to y + 1) and (x, y - 1), and
    just before it in its own.
    """
    r = occupied.shape[0]
    out.fill(_MOST)
    planes = np.empty((2, r + 2, r), np.uint8)  # windows of the last plane and of this one
    for sweep in range(2):
        planes.fill(_MOST)
        for i in range(r):
            x = i if sweep == 0 else r - 1 - i
            last, this = planes[(i + 1) % 2], planes[i % 2]
            for j in range(r):
                y = j if sweep == 0 else r - 1 - j
                _from_rows(last, this, j, occupied[x, y], out[x, y])
                _along(out[x, y], sweep, this[j + 1])


@jit
def octants(low, high, occupied, out):
    """Clearance in the octants of directions from low to high, at most 254.

    The cube ahead of a free cell is larger by one than the smallest of those ahead of the seven
    cells next to it. Cells are numbered from where the octant points to; beyond the box is free.
    """
    r = occupied.shape[0]
    planes = np.empty((2, r + 1, r + 1), np.uint8)  # the plane ahead and this one
    least = np.empty(r, np.uint8)
    for octant in range(low, high):
        planes.fill(_MOST)
        for i in range(r):
            x = i if octant & 4 else r - 1 - i
            before, this = planes[(i + 1) % 2], planes[i % 2]
            for j in range(r):
                y = j if octant & 2 else r - 1 - j
                corner, side, back = before[j], before[j + 1], this[j]
                for m in range(r):
                    there = min(min(corner[m], corner[m + 1]), min(side[m], side[m + 1]))
                    least[m] = min(min(there, min(back[m], back[m + 1])), _MOST - 1)
                _ahead(least, occupied[x, y], octant & 1, this[j + 1], out[octant, x, y])


@jit
def _ahead(least, occupied, backwards, row, out):
    """A row of cells along z, from the least of what is ahead in the three rows next to it."""
    r, run = occupied.shape[0], _MOST
    for m in range(r):
        z = m if backwards else r - 1 - m
        run = min(least[m], run)
        run = np.uint8(0) if occupied[z] else np.uint8(min(run, _MOST - 1) + 1)
        row[m + 1] = out[z] = run


@jit
def _distance(n, step, q):
    if n * q <= 1.0:
        return n * step
    return step / q * math.exp(n * q - 1.0)


@jit
def _count(t, step, q):
    if q == 0.0:
        return t / step
    ratio = t * (q / step)
    if ratio <= 1.0:
        return t / step
    return (math.log(ratio) + 1.0) / q


@jit
def _slab(o, d, low, high):
    """Part of [low, high] between the two faces of the box across an axis."""
    slope = d if abs(d) >= _TINY else _TINY
    a, b = (-_ONE - o) / slope, (_ONE - o) / slope
    return max(low, min(a, b)), min(high, max(a, b))


@jit
def _cell(g, resolution):
    """Cell of a coordinate in cells (truncation: negative ones take cell 0 in any case)."""
    return min(max(int(g), 0), resolution - 1)


@jit
def _pace(d, scale, slack):
    """Distance t per cell along an axis, and the cells to a cell's far end as ``start - sign g``.

    g: place in the cell, in [0, 1).
    """
    if d == 0:  # never gets there
        return np.float32(1e30), _ONE, -_ONE
    start = -slack * scale
    if d < 0:
        start -= _ONE
    return _ONE / (abs(d) * scale), start, _ONE if d > 0 else -_ONE


@jit
def _straight(line, span, steps, lattice, cells, t0, t1, n):
    """Write the kept steps of a ray through uncontracted cells from place n on; returns the end."""
    low, high = span
    first, last = steps
    step, q = lattice
    ox, oy, oz, dx, dy, dz = line
    resolution = cells.shape[1]
    ahead = cells[4 * (dx < 0) + 2 * (dy < 0) + (dz < 0)]
    scale = np.float32(resolution / 2)
    slack = _ROUNDING * (_ONE + high)
    pace_x, start_x, sign_x = _pace(dx, scale, slack)
    pace_y, start_y, sign_y = _pace(dy, scale, slack)
    pace_z, start_z, sign_z = _pace(dz, scale, slack)
    per_step = 1.0 / step
    k, edge = 0, np.float32(_distance(first, step, q))
    while k < last:
        a = max(edge, low)
        k += 1
        edge = np.float32(_distance(first + k, step, q))
        b = min(edge, high)
        t = (a + b) * _HALF
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        x, y, z = (x + _ONE) * scale, (y + _ONE) * scale, (z + _ONE) * scale
        i, j, m = _cell(x, resolution), _cell(y, resolution), _cell(z, resolution)
        clear = ahead[i, j, m]
        if clear == 0:
            if b > a:
                t0[n], t1[n] = a, b
                n += 1
            continue
        c = np.float32(clear)
        free = min(
            (c + start_x - sign_x * (x - np.float32(i))) * pace_x,
            (c + start_y - sign_y * (y - np.float32(j))) * pace_y,
            (c + start_z - sign_z * (z - np.float32(m))) * pace_z,
        ) - slack  # fmt: skip
        if t + free >= high:
            break
        if q == 0.0:
            skip = k + int(free * per_step)
        else:
            skip = int(_count(t + free, step, q) - first - 1e-2)
        if skip > k:
            k, edge = skip, np.float32(_distance(first + skip, step, q))
    return n


@jit
def _to_face(g, cell):
    """Distance of a coordinate to the nearer face of its cell, in cells."""
    place = g - np.float32(cell)
    return min(place, _ONE - place)


@jit
def _bent(line, span, steps, lattice, cells, t0, t1, n):
    """Write the kept steps of a ray through contracted cells; otherwise as `_straight`.

    The contracted point moves at half the speed of the ray in the unit ball, and nowhere faster
    than B / r^2 with B^2 = p^2 + 1/4, p being the least r on the ray's line (1 - 1/(2r) times the
    angular speed p / r^2 across, at most 1 / (2 r^2) along the radius). r grows at least as fast
    as its tangent x.d / r, so that after a distance s the point has moved by at most
    B s / (r^2 + s x.d).
    """
    low, high = span
    first, last = steps
    step, q = lattice
    resolution = cells.shape[1]
    scale = np.float32(resolution / 2)
    ox, oy, oz, dx, dy, dz = line
    along = ox * dx + oy * dy + oz * dz
    across = ox * ox + oy * oy + oz * oz - along * along
    bound = np.float32(math.sqrt(max(across, _ZERO) * np.float32(1.001) + np.float32(0.2501)))
    k, edge = 0, np.float32(_distance(first, step, q))
    while k < last:
        a = max(edge, low)
        k += 1
        edge = np.float32(_distance(first + k, step, q))
        b = min(edge, high)
        t = (a + b) * _HALF
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        square = x * x + y * y + z * z
        onward = x * dx + y * dy + z * dz
        norm = np.float32(math.sqrt(max(square, _ONE)))
        fold = (_TWO - _ONE / norm) / norm / _TWO
        x, y, z = (x * fold + _ONE) * scale, (y * fold + _ONE) * scale, (z * fold + _ONE) * scale
        i, j, m = _cell(x, resolution), _cell(y, resolution), _cell(z, resolution)
        clear = cells[0, i, j, m]
        if clear == 0:
            if b > a:
                t0[n], t1[n] = a, b
                n += 1
            continue
        free = min(_to_face(x, i), _to_face(y, j), _to_face(z, m)) + np.float32(clear) - _ONE
        free = free / scale - _TWO * _ROUNDING
        rest = bound - free * onward
        if rest <= 0:  # all that is left of the ray
            break
        leave = t * (_ONE - _ROUNDING) + max(_TWO * free, free * square / rest)
        if leave >= high:
            break
        skip = int(_count(leave, step, q) - first - 1e-2)
        if skip > k:
            k, edge = skip, np.float32(_distance(first + skip, step, q))
    return n


@jit
def _grown(values, used, more):
    """The same values in an array with room for more."""
    out = np.empty(max(2 * values.shape[0], used + more), values.dtype)
    for i in range(used):
        out[i] = values[i]
    return out


@jit
def march(low, high, rays, lattice, cells, sphere, counts):
    """Kept steps of rays low to high, one ray after the other: t0, t1; counts (N,): how many."""
    origins, directions, near, far, offset = rays
    step, q = lattice
    t0 = np.empty(32 * (high - low), np.float32)
    t1 = np.empty(32 * (high - low), np.float32)
    n = 0
    for ray in range(low, high):
        ox, oy, oz = origins[ray, 0], origins[ray, 1], origins[ray, 2]
        dx, dy, dz = directions[ray, 0], directions[ray, 1], directions[ray, 2]
        begin, end, before = near[ray], far[ray], n
        if not sphere:  # see `polyfield.renderers.boxes.clip_to_box`
            begin, end = _slab(ox, dx, begin, end)
            begin, end = _slab(oy, dy, begin, end)
            begin, end = _slab(oz, dz, begin, end)
        if end > begin:
            first = _count(begin, step, q) - offset[ray]
            last = max(int(math.ceil(_count(end, step, q) - first)), 0)
            if n + last > len(t0):
                t0, t1 = _grown(t0, n, last), _grown(t1, n, last)
            line, span, steps = (ox, oy, oz, dx, dy, dz), (begin, end), (first, last)
            if sphere:
                n = _bent(line, span, steps, lattice, cells, t0, t1, n)
            else:
                n = _straight(line, span, steps, lattice, cells, t0, t1, n)
        counts[ray] = n - before
    return t0[:n], t1[:n]


@jit
def spread(low, high, offsets, out):
    """Write each ray's number to its places, those of ray r being offsets[r] to offsets[r + 1]."""
    for ray in range(low, high):
        for i in range(offsets[ray], offsets[ray + 1]):
            out[i] = ray
