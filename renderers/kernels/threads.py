"""Sharing rays among plain threads, as many as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

# Fewer rays are not worth a task of their own.
_FEWEST = 512


def share(kernel: Callable[..., Any], n: int, *arguments: Any, fewest: int = _FEWEST) -> None:
    """Call ``kernel(low, high, *arguments)`` on ranges that make up n rays.

    The kernel releases the GIL. Rays are independent of each other, so the result does not
    depend on the ranges.
    """
    threads = torch.get_num_threads()
    size = max(fewest, -(-n // (4 * threads)))
    ranges = [(low, min(low + size, n)) for low in range(0, n, size)]
    if threads == 1 or len(ranges) < 2:
        return None if n == 0 else kernel(0, n, *arguments)
    with ThreadPoolExecutor(min(threads, len(ranges))) as pool:
        for done in [pool.submit(kernel, low, high, *arguments) for low, high in ranges]:
            done.result()
    return None
