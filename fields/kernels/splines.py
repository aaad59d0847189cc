"""Numba kernels of sums of B-spline curves: per row and feature only the k + 1 bases of its cell.

`BLOCK` rows at a time, feature after feature, so that a feature's coefficients and the block's
sums stay in the cache. Bases are evaluated as polynomials of the place v in the cell. Views are
taken once per feature and block: they cost more than the arithmetic of a row.

x: inputs (n, F); knots (F, K); guess (F, 2): first knot and cells per unit if they were all of
one length; table (F, cells, k + 1, k + 1): factor of v^p in basis c - k + m on cell c; c:
coefficients (F, M + 2k, width): k rows of zeros on either side, for bases that do not exist, and
width padded with zeros to a multiple of `PAD`.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from polyfield.encodings.kernels.jit import REORDER
from polyfield.encodings.kernels.jit import jit as strict

jit = partial(strict, fastmath=REORDER)

BLOCK = 64
PAD = 16
OUTSIDE = -1
_ZERO = np.float32(0)
_ONE, _TWO, _THREE = np.float32(1), np.float32(2), np.float32(3)


@jit
def _locate(low, x, f, knots, guess, cells, places, lengths):
    """Of a block of rows from `low`: the cell (or `OUTSIDE`), the place in it, 1 / its length."""
    last = knots.shape[1] - 1
    first, end = knots[f, 0], knots[f, last]
    offset, per_unit = guess[f, 0], guess[f, 1]
    for r in range(len(cells)):
        value = x[low + r, f]
        cells[r] = OUTSIDE
        if value >= first and value < end:
            cell = min(max(int((value - offset) * per_unit), 0), last - 1)
            while cell > 0 and value < knots[f, cell]:
                cell -= 1
            while cell < last - 1 and value >= knots[f, cell + 1]:
                cell += 1
            left = knots[f, cell]
            cells[r], lengths[r] = cell, _ONE / (knots[f, cell + 1] - left)
            places[r] = (value - left) * lengths[r]


@jit
def _bases(table, f, cells, places, values):
    """values (rows, k + 1): the bases of every row's cell."""
    top = table.shape[3] - 1
    for r in range(len(cells)):
        cell, v = cells[r], places[r]
        if cell >= 0 and top == 3:  # cubic: nothing in a loop of unknown length
            for m in range(4):
                high = table[f, cell, m, 3] * v + table[f, cell, m, 2]
                values[r, m] = (high * v + table[f, cell, m, 1]) * v + table[f, cell, m, 0]
        elif cell >= 0:
            for m in range(top + 1):
                value = table[f, cell, m, top]
                for p in range(top - 1, -1, -1):
                    value = value * v + table[f, cell, m, p]
                values[r, m] = value


@jit
def _slopes(table, f, cells, places, values):
    """values (rows, k + 1): derivatives in v of the bases of every row's cell."""
    top = table.shape[3] - 1
    for r in range(len(cells)):
        cell, v = cells[r], places[r]
        if cell >= 0 and top == 3:
            for m in range(4):
                high = _THREE * table[f, cell, m, 3] * v + _TWO * table[f, cell, m, 2]
                values[r, m] = high * v + table[f, cell, m, 1]
        elif cell >= 0:
            for m in range(top + 1):
                value = _ZERO
                for p in range(top, 0, -1):
                    value = value * v + table[f, cell, m, p] * np.float32(p)
                values[r, m] = value


@jit
def _add_curves(start, f, cells, values, c, out):
    """Rows from `start` of out += the curves of feature f."""
    bases, width = values.shape[1], out.shape[1]
    for r in range(len(cells)):
        cell, row = cells[r], start + r
        if cell >= 0 and bases == 4:
            w0, w1, w2, w3 = values[r, 0], values[r, 1], values[r, 2], values[r, 3]
            for o in range(width):
                near = w0 * c[f, cell, o] + w1 * c[f, cell + 1, o]
                far = w2 * c[f, cell + 2, o] + w3 * c[f, cell + 3, o]
                out[row, o] += near + far
        elif cell >= 0:
            for m in range(bases):
                w = values[r, m]
                for o in range(width):
                    out[row, o] += w * c[f, cell + m, o]


@jit
def forward(low, high, x, grid, c, out):
    """out (n, width): sums of the curves at rows low to high; grid: knots, guess, table."""
    knots, guess, table = grid
    cells = np.empty(BLOCK, np.int32)
    places, lengths = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    values = np.empty((BLOCK, table.shape[3]), np.float32)
    for start in range(low, high, BLOCK):
        n = min(start + BLOCK, high) - start
        out[start : start + n] = _ZERO
        for f in range(x.shape[1]):
            _locate(start, x, f, knots, guess, cells[:n], places, lengths)
            _bases(table, f, cells[:n], places, values)
            _add_curves(start, f, cells[:n], values, c, out)
            for r in range(start, start + n):
                if not x[r, f] == x[r, f]:  # what is not a number must stay visible
                    out[r] += x[r, f]


@jit
def _add_to_coefficients(start, f, cells, values, grad, grad_c):
    """Feature f of grad_c += what rows from `start` say."""
    bases, width = values.shape[1], grad.shape[1]
    for r in range(len(cells)):
        cell, row = cells[r], start + r
        if cell >= 0:
            for m in range(bases):
                w = values[r, m]
                for o in range(width):
                    grad_c[f, cell + m, o] += w * grad[row, o]


@jit
def _input_gradient(start, f, cells, slopes, lengths, c, grad, grad_x):
    """Feature f of grad_x at rows from `start`; slopes: derivatives of the bases in v."""
    bases, width = slopes.shape[1], grad.shape[1]
    for r in range(len(cells)):
        cell, row = cells[r], start + r
        slope = _ZERO
        if cell >= 0:
            for m in range(bases):
                total = _ZERO
                for o in range(width):
                    total += c[f, cell + m, o] * grad[row, o]
                slope += slopes[r, m] * total
            slope *= lengths[r]
        grad_x[row, f] = slope


@jit
def backward(low, high, x, grid, c, grad, grad_x, grad_c):
    """Gradients of rows low to high: grad_x (n, F; may be (0, 0)), grad_c (as c) added.

    grid: knots, guess, table; grad: (n, width), padded as c is.
    """
    knots, guess, table = grid
    cells = np.empty(BLOCK, np.int32)
    places, lengths = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    values = np.empty((BLOCK, table.shape[3]), np.float32)
    for start in range(low, high, BLOCK):
        n = min(start + BLOCK, high) - start
        for f in range(x.shape[1]):
            _locate(start, x, f, knots, guess, cells[:n], places, lengths)
            _bases(table, f, cells[:n], places, values)
            _add_to_coefficients(start, f, cells[:n], values, grad, grad_c)
            if len(grad_x):
                _slopes(table, f, cells[:n], places, values)
                _input_gradient(start, f, cells[:n], values, lengths, c, grad, grad_x)
