"""Numba kernels of packed compositing, one ray after the other.

offsets: ray r owns the samples offsets[r]:offsets[r + 1]. tau: optical depths sigma delta; T:
transmittance up to each sample; w = T (1 - exp(-tau)). Sums run along the ray in the samples'
own precision, the optical depth in float64.
"""

from __future__ import annotations

import math

from polyfield.encodings.kernels.jit import jit


@jit
def weights(low, high, offsets, density, most, opaque, out, after):
    """Weights w, and transmittances after each sample, of rays low to high.

    density: sigma, delta. most: largest optical depth. opaque: the last sample of a ray takes it.
    """
    sigma, delta = density
    for ray in range(low, high):
        last = offsets[ray + 1] - 1
        depth, reached = 0.0, 1.0
        for i in range(offsets[ray], last + 1):
            tau = min(sigma[i] * delta[i], most)
            depth += most if opaque and i == last else tau
            left = math.exp(-depth)
            out[i] = reached - left
            after[i] = left
            reached = left


@jit
def weights_backward(low, high, offsets, density, most, opaque, saved, grad, out):
    """Gradient of tau: dw_i/dtau_j = T_j exp(-tau_j) for i = j, -w_i for i > j."""
    sigma, delta = density
    weight, after = saved
    zero = out.dtype.type(0)
    for ray in range(low, high):
        behind = zero
        last = offsets[ray + 1] - 1
        for i in range(last, offsets[ray] - 1, -1):
            fixed = sigma[i] * delta[i] > most or (opaque and i == last)
            out[i] = zero if fixed else grad[i] * after[i] - behind
            behind += grad[i] * weight[i]


@jit
def visible(low, high, offsets, density, most, faintest, out):
    """Whether samples of rays low to high lie before optical depth `most` and are not `faintest`.

    faintest: the least optical depth of a sample that counts.
    """
    sigma, delta = density
    for ray in range(low, high):
        depth = 0.0
        for i in range(offsets[ray], offsets[ray + 1]):
            tau = sigma[i] * delta[i]
            out[i] = not (depth > most or tau < faintest)  # not-a-number stays visible
            depth += tau


@jit
def total(low, high, offsets, weight, out):
    """out (N,): sum of the weights."""
    for ray in range(low, high):
        summed = out.dtype.type(0)
        for i in range(offsets[ray], offsets[ray + 1]):
            summed += weight[i]
        out[ray] = summed


@jit
def total_backward(low, high, offsets, grad, out):
    """out (M,): every sample takes its ray's gradient."""
    for ray in range(low, high):
        for i in range(offsets[ray], offsets[ray + 1]):
            out[i] = grad[ray]


@jit
def _weighted(first, stop, weight, values, out):
    """out (C,): weighted sum of values first to stop."""
    if values.shape[1] == 3:  # colours, held in registers
        a = b = c = out.dtype.type(0)
        for i in range(first, stop):
            w = weight[i]
            a += w * values[i, 0]
            b += w * values[i, 1]
            c += w * values[i, 2]
        out[0], out[1], out[2] = a, b, c
        return
    for k in range(values.shape[1]):
        out[k] = 0
        for i in range(first, stop):
            out[k] += weight[i] * values[i, k]


@jit
def accumulate(low, high, offsets, weight, values, out):
    """out (N, C): weighted sum of values (M, C)."""
    for ray in range(low, high):
        _weighted(offsets[ray], offsets[ray + 1], weight, values, out[ray])


@jit
def accumulate_backward(low, high, offsets, weight, values, grad, for_weight, for_values):
    """Gradients in weights (M,) and values (M, C)."""
    for ray in range(low, high):
        for i in range(offsets[ray], offsets[ray + 1]):
            dot = for_weight.dtype.type(0)
            for c in range(values.shape[1]):
                dot += grad[ray, c] * values[i, c]
                for_values[i, c] = grad[ray, c] * weight[i]
            for_weight[i] = dot


@jit
def composite(low, high, offsets, weight, rgb, mid, out):
    """Weighted sums of rgb (M, C) and mid (M,), and of the weights; out: (N, C), (N,), (N,)."""
    colour, distance, opacity = out
    for ray in range(low, high):
        far = full = opacity.dtype.type(0)
        for i in range(offsets[ray], offsets[ray + 1]):
            full += weight[i]
            far += weight[i] * mid[i]
        distance[ray], opacity[ray] = far, full
        _weighted(offsets[ray], offsets[ray + 1], weight, rgb, colour[ray])


@jit
def composite_backward(low, high, offsets, weight, rgb, mid, grad, for_weight, for_rgb):
    """Gradients in weights (M,) and rgb (M, C); grad: (N, C), (N,), (N,)."""
    colour, distance, opacity = grad
    for ray in range(low, high):
        for i in range(offsets[ray], offsets[ray + 1]):
            dot = opacity[ray] + distance[ray] * mid[i]
            for c in range(rgb.shape[1]):
                dot += colour[ray, c] * rgb[i, c]
                for_rgb[i, c] = colour[ray, c] * weight[i]
            for_weight[i] = dot


@jit
def select(kept, offsets, index, after):
    """Positions of the kept samples and the offsets of what is left; returns their number."""
    n = 0
    for ray in range(len(offsets) - 1):
        after[ray] = n
        for i in range(offsets[ray], offsets[ray + 1]):
            index[n] = i  # the place of the next one, until one is kept
            n += kept[i]
    after[-1] = n
    return n
