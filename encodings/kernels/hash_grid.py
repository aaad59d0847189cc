"""Numba kernels of the grid lookup; see `polyfield.encodings.grid` for conventions.

Work goes in blocks of `BLOCK` points: first the indices and weights of all corners, in simple
loops that vectorise, then the lookups. Floating point stays strict (no fast-math), so that
positions round as in the torch reference and fall into the same cells.

x: (N, D) in [-1, 1]; table: (entries, F); like: tuples whose lengths, D's corners and F, are
compile-time constants; geometry: the arrays of `hash_grid_numba`.
"""

from __future__ import annotations

import numpy as np

from polyfield.encodings.grid import PRIMES
from polyfield.encodings.kernels.jit import jit

BLOCK = 256
CLAMP, WRAP, HASH = 0, 1, 2
_PRIMES = np.array(PRIMES, dtype=np.uint32)
_ONE, _HALF, _TWO, _THREE, _SIX = (np.float32(v) for v in (1, 0.5, 2, 3, 6))


@jit
def _axis(x, scale, shift, smooth, cell, fraction, slope):
    """Cell, weight of the upper node and its slope in p, of one coordinate of a block."""
    for b in range(x.shape[0]):
        p = (x[b] + _ONE) * _HALF * scale + shift
        c = np.int32(p)
        if p < np.float32(c):
            c -= np.int32(1)
        f = p - np.float32(c)
        cell[b] = c
        fraction[b] = f * f * (_THREE - _TWO * f) if smooth else f
        slope[b] = _SIX * f * (_ONE - f) if smooth else _ONE


@jit
def _terms(cell, n, d, mode, resolution, low, high):
    """What the lower and upper node along dimension d add to (or XOR into) the index."""
    if mode == HASH:
        factor = _PRIMES[d]
    else:
        factor = np.uint32(resolution**d)
    last = np.int32(resolution - 1)
    if mode == CLAMP:
        for b in range(n):
            c = cell[b]
            low[b] = np.uint32(min(max(c, np.int32(0)), last)) * factor
            high[b] = np.uint32(min(max(c + np.int32(1), np.int32(0)), last)) * factor
    else:
        for b in range(n):
            low[b] = np.uint32(cell[b]) * factor
            high[b] = np.uint32(cell[b] + np.int32(1)) * factor


@jit
def _spread(n, d, mode, low, high, fraction, index, weight):
    """Double the corners of a block: those so far take the lower node, their copies the upper."""
    half = 1 << d
    for c in range(half):
        if mode == HASH:
            for b in range(n):
                index[c + half, b] = index[c, b] ^ high[b]
                index[c, b] ^= low[b]
        else:
            for b in range(n):
                index[c + half, b] = index[c, b] + high[b]
                index[c, b] += low[b]
        for b in range(n):
            weight[c + half, b] = weight[c, b] * fraction[b]
            weight[c, b] *= _ONE - fraction[b]


@jit
def _corners(x, geometry, level, index, weight, fraction, slope):
    """Fill index and weight (2**D, BLOCK), fraction and slope (D, BLOCK) for a block of points."""
    scales, shift, smooth, resolutions, offsets, modes = geometry
    n, mode = x.shape[0], modes[level]
    size = np.uint32(offsets[level + 1] - offsets[level])
    cell = np.empty(BLOCK, np.int32)
    low = np.empty(BLOCK, np.uint32)
    high = np.empty(BLOCK, np.uint32)
    for b in range(n):
        index[0, b] = np.uint32(0)
        weight[0, b] = _ONE
    for d in range(x.shape[1]):
        _axis(x[:, d], scales[level], shift, smooth, cell, fraction[d], slope[d])
        _terms(cell, n, d, mode, resolutions[level], low, high)
        _spread(n, d, mode, low, high, fraction[d], index, weight)
    if mode == HASH:
        for c in range(index.shape[0]):
            for b in range(n):
                index[c, b] &= size - np.uint32(1)
    elif mode == WRAP:
        for c in range(index.shape[0]):
            for b in range(n):
                index[c, b] %= size


@jit
def _gather(table, index, weight, n, like, out):
    """out (n, F) = sum over corners of weight times entry."""
    corners, features = len(like[0]), len(like[1])
    for b in range(n):
        if features == 2:  # the common widths, held in registers
            a0 = a1 = np.float32(0)
            for c in range(corners):
                i, w = index[c, b], weight[c, b]
                a0 += w * table[i, 0]
                a1 += w * table[i, 1]
            out[b, 0], out[b, 1] = a0, a1
        elif features == 4:
            a0 = a1 = a2 = a3 = np.float32(0)
            for c in range(corners):
                i, w = index[c, b], weight[c, b]
                a0 += w * table[i, 0]
                a1 += w * table[i, 1]
                a2 += w * table[i, 2]
                a3 += w * table[i, 3]
            out[b, 0], out[b, 1], out[b, 2], out[b, 3] = a0, a1, a2, a3
        else:
            for f in range(features):
                out[b, f] = weight[0, b] * table[index[0, b], f]
            for c in range(1, corners):
                i, w = index[c, b], weight[c, b]
                for f in range(features):
                    out[b, f] += w * table[i, f]


