"""Numba kernels of triangle trees; see `polyfield.data.signals.triangles`.

A tree is complete: node i has children 2i + 1 and 2i + 2, the last `leaves` nodes are leaves, and
leaf l holds triangles starts[l] to starts[l + 1].
"""

from __future__ import annotations

import math

import numpy as np

from polyfield.encodings.kernels.jit import jit

STACK = 64  # pending nodes: at most one per level and the last pair
FAR = 2.0  # a node further than this times its radius acts as one dipole


@jit
def _box_distance2(p, box):
    """Squared distance of p to a box (low, high)."""
    total = 0.0
    for k in range(3):
        gap = max(box[0, k] - p[k], p[k] - box[1, k], 0.0)
        total += gap * gap
    return total


@jit
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def _minus(a, b):
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


@jit
def _triangle_distance2(p, a, b, c):
    """Squared distance of p to a triangle: to its plane inside, else to the nearest edge."""
    ab, bc, ca = _minus(b, a), _minus(c, b), _minus(a, c)
    pa, pb, pc = _minus(p, a), _minus(p, b), _minus(p, c)
    n = (
        ab[2] * ca[1] - ab[1] * ca[2],
        ab[0] * ca[2] - ab[2] * ca[0],
        ab[1] * ca[0] - ab[0] * ca[1],
    )
    area2 = _dot(n, n)
    if area2 > 0.0:
        inside = True
        for e, q in ((ab, pa), (bc, pb), (ca, pc)):
            side = (
                n[0] * (e[1] * q[2] - e[2] * q[1])
                + n[1] * (e[2] * q[0] - e[0] * q[2])
                + n[2] * (e[0] * q[1] - e[1] * q[0])
            )
            inside = inside and side >= 0.0
        if inside:
            height = _dot(n, pa)
            return height * height / area2
    best = math.inf
    for e, q in ((ab, pa), (bc, pb), (ca, pc)):
        length2 = _dot(e, e)
        t = min(max(_dot(q, e) / length2, 0.0), 1.0) if length2 > 0.0 else 0.0
        r = (q[0] - t * e[0], q[1] - t * e[1], q[2] - t * e[2])
        best = min(best, _dot(r, r))
    return best


@jit
def distances(low, high, points, triangles, starts, boxes, out):
    """out (N,): distance of each point to the nearest triangle."""
    stack = np.empty(STACK, np.int64)
    gaps = np.empty(STACK, np.float64)
    inner = len(starts) - 2
    for i in range(low, high):
        p = (points[i, 0], points[i, 1], points[i, 2])
        best = math.inf
        stack[0], gaps[0], count = 0, 0.0, 1
        while count:
            count -= 1
            node = stack[count]
            if gaps[count] >= best:
                continue
            if node >= inner:
                for k in range(starts[node - inner], starts[node - inner + 1]):
                    t = triangles[k]
                    a, b = (t[0, 0], t[0, 1], t[0, 2]), (t[1, 0], t[1, 1], t[1, 2])
                    best = min(best, _triangle_distance2(p, a, b, (t[2, 0], t[2, 1], t[2, 2])))
                continue
            near, far = 2 * node + 1, 2 * node + 2
            near_gap, far_gap = _box_distance2(p, boxes[near]), _box_distance2(p, boxes[far])
            if far_gap < near_gap:
                near, far, near_gap, far_gap = far, near, far_gap, near_gap
            stack[count], gaps[count] = far, far_gap
            stack[count + 1], gaps[count + 1] = near, near_gap
            count += 2
        out[i] = math.sqrt(best)


@jit
def _solid_angle(p, t):
    """Half the signed solid angle of a triangle seen from p."""
    a = (t[0, 0] - p[0], t[0, 1] - p[1], t[0, 2] - p[2])
    b = (t[1, 0] - p[0], t[1, 1] - p[1], t[1, 2] - p[2])
    c = (t[2, 0] - p[0], t[2, 1] - p[1], t[2, 2] - p[2])
    la, lb, lc = math.sqrt(_dot(a, a)), math.sqrt(_dot(b, b)), math.sqrt(_dot(c, c))
    volume = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        + a[1] * (b[2] * c[0] - b[0] * c[2])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
    around = la * lb * lc + _dot(a, b) * lc + _dot(b, c) * la + _dot(c, a) * lb
    return math.atan2(volume, around)


@jit
def windings(low, high, points, triangles, starts, moments, out):
    """out (N,): generalised winding number of the triangles around each point.

    moments (nodes, 7): centre, summed area-weighted normal, radius around the centre.
    """
    stack = np.empty(STACK, np.int64)
    inner = len(starts) - 2
    for i in range(low, high):
        p = (points[i, 0], points[i, 1], points[i, 2])
        total = 0.0
        stack[0], count = 0, 1
        while count:
            count -= 1
            node = stack[count]
            m = moments[node]
            away = (m[0] - p[0], m[1] - p[1], m[2] - p[2])
            distance2 = _dot(away, away)
            if distance2 > FAR * FAR * m[6] * m[6]:
                flux = m[3] * away[0] + m[4] * away[1] + m[5] * away[2]
                total += 0.5 * flux / (distance2 * math.sqrt(distance2))
            elif node >= inner:
                for k in range(starts[node - inner], starts[node - inner + 1]):
                    total += _solid_angle(p, triangles[k])
            else:
                stack[count], stack[count + 1] = 2 * node + 1, 2 * node + 2
                count += 2
        out[i] = total / (2.0 * math.pi)
