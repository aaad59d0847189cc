"""The few words of SVG that charts and sheets of curves are written in."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Colours that stay apart for everybody (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def text(x: float, y: float, words: str, extra: str = "") -> str:
    """Words at a place, centred unless `extra` attributes say otherwise."""
    return f"<text x='{x:g}' y='{y:g}' {extra}>{escape(words)}</text>"


def document(width: int, height: int, parts: Sequence[str]) -> str:
    """A complete drawing on white."""
    size = f"viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
    style = "font-family='sans-serif' font-size='12' text-anchor='middle'"
    background = "<rect width='100%' height='100%' fill='white'/>"
    return "\n".join(
        [f"<svg xmlns='http://www.w3.org/2000/svg' {size} {style}>", background, *parts, "</svg>\n"]
    )
