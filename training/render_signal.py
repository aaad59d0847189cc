"""Reconstructions of a fitted signal as files, at any resolution."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyfield.data.signal import Grid
from polyfield.data.signals.load import output_grid, write_signal
from polyfield.errors import ConfigError
from polyfield.run import RunDirectory
from polyfield.training.model import Model, load

BLOCK = 1 << 17
MESH_RESOLUTION = 128  # cells per axis, where nobody asks for more


def render_signal(
    run: str | Path,
    out: str | Path,
    *,
    shape: Mapping[str, int | None] | None = None,
    rank: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write what a run holds of its signal: picture, sound, video, volume or mesh.

    Args:
        run: Run directory; its file is not needed.
        out: File to write; its ending says how.
        shape: Other sizes than the signal's own: ``width``, ``height``, ``frames``; of a shape,
            ``resolution`` cells per axis of the grid its surface is found in.
        rank: Components of a factored backbone to use (None: all).
        device: Where to evaluate.
        progress: Called with (entries done, entries).

    Raises:
        InputError, ConfigError: Bad size or output.
    """
    directory = RunDirectory(run)
    config = directory.read_config()
    about, modality = config["signal"], config["modality"]
    model = load(run, device, rank=rank)
    sizes = _sizes(modality, about["shape"], shape or {})
    grid = output_grid(about["meta"], sizes)
    start, done = time.monotonic(), 0

    def told() -> Iterator[Tensor]:
        nonlocal done
        for values in grid_values(model, grid):
            done += len(values)
            if progress:
                progress(done, grid.entries)
            yield values

    write_signal(told(), about["meta"], out, sizes)
    return {
        "run": str(run),
        "out": str(out),
        "modality": modality,
        "shape": list(grid.shape),
        "seconds": round(time.monotonic() - start, 3),
    }


def _sizes(modality: str, own: list[int], asked: Mapping[str, int | None]) -> tuple[int, ...]:
    """Sizes per coordinate axis: the signal's own where none are asked for."""
    asked = {name: value for name, value in asked.items() if value is not None}
    known = {
        "image": ("width", "height"),
        "video": ("width", "height", "frames"),
        "shape": ("resolution",),
    }.get(modality, ())
    strange = [name for name in asked if name not in known]
    if strange:
        raise ConfigError(f"a fitted {modality} takes no --{strange[0]}; leave it out")
    if modality == "shape":
        return (asked.get("resolution", MESH_RESOLUTION),) * 3
    sizes = [asked.get(name, size) for name, size in zip(known or own, own, strict=False)]
    if modality in ("image", "video") and ("width" in asked) != ("height" in asked):
        given = 0 if "width" in asked else 1
        sizes[1 - given] = max(1, round(own[1 - given] * sizes[given] / own[given]))
    return tuple(sizes) if known else tuple(own)


@torch.no_grad()
def grid_values(model: Model, grid: Grid, block: int = BLOCK) -> Iterator[Tensor]:
    """Values (n, channels) of all entries of a grid, in the order they are numbered.

    Separable backbones are asked for slabs of the grid, which they evaluate axis by axis.
    """
    axes = [
        ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1).float().to(model.device)
        for n in grid.shape
    ]
    slowest = grid.order[0]
    per_slice = grid.entries // grid.shape[slowest]
    step = max(1, block // per_slice)
    for low in range(0, grid.shape[slowest], step):
        part = list(axes)
        part[slowest] = axes[slowest][low : low + step]
        values = model.grid(part)
        if values is None:
            break
        order = (*grid.order, grid.dims)
        yield values.permute(order).reshape(-1, values.shape[-1]).float().cpu()
    else:
        return
    for _, x in grid.blocks(block):
        yield model.look(x)
