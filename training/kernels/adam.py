"""Numba kernel of Adam's update; see `polyfield.training.optimisers` for the formula.

Indices are unsigned, and quotients numpy's (Python's look for zeros): only then do the loops
vectorise. Floating point stays strict, so the cut into ranges changes no bit.
"""

from __future__ import annotations

import numpy as np

from polyfield.encodings.kernels.jit import jit

# Values whose gradients are looked at together; a page of nothing but zeros is skipped.
_PAGE = np.uintp(256)
_ZERO, _ONE = np.float32(0), np.float32(1)
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # all bits but the sign: -0 is a zero, NaN is not


@jit
def _dense(p, g, m, v, start, stop, rates):
    """Update the values start:stop of p, m and v in place."""
    rate, take, take_square, eps, decay = rates
    for i in range(start, stop):
        slope = g[i] + decay * p[i]
        m[i] += take * (slope - m[i])
        v[i] += take_square * (slope * slope - v[i])
        p[i] -= np.divide(rate * m[i], np.sqrt(v[i]) + eps)


@jit
def _sparse(p, g, m, v, start, stop, rates):
    """The same where g is not zero: elsewhere by rates of zero, as masked stores are slow."""
    rate, take, take_square, eps, decay = rates
    for i in range(start, stop):
        moved = g[i] != _ZERO
        slope = g[i] + decay * p[i]
        m[i] += (take if moved else _ZERO) * (slope - m[i])
        v[i] += (take_square if moved else _ZERO) * (slope * slope - v[i])
        below = np.sqrt(v[i]) + (eps if moved else _ONE)
        p[i] -= np.divide((rate if moved else _ZERO) * m[i], below)


@jit
def _any(bits, start, stop):
    """Whether a value of start:stop is not zero."""
    found = np.uint32(0)
    for i in range(start, stop):
        found |= bits[i]
    return (found & _MAGNITUDE) != np.uint32(0)


@jit
def step(p, g, m, v, low, high, rates, sparse):
    """Update the values low:high of flat float32 arrays in place.

    p: parameter; g: gradient; m, v: moments; rates: float32 (rate, 1 - beta1, 1 - beta2, eps,
    weight decay), the first and the fourth with the bias corrections in them.
    """
    first, last = np.uintp(low), np.uintp(high)
    bits = g.view(np.uint32)
    for start in range(first, last, _PAGE):
        stop = min(start + _PAGE, last)
        if not sparse:
            _dense(p, g, m, v, start, stop, rates)
        elif _any(bits, start, stop):
            _sparse(p, g, m, v, start, stop, rates)
