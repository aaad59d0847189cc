"""Numba kernels of grid lookups; see `polyfield.encodings.grid` for conventions.

Work goes in blocks of `BLOCK` points: first the indices and weights of all corners, in loops that
vectorise over points, then the lookups, which vectorise over features. Floating point stays strict
(no fast-math), so that positions round as in the torch reference and fall into the same cells.

inputs: the points, flat, block after block of D rows of BLOCK coordinates in [-1, 1], the last one
padded; and directions in the same layout, or nothing. Where directions are given, the corner
weights W are replaced by their derivatives along them, V = sum_d along_d dW / dx_d.
like: tuples whose lengths are compile-time constants: D's corners, D, the features taken at once
(a divisor of F), and 1 where these are all of F, else 2. geometry: what `grid_numba.Plan` holds.

Scratch of a block: index and weight, a row per corner; low, high (what the lower and upper node
of an axis add to the index), upper (weight of the upper node), slope and curve (its derivatives in
x) and tilt (its derivative along the direction): four rows each, of zeros beyond D.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from polyfield.encodings.kernels.jit import jit
from polyfield.encodings.kernels.rows import (
    add_product,
    add_scaled,
    load_row,
    store_row,
    sum_row,
    zero_row,
)

inlined = partial(jit, inline=True)
BLOCK = 256
CLAMP, WRAP, HASH = 0, 1, 2
_ZERO, _ONE, _HALF, _TWO, _THREE, _SIX = (np.float32(v) for v in (0, 1, 0.5, 2, 3, 6))


@inlined
def _rows(count):
    """Rows of zeros for a block, from a cache line's first byte on."""
    buffer = np.zeros(count * BLOCK + 16, np.float32)
    skip = (-(buffer.ctypes.data >> 2)) & 15
    return buffer[skip : skip + count * BLOCK]


@inlined
def _scratch(corners):
    """Rows for a block: (low, high, index) of uint32, (upper, slope, curve, tilt, weight)."""
    indices = _rows(4).view(np.uint32), _rows(4).view(np.uint32), _rows(corners).view(np.uint32)
    return indices, (_rows(4), _rows(4), _rows(4), _rows(4), _rows(corners))


@inlined
def _nodes(x, geometry, level, dims, indices, weights):
    """Both nodes of each axis, and the weight of the upper one with its derivatives in x."""
    scales, shift, smooth, factors, limits, _, _ = geometry
    low, high, _ = indices
    upper, slope, curve, _, _ = weights
    for d in range(len(dims)):
        factor, scale, half = factors[level, d], scales[level, d], scales[level, d] * _HALF
        lowest, last = limits[level, d, 0], limits[level, d, 1]
        for b in range(d * BLOCK, (d + 1) * BLOCK):
            p = (x[b] + _ONE) * _HALF * scale + shift
            cell = np.floor(p)
            i = np.int32(cell)
            below = np.uint32(min(max(i, lowest), last)) * factor
            above = np.uint32(min(max(np.int32(i + np.int32(1)), lowest), last)) * factor
            low[b], high[b] = below, above
            upper[b] = p - cell
            slope[b] = half if below != above else _ZERO  # flat beyond the outer nodes
        if smooth:
            for b in range(d * BLOCK, (d + 1) * BLOCK):
                f = upper[b]
                upper[b] = f * f * (_THREE - _TWO * f)
                curve[b] = _SIX * (_ONE - _TWO * f) * half * slope[b]
                slope[b] *= _SIX * f * (_ONE - f)


@inlined
def _side(weight, upper):
    """Weight of one of an axis' two nodes."""
    return weight if upper else _ONE - weight


@inlined
def _signed(value, upper):
    """Derivative of `_side`."""
    return value if upper else -value


@inlined
def _product(p, dp, q, dq):
    """p * q and its derivative."""
    return p * q, p * dq + dp * q


@inlined
def _index_corners(indices, hashed, mask, corners):
    low, high, index = indices
    for b in range(BLOCK):
        l0, l1, l2, l3 = low[b], low[BLOCK + b], low[2 * BLOCK + b], low[3 * BLOCK + b]
        h0, h1, h2, h3 = high[b], high[BLOCK + b], high[2 * BLOCK + b], high[3 * BLOCK + b]
        for c in range(len(corners)):
            i0, i1 = (h0 if c & 1 else l0), (h1 if c & 2 else l1)
            i2, i3 = (h2 if c & 4 else l2), (h3 if c & 8 else l3)
            if hashed:
                index[c * BLOCK + b] = (i0 ^ i1 ^ i2 ^ i3) & mask
            else:
                index[c * BLOCK + b] = i0 + i1 + i2 + i3


@inlined
def _weigh_corners(weights, corners):
    upper, weight = weights[0], weights[4]
    for b in range(BLOCK):
        u0, u1, u2, u3 = upper[b], upper[BLOCK + b], upper[2 * BLOCK + b], upper[3 * BLOCK + b]
        for c in range(len(corners)):
            w = _side(u0, c & 1) * _side(u1, c & 2)
            weight[c * BLOCK + b] = w * _side(u2, c & 4) * _side(u3, c & 8)


