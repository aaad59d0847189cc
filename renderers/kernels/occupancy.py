"""Numba kernels of an occupancy grid's upkeep; see `polyfield.renderers.occupancy`."""

from __future__ import annotations

import numpy as np

from polyfield.encodings.kernels.jit import jit

_ONE = np.float32(1)


@jit
def remember(occupancy, cells, values, decay, out):
    """Put the larger of faded and new values into `out`, a copy of the occupancy."""
    for i in range(cells.shape[0]):
        out[cells[i]] = occupancy[cells[i]] * decay
    for i in range(cells.shape[0]):
        out[cells[i]] = max(out[cells[i]], values[i])


@jit
def sums(low, high, rows, found):
    """Sum and number of the values >= 0 of rows low to high, into found[0] and found[1]."""
    for row in range(low, high):
        total, seen = 0.0, 0
        for z in range(rows.shape[1]):
            if rows[row, z] >= 0:
                total += rows[row, z]
                seen += 1
        found[0, row], found[1, row] = total, seen


@jit
def _row(values, limit, out):
    for z in range(values.shape[0]):
        out[z] = values[z] >= limit and values[z] >= 0


@jit
def planes(low, high, occupancy, limit, dilate, out):
    """Cells of at least `limit` in planes low to high; dilate: grown within their plane."""
    r = occupancy.shape[2]
    rows = np.zeros((3, r + 2), np.bool_)  # of y - 1, y, y + 1, with a margin
    for x in range(low, high):
        if not dilate:
            for y in range(r):
                _row(occupancy[x, y], limit, out[x, y])
            continue
        rows.fill(False)
        _row(occupancy[x, 0], limit, rows[0, 1 : r + 1])
        for y in range(r):
            ahead = rows[(y + 1) % 3, 1 : r + 1]
            if y + 1 < r:
                _row(occupancy[x, y + 1], limit, ahead)
            else:
                ahead.fill(False)
            for z in range(r):
                column = rows[0, z] | rows[1, z] | rows[2, z]
                column |= rows[0, z + 1] | rows[1, z + 1] | rows[2, z + 1]
                column |= rows[0, z + 2] | rows[1, z + 2] | rows[2, z + 2]
                out[x, y, z] = column


@jit
def between_planes(low, high, occupancy, spread, out):
    """Grow what was grown within planes across them, into the cells that are seen."""
    r = spread.shape[0]
    for x in range(low, high):
        before, after = spread[max(x - 1, 0)], spread[min(x + 1, r - 1)]
        for y in range(r):
            for z in range(r):
                near = before[y, z] | spread[x, y, z] | after[y, z]
                out[x, y, z] = near and occupancy[x, y, z] >= 0


@jit
def points(low, high, place, cells, resolution, out):
    """Points at a place of each cell, rounded step by step as the reference does."""
    size = np.float32(2 / resolution)
    for i in range(low, high):
        cell = cells[i]
        row = cell // resolution
        out[i, 0] = (np.float32(row // resolution) + place[i, 0]) * size - _ONE
        out[i, 1] = (np.float32(row % resolution) + place[i, 1]) * size - _ONE
        out[i, 2] = (np.float32(cell % resolution) + place[i, 2]) * size - _ONE