@jit
def forward(x, table, geometry, like, out):
    """out (N, L * F): features of all levels of a chunk of points."""
    offsets = geometry[4]
    corners, features = len(like[0]), len(like[1])
    index = np.empty((corners, BLOCK), np.uint32)
    weight = np.empty((corners, BLOCK), np.float32)
    fraction = np.empty((x.shape[1], BLOCK), np.float32)
    slope = np.empty((x.shape[1], BLOCK), np.float32)
    for level in range(len(offsets) - 1):
        part = table[offsets[level] : offsets[level + 1]]
        first = level * features
        for start in range(0, x.shape[0], BLOCK):
            block = x[start : start + BLOCK]
            n = block.shape[0]
            _corners(block, geometry, level, index, weight, fraction, slope)
            _gather(part, index, weight, n, like, out[start : start + n, first : first + features])


@jit
def backward_table(x, grad, geometry, like, level, rows, out):
    """Add what `grad` (N, L * F) says to rows[0]:rows[1] of one level to `out` (those rows).

    Points are taken in order, so each sum has one order whatever the split into rows.
    """
    corners, features = len(like[0]), len(like[1])
    index = np.empty((corners, BLOCK), np.uint32)
    weight = np.empty((corners, BLOCK), np.float32)
    fraction = np.empty((x.shape[1], BLOCK), np.float32)
    slope = np.empty((x.shape[1], BLOCK), np.float32)
    lowest, count = np.uint32(rows[0]), np.uint32(rows[1] - rows[0])
    first = level * features
    out[:] = 0
    for start in range(0, x.shape[0], BLOCK):
        block = x[start : start + BLOCK]
        _corners(block, geometry, level, index, weight, fraction, slope)
        for b in range(block.shape[0]):
            for c in range(corners):
                i = index[c, b] - lowest  # rows below wrap to large numbers
                if i < count:
                    for f in range(features):
                        out[i, f] += weight[c, b] * grad[start + b, first + f]


@jit
def _dots(table, index, n, like, grad, out):
    """out (corners, BLOCK): each corner's entry times the gradient of the features."""
    corners, features = len(like[0]), len(like[1])
    for b in range(n):
        for c in range(corners):
            dot = np.float32(0)
            for f in range(features):
                dot += table[index[c, b], f] * grad[b, f]
            out[c, b] = dot


@jit
def _slopes(dots, fraction, slope, half_scale, term, out):
    """Add one level's share of the gradient in x (n, D) of a block to `out`."""
    n, dims = out.shape
    for d in range(dims):
        for c in range(dots.shape[0]):
            sign = half_scale if (c >> d) & 1 else -half_scale
            for b in range(n):
                term[b] = dots[c, b] * slope[d, b] * sign
            for e in range(dims):
                if e != d and (c >> e) & 1:
                    for b in range(n):
                        term[b] *= fraction[e, b]
                elif e != d:
                    for b in range(n):
                        term[b] *= _ONE - fraction[e, b]
            for b in range(n):
                out[b, d] += term[b]


@jit
def backward_x(x, table, grad, geometry, like, out):
    """out (N, D): gradient in x of a chunk of points, levels added in order."""
    scales, offsets = geometry[0], geometry[4]
    corners, features = len(like[0]), len(like[1])
    index = np.empty((corners, BLOCK), np.uint32)
    weight = np.empty((corners, BLOCK), np.float32)
    fraction = np.empty((x.shape[1], BLOCK), np.float32)
    slope = np.empty((x.shape[1], BLOCK), np.float32)
    dots = np.empty((corners, BLOCK), np.float32)
    term = np.empty(BLOCK, np.float32)
    out[:] = 0
    for level in range(len(offsets) - 1):
        part = table[offsets[level] : offsets[level + 1]]
        columns = slice(level * features, (level + 1) * features)
        half_scale = scales[level] * _HALF
        for start in range(0, x.shape[0], BLOCK):
            block = x[start : start + BLOCK]
            stop = start + block.shape[0]
            _corners(block, geometry, level, index, weight, fraction, slope)
            _dots(part, index, stop - start, like, grad[start:stop, columns], dots)
            _slopes(dots, fraction, slope, half_scale, term, out[start:stop])
