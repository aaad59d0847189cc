"""Handing the work of kernels to threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyfield.parallel import ranges, run_tasks

# Fewer rays than this take less time than waking a thread.
_FEWEST = 512


def launch(kernel: Callable[..., Any], n: int, *arguments: Any, fewest: int = _FEWEST) -> None:
    """Call ``kernel(low, high, *arguments)`` on ranges that make up n items.

    Items must be independent of each other, so that the result does not depend on the ranges.
    """
    run_tasks(kernel, [(part.start, part.stop, *arguments) for part in ranges(n, fewest)])
