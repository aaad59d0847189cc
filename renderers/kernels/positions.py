"""Numba kernel of sample positions."""

from __future__ import annotations

import numpy as np

from polyfield.encodings.kernels.jit import jit


@jit
def positions(low, high, origins, directions, t0, t1, ray_indices, chosen, out):
    """out (K, 3): o + (t0 + t1) / 2 d, rounded step by step as the reference does.

    chosen (K,): of which intervals, or nothing for all of them.
    """
    half = t0.dtype.type(0.5)
    for i in range(low, high):
        at = np.uint64(chosen[i]) if len(chosen) else np.uint64(i)  # unsigned: no wrapping
        ray, t = np.uint64(ray_indices[at]), (t0[at] + t1[at]) * half
        for c in range(3):
            out[i, c] = origins[ray, c] + t * directions[ray, c]
