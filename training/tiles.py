"""Frames of a model: whole and timed, or tile by tile from coarse to fine, to be shown and dropped.

x, y: column and row of a pixel; step: distance between the pixels of a level.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.errors import ConfigError
from polyfield.renderers.cameras import Cameras
from polyfield.training.model import FIRST_CHUNK, RENDER_SAMPLES, Model

STEPS = (8, 4, 2, 1)
TILE = 64


@dataclass(frozen=True)
class Tile:
    """Pixels of a frame that have just been rendered, on the CPU.

    x, y: which ones; step: how far apart the pixels of their level are; rgb in [0, 1]; depth:
    distance t along the rays; opacity in [0, 1].
    """

    x: Int64[Tensor, "n"]
    y: Int64[Tensor, "n"]
    step: int
    rgb: Float[Tensor, "n 3"]
    depth: Float[Tensor, "n"]
    opacity: Float[Tensor, "n"]


class Frame:
    """A frame that fills up with tiles; pixels that are not there yet show their nearest one.

    `rgb` (height, width, 3), `depth` and `opacity` (height, width) are updated in place, on the
    CPU, and are zero before the first tile; `pixels` counts those that were rendered.
    """

    def __init__(self, width: int, height: int):
        self.rgb = torch.zeros(height, width, 3)
        self.depth = torch.zeros(height, width)
        self.opacity = torch.zeros(height, width)
        self.pixels = 0

    @property
    def complete(self) -> bool:
        """Whether every pixel was rendered."""
        return self.pixels == self.depth.numel()

    def add(self, tile: Tile) -> None:
        """Put in a tile; tiles come in the order of `render_tiles`, coarse ones first."""
        height, width = self.depth.shape
        rows, in_rows = _nearest(tile.y, tile.step, height)
        columns, in_columns = _nearest(tile.x, tile.step, width)
        pixel, i, j = (in_rows[:, :, None] & in_columns[:, None, :]).nonzero(as_tuple=True)
        at = rows[pixel, i], columns[pixel, j]
        for image, values in zip(
            (self.rgb, self.depth, self.opacity), (tile.rgb, tile.depth, tile.opacity), strict=True
        ):
            image[at] = values[pixel].to(image.dtype)
        self.pixels += len(tile.x)


def _nearest(at: Tensor, step: int, size: int) -> tuple[Tensor, Tensor]:
    """Positions (n, k) along one side that pixels at multiples of `step` may fill, and which do.

    The last one of a side fills what is left of it.
    """
    offset = torch.arange(-(step // 2), step, device=at.device)
    reach = torch.where(at + step >= size, step, step - step // 2)[:, None]
    where = at[:, None] + offset
    return where, (where >= 0) & (where < size) & (offset < reach)


def plan_tiles(
    width: int, height: int, tile: int = TILE, steps: Sequence[int] = STEPS
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Steps, columns and rows of the tiles of a frame: every pixel of the last level just once.

    Levels come one after the other; within one, tiles go from the centre of the frame outwards.

    Args:
        width: Of the frame, in pixels.
        height: Of the frame.
        tile: Side of a tile, in pixels of its level.
        steps: Distances between the pixels of the levels, each a divisor of the one before.
    """
    before = None
    for step in steps:
        columns, rows = -(-width // step), -(-height // step)
        corners = [(i, j) for j in range(0, rows, tile) for i in range(0, columns, tile)]
        corners.sort(key=lambda c: _off_centre(c[0], tile, columns) + _off_centre(c[1], tile, rows))
        for i, j in corners:
            x = torch.arange(i, min(i + tile, columns)) * step
            y = torch.arange(j, min(j + tile, rows)) * step
            y, x = (v.reshape(-1) for v in torch.meshgrid(y, x, indexing="ij"))
            if before is not None:
                new = (x % before != 0) | (y % before != 0)
                x, y = x[new], y[new]
            if len(x):
                yield step, x, y
        before = step


def _off_centre(start: int, tile: int, size: int) -> float:
    """Squared distance of a tile's centre from the middle, along one side."""
    return ((start + min(start + tile, size)) / 2 - size / 2) ** 2


def render_tiles(
    model: Model,
    cameras: Cameras,
    view: int,
    background: Float[Tensor, "3"] | None = None,
    *,
    tile: int = TILE,
    steps: Sequence[int] = STEPS,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Tile]:
    """Render a view progressively: every 8th pixel of it, every 4th, every 2nd, all.

    No pixel is rendered twice; together the tiles are what `Model.render` gives, to rounding.

    Args:
        model: A fitted model.
        cameras: Cameras in the box of the run (``read_cameras(RunDirectory(run)).cameras`` of
            `polyfield.training.cameras`), sized as the frame is to be (`Cameras.resized`).
        view: Index of the view.
        background: Colour behind the scene (None: black).
        tile: Side of a tile in pixels of its level; smaller ones can be dropped sooner and cost
            more.
        steps: Distances between the pixels of the levels, each a divisor of the one before;
            1 at the end makes the frame complete.
        stop: Asked before every tile; the frame is dropped when it says True.

    Raises:
        ConfigError: `view`, `tile` or `steps` cannot be used.
    """
    if not 0 <= view < len(cameras):
        raise ConfigError(f"there are {len(cameras)} cameras, counted from 0; got view {view}")
    if tile < 1:
        raise ConfigError(f"a tile has at least 1 pixel a side, got {tile}")
    pairs = zip(steps[:-1], steps[1:], strict=True)
    if not steps or min(steps) < 1 or any(a == b or a % b for a, b in pairs):
        raise ConfigError(
            f"steps of tiles must be divisors of the ones before, such as 8, 4, 2, 1; got {steps}"
        )
    return _render_tiles(model, cameras, view, background, tile, steps, stop)


def _render_tiles(
    model: Model,
    cameras: Cameras,
    view: int,
    background: Tensor | None,
    tile: int,
    steps: Sequence[int],
    stop: Callable[[], bool] | None,
) -> Iterator[Tile]:
    width, height = (int(v) for v in cameras.sizes[view])
    first, densest = FIRST_CHUNK, 1.0
    for step, x, y in plan_tiles(width, height, tile, steps):
        if stop is not None and stop():
            return
        xy = torch.stack([x, y], -1).to(cameras.c2w) + 0.5
        views = torch.full(xy.shape[:1], view, dtype=torch.int64, device=xy.device)
        parts = model.render(cameras.rays(views, xy), background, first=first)
        densest = max(densest, int(parts["samples"]) / len(x))
        first = max(1, int(RENDER_SAMPLES / densest))
        rgb, depth, opacity = (parts[name].cpu() for name in ("rgb", "depth", "opacity"))
        yield Tile(x, y, step, rgb, depth, opacity)


@torch.no_grad()
def render_frame(
    model: Model, cameras: Cameras, view: int, background: Float[Tensor, "3"] | None = None
) -> tuple[dict[str, Tensor], float]:
    """A whole view, (height, width, ...) on the CPU, and the seconds from its camera to there.

    See `Model.render` for what there is. Every ``seconds_per_view`` is the median of these.
    """
    start = time.monotonic()
    parts = model.render(cameras.image_rays(view), background)
    parts = {name: value.cpu() for name, value in parts.items()}
    return parts, time.monotonic() - start
