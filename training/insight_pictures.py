"""Draws what a backbone has learned (`polyfield.fields.insight`) into files.

Pictures and boxes become PNG sheets, curves SVG sheets; every one comes with a sentence that
says what its colours or axes mean.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from polyfield import backend
from polyfield.errors import ConfigError
from polyfield.fields.insight import Boxes, Curves, Insight, Picture
from polyfield.files import make_folder, replacing
from polyfield.training.model import load
from polyfield.training.pictures import colour_map, save_picture, side_by_side, stacked
from polyfield.training.svg import COLOURS, document, text

TILE = 128  # pixels that the longer side of a channel gets, about
COLUMNS = 4
VIEW = 320  # pixels of a view of boxes
FAINTEST = 0.25  # of the ramp, for boxes with nothing in them
PANEL, HEADER, GAP = (160, 100), 28, 18  # of a sheet of curves
# Control points from below zero over zero to above: blue, white, red.
_TWO_SIDED = torch.tensor([[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77],
                           [103, 0, 31]]) / 255  # fmt: skip


def two_sided(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Values in [-1, 1] as colours: blue below zero, white at it, red above."""
    place = (values.detach().cpu().float().clamp(-1, 1) + 1) / 2 * (len(_TWO_SIDED) - 1)
    low = place.long().clamp(max=len(_TWO_SIDED) - 2)
    part = (place - low)[..., None]
    return _TWO_SIDED[low] * (1 - part) + _TWO_SIDED[low + 1] * part


def full_scale(values: Float[Tensor, "*n"]) -> float:
    """What gets the strongest colour: 99.5 % of values are smaller in size (1 if all are zero)."""
    sizes = values.detach().abs().flatten().cpu().float().numpy()
    return float(np.percentile(sizes, 99.5)) or float(sizes.max()) or 1.0