@inlined
def _tilt_corners(along, weights, corners):
    """The weights' derivatives along directions, in place of the weights."""
    upper, slope, _, tilt, weight = weights
    for b in range(len(along)):
        tilt[b] = along[b] * slope[b]
    for c in range(len(corners)):
        for b in range(BLOCK):
            p, dp = _side(upper[b], c & 1), _signed(tilt[b], c & 1)
            q, dq = _side(upper[BLOCK + b], c & 2), _signed(tilt[BLOCK + b], c & 2)
            p, dp = _product(p, dp, q, dq)
            q, dq = _side(upper[2 * BLOCK + b], c & 4), _signed(tilt[2 * BLOCK + b], c & 4)
            p, dp = _product(p, dp, q, dq)
            q, dq = _side(upper[3 * BLOCK + b], c & 8), _signed(tilt[3 * BLOCK + b], c & 8)
            p, dp = _product(p, dp, q, dq)
            weight[c * BLOCK + b] = dp


@inlined
def _corners(x, along, geometry, level, like, indices, weights):
    """Index and weight of every corner for a block of points, and the rows they are made of."""
    corners, dims = like
    offsets, modes = geometry[5], geometry[6]
    size = np.uint32(offsets[level + 1] - offsets[level])
    _nodes(x, geometry, level, dims, indices, weights)
    _index_corners(indices, modes[level] == HASH, np.uint32(size - np.uint32(1)), corners)
    if modes[level] == WRAP:
        index = indices[2]
        for b in range(len(index)):
            index[b] %= size
    if len(along):
        _tilt_corners(along, weights, corners)
    else:
        _weigh_corners(weights, corners)


@jit
def to_blocks(x, points):
    """Write x (N, D) to points; the padding keeps what it holds."""
    dims = x.shape[1]
    for start in range(0, x.shape[0], BLOCK):
        for d in range(dims):
            for b in range(min(BLOCK, x.shape[0] - start)):
                points[start * dims + d * BLOCK + b] = x[start + b, d]


@inlined
def _block(points, block, dims):
    """Coordinates of one block, or nothing of nothing."""
    return points[block * dims * BLOCK : (block + 1) * dims * BLOCK]


@inlined
def _constant(features, like):
    """The number of features, known to the compiler where they are taken all at once."""
    return len(like[2]) if len(like[3]) == 1 else features


