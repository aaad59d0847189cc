"""Refocused pictures, focal sweeps and epipolar planes of runs fitted to grids of views.

A large lens is synthesised by rendering views from places all over its aperture, each with its
principal point moved so that one plane stands still, and averaging them: that plane is sharp, the
rest is blurred (Isaksen et al., SIGGRAPH 2000). Any field and renderer will do.
u, v: column and row of the grid; D: disparity, in pixels per column of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.config import from_plain
from polyfield.data.light_field import GridGeometry, grid_geometry
from polyfield.data.refocusing import shift_and_add
from polyfield.data.scene import SceneTransform
from polyfield.errors import ConfigError, InputError
from polyfield.files import make_folder
from polyfield.renderers.cameras import Cameras
from polyfield.run import RunDirectory
from polyfield.training.cameras import StoredCameras, read_cameras
from polyfield.training.lens import Lens, aperture_of, aperture_places, disparities_of
from polyfield.training.model import load
from polyfield.training.photos import BACKGROUNDS
from polyfield.training.pictures import save_picture, to_8_bit
from polyfield.training.tiles import render_frame
from polyfield.training.video import VIDEO_SUFFIXES, Video

EPI_STEPS = 12  # lines of an epipolar plane per column of the grid


def cameras_at(
    stored: Cameras, geometry: GridGeometry, places: Float[np.ndarray, "n 2"], disparity: float
) -> Cameras:
    """Cameras at (u, v) of the grid that show what has this disparity at the centre view's pixels.

    Args:
        stored: The grid's own cameras, in the units of `geometry`.
        places: u and v, whole numbers or not.
        disparity: D.
    """
    first = stored[[0] * len(places)]
    poses, lenses = [], []
    for u, v in places:
        pose, (cx, cy) = geometry.camera(u, v)
        du, dv = u - geometry.centre[0], v - geometry.centre[1]
        lens = [*geometry.focal, cx + du * disparity, cy + dv * disparity * geometry.row_step]
        poses.append(pose[:3])
        lenses.append(lens)
    return replace(
        first,
        c2w=torch.tensor(np.array(poses)).to(first.c2w),
        intrinsics=torch.tensor(lenses).to(first.intrinsics),
        near=first.near.new_full(first.near.shape, float(stored.near.min())),
        far=first.far.new_full(first.far.shape, float(stored.far.max())),
    )


@dataclass(frozen=True)
class _Opened:
    """A run with its grid: `geometry` in box units, `world` in the scene's."""

    model: Any
    stored: StoredCameras
    geometry: GridGeometry
    world: GridGeometry
    background: Tensor


def _open(run: str | Path, device: str, rank: int | None) -> _Opened:
    directory = RunDirectory(run)
    config = directory.read_config()
    stored = read_cameras(directory)
    try:
        geometry = grid_geometry(stored.cameras)
    except InputError as error:
        raise InputError(f"{run} cannot be refocused: {error}") from error
    scale = from_plain(SceneTransform, config["transform"], "transform").scale
    model = load(run, device, rank=rank)
    background = torch.full((3,), BACKGROUNDS[config["background"]], device=model.device)
    return _Opened(model, stored, geometry, geometry.scaled(1 / scale), background)


