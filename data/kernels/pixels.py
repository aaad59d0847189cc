"""Numba kernels of pixels; see `polyfield.data.pixels`."""

from __future__ import annotations

import numpy as np

from polyfield.encodings.kernels.jit import jit


@jit
def locate(low, high, number, windows, out):
    """out (3, N): view, column and row of every number."""
    views, starts, sizes, ends = windows
    for i in range(low, high):
        first, last = 0, len(ends) - 1  # the first window that ends beyond the number
        while first < last:
            middle = (first + last) // 2
            if ends[middle] > number[i]:
                last = middle
            else:
                first = middle + 1
        width, height = sizes[first, 0], sizes[first, 1]
        within = number[i] - (ends[first] - width * height)
        row = within // width
        out[0, i] = views[first]
        out[1, i] = starts[first, 0] + within - row * width
        out[2, i] = starts[first, 1] + row


@jit
def read(low, high, data, starts, widths, places, out, missing):
    """out (N, 4): the pixels' values over 255, one where there is no fourth.

    missing (1,): set if a place is not in the data.
    """
    view, x, y = places
    channels, white = data.shape[1], np.float32(255)
    for i in range(low, high):
        if not 0 <= view[i] < len(starts):
            missing[0] = 1
            continue
        at = starts[view[i]] + y[i] * widths[view[i]] + x[i]
        if not 0 <= at < len(data):
            missing[0] = 1
            continue
        for c in range(channels):
            out[i, c] = np.float32(data[at, c]) / white
        if channels == 3:
            out[i, 3] = np.float32(1)
