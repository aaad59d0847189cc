"""Numba kernel of pinhole rays; see `polyfield.renderers.pinhole`."""

from __future__ import annotations

import math

import numpy as np

from polyfield.encodings.kernels.jit import jit


@jit
def rays(low, high, view, xy, cameras, footprint, out):
    """out: origins (N, 3), directions (N, 3) and, as rows (4, N), near, far, radius, cosine."""
    c2w, intrinsics, near, far = cameras
    origins, directions, each = out
    number = xy.dtype.type
    one, half, wide = number(1), number(0.5), number(footprint)
    for i in range(low, high):
        v = np.uint64(view[i])  # unsigned: no wrapping
        fx, fy = intrinsics[v, 0], intrinsics[v, 1]
        x, y = (xy[i, 0] - intrinsics[v, 2]) / fx, (xy[i, 1] - intrinsics[v, 3]) / fy
        cosine = one / number(math.sqrt(x * x + y * y + one))
        for c in range(3):
            along = c2w[v, c, 0] * x - c2w[v, c, 1] * y - c2w[v, c, 2]
            origins[i, c], directions[i, c] = c2w[v, c, 3], along * cosine
        each[0, i], each[1, i] = near[v], far[v]
        each[2, i] = (one / fx + one / fy) * half * cosine * wide
        each[3, i] = cosine
