"""What the machine can do at best: multiply matrices, move memory, fetch rows of a table.

Kernels are judged by the share of these rates that they reach. All on torch's number of threads,
all in units per second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from polyfield.encodings.kernels.jit import jit
from polyfield.parallel import ranges, run_tasks

SIDES = (256, 512, 768, 1024)  # of matrices that stay in the cache
BEYOND_CACHE = 256 << 20  # bytes
ROW = 4  # float32 numbers: what a hash grid of four features fetches per node
TABLES = {"gather_2mb": 2 << 20, "gather_12mb": 12 << 20, "gather_48mb": 48 << 20}
FETCHED = 1 << 21  # rows
_KEPT = np.uintp(1023)  # sums go round in a small buffer: no chain of additions to wait for


def best_seconds(work: Callable[[], Any], seconds: float, fewest: int = 3) -> float:
    """The shortest of many runs, for about this long in all; the first is not counted."""
    work()
    shortest, end, runs = float("inf"), time.perf_counter() + seconds, 0
    while runs < fewest or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - start)
        runs += 1
    return shortest


def ceilings(seconds: float) -> dict[str, float]:
    """General figures of the machine.

    Args:
        seconds: Time to spend on each.

    Returns:
        ``gemm`` in flop/s, ``copy`` and ``scale`` in bytes read and written per second beyond the
        cache, ``gather_*`` in rows of 16 bytes per second, at random, from tables of these sizes.
    """
    rates = {"gemm": max(gemm(side, seconds / len(SIDES)) for side in SIDES)}
    rates["copy"], rates["scale"] = copy(BEYOND_CACHE, seconds), scale(BEYOND_CACHE, seconds)
    for name, size in TABLES.items():
        rows = size // (4 * ROW)
        index = np.random.default_rng(0).integers(rows, size=FETCHED, dtype=np.uint32)
        rates[name] = gather(index, np.ones(rows * ROW, np.float32), ROW, seconds)
    return rates


def gemm(side: int, seconds: float) -> float:
    """Floating-point operations per second of a product of square matrices."""
    a, b, out = (torch.rand(side, side) for _ in range(3))
    return 2 * side**3 / best_seconds(lambda: torch.mm(a, b, out=out), seconds)


def copy(size: int, seconds: float) -> float:
    """Bytes read and written per second: one half of `size` bytes to the other."""
    source, target = torch.ones(2, size // 8)
    return size / best_seconds(lambda: target.copy_(source), seconds)


def scale(size: int, seconds: float) -> float:
    """Bytes read and written per second: `size` bytes multiplied in place, as Adam updates."""
    values = torch.ones(size // 4)
    return 2 * size / best_seconds(lambda: values.mul_(1.0), seconds)


@jit
def _fetch(start, stop, index, table, width, sums):
    """Add up the first two, or four, numbers of each of the rows ``index[start:stop]``."""
    for i in range(np.uintp(start), np.uintp(stop)):
        at = np.uintp(index[i]) * np.uintp(width)
        total = table[at] + table[at + np.uintp(1)]
        if width >= 4:
            total += table[at + np.uintp(2)] + table[at + np.uintp(3)]
        sums[i & _KEPT] = total


def gather(index: np.ndarray, table: np.ndarray, width: int, seconds: float) -> float:
    """Rows per second of a bare loop over rows of a table.

    Args:
        index: (n,) uint32, the rows in the order they are fetched.
        table: Flat float32.
        width: Numbers of a row; four of them, or two of fewer, are read.
        seconds: Time to spend.
    """
    table = np.concatenate([table, np.zeros(ROW, np.float32)])
    parts = ranges(len(index), 1 << 14)
    sums = [np.zeros(1024, np.float32) for _ in parts]
    tasks = [(p.start, p.stop, index, table, width, s) for p, s in zip(parts, sums, strict=True)]
    return len(index) / best_seconds(lambda: run_tasks(_fetch, tasks), seconds)
