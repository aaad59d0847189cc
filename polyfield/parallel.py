"""Plain threads for compiled kernels: as many as torch uses, one pool for the whole process.

Kernels release the GIL, so Python threads run them side by side. Numba's own parallel loops are
not used: their default thread pool aborts the process when two Python threads (a fit and a
viewer, say) enter it together. Nothing here decides what a result is: tasks write to places of
their own, so results depend on how the work is cut, never on who does which piece when.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_THREADS = 256


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """CPU tensors as contiguous arrays, in place of those that are contiguous already."""
    return [t.detach().contiguous().numpy() for t in tensors]


class _Helpers:
    """Threads that wait for work; there are as many as were ever wanted at once."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[_Run] = queue.SimpleQueue()
        self._count = 0
        self._lock = threading.Lock()

    def call(self, run: _Run, count: int) -> None:
        """Have `count` of them look at the work."""
        if self._count < count:
            with self._lock:
                for i in range(self._count, count):
                    threading.Thread(target=self._serve, name=f"polyfield-{i}", daemon=True).start()
                self._count = max(self._count, count)
        for _ in range(count):
            self._inbox.put(run)

    def _serve(self) -> None:
        while True:
            self._inbox.get().help()


@cache
def _helpers(process: int) -> _Helpers:
    """One set per process: a forked one has none of its parent's threads."""
    return _Helpers()


class _Run:
    """Tasks, and who is at work on them. Handing them over costs a few microseconds: a step of a
    fit does it two dozen times, and an executor's futures took ten times as long."""

    def __init__(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]):
        self._function, self._todo = function, deque(tasks)
        self._lock = threading.Lock()
        self._open, self._helping = True, 0
        self._ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work(self) -> None:
        """Do tasks until none is left; after an error no more are begun."""
        try:
            while True:
                try:
                    task = self._todo.popleft()
                except IndexError:
                    return
                self._function(*task)
        finally:
            self._todo.clear()

    def help(self) -> None:
        """`work` on another thread, unless it is over already."""
        with self._lock:
            if not self._open:
                return
            self._helping += 1
        with self:
            self.work()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        """A helper has ended; what it raised is raised again where the work came from."""
        self._ended.put(error)
        return True

    def close(self) -> list[BaseException]:
        """Wait for those who help; what went wrong there."""
        with self._lock:
            self._open = False
        found = [self._ended.get() for _ in range(self._helping)]
        return [error for error in found if error is not None]


def run_tasks(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Call ``function(*task)`` for every task, the first ones first, on torch's number of threads.

    Raises:
        Exception: What a task raised, after all that were begun have ended.
    """
    helpers = min(torch.get_num_threads(), len(tasks), MOST_THREADS) - 1
    if helpers < 1:
        for task in tasks:
            function(*task)
        return
    run = _Run(function, tasks)
    _helpers(os.getpid()).call(run, helpers)
    try:
        run.work()
    finally:  # the arrays must outlive every task that writes to them
        errors = run.close()
    if errors:
        raise errors[0]


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
