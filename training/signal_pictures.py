"""Pictures of signals: truth beside reconstruction, whatever the modality."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.data.signal import Grid, Signal
from polyfield.training.model import Model
from polyfield.training.pictures import save_picture, side_by_side

PREVIEW_PIXELS = 150 * 150
WAVE = (120, 600)  # height and width of the picture of a sound
SLICE = 160  # pixels of a shape's cross-section
CONTOURS = 20.0  # lines of equal distance per unit


@torch.no_grad()
def preview(model: Model, signal: Signal, out: Path, pixels: int = PREVIEW_PIXELS) -> None:
    """Save a small picture of the truth (where it is known) beside the reconstruction.

    Images and the middle frame or slice of video and volumes are thinned out to about `pixels`;
    sound is drawn as a wave, shapes as their middle cross-section.
    """
    if signal.modality == "shape":
        save_picture(out, _cross_section(model, signal))
    elif signal.modality == "audio":
        save_picture(out, torch.cat(_waves(model, signal)))
    else:
        assert signal.grid is not None
        index, shape = middle(signal.grid, pixels)
        x, truth = signal.samples.at(index)
        found = model.look(x)
        save_picture(out, side_by_side([as_colour(v.reshape(*shape, -1)) for v in (truth, found)]))


def middle(grid: Grid, pixels: int) -> tuple[Tensor, tuple[int, int]]:
    """Numbers of evenly spaced entries of the middle picture of a grid, and its height, width."""
    width, height = grid.shape[0], grid.shape[1]
    stride = max(1, math.ceil(math.sqrt(width * height / pixels)))
    columns, rows = torch.arange(0, width, stride), torch.arange(0, height, stride)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    positions = torch.zeros(x.numel(), grid.dims, dtype=torch.int64)
    positions[:, 0], positions[:, 1] = x.flatten(), y.flatten()
    for axis in range(2, grid.dims):
        positions[:, axis] = grid.shape[axis] // 2
    return grid.index(positions), (len(rows), len(columns))


def as_colour(values: Float[Tensor, "h w c"]) -> Float[Tensor, "h w 3"]:
    """Grey, grey with alpha, RGB or RGBA values as colour over white; others by their first."""
    values = values.clamp(0, 1)
    channels = values.shape[-1]
    if channels in (2, 4):
        alpha = values[..., -1:]
        values = values[..., :-1] * alpha + (1 - alpha)
    return values[..., :3] if channels in (3, 4) else values[..., :1].expand(*values.shape[:2], 3)


def _waves(model: Model, signal: Signal) -> list[Tensor]:
    """Envelopes of the first channel, truth above reconstruction."""
    height, width = WAVE
    length = signal.shape[0]
    index = torch.arange(0, length, max(1, length // (width * 64)))
    x, truth = signal.samples.at(index)
    found = model.look(x)
    column = torch.div(index * width, length, rounding_mode="floor")
    pictures = []
    for values in (truth[:, 0], found[:, 0]):
        row = ((1 - values.clamp(-1, 1)) / 2 * (height - 1)).round().long()
        low = torch.full((width,), height - 1).scatter_reduce(0, column, row, "amin")
        high = torch.zeros(width, dtype=torch.int64).scatter_reduce(0, column, row, "amax")
        rows = torch.arange(height)[:, None]
        drawn = (rows >= low) & (rows <= high)
        pictures.append((~drawn).float()[..., None].expand(height, width, 3))
    return pictures


def _cross_section(model: Model, signal: Signal) -> Tensor:
    """The middle of the box across the last axis: inside dark, outside bright."""
    axis = (torch.arange(SLICE) + 0.5) / SLICE * 2 - 1
    y, x = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    points = torch.stack([x, y, torch.zeros_like(x)], -1)
    value = model.look(points)[..., 0]
    if signal.meta.get("target") == "occupancy":
        return (1 - value.clamp(0, 1) * 0.8)[..., None].expand(SLICE, SLICE, 3)
    line = 0.85 + 0.15 * torch.cos(value * CONTOURS * 2 * math.pi)
    shade = torch.where(value < 0, 0.35, 0.95) * line
    return shade[..., None].expand(SLICE, SLICE, 3)