def refocus_run(
    run: str | Path,
    out: str | Path,
    lens: Lens,
    *,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Render a run through a large lens: one picture, or a sweep of focus as a video or frames.

    Views are rendered once, at the middle of a sweep; its pictures are made of them moved by
    fractions of pixels.

    Args:
        run: Run directory, fitted to a grid of views; its images are not needed.
        out: PNG file for one focus, video file or folder for a sweep.
        lens: Focus and aperture.
        device: Where to render.
        progress: Called with (views done, views).

    Raises:
        InputError, ConfigError: The run has no grid of cameras, or a value cannot be used.
    """
    out = Path(out)
    opened = _open(run, device, lens.rank)
    ends = disparities_of(lens, opened.world)
    radius = aperture_of(lens, opened.world)
    _check_out(out, sweep=len(ends) > 1)
    middle = sum(ends) / len(ends)
    down = opened.geometry.baseline[0] / opened.geometry.baseline[1]  # round in space
    offsets = aperture_places() * radius * [1, down]
    cameras = cameras_at(
        opened.stored.cameras, opened.geometry, offsets + opened.geometry.centre, middle
    )
    cameras, zoom = _sized(cameras, lens)
    views = []
    for index in range(len(cameras)):
        view, _ = render_frame(opened.model, cameras, index, opened.background)
        views.append(view["rgb"].numpy())
        if progress:
            progress(index + 1, len(cameras))

    def focused(disparity: float) -> Tensor:
        by = (disparity - middle) * zoom
        moves = [(du * by, dv * by * opened.geometry.row_step) for du, dv in offsets]
        return torch.from_numpy(shift_and_add(views, moves))

    make_folder(out.parent)
    shown = ends if len(ends) == 1 else np.linspace(*ends, lens.frames).tolist()
    _write([focused(d) for d in shown], out, lens.fps)
    distances = [float(opened.world.depth(d)) for d in ends]
    return {
        "run": str(run), "out": str(out), "frames": len(shown), "views": len(views),
        "disparity": ends, "distance": distances, "aperture": radius,
        "width": int(cameras.sizes[0, 0]), "height": int(cameras.sizes[0, 1]),
    }  # fmt: skip


def _sized(cameras: Cameras, lens: Lens) -> tuple[Cameras, float]:
    """Cameras of the asked size, and how many of their pixels make one of the views'."""
    width, height = (int(v) for v in cameras.sizes[0])
    wide = lens.width or max(1, round(width * (lens.height or height) / height))
    high = lens.height or max(1, round(height * wide / width))
    if not (wide <= 16384 and high <= 16384):
        raise ConfigError(f"--width and --height take up to 16384 pixels, got {wide}x{high}")
    return cameras.resized(wide, high), wide / width


def _check_out(out: Path, sweep: bool) -> None:
    wanted = (*VIDEO_SUFFIXES, "") if sweep else (".png",)
    if out.suffix.lower() not in wanted:
        what = f"a video ({', '.join(VIDEO_SUFFIXES)}) or a folder" if sweep else "FILE.png"
        raise InputError(f"--out takes {what} here, got '{out}'")


def _write(pictures: list[Tensor], out: Path, fps: int) -> None:
    if out.suffix.lower() in VIDEO_SUFFIXES:
        with Video(out, fps, depth=False) as video:
            for index, picture in enumerate(pictures):
                image = to_8_bit(picture)
                video.add(index, image, image, None)
    elif out.suffix:
        save_picture(out, pictures[0])
    else:
        make_folder(out)
        for index, picture in enumerate(pictures):
            save_picture(out / f"focus-{index:04d}.png", picture)


@torch.no_grad()
def epi_of_run(
    run: str | Path, out: str | Path, row: int | None = None, *, device: str = "auto",
    rank: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The epipolar-plane image of a pixel row, from cameras between and on the grid's columns.

    Each line of the picture is the row seen from a place a little further right; a point draws a
    straight line that leans by its disparity.

    Args:
        run: Run directory, fitted to a grid of views.
        out: PNG file.
        row: Of pixels, from the top (None: the middle).
        device: Where to render.
        rank: Components of a factored backbone (None: all).

    Raises:
        InputError, ConfigError: The run has no grid of cameras, or the row is not there.
    """
    out = Path(out)
    _check_out(out, sweep=False)
    opened = _open(run, device, rank)
    geometry, cameras = opened.geometry, opened.stored.cameras
    width, height = (int(v) for v in cameras.sizes[0])
    row = height // 2 if row is None else row
    if not 0 <= row < height:
        raise ConfigError(f"--epi takes a row of pixels from 0 to {height - 1}, got {row}")
    lines = (geometry.columns - 1) * EPI_STEPS + 1
    u = np.arange(lines) / EPI_STEPS
    places = np.stack([u, np.full(lines, geometry.centre[1])], 1)
    moving = cameras_at(cameras, geometry, places, 0.0)
    view, x = (g.reshape(-1) for g in torch.meshgrid(
        torch.arange(lines), torch.arange(width), indexing="ij"))  # fmt: skip
    xy = torch.stack([x, torch.full_like(x, row)], -1).to(moving.c2w) + 0.5
    parts = opened.model.render(moving.rays(view, xy), opened.background)
    make_folder(out.parent)
    save_picture(out, parts["rgb"].cpu().reshape(lines, width, 3))
    return {"run": str(run), "out": str(out), "row": row, "width": width, "height": lines}
