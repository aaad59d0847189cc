"""How kernels are compiled: once per machine where a cache can be written, else per process."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numba

# Fused multiply-adds and sums in vector order: for sums whose rounding is nobody's contract.
# Never "nnan" or "ninf": what is not a number must stay visible.
REORDER = frozenset({"contract", "reassoc", "nsz"})


def jit(
    function: Callable, fastmath: frozenset[str] = frozenset(), inline: bool = False
) -> Callable:
    """Compile without the GIL, so that plain threads run kernels side by side.

    The machine code is kept next to the source, or in the user's cache folder where that is
    read-only; where neither can be written it is compiled anew in each process.

    Args:
        function: The kernel.
        fastmath: LLVM's licences to change rounding; none by default.
        inline: Make it part of the machine code of the kernels that call it, for arguments that
            cost more to pass than to use (arrays are seven words each).
    """
    function = inspect.unwrap(function)  # type checkers wrap what they check
    options = {"nogil": True, "fastmath": set(fastmath), "forceinline": inline}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba's "no locator available": nowhere to keep the code
        return numba.njit(**options)(function)
