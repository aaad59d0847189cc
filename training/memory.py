"""Running out of memory is answered by smaller pieces, not by a crash."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
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


def in_chunks(
    work: Callable[[int, int], T],
    total: int,
    chunk: int,
    resize: Callable[[T, int], int] | None = None,
) -> list[T]:
    """Call ``work(start, stop)`` over range(total) in chunks, halved when memory runs out.

    An empty range is one empty chunk, so that shapes survive.

    Args:
        work: Does one chunk.
        total: How much there is to do.
        chunk: Size of the first chunk.
        resize: Size of the next chunk from a result and its chunk's size; never exceeds what
            memory allowed.
    """
    results: list[T] = []
    start, limit = 0, total
    while start < total or not results:
        stop = min(start + chunk, total)
        try:
            results.append(work(start, stop))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or chunk <= SMALLEST_CHUNK:
                raise
            chunk = limit = chunk // 2
            logger.warning("out of memory: going on with chunks of %d rays", chunk)
            continue
        if resize is not None:
            chunk = max(SMALLEST_CHUNK, min(limit, resize(results[-1], stop - start)))
        start = stop
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


# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Ask glibc to reuse freed memory instead of giving it back after every operation.

    A training step allocates and frees the same tens of megabytes again and again; handing
    them back costs a page fault per 4 KB the next time (measured: 38 % of a step's processor
    time). For the programs to call, as it concerns the whole process. Returns whether it worked;
    other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all([bool(libc.mallopt(key, value)) for key, value in settings])
