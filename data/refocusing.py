"""Refocusing light fields: pictures of a large lens, depth from focus.

Symbols as in `polyfield.data.light_field`: u, v columns and rows of the grid, s, t of pixels, D
disparity in pixels per column. Ng et al., Stanford CTSR 2005-02.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Shaped

from polyfield.data.light_field import Views, middle
from polyfield.errors import InputError

Picture = Float32[np.ndarray, "t s channels"]


def aperture(
    columns: int, rows: int, radius: float, centre: tuple[float, float] | None = None
) -> Float32[np.ndarray, "u v"]:
    """Weights of a round aperture: 1 for views at most `radius` steps from `centre`, else 0.

    >>> int(aperture(5, 5, 1.0).sum())
    5
    """
    u0, v0 = centre or (middle(columns), middle(rows))
    u, v = np.arange(columns)[:, None] - u0, np.arange(rows)[None] - v0
    return (u * u + v * v <= radius * radius + 1e-9).astype(np.float32)


def _moved(size: int, by: float) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Left and right neighbours, share of the right, and existence, of ``i - by`` along a side."""
    at = np.arange(size) - by
    low = np.floor(at)
    first = np.clip(low, 0, size - 1).astype(np.int64)
    second = np.clip(low + 1, 0, size - 1).astype(np.int64)
    return first, second, float(at[0] - low[0]), (at >= -1e-6) & (at <= size - 1 + 1e-6)


def moved(image: Shaped[np.ndarray, "t s channels"], right: float, down: float) -> tuple:
    """An image moved by a fraction of pixels, bilinearly, and where it is defined (t, s)."""
    top, below, share, rows = _moved(image.shape[0], down)
    left, beside, part, columns = _moved(image.shape[1], right)
    values = image.astype(np.float32, copy=False)
    values = values[top] * (1 - share) + values[below] * share
    values = values[:, left] * (1 - part) + values[:, beside] * part
    return values, rows[:, None] & columns


def shift_and_add(
    images: Sequence[Shaped[np.ndarray, "t s channels"]],
    moves: Sequence[tuple[float, float]],
    weights: Sequence[float] | None = None,
) -> Picture:
    """Weighted mean of images, each moved right and down first; pixels outside do not count."""
    weights = [1.0] * len(images) if weights is None else weights
    total, count = 0.0, 0.0
    for image, (right, down), weight in zip(images, moves, weights, strict=True):
        if weight:
            values, there = moved(image, right, down)
            total = total + weight * np.where(there[..., None], values, 0)
            count = count + weight * there
    if np.ndim(total) == 0:
        raise InputError("no view lies in the aperture; choose a larger one")
    return (total / np.maximum(count, 1e-9)[..., None]).astype(np.float32)


def _opened(views: Views, weights: np.ndarray | None, centre: tuple[float, float] | None) -> tuple:
    """Views of the aperture, their offsets in steps, and their weights."""
    columns, rows = views.shape[:2]
    u0, v0 = centre or (middle(columns), middle(rows))
    weights = np.ones((columns, rows), np.float32) if weights is None else weights
    chosen = [(int(u), int(v)) for u, v in np.argwhere(weights > 0)]
    offsets = np.array([(u - u0, v - v0) for u, v in chosen], float).reshape(-1, 2)
    return [views[c] for c in chosen], offsets, [float(weights[c]) for c in chosen]


def refocus(
    views: Views,
    disparity: float,
    weights: Float[np.ndarray, "u v"] | None = None,
    centre: tuple[float, float] | None = None,
    row_step: float = 1.0,
) -> Picture:
    """The picture of a large lens, sharp where the disparity is `disparity`.

    ``I(x) = sum_u w(u) L(x - (u - u0) D, u) / sum_u w(u)``, bilinear.

    Args:
        views: [u, v, t, s, channel].
        disparity: D, pixels per column.
        weights: The aperture (None: all views alike), see `aperture`.
        centre: u0, v0: whose picture it is (None: the centre view's).
        row_step: `GridGeometry.row_step`.

    Returns:
        In the units of `views`.

    Raises:
        InputError: No view has a weight.
    """
    images, offsets, shares = _opened(views, weights, centre)
    moves = [(du * disparity, dv * disparity * row_step) for du, dv in offsets]
    return shift_and_add(images, moves, shares)


def depth_from_focus(
    views: Views,
    disparities: Float[np.ndarray, "n"],
    weights: Float[np.ndarray, "u v"] | None = None,
    window: int = 2,
    row_step: float = 1.0,
) -> Float32[np.ndarray, "t s"]:
    """Disparity of every pixel of the centre view: where views refocused on it differ least.

    The variance over the aperture, averaged over channels and a square of ``2 window + 1``
    pixels, is least at the answer; a parabola through three values gives fractions of a step.
    Pixels without texture get an arbitrary answer.

    Args:
        views: [u, v, t, s, channel].
        disparities: Candidates, equally spaced, at least 3.
        weights: The aperture (None: all views).
        window: Pixels to each side.
        row_step: `GridGeometry.row_step`.

    Raises:
        InputError: Fewer than 3 candidates, or no view has a weight.
    """
    if len(disparities) < 3:
        raise InputError(f"depth from focus takes 3 disparities or more, got {len(disparities)}")
    images, offsets, shares = _opened(views, weights, None)
    squares = [np.concatenate([i := im.astype(np.float32), i * i], -1) for im in images]
    costs = []
    for disparity in disparities:
        moves = [(du * disparity, dv * disparity * row_step) for du, dv in offsets]
        mean, square = np.split(shift_and_add(squares, moves, shares), 2, axis=-1)
        costs.append(_boxed((square - mean * mean).mean(-1), window))
    cost = np.stack(costs)
    best = np.clip(cost.argmin(0), 1, len(cost) - 2)[None]
    before, here, after = (np.take_along_axis(cost, best + k, 0)[0] for k in (-1, 0, 1))
    bend = np.maximum(before - 2 * here + after, 1e-12)
    offset = np.clip(0.5 * (before - after) / bend, -1, 1)
    step = disparities[1] - disparities[0]
    return (disparities[best[0]] + offset * step).astype(np.float32)


def _boxed(image: np.ndarray, window: int) -> np.ndarray:
    """Mean over a square around every pixel, edges repeated."""
    for axis in (0, 1):
        around = [(window, window) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(image, around, mode="edge")
        parts = [np.take(padded, np.arange(image.shape[axis]) + k, axis)
                 for k in range(2 * window + 1)]  # fmt: skip
        image = np.mean(parts, axis=0)
    return image
