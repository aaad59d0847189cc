"""Pixels by number: where they are, and their colours straight from the mapped images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from polyfield.backend import Implementation, implement, resolve

Places = tuple[np.ndarray, np.ndarray, np.ndarray]

for _op in ("locate-pixels", "read-pixels"):
    _name = _op.replace("-", "_")
    implement(Implementation(op=_op, backend="torch", path=f"polyfield.data.pixels:{_name}_plain"))
    implement(
        Implementation(
            op=_op,
            backend="numba",
            path=f"polyfield.data.pixels_numba:{_name}",
            devices=("cpu",),
            requires=("numba",),
            priority=10,
        )
    )


@dataclass(frozen=True)
class Windows:
    """A window of every view, whose pixels are numbered row by row, one view after the other.

    views: which view each window is of; starts: column and row of its first pixel; sizes: width
    and height; ends: number of the pixel after its last.
    """

    views: Int64[np.ndarray, "v"]
    starts: Int64[np.ndarray, "v 2"]
    sizes: Int64[np.ndarray, "v 2"]
    ends: Int64[np.ndarray, "v"]


def centre_windows(
    views: Int64[np.ndarray, "v"], sizes: Int64[np.ndarray, "v 2"], fraction: float
) -> Windows:
    """The central part of images, a share of their width and height, at least one pixel."""
    part = np.maximum(np.rint(sizes * fraction).astype(np.int64), 1)
    return Windows(views, (sizes - part) // 2, part, np.cumsum(part.prod(axis=1)))


def locate_pixels(number: Int64[np.ndarray, "n"], windows: Windows) -> Places:
    """View, column and row of numbered pixels.

    Args:
        number: From 0 to the last of ``windows.ends``, not included.
        windows: What is numbered.
    """
    return resolve("locate-pixels", device="cpu").function(number, windows)


def locate_pixels_plain(number: Int64[np.ndarray, "n"], windows: Windows) -> Places:
    """Reference of the operation ``locate-pixels``."""
    which = np.searchsorted(windows.ends, number, side="right")
    before = windows.ends[which] - windows.sizes[which].prod(axis=1)
    row, column = np.divmod(number - before, windows.sizes[which, 0])
    start = windows.starts[which]
    return windows.views[which], column + start[:, 0], row + start[:, 1]


def read_pixels(
    data: UInt8[np.ndarray, "pixels channels"],
    starts: Int64[np.ndarray, "views"],
    widths: Int64[np.ndarray, "views"],
    places: Places,
) -> Float[np.ndarray, "n 4"]:
    """Colours and alpha in [0, 1]; alpha is 1 where there are three channels.

    Args:
        data: Rows of all images, 3 or 4 channels.
        starts: Row of each view's first pixel.
        widths: Of the views.
        places: View, column and row, each (n,).
    """
    return resolve("read-pixels", device="cpu").function(data, starts, widths, places)


def read_pixels_plain(
    data: UInt8[np.ndarray, "pixels channels"],
    starts: Int64[np.ndarray, "views"],
    widths: Int64[np.ndarray, "views"],
    places: Places,
) -> Float[np.ndarray, "n 4"]:
    """Reference of the operation ``read-pixels``."""
    view, x, y = places
    out = np.ones((len(view), 4), np.float32)
    out[:, : data.shape[1]] = data[starts[view] + y * widths[view] + x] / np.float32(255)
    return out
