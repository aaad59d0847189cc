"""Pixels by compiled CPU kernels; signatures as in `polyfield.data.pixels`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64, UInt8

from polyfield.data.pixels import Places, Windows
from polyfield.renderers.kernels.launch import launch

_FEWEST = 1024  # pixels that are worth a task of their own: most are not in the cache


def locate_pixels(number: Int64[np.ndarray, "n"], windows: Windows) -> Places:
    """Compiled form of `polyfield.data.pixels.locate_pixels_plain`."""
    from polyfield.data.kernels import pixels as kernels

    out = np.empty((3, len(number)), np.int64)
    table = (windows.views, windows.starts, windows.sizes, windows.ends)
    launch(kernels.locate, len(number), number, table, out, fewest=2 * _FEWEST)
    return out[0], out[1], out[2]


def read_pixels(
    data: UInt8[np.ndarray, "pixels channels"],
    starts: Int64[np.ndarray, "views"],
    widths: Int64[np.ndarray, "views"],
    places: Places,
) -> Float[np.ndarray, "n 4"]:
    """Compiled form of `polyfield.data.pixels.read_pixels_plain`.

    Raises:
        IndexError: A pixel is not in the data.
    """
    from polyfield.data.kernels import pixels as kernels

    out = np.empty((len(places[0]), 4), np.float32)
    missing = np.zeros(1, np.int64)
    launch(kernels.read, len(out), data, starts, widths, places, out, missing, fewest=_FEWEST)
    if missing[0]:
        raise IndexError(f"there are no such pixels in {len(starts)} views")
    return out
