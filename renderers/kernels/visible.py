"""Numba kernels of the first look along rays; see `polyfield.renderers.visible`.

offsets: ray r owns the samples offsets[r]:offsets[r + 1]; done: how many of them were looked at;
depth: their optical depth. A wave holds the samples `at`, those of ray r at first[r]:first[r + 1].
"""

from __future__ import annotations

from polyfield.encodings.kernels.jit import jit


@jit
def next_wave(offsets, done, depth, most, size, at, first):
    """Fill `at` and `first` with up to `size` samples of every ray with light left; their number.

    Moves `done` on.
    """
    n = 0
    for ray in range(len(done)):
        first[ray] = n
        if not depth[ray] > most:
            start = offsets[ray] + done[ray]
            stop = min(start + size, offsets[ray + 1])
            for i in range(start, stop):
                at[n] = i
                n += 1
            done[ray] += stop - start
    first[len(done)] = n
    return n


@jit
def absorb(at, first, found, delta, sigma, depth):
    """Put the densities found in a wave into their places and add to the rays' optical depths."""
    for ray in range(len(depth)):
        for i in range(first[ray], first[ray + 1]):
            sigma[at[i]] = found[i]
            depth[ray] += found[i] * delta[at[i]]
