"""The ``orrery`` sample: 120 pictures with depth of a clockwork of planets, made by this package.

``python -m polyfield.data.samples.orrery_scene OUTDIR`` makes the shipped folder again. Pixels,
depths and the JSON text come out equal on every machine, for any number of workers (see
`orrery_surface` for how); the bytes of the PNG containers depend on the zlib that packed them.

The folder is in the layout of the NeRF synthetic scenes: straight-alpha RGBA, OpenGL
camera-to-world matrices, ``camera_angle_x``. Each frame also names a 16-bit picture of depth:
``depth_kind`` "z" is the distance from the camera's plane along its optical axis, in steps of
``depth_scale`` world units, of the ray through the pixel's centre; 0 where nothing is hit.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8, UInt16

from polyfield.data.samples.orrery_surface import surface_distance, unit
from polyfield.files import replacing, write_json
from polyfield.registry import register

SIZE, SPLITS = 176, {"train": 100, "test": 20}
CAMERA_RADIUS, HALF_WIDTH = 4.0, 0.32  # world units; tangent of half the field of view
CAMERA_ANGLE_X = 0.6194058890849125  # 2 atan(HALF_WIDTH), radians
DEPTH_SCALE = 1 / 512  # world units per step of the depth pictures
SUBPIXELS = 4  # rays per pixel and axis
# Roberts' R2 sequence: steps in height, and cos and sin of the steps in azimuth (0.5698... turns).
RISE, TURN = 0.7548776662466927, (-0.9052538583630299, -0.4248711003573289)
EIGHTEEN = (0.9510565162951535, 0.3090169943749474)  # cos and sin of 18 degrees

__all__ = ["cameras", "generate", "orrery", "render_view", "surface_distance", "transforms"]


@register("orrery", kind="samples", paper="made for Polyfield, CC0")
def orrery() -> Path:
    """A clockwork of planets, 176 x 176, 100 + 20 views: glossy, thin, twisted; with depth."""
    return Path(__file__).parent / "orrery"


def _turning(start: tuple[float, float], by: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """Unit vectors of the plane, each the one before turned by the angle `by` (cos, sin)."""
    c, s = start
    while True:
        yield c, s
        c, s = c * by[0] - s * by[1], c * by[1] + s * by[0]


def look_at_origin(height: float, azimuth: tuple[float, float]) -> Float64[np.ndarray, "4 4"]:
    """OpenGL camera-to-world matrix of a camera at `CAMERA_RADIUS` that sees the origin.

    Args:
        height: Sine of the elevation, in (-1, 1).
        azimuth: cos and sin of the azimuth.
    """
    level = float(np.sqrt(np.float64(1 - height * height)))
    x, y, z = unit((level * azimuth[0], level * azimuth[1], height))
    rx, ry, _ = unit((-y, x, 0.0))
    up = (-z * ry, z * rx, x * ry - y * rx)
    c2w = np.eye(4)
    for row, right in enumerate((rx, ry, 0.0)):
        back = (x, y, z)[row]
        c2w[row] = right, up[row], back, CAMERA_RADIUS * back
    return c2w


def cameras(split: str) -> Float64[np.ndarray, "views 4 4"]:
    """Camera-to-world matrices of a split ("train" or "test").

    Training views cover the upper hemisphere and a little below evenly, and so does every
    leading part of them; test views are one turn on an orbit that rises and falls twice.
    """
    count = SPLITS[split]
    if split == "train":
        heights = [-0.14 + 1.1 * ((0.5 + i * RISE) % 1) for i in range(count)]
        azimuths = _turning((1.0, 0.0), TURN)
    else:
        swings = [abs(i % 10 - 5) / 5 for i in range(count)]
        heights = [0.08 + 0.74 * s * s * (3 - 2 * s) for s in swings]
        azimuths = _turning(unit((0.8, -0.6, 0.0))[:2], EIGHTEEN)
    return np.stack([look_at_origin(h, a) for h, a in zip(heights, azimuths, strict=False)])


def transforms(split: str) -> dict:
    """The contents of ``transforms_<split>.json``."""
    frames = [
        {
            "file_path": f"./{split}/r_{index:03d}",
            "depth_file_path": f"./{split}/r_{index:03d}_depth.png",
            "transform_matrix": c2w.tolist(),
        }
        for index, c2w in enumerate(cameras(split))
    ]
    return {
        "camera_angle_x": CAMERA_ANGLE_X,
        "w": SIZE,
        "h": SIZE,
        "depth_kind": "z",
        "depth_scale": DEPTH_SCALE,
        "frames": frames,
    }


def _rays(c2w: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> tuple:
    """Origins and unit directions of the rays through a grid of image points (in pixels), row by
    row, and z-depth per unit of distance."""
    u = (columns / SIZE * 2 - 1) * HALF_WIDTH
    v = (1 - rows / SIZE * 2) * HALF_WIDTH
    u, v = np.tile(u, len(rows)), np.repeat(v, len(columns))
    per_z = 1 / np.sqrt(u * u + v * v + 1)
    directions = tuple((u * row[0] + v * row[1] - row[2]) * per_z for row in c2w[:3])
    origins = tuple(np.full(u.shape, row[3]) for row in c2w[:3])
    return origins, directions, per_z


def _gather(values: np.ndarray) -> np.ndarray:
    """Sum of the rays of each pixel: (SIZE, SIZE * SUBPIXELS) to (SIZE, SIZE), left to right."""
    parts = values.reshape(SIZE, SIZE, SUBPIXELS)
    total = parts[..., 0].astype(np.float64)
    for sample in range(1, SUBPIXELS):
        total = total + parts[..., sample]
    return total


def render_view(
    c2w: Float64[np.ndarray, "4 4"],
) -> tuple[UInt8[np.ndarray, "176 176 4"], UInt16[np.ndarray, "176 176"]]:
    """Ray-trace one view (a second or two).

    Returns:
        Straight-alpha RGBA, where alpha is the share of the pixel's 16 rays that hit and colour
        the mean of theirs in display space; and z-depth in steps of `DEPTH_SCALE`.
    """
    from polyfield.data.samples.orrery_trace import colours, trace

    columns = (np.arange(SIZE * SUBPIXELS) + 0.5) / SUBPIXELS
    total, count = [np.zeros((SIZE, SIZE)) for _ in range(3)], np.zeros((SIZE, SIZE))
    for sample in range(SUBPIXELS):
        rows = np.arange(SIZE) + (sample + 0.5) / SUBPIXELS
        origins, directions, _ = _rays(c2w, columns, rows)
        colour, hit = colours(origins, directions)
        total = [a + _gather(b) for a, b in zip(total, colour, strict=True)]
        count = count + _gather(hit)
    mean = [c / np.maximum(count, 1) for c in total]
    alpha = count / (SUBPIXELS * SUBPIXELS)
    rgba = np.stack([np.floor(c * 255 + 0.5) for c in (*mean, alpha)], axis=-1).astype(np.uint8)

    centres = np.arange(SIZE) + 0.5
    origins, directions, per_z = _rays(c2w, centres, centres)
    hits = trace(origins, directions)
    z = np.where(np.isfinite(hits.t), hits.t, 0.0) * per_z
    steps = np.where(count > 0, np.floor(z / DEPTH_SCALE + 0.5).reshape(SIZE, SIZE), 0.0)
    return rgba, steps.astype(np.uint16)


def _write_view(folder: Path, frame: dict) -> None:
    from PIL import Image

    pictures = render_view(np.array(frame["transform_matrix"]))
    names = frame["file_path"] + ".png", frame["depth_file_path"]
    for name, picture in zip(names, pictures, strict=True):
        with replacing(folder / name) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG", optimize=True)


def generate(folder: Path, workers: int | None = None) -> None:
    """Write all pictures and the two transforms files; the result does not depend on `workers`.

    Raises:
        InputError: The folder cannot be written.
    """
    from tqdm import tqdm

    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        for split in SPLITS:
            (folder / split).mkdir(parents=True, exist_ok=True)
            contents = transforms(split)
            views = pool.map(_write_view, repeat(folder), contents["frames"])
            list(tqdm(views, split, total=SPLITS[split], disable=None))
            write_json(folder / f"transforms_{split}.json", contents)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m polyfield.data.samples.orrery_scene OUTDIR [--workers N]``."""
    parser = argparse.ArgumentParser(description="Make the orrery sample again.")
    parser.add_argument("folder", type=Path, metavar="OUTDIR")
    parser.add_argument("--workers", type=int, help="processes (default: one per processor)")
    options = parser.parse_args(arguments)
    generate(options.folder, options.workers)


if __name__ == "__main__":
    main()
