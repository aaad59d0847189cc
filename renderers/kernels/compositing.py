"""Numba kernels of packed compositing weights, one ray after the other.

tau: optical depths; T: transmittance up to each interval; w = T (1 - exp(-tau)).
"""

from __future__ import annotations

import math

from polyfield.encodings.kernels.jit import jit


@jit
def forward(low, high, starts, counts, tau, weights, reached):
    """Weights w and transmittances T of rays low to high."""
    for ray in range(low, high):
        depth = 0.0
        for i in range(starts[ray], starts[ray] + counts[ray]):
            reached[i] = math.exp(-depth)
            weights[i] = reached[i] * -math.expm1(-tau[i])
            depth += tau[i]


@jit
def backward(low, high, starts, counts, weights, reached, grad, out):
    """Gradient of tau: dw_i/dtau_j = T_j exp(-tau_j) for i = j, -w_i for i > j."""
    for ray in range(low, high):
        behind = 0.0
        for i in range(starts[ray] + counts[ray] - 1, starts[ray] - 1, -1):
            out[i] = grad[i] * (reached[i] - weights[i]) - behind
            behind += grad[i] * weights[i]
