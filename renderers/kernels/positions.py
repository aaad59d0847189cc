"""Numba kernel of sample positions."""

from __future__ import annotations

import numpy as np

from polyfield.encodings.kernels.jit import jit


@jit
def positions(low, high, origins, directions, t0, t1, ray_indices, out):
    """out (M, 3): o + (t0 + t1) / 2 d, rounded step by step as the reference does."""
    half = t0.dtype.type(0.5)
    for i in range(low, high):
        ray, t = np.uint64(ray_indices[i]), (t0[i] + t1[i]) * half  # unsigned: no wrapping
        for c in range(3):
            out[i, c] = origins[ray, c] + t * directions[ray, c]