def picture_sheet(insight: Picture) -> tuple[Float[Tensor, "tall wide 3"], str]:
    """The channels side by side, all on one scale, and what the colours mean."""
    values = insight.values if insight.values.dim() == 3 else insight.values[..., None]
    scale, signed = full_scale(values), bool((values < 0).any())
    tiles = [
        (two_sided if signed else colour_map)(_sized(channel) / scale)
        for channel in values.unbind(-1)
    ]
    columns = COLUMNS if len(tiles) > COLUMNS else len(tiles)
    rows = [side_by_side(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    sheet = stacked(rows)
    if signed:
        return sheet, f"white is 0, red {scale:.3g}, blue -{scale:.3g} and beyond"
    return sheet, f"dark is 0, bright {scale:.3g} and above"


def _sized(values: Float[Tensor, "h w"]) -> Float[Tensor, "h2 w2"]:
    """Small pictures with whole pixels enlarged, large ones averaged."""
    longer = max(values.shape)
    if longer <= TILE:
        factor = max(1, TILE // longer)
        return values.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    size = [max(1, round(n * TILE / longer)) for n in values.shape]
    return interpolate(values[None, None], size, mode="area")[0, 0]


def boxes_sheet(insight: Boxes) -> tuple[Float[Tensor, "tall wide 3"], str]:
    """Wires of all boxes along each of the first three axes, and what the colours mean.

    Boxes that hold more are brighter, and in front of others.
    """
    boxes, dims = insight.boxes, insight.boxes.shape[2]
    sizes = torch.ones(len(boxes)) if insight.values is None else insight.values.abs()
    scale = full_scale(sizes) if len(sizes) else 1.0
    order = sizes.argsort()
    shares = FAINTEST + (1 - FAINTEST) * (sizes[order] / scale).clamp(max=1)
    reach = max(1.0, float(boxes.abs().max()) if len(boxes) else 1.0)
    views = [
        colour_map(_wires(boxes[order][:, :, list(axes)], shares, reach, up=dims > 2))
        for axes in list(combinations(range(min(dims, 3)), 2)) or [(0,)]
    ]
    words = f"{len(boxes)} boxes"
    if insight.values is not None:
        words += f", faint is 0, bright {scale:.3g} and above"
    if len(views) > 1:
        words += "; views of xy, xz, yz"
    return side_by_side(views), words


def _wires(
    boxes: Float[Tensor, "n 2 q"], shares: Float[Tensor, "n"], reach: float, up: bool
) -> Float[Tensor, "h w"]:
    """Outlines of rectangles (of lengths, if there is one axis), each as bright as its share."""
    pixels = ((boxes / reach + 1) / 2 * (VIEW - 1)).round().long()
    if boxes.shape[2] == 1:
        pixels = torch.cat((pixels, pixels.new_tensor([[0], [VIEW - 1]]).expand_as(pixels)), -1)
    elif up:
        pixels[..., 1] = VIEW - 1 - pixels[..., 1].flip(1)
    view = np.zeros((VIEW, VIEW), dtype=np.float32)
    for ((left, top), (right, bottom)), share in zip(pixels.tolist(), shares.tolist(), strict=True):
        view[top, left : right + 1] = view[bottom, left : right + 1] = share
        view[top : bottom + 1, left] = view[top : bottom + 1, right] = share
    return torch.from_numpy(view)


def curve_sheet(insight: Curves) -> tuple[str, str]:
    """Every curve in a panel of its own, all on one scale, as SVG; and the scale in words."""
    everything = torch.stack(list(insight.lines.values()))
    low, high = min(0.0, float(everything.min())), max(0.0, float(everything.max()))
    first, last = float(insight.x[0]), float(insight.x[-1])
    words = f"x from {first:.3g} to {last:.3g}, y from {low:.3g} to {high:.3g}"
    columns = min(COLUMNS, len(insight.lines))
    rows = math.ceil(len(insight.lines) / columns)
    width = max(columns * (PANEL[0] + GAP) + GAP, 2 * PANEL[0])
    height = HEADER + rows * (PANEL[1] + GAP) + 2 * GAP
    parts = [text(width / 2, 18, insight.name, "font-weight='bold'")]
    across = (insight.x - first) / max(last - first, 1e-12) * PANEL[0]
    for i, (label, values) in enumerate(insight.lines.items()):
        left = GAP + i % columns * (PANEL[0] + GAP)
        top = HEADER + GAP + i // columns * (PANEL[1] + GAP)
        down = (high - torch.cat((values, torch.zeros(1)))) / max(high - low, 1e-12) * PANEL[1]
        points = torch.stack((across + left, down[:-1] + top), 1).tolist()
        parts += _panel(left, top, float(down[-1]) + top, label, points)
    parts.append(text(width / 2, height - 8, words))
    return document(width, height, parts), words


def _panel(
    left: float, top: float, zero: float, label: str, points: Sequence[Sequence[float]]
) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    frame = f"M{left},{top}h{PANEL[0]}v{PANEL[1]}h-{PANEL[0]}z"
    return [
        f"<path d='{frame}' fill='none' stroke='#ddd'/>",
        f"<path d='M{left},{zero:.1f}h{PANEL[0]}' stroke='#bbb'/>",
        f"<polyline points='{path}' fill='none' stroke='{COLOURS[0]}' stroke-width='1.2'/>",
        text(left, top - 4, label, "text-anchor='start' font-size='10' fill='#555'"),
    ]


def write_insights(insights: Iterable[Insight], folder: Path) -> list[dict[str, Any]]:
    """Draw every insight into a file of its own.

    Args:
        insights: What `Backbone.insights` gave.
        folder: Where to; made if it is not there.

    Returns:
        A row per file: ``file``, ``name``, ``kind`` (curves, picture, boxes), ``scale`` (what the
        colours or axes mean) and ``labels`` of its panels, from left to right, top to bottom.

    Raises:
        InputError: The place cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    rows = []
    for number, insight in enumerate(insights, 1):
        kind = type(insight).__name__.lower()
        stem = f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', insight.name.lower()).strip('-')}"
        file = folder / f"{stem}.{'svg' if kind == 'curves' else 'png'}"
        if isinstance(insight, Curves):
            drawing, scale = curve_sheet(insight)
            with replacing(file) as temporary:
                temporary.write_text(drawing, encoding="utf-8")
            labels = list(insight.lines)
        else:
            draw = picture_sheet if isinstance(insight, Picture) else boxes_sheet
            sheet, scale = draw(insight)
            save_picture(file, sheet)
            labels = list(insight.labels) if isinstance(insight, Picture) else []
        row = {"file": str(file), "name": insight.name, "kind": kind}
        rows.append({**row, "scale": scale, "labels": labels})
    return rows


def export_insights(
    run: str | Path, folder: str | Path, *, rank: int | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Draw what the backbone of a run has learned.

    Args:
        run: Run directory; its data are not needed.
        folder: Where to put the files.
        rank: Components of a factored backbone to use (None: all).
        device: Where to evaluate.

    Returns:
        ``run``, ``out``, ``files`` (see `write_insights`) and ``seconds``.

    Raises:
        RunError, InputError: The run or the folder cannot be used.
        ConfigError: There is nothing to see in this backbone.
    """
    start = time.monotonic()
    model = load(run, device, rank=rank)
    with backend.using(model.settings["backend"]):
        insights = model.field.backbone.insights()
    if not insights:
        name = model.settings["backbone"]["type"]
        raise ConfigError(
            f"'{name}' has nothing to show but its values; see them with 'polyfield render'"
        )
    rows = write_insights(insights, Path(folder))
    seconds = round(time.monotonic() - start, 3)
    return {"run": str(run), "out": str(folder), "files": rows, "seconds": seconds}
