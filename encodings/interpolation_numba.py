"""Interpolation in regular grids by compiled CPU kernels: those of a dense level of a grid."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.grid_numba import Lookup, Plan, limits, tuples
from polyfield.encodings.interpolation import interpolate_torch


@cache
def _plan(resolution: tuple[int, ...], features: int) -> Plan:
    from polyfield.encodings.kernels import grid as kernels

    rest = [1] * (4 - len(resolution))
    strides = [math.prod(resolution[d + 1 :]) for d in range(len(resolution))]
    entries = math.prod(resolution)
    geometry = (
        np.array([[n - 1 for n in (*resolution, *rest)]], dtype=np.float32),
        np.float32(0),
        False,
        np.array([strides + rest], dtype=np.uint32),
        np.array([limits(list(resolution))], dtype=np.int32),
        np.array([0, entries], dtype=np.int64),
        np.array([kernels.CLAMP], dtype=np.int64),
    )
    return Plan(
        sizes=(entries,),
        features=features,
        geometry=geometry,
        like=tuples(len(resolution), features),
        reference=lambda x, table: interpolate_torch(x, table.view(*resolution, features)),
    )


def interpolate_numba(
    x: Float[Tensor, "n D"], values: Float[Tensor, "*resolution F"]
) -> Float[Tensor, "n F"]:
    """Interpolated features, for float32 tensors on the CPU.

    Differentiable any number of times in x and values; third derivatives in x run on the torch
    reference.
    """
    *resolution, features = values.shape
    return Lookup.apply(x, values.reshape(-1, features), _plan(tuple(resolution), features))
