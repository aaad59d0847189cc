"""How kernels are compiled: once per machine where a cache can be written, else per process."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numba


def jit(function: Callable) -> Callable:
    """Compile without the GIL, so that plain threads run kernels side by side.

    Numba's own parallel loops are not used: their default thread pool aborts the process when
    two Python threads (a fit and a viewer, say) enter it together.

    The machine code is kept next to the source, or in the user's cache folder where that is
    read-only; where neither can be written it is compiled anew in each process.
    """
    function = inspect.unwrap(function)  # type checkers wrap what they check
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba's "no locator available": nowhere to keep the code
        return numba.njit(nogil=True)(function)
