"""Numba kernels of small ReLU networks, `BLOCK` rows at a time, all layers while they are cached.

A block is kept feature-major, (features, BLOCK), so that inner loops run over rows and vectorise
whatever the widths. Widths are padded with zeros to multiples of `PAD`, hence no remainders. The
matrices lie one after the other in one array.

widths: padded width of the input and of every layer; weights: for each layer its (out, in)
matrix, then its biases (out,); values: work space (sum of widths, BLOCK).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from polyfield.encodings.kernels.jit import REORDER
from polyfield.encodings.kernels.jit import jit as strict

jit = partial(strict, fastmath=REORDER)

BLOCK = 256
PAD = 8
_ZERO = np.float32(0)


@jit
def _multiply(w, x, out):
    """out += w @ x for blocks: eight rows of out by four of x, their 32 weights in registers."""
    for j in range(0, w.shape[0], 8):
        o0, o1, o2, o3 = out[j], out[j + 1], out[j + 2], out[j + 3]
        o4, o5, o6, o7 = out[j + 4], out[j + 5], out[j + 6], out[j + 7]
        for k in range(0, w.shape[1], 4):
            x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
            a0, a1, a2, a3 = w[j, k], w[j, k + 1], w[j, k + 2], w[j, k + 3]
            b0, b1, b2, b3 = w[j + 1, k], w[j + 1, k + 1], w[j + 1, k + 2], w[j + 1, k + 3]
            c0, c1, c2, c3 = w[j + 2, k], w[j + 2, k + 1], w[j + 2, k + 2], w[j + 2, k + 3]
            d0, d1, d2, d3 = w[j + 3, k], w[j + 3, k + 1], w[j + 3, k + 2], w[j + 3, k + 3]
            e0, e1, e2, e3 = w[j + 4, k], w[j + 4, k + 1], w[j + 4, k + 2], w[j + 4, k + 3]
            f0, f1, f2, f3 = w[j + 5, k], w[j + 5, k + 1], w[j + 5, k + 2], w[j + 5, k + 3]
            g0, g1, g2, g3 = w[j + 6, k], w[j + 6, k + 1], w[j + 6, k + 2], w[j + 6, k + 3]
            h0, h1, h2, h3 = w[j + 7, k], w[j + 7, k + 1], w[j + 7, k + 2], w[j + 7, k + 3]
            for r in range(BLOCK):
                y0, y1, y2, y3 = x0[r], x1[r], x2[r], x3[r]
                o0[r] += a0 * y0 + a1 * y1 + a2 * y2 + a3 * y3
                o1[r] += b0 * y0 + b1 * y1 + b2 * y2 + b3 * y3
                o2[r] += c0 * y0 + c1 * y1 + c2 * y2 + c3 * y3
                o3[r] += d0 * y0 + d1 * y1 + d2 * y2 + d3 * y3
                o4[r] += e0 * y0 + e1 * y1 + e2 * y2 + e3 * y3
                o5[r] += f0 * y0 + f1 * y1 + f2 * y2 + f3 * y3
                o6[r] += g0 * y0 + g1 * y1 + g2 * y2 + g3 * y3
                o7[r] += h0 * y0 + h1 * y1 + h2 * y2 + h3 * y3


@jit
def _outer(g, x, out):
    """out += g @ x.T for blocks: sixteen sums over the rows stay in registers."""
    for j in range(0, g.shape[0], 4):
        g0, g1, g2, g3 = g[j], g[j + 1], g[j + 2], g[j + 3]
        for k in range(0, x.shape[0], 4):
            x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = _ZERO
            c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = _ZERO
            for r in range(BLOCK):
                u0, u1, u2, u3 = g0[r], g1[r], g2[r], g3[r]
                y0, y1, y2, y3 = x0[r], x1[r], x2[r], x3[r]
                a0 += u0 * y0
                a1 += u0 * y1
                a2 += u0 * y2
                a3 += u0 * y3
                b0 += u1 * y0
                b1 += u1 * y1
                b2 += u1 * y2
                b3 += u1 * y3
                c0 += u2 * y0
                c1 += u2 * y1
                c2 += u2 * y2
                c3 += u2 * y3
                d0 += u3 * y0
                d1 += u3 * y1
                d2 += u3 * y2
                d3 += u3 * y3
            out[j, k] += a0
            out[j, k + 1] += a1
            out[j, k + 2] += a2
            out[j, k + 3] += a3
            out[j + 1, k] += b0
            out[j + 1, k + 1] += b1
            out[j + 1, k + 2] += b2
            out[j + 1, k + 3] += b3
            out[j + 2, k] += c0
            out[j + 2, k + 1] += c1
            out[j + 2, k + 2] += c2
            out[j + 2, k + 3] += c3
            out[j + 3, k] += d0
            out[j + 3, k + 1] += d1
            out[j + 3, k + 2] += d2
            out[j + 3, k + 3] += d3


@jit
def _load(x, extra, index, low, high, values):
    """Rows low to high of the inputs, feature-major: x, then the row of `extra` index names."""
    own, n = x.shape[1], high - low
    for k in range(own):
        for r in range(n):
            values[k, r] = x[low + r, k]
    for k in range(extra.shape[1]):
        for r in range(n):
            values[own + k, r] = extra[index[low + r], k]
    values[own + extra.shape[1] :] = _ZERO
    values[:, n:] = _ZERO


@jit
def _layers(widths, weights, values):
    """Fill the values of every layer from those of the input."""
    at = row = 0
    for layer in range(len(widths) - 1):
        k, j = widths[layer], widths[layer + 1]
        w = weights[at : at + j * k].reshape(j, k)
        bias = weights[at + j * k : at + j * k + j]
        x, out = values[row : row + k], values[row + k : row + k + j]
        for i in range(j):
            out[i] = bias[i]
        _multiply(w, x, out)
        if layer < len(widths) - 2:
            for i in range(j):
                line = out[i]
                for r in range(BLOCK):
                    line[r] = _ZERO if line[r] < _ZERO else line[r]
        at, row = at + j * k + j, row + k


@jit
def forward(low, high, x, extra, index, widths, weights, out):
    """out (n, F): the network at rows low to high."""
    values = np.empty((widths.sum(), BLOCK), np.float32)
    first = widths[:-1].sum()
    for start in range(low, high, BLOCK):
        stop = min(start + BLOCK, high)
        _load(x, extra, index, start, stop, values[: widths[0]])
        _layers(widths, weights, values)
        for r in range(stop - start):
            for f in range(out.shape[1]):
                out[start + r, f] = values[first + f, r]


@jit
def backward(low, high, inputs, widths, weights, transposed, grad, grad_x, grad_weights):
    """Gradients of rows low to high: grad_x (n, own inputs; may be (0, 0)), grad_weights added.

    transposed: as `weights`, but (in, out) matrices and no biases.
    """
    x, extra, index = inputs
    total = widths.sum()
    values = np.empty((total, BLOCK), np.float32)
    grads = np.empty((total, BLOCK), np.float32)
    for start in range(low, high, BLOCK):
        stop = min(start + BLOCK, high)
        _load(x, extra, index, start, stop, values[: widths[0]])
        _layers(widths, weights, values)
        row = total - widths[-1]
        _load(grad, grad[:, :0], index, start, stop, grads[row:])
        at, at_t = len(weights), len(transposed)
        for layer in range(len(widths) - 2, -1, -1):
            k, j = widths[layer], widths[layer + 1]
            at, at_t = at - j * k - j, at_t - j * k
            v, g = values[row - k : row], grads[row : row + j]
            _outer(g, v, grad_weights[at : at + j * k].reshape(j, k))
            for i in range(j):
                grad_weights[at + j * k + i] += g[i].sum()
            before = grads[row - k : row]
            if layer > 0 or len(grad_x):
                before[:] = _ZERO
                _multiply(transposed[at_t : at_t + j * k].reshape(k, j), g, before)
            if layer > 0:
                for i in range(k):
                    line, value = before[i], v[i]
                    for r in range(BLOCK):
                        line[r] = line[r] if value[r] > _ZERO else _ZERO
            row -= k
        for r in range(min(stop, len(grad_x)) - start):
            for f in range(grad_x.shape[1]):
                grad_x[start + r, f] = grads[f, r]
