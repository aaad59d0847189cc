"""Plain threads for compiled kernels: as many as torch uses, one pool for the whole process.

Kernels release the GIL, so Python threads run them side by side. Numba's own parallel loops are
not used: their default thread pool aborts the process when two Python threads (a fit and a
viewer, say) enter it together. Nothing here decides what a result is: tasks write to places of
their own, so results depend on how the work is cut, never on who does which piece when.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_THREADS = 256


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """CPU tensors as contiguous arrays, in place of those that are contiguous already."""
    return [t.detach().contiguous().numpy() for t in tensors]


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Waiting workers, begun as they are needed; a forked process, which has none of its
    parent's threads, makes its own."""
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="polyfield")


def run_tasks(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Call ``function(*task)`` for every task, the first ones first, on torch's number of threads.

    Raises:
        Exception: What a task raised, after all that were begun have ended.
    """
    todo: queue.SimpleQueue = queue.SimpleQueue()
    for task in tasks:
        todo.put(task)

    def work() -> None:
        while True:
            try:
                task = todo.get_nowait()
            except queue.Empty:
                return
            function(*task)

    helpers = min(torch.get_num_threads(), len(tasks), MOST_THREADS) - 1
    if helpers < 1:
        return work()
    pool = _pool(os.getpid())
    running = [pool.submit(work) for _ in range(helpers)]
    try:
        work()
    finally:  # the arrays must outlive every task that writes to them
        begun = [future for future in running if not future.cancel()]
        for future in begun:
            future.exception()
    for future in begun:
        future.result()


def ranges(n: int, smallest: int, per_thread: int = 4, largest: int | None = None) -> list[range]:
    """Cut ``range(n)`` into pieces for all threads, none smaller than `smallest` but the last.

    Args:
        n: Length of the whole; 0 gives no pieces.
        smallest: Fewer items are not worth a task of their own.
        per_thread: Pieces per thread, so that uneven ones even out.
        largest: More items in one piece would not stay in the cache.
    """
    size = max(smallest, -(-n // (per_thread * torch.get_num_threads())))
    size = size if largest is None else min(size, largest)
    return [range(low, min(low + size, n)) for low in range(0, n, size)]
