"""Rendering a run along a camera path to a video or a folder of frames."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyfield.config import from_plain
from polyfield.data.scene import SceneTransform
from polyfield.errors import ConfigError, InputError
from polyfield.files import make_folder, replacing
from polyfield.renderers.cameras import Cameras
from polyfield.renderers.paths import orbit_path, read_path, spiral_path
from polyfield.run import RunDirectory
from polyfield.training.cameras import read_cameras
from polyfield.training.model import load
from polyfield.training.photos import BACKGROUNDS
from polyfield.training.pictures import depth_map, depth_range, save_picture, to_8_bit
from polyfield.training.tiles import render_frame
from polyfield.training.video import VIDEO_SUFFIXES, Video

PATHS = ("orbit", "spiral", "train", "test")


@dataclass(frozen=True)
class RenderOptions:
    """What to render: `path` is a name of `PATHS` or a JSON file; sizes None mean the run's own;
    rank: components of a factored backbone to use (None: all)."""

    path: str = "orbit"
    frames: int = 60
    width: int | None = None
    height: int | None = None
    fps: int = 24
    depth: bool = True
    rank: int | None = None


def render(
    run: str | Path,
    out: str | Path,
    options: RenderOptions | None = None,
    *,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Render a camera path to a video file (colour, and ``*-depth`` beside it) or to PNG frames.

    Args:
        run: Run directory; its images are not needed.
        out: Video file (mp4, mov, mkv, webm, gif) or a folder.
        options: Path, number of frames, size.
        device: Where to render.
        progress: Called with (frames done, frames).

    Returns:
        Among others ``seconds`` for everything, ``seconds_per_frame`` (its share of a frame) and
        ``seconds_per_view`` (the median time to render one, without pictures and video).

    Raises:
        InputError, ConfigError: Bad path file, size or output.
    """
    options = options or RenderOptions()
    out = Path(out)
    _check(options, out)
    directory = RunDirectory(run)
    config = directory.read_config()
    model = load(run, device, rank=options.rank)
    cameras = _cameras(directory, config, options)
    background = torch.full((3,), BACKGROUNDS[config["background"]], device=model.device)
    make_folder(out.parent)
    video = out.suffix.lower() in VIDEO_SUFFIXES
    sink = Video(out, options.fps, options.depth) if video else _Frames(out, options)
    start, took = time.monotonic(), []
    span, unit = None, from_plain(SceneTransform, config["transform"], "transform").scale
    with sink:
        for index in range(len(cameras)):
            view, one = render_frame(model, cameras, index, background)
            took.append(one)
            span = span or depth_range(view["depth"], view["opacity"])
            distance = None if cameras.ndc else view["depth"].numpy() / unit
            sink.add(index, *_pictures(view, span), distance)
            if progress:
                progress(index + 1, len(cameras))
    seconds = time.monotonic() - start
    width, height = (int(v) for v in cameras.sizes[0])
    return {
        "run": str(run), "out": str(out), "depth": str(sink.depth) if options.depth else None,
        "frames": len(cameras), "width": width, "height": height,
        "seconds": round(seconds, 3), "seconds_per_frame": round(seconds / max(1, len(cameras)), 4),
        "seconds_per_view": round(statistics.median(took), 4),
    }  # fmt: skip


def _check(options: RenderOptions, out: Path) -> None:
    if options.frames < 1:
        raise ConfigError(f"--frames takes a whole number from 1 up, got {options.frames}")
    for name in ("width", "height"):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= 16384:
            raise ConfigError(f"--{name} takes 1 to 16384 pixels, got {value}")
    if out.suffix and out.suffix.lower() not in VIDEO_SUFFIXES and not out.is_dir():
        raise InputError(
            f"cannot write '{out.suffix}' files; --out takes a video ({', '.join(VIDEO_SUFFIXES)}) "
            "or a folder for PNG frames"
        )


def _cameras(run: RunDirectory, config: dict[str, Any], options: RenderOptions) -> Cameras:
    stored = read_cameras(run)
    cameras = stored.cameras
    if options.path in ("train", "test"):
        views = stored.splits.get(options.path, ())
        if not views:
            raise InputError(f"the run's scene has no '{options.path}' views; try --path orbit")
        shown = min(options.frames, len(views))
        chosen = cameras[torch.tensor([views[i * len(views) // shown] for i in range(shown)])]
    elif options.path in PATHS:
        make = {"orbit": orbit_path, "spiral": spiral_path}[options.path]
        train = cameras[torch.tensor(stored.splits["train"])]
        chosen = make(train, options.frames, config["up"])
    elif Path(options.path).suffix == ".json":
        transform = from_plain(SceneTransform, config["transform"], "transform")
        chosen = read_path(Path(options.path), transform, near=cameras.near, far=cameras.far)
        chosen = stored.in_run_coordinates(chosen)
    else:
        raise ConfigError(f"--path takes {', '.join(PATHS)} or a JSON file, got '{options.path}'")
    return _sized(chosen, options)


def _sized(cameras: Cameras, options: RenderOptions) -> Cameras:
    same = bool((cameras.sizes == cameras.sizes[0]).all())
    if options.width is None and options.height is None and same:
        return cameras
    width, height = (int(v) for v in cameras.sizes[0])
    by_height = width * (options.height or height) / height
    new_width = options.width or max(1, round(by_height))
    new_height = options.height or max(1, round(height * new_width / width))
    return cameras.resized(new_width, new_height)


def _pictures(
    view: dict[str, torch.Tensor], span: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    return to_8_bit(view["rgb"]), to_8_bit(depth_map(view["depth"], view["opacity"], span))


class _Frames:
    """Frames in a folder: ``colour-0000.png``, ``depth-0000.png`` to look at, and
    ``distance-0000.npy``, float32 distances along the rays in the user's world units (not in
    normalised device coordinates, whose distances mean nothing to a user)."""

    def __init__(self, out: Path, options: RenderOptions):
        self.out, self.options, self.depth = out, options, out

    def __enter__(self) -> _Frames:
        make_folder(self.out)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(
        self, index: int, colour: np.ndarray, depth: np.ndarray, distance: np.ndarray | None
    ) -> None:
        if self.options.depth and distance is not None:
            with replacing(self.out / f"distance-{index:04d}.npy") as temporary:
                np.save(temporary, distance.astype(np.float32))
        pairs = [("colour", colour)] + ([("depth", depth)] if self.options.depth else [])
        for name, image in pairs:
            picture = torch.from_numpy(image).float() / 255
            save_picture(self.out / f"{name}-{index:04d}.png", picture)
