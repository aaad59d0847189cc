"""The ``tabletop`` sample: a light field of 9 x 9 views with depth, made by this package.

``python -m polyfield.data.samples.tabletop_scene OUTDIR`` makes the shipped folder again. Pixels,
depths and the JSON text come out equal on every machine, for any number of workers.

The folder is in the format `light-field`: parallel cameras in a plane, their pictures rectified to
a plane through the middle of the scene, so that disparities have both signs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16

from polyfield.files import replacing, write_json
from polyfield.registry import register

SIDE, SIZE = 9, 96  # views and pixels, both ways
FOCAL, BASELINE = 120.0, 0.04  # pixels; world units between neighbouring views
ZERO_DISPARITY = 2.0  # distance of the plane that all views show at the same pixels
DEPTH = (1.05, 4.5)  # of the nearest of the table in any view, and of the wall
DEPTH_SCALE = 1 / 512  # world units per step of the depth pictures
SUBPIXELS = 4  # rays per pixel and axis

__all__ = ["description", "generate", "render_view", "tabletop"]


@register("tabletop", kind="samples", paper="made for Polyfield, CC0")
def tabletop() -> Path:
    """Balls and cards on a table, light field: 9 x 9 views of 96 x 96, with depth."""
    return Path(__file__).parent / "tabletop"


def description() -> dict:
    """The contents of ``light-field.json``."""
    return {
        "focal": FOCAL,
        "baseline": BASELINE,
        "zero_disparity": ZERO_DISPARITY,
        "depth": list(DEPTH),
        "depth_scale": DEPTH_SCALE,
    }


def _rays(row: int, column: int, across: np.ndarray, down: np.ndarray) -> tuple:
    """Origins and unit directions of the rays through image points (pixels) of one view, row by
    row, and depth per unit of distance; y leads ahead."""
    right, below = (column - SIDE // 2) * BASELINE, (row - SIDE // 2) * BASELINE
    x = (across - SIZE / 2) / FOCAL - right / ZERO_DISPARITY
    z = -(down - SIZE / 2) / FOCAL + below / ZERO_DISPARITY
    x, z = np.tile(x, len(down)), np.repeat(z, len(across))
    per_depth = 1 / np.sqrt(x * x + z * z + 1)
    directions = x * per_depth, per_depth, z * per_depth
    origins = np.full(x.shape, right), np.zeros(x.shape), np.full(x.shape, -below)
    return origins, directions, per_depth


def render_view(
    row: int, column: int
) -> tuple[UInt8[np.ndarray, "96 96 3"], UInt16[np.ndarray, "96 96"]]:
    """Ray-trace one view.

    Args:
        row: From the top, 0 to 8.
        column: From the left, 0 to 8.

    Returns:
        Colour, the mean of a pixel's 16 rays in display space; and the depth along the cameras'
        axis of the ray through its centre, in steps of `DEPTH_SCALE`.
    """
    from polyfield.data.samples.tabletop_trace import colours, trace

    fine = (np.arange(SIZE * SUBPIXELS) + 0.5) / SUBPIXELS
    total = [np.zeros((SIZE, SIZE)) for _ in range(3)]
    for sample in range(SUBPIXELS):
        down = np.arange(SIZE) + (sample + 0.5) / SUBPIXELS
        origins, directions, _ = _rays(row, column, fine, down)
        for channel, values in zip(total, colours(origins, directions), strict=True):
            parts = values.reshape(SIZE, SIZE, SUBPIXELS)
            for part in range(SUBPIXELS):
                channel += parts[..., part]
    mean = np.stack(total, axis=-1) / (SUBPIXELS * SUBPIXELS)
    rgb = np.floor(mean * 255 + 0.5).astype(np.uint8)

    centres = np.arange(SIZE) + 0.5
    origins, directions, per_depth = _rays(row, column, centres, centres)
    t, _ = trace(origins, directions)
    steps = np.floor(t * per_depth / DEPTH_SCALE + 0.5).reshape(SIZE, SIZE)
    return rgb, steps.astype(np.uint16)


def _write_view(folder: Path, index: int) -> None:
    from PIL import Image

    row, column = divmod(index, SIDE)
    name = f"view_{row:02d}_{column:02d}"
    for path, picture in zip((name, f"{name}_depth"), render_view(row, column), strict=True):
        with replacing(folder / f"{path}.png") as temporary:
            Image.fromarray(picture).save(temporary, format="PNG", optimize=True)


def generate(folder: Path, workers: int | None = None) -> None:
    """Write all pictures and ``light-field.json``; the result does not depend on `workers`.

    Raises:
        InputError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        list(pool.map(partial(_write_view, folder), range(SIDE * SIDE)))
    write_json(folder / "light-field.json", description())


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m polyfield.data.samples.tabletop_scene OUTDIR [--workers N]``."""
    parser = argparse.ArgumentParser(description="Make the tabletop sample again.")
    parser.add_argument("folder", type=Path, metavar="OUTDIR")
    parser.add_argument("--workers", type=int, help="processes (default: one per processor)")
    options = parser.parse_args(arguments)
    generate(options.folder, options.workers)


if __name__ == "__main__":
    main()