@jit
def forward(blocks, inputs, table, geometry, like, out):
    """out (N, L * F): features of all levels, for a range of blocks."""
    offsets = geometry[5]
    corners, dims = len(like[0]), len(like[1])
    features = _constant(len(table) // offsets[-1], like)
    indices, weights = _scratch(corners)
    index, weight = indices[2], weights[4]
    count, width = out.shape
    flat = out.reshape(count * width)
    for level in range(len(offsets) - 1):
        part = table[offsets[level] * features : offsets[level + 1] * features]
        for block in range(blocks[0], blocks[1]):
            x, u = _block(inputs[0], block, dims), _block(inputs[1], block, dims)
            _corners(x, u, geometry, level, like[:2], indices, weights)
            first = block * BLOCK * width + level * features
            for b in range(min(BLOCK, count - block * BLOCK)):
                for f in range(0, features, len(like[2])):
                    total = zero_row(like[2])
                    for c in range(corners):
                        at = np.int64(index[c * BLOCK + b]) * features + f
                        row = load_row(part, at, like[2])
                        total = add_scaled(total, weight[c * BLOCK + b], row)
                    store_row(flat, first + b * width + f, total)


@inlined
def _clear(flat, rows, columns, features, like):
    if columns[1] - columns[0] == features:
        flat[rows[0] * features : rows[1] * features] = _ZERO
    else:
        for i in range(rows[0], rows[1]):
            for f in range(columns[0], columns[1], len(like[2])):
                store_row(flat, i * features + f, zero_row(like[2]))


@jit
def backward_table(share, inputs, grad, geometry, like, out):
    """Write what `grad` (N, L * F) says to `out`, one level's (size, F).

    share: the level; the rows of `out` and the features that are written.
    Points are taken in order, so each sum has one order however the work is shared.
    """
    level, rows, columns = share
    corners, dims, features = len(like[0]), len(like[1]), _constant(out.shape[1], like)
    indices, weights = _scratch(corners)
    index, weight = indices[2], weights[4]
    lowest, kept = np.uint32(rows[0]), np.uint32(rows[1] - rows[0])
    count, width = grad.shape
    flat, grad = out.reshape(out.size), grad.reshape(grad.size)
    start, stop = columns if len(like[3]) == 2 else (0, features)
    _clear(flat, rows, (start, stop), features, like)
    for block in range(-(-count // BLOCK)):
        x, u = _block(inputs[0], block, dims), _block(inputs[1], block, dims)
        _corners(x, u, geometry, level, like[:2], indices, weights)
        first = block * BLOCK * width + level * features
        for b in range(min(BLOCK, count - block * BLOCK)):
            for f in range(start, stop, len(like[2])):
                row = load_row(grad, first + b * width + f, like[2])
                for c in range(corners):
                    i = index[c * BLOCK + b]
                    if np.uint32(i - lowest) < kept:  # rows below wrap to large numbers
                        at = np.int64(i) * features + f
                        total = load_row(flat, at, like[2])
                        store_row(flat, at, add_scaled(total, weight[c * BLOCK + b], row))


@inlined
def _dots(part, grad, first, index, count, strides, like, dots):
    """Each corner's entry times the gradient of the features, for a block of points."""
    features, width = _constant(strides[0], like), strides[1]
    for b in range(count):
        for c in range(len(like[0])):
            total = zero_row(like[2])
            at = np.int64(index[c * BLOCK + b]) * features
            for f in range(0, features, len(like[2])):
                row = load_row(grad, first + b * width + f, like[2])
                total = add_product(total, load_row(part, at + f, like[2]), row)
            dots[c * BLOCK + b] = sum_row(total)


@inlined
def _slopes(dots, weights, corners, sums):
    """Add one level's share of the gradient in x: dots times the weights' derivatives."""
    upper, slope = weights[0], weights[1]
    for b in range(BLOCK):
        u0, u1, u2, u3 = upper[b], upper[BLOCK + b], upper[2 * BLOCK + b], upper[3 * BLOCK + b]
        g0 = g1 = g2 = g3 = _ZERO
        for c in range(len(corners)):
            s0, s1, s2, s3 = _side(u0, c & 1), _side(u1, c & 2), _side(u2, c & 4), _side(u3, c & 8)
            dot = dots[c * BLOCK + b]
            g0 += _signed(dot, c & 1) * (s1 * (s2 * s3))
            g1 += _signed(dot, c & 2) * (s0 * (s2 * s3))
            g2 += _signed(dot, c & 4) * ((s0 * s1) * s3)
            g3 += _signed(dot, c & 8) * ((s0 * s1) * s2)
        sums[b] += g0 * slope[b]
        sums[BLOCK + b] += g1 * slope[BLOCK + b]
        sums[2 * BLOCK + b] += g2 * slope[2 * BLOCK + b]
        sums[3 * BLOCK + b] += g3 * slope[3 * BLOCK + b]


@inlined
def _curves(dots, along, weights, corners, sums):
    """Add one level's share of the Hessian in x times directions."""
    upper, slope, curve, tilt, _ = weights
    for b in range(len(along)):
        curve[b] *= along[b]
    for c in range(len(corners)):  # outside: all corners at once are too much for the registers
        for b in range(BLOCK):
            s0, d0 = _side(upper[b], c & 1), _signed(tilt[b], c & 1)
            s1, d1 = _side(upper[BLOCK + b], c & 2), _signed(tilt[BLOCK + b], c & 2)
            s2, d2 = _side(upper[2 * BLOCK + b], c & 4), _signed(tilt[2 * BLOCK + b], c & 4)
            s3, d3 = _side(upper[3 * BLOCK + b], c & 8), _signed(tilt[3 * BLOCK + b], c & 8)
            s01, d01 = _product(s0, d0, s1, d1)
            s23, d23 = _product(s2, d2, s3, d3)
            dot = dots[c * BLOCK + b]
            p, dp = _product(s1, d1, s23, d23)
            sums[b] += _signed(dot, c & 1) * (slope[b] * dp + curve[b] * p)
            p, dp = _product(s0, d0, s23, d23)
            at = BLOCK + b
            sums[at] += _signed(dot, c & 2) * (slope[at] * dp + curve[at] * p)
            p, dp = _product(s01, d01, s3, d3)
            at = 2 * BLOCK + b
            sums[at] += _signed(dot, c & 4) * (slope[at] * dp + curve[at] * p)
            p, dp = _product(s01, d01, s2, d2)
            at = 3 * BLOCK + b
            sums[at] += _signed(dot, c & 8) * (slope[at] * dp + curve[at] * p)


@jit
def backward_x(blocks, inputs, table, grad, geometry, like, out):
    """out (N, D): gradient in x of a range of blocks, levels added in order."""
    offsets = geometry[5]
    corners, dims = len(like[0]), len(like[1])
    features = _constant(len(table) // offsets[-1], like)
    indices, weights = _scratch(corners)
    index, dots, sums = indices[2], _rows(corners), _rows(4)
    count, width = grad.shape
    grad = grad.reshape(grad.size)
    for block in range(blocks[0], blocks[1]):
        x, u = _block(inputs[0], block, dims), _block(inputs[1], block, dims)
        n = min(BLOCK, count - block * BLOCK)
        sums[:] = _ZERO
        for level in range(len(offsets) - 1):
            part = table[offsets[level] * features : offsets[level + 1] * features]
            _corners(x, u, geometry, level, like[:2], indices, weights)
            first = block * BLOCK * width + level * features
            _dots(part, grad, first, index, n, (features, width), like, dots)
            if len(u):
                _curves(dots, u, weights, like[0], sums)
            else:
                _slopes(dots, weights, like[0], sums)
        for b in range(n):
            for d in range(dims):
                out[block * BLOCK + b, d] = sums[d * BLOCK + b]
