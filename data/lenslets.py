"""Lenslet mosaics and two-plane rays: other forms of the same light field.

Behind each microlens lie p x p pixels, one for each direction. A mosaic holds microlens (t, s) in
rows ``t p`` to ``t p + p - 1`` and columns ``s p`` to ``s p + p - 1`` (the decoded pictures of the
Lytro archives, p = 14): pixel (row v, column u) behind it belongs to view (u, v).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped

from polyfield.errors import InputError

Views = Shaped[np.ndarray, "u v t s channels"]
Mosaic = Shaped[np.ndarray, "rows columns channels"]
Pairs = Float[np.ndarray, "*n 2"]


def mosaic_to_views(mosaic: Mosaic, pixels_per_lens: int) -> Views:
    """Views [u, v, t, s, channel] of a mosaic, a permutation of its pixels (not copied).

    Raises:
        InputError: The sides are no multiples of `pixels_per_lens`.
    """
    p = pixels_per_lens
    height, width, channels = mosaic.shape
    if p < 1 or height % p or width % p:
        raise InputError(
            f"a mosaic of {width}x{height} pixels does not hold whole lenses of {p}x{p}; expected "
            "sides that are multiples of pixels_per_lens: crop the mosaic or correct the number"
        )
    parts = mosaic.reshape(height // p, p, width // p, p, channels)
    return parts.transpose(3, 1, 0, 2, 4)


def views_to_mosaic(views: Views) -> Mosaic:
    """The mosaic of as many directions up as across; the inverse of `mosaic_to_views`.

    Raises:
        InputError: The grid is not square.
    """
    columns, rows, height, width, channels = views.shape
    if columns != rows:
        raise InputError(f"a mosaic has as many rows of views as columns, got {columns}x{rows}")
    return views.transpose(2, 1, 3, 0, 4).reshape(height * rows, width * columns, channels)


def central_views(views: Views, count: int) -> Shaped[np.ndarray, "count count t s channels"]:
    """The `count` x `count` views in the middle: outer ones see the edge of the lens.

    Raises:
        InputError: There are not as many.
    """
    if not 1 <= count <= min(views.shape[:2]):
        raise InputError(
            f"cannot use {count}x{count} of {views.shape[0]}x{views.shape[1]} views; expected 1 to "
            f"{min(views.shape[:2])}"
        )
    u, v = ((total - count) // 2 for total in views.shape[:2])
    return views[u : u + count, v : v + count]


def slab_rays(uv: Pairs, st: Pairs, z_uv: float = 0.0, z_st: float = 1.0) -> tuple:
    """Origins and directions (..., 3) of rays through (u, v, z_uv) and (s, t, z_st).

    Example:
        >>> o, d = slab_rays(np.array([1.0, 0.0]), np.array([0.0, 2.0]))
        >>> o.tolist(), d.tolist()
        ([1.0, 0.0, 0.0], [-1.0, 2.0, 1.0])
    """
    level = np.zeros_like(uv[..., :1])
    return np.concatenate([uv, level + z_uv], -1), np.concatenate(
        [st - uv, level + z_st - z_uv], -1
    )


def slab_coordinates(
    origins: Float[np.ndarray, "*n 3"],
    directions: Float[np.ndarray, "*n 3"],
    z_uv: float = 0.0,
    z_st: float = 1.0,
) -> tuple[Pairs, Pairs]:
    """(u, v) and (s, t): where rays cross the two planes; `slab_rays` backwards."""
    slope = directions[..., :2] / directions[..., 2:]
    uv, st = (origins[..., :2] + (z - origins[..., 2:]) * slope for z in (z_uv, z_st))
    return uv, st
