"""Handing tensors to kernels, and their work to threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from polyfield.parallel import ranges, run_tasks

# Fewer rays than this take less time than waking a thread.
_FEWEST = 512


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors as contiguous arrays, sharing memory where they are contiguous already."""
    return [t.detach().contiguous().numpy() for t in tensors]


def launch(kernel: Callable[..., Any], n: int, *arguments: Any, fewest: int = _FEWEST) -> None:
    """Call ``kernel(low, high, *arguments)`` on ranges that make up n items.

    Items must be independent of each other, so that the result does not depend on the ranges.
    """
    run_tasks(kernel, [(part.start, part.stop, *arguments) for part in ranges(n, fewest)])
