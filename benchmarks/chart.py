"""A line chart as SVG text, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polyfield.training.svg import COLOURS, document, text

Point = tuple[float, float]
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 50, 50


@dataclass(frozen=True)
class Series:
    """A line through `points`, dots on it, and a labelled mark where it ends up."""

    name: str
    points: Sequence[Point]
    dots: Sequence[Point] = ()
    mark: Point | None = None


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between low and high, about so many."""
    raw = max(high - low, 1e-9) / about
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def line_chart(title: str, note: str, labels: tuple[str, str], series: Sequence[Series]) -> str:
    """The chart, complete; x starts at 0 and both axes hold all that is given.

    Args:
        title: Above it.
        note: A line below the title.
        labels: Of the x and the y axis.
        series: What to draw.

    Raises:
        ValueError: There is nothing to draw.
    """
    everything = [p for s in series for p in (*s.points, *s.dots, *([s.mark] if s.mark else []))]
    if not everything:
        raise ValueError("a chart needs at least one point")
    high_x = max(x for x, _ in everything) * 1.08 or 1.0
    low_y, high_y = min(y for _, y in everything), max(y for _, y in everything)
    pad = 0.05 * (high_y - low_y) or 1.0
    low_y, high_y = low_y - pad, high_y + pad

    def at(point: Point) -> Point:
        x = LEFT + point[0] / high_x * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [text(WIDTH / 2, 20, title, "font-weight='bold'"), text(WIDTH / 2, 38, note)]
    for tick in ticks(low_y, high_y):
        y = at((0, tick))[1]
        parts.append(f"<path d='M{LEFT},{y}H{WIDTH - RIGHT}' stroke='#ddd'/>")
        parts.append(text(LEFT - 6, y + 4, f"{tick:g}", "text-anchor='end'"))
    for tick in ticks(0, high_x):
        parts.append(text(at((tick, low_y))[0], HEIGHT - BOTTOM + 18, f"{tick:g}"))
    parts.append(text(WIDTH / 2, HEIGHT - 10, labels[0]))
    turned = f"transform='rotate(-90 16 {HEIGHT / 2})'"
    parts.append(text(16, HEIGHT / 2, labels[1], turned))
    for i, one in enumerate(series):
        legend = HEIGHT - BOTTOM - 14 * (len(series) - i)
        parts += _series(one, COLOURS[i % len(COLOURS)], at, legend)
    return document(WIDTH, HEIGHT, parts)


def _series(one: Series, colour: str, at: Callable[[Point], Point], legend: float) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in map(at, one.points))
    parts = [f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.5'/>"]
    for x, y in map(at, one.dots):
        parts.append(f"<circle cx='{x}' cy='{y}' r='3' fill='{colour}'/>")
    if one.mark:
        x, y = at(one.mark)
        parts.append(f"<path d='M{x},{y - 6}l6,6l-6,6l-6,-6z' fill='{colour}' stroke='black'/>")
        parts.append(text(x, y - 10, f"{one.mark[1]:.2f}"))
    place = f"fill='{colour}' text-anchor='end'"
    return [*parts, text(WIDTH - RIGHT - 6, legend, one.name, place)]
