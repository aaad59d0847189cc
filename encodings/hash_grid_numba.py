"""The hash-grid lookup by compiled CPU kernels: signature and table of the torch reference."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.grid import PRIMES, GridLayout, hash_encode_torch
from polyfield.encodings.grid_numba import Lookup, Plan, limits, tuples


@cache
def _plan(layout: GridLayout) -> Plan:
    from polyfield.encodings.kernels import grid as kernels

    dense = kernels.WRAP if layout.wrap else kernels.CLAMP
    modes = [kernels.HASH if hashed else dense for hashed in layout.hashed]
    levels = list(zip(modes, layout.resolutions, strict=True))
    strides = {n: [n**d % 2**32 for d in range(4)] for n in layout.resolutions}
    factors = [PRIMES if mode == kernels.HASH else strides[n] for mode, n in levels]
    ends = [limits([n] * layout.in_dim if mode == kernels.CLAMP else None) for mode, n in levels]
    geometry = (
        np.array([[scale] * 4 for scale in layout.scales], dtype=np.float32),
        np.float32(layout.shift),
        layout.smooth,
        np.array(factors, dtype=np.uint32),
        np.array(ends, dtype=np.int32),
        np.array((*layout.offsets, layout.entries), dtype=np.int64),
        np.array(modes, dtype=np.int64),
    )
    return Plan(
        sizes=layout.sizes,
        features=layout.features,
        geometry=geometry,
        like=tuples(layout.in_dim, layout.features),
        reference=lambda x, table: hash_encode_torch(x, table, layout),
    )


def hash_encode_numba(
    x: Float[Tensor, "n in_dim"], table: Float[Tensor, "entries F"], layout: GridLayout
) -> Float[Tensor, "n out_dim"]:
    """Interpolated features of all levels, level-major, for float32 tensors on the CPU.

    Differentiable any number of times in x and table; third derivatives in x run on the torch
    reference.
    """
    return Lookup.apply(x, table, _plan(layout))
