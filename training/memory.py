"""Running out of memory is answered by smaller pieces, not by a crash."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
logger = logging.getLogger("polyfield")
SMALLEST_CHUNK = 64


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def halving_on_out_of_memory(
    work: Callable[[int, int], T], total: int, chunk: int
) -> list[T]:
    """Call ``work(start, stop)`` over range(total) in chunks, halving them when memory runs out.

    An empty range is one empty chunk, so that shapes survive.
    """
    results: list[T] = []
    start = 0
    while start < total or not results:
        try:
            results.append(work(start, min(start + chunk, total)))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or chunk <= SMALLEST_CHUNK:
                raise
            chunk //= 2
            logger.warning("out of memory: going on with chunks of %d rays", chunk)
            continue
        start += chunk
    return results


def available_bytes() -> int | None:
    """Free memory of the machine in bytes, where the system tells (Linux), else None."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
