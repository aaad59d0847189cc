"""Evaluation under a named protocol, stored with the numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from polyfield.config import from_plain
from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions, PosedImages, SceneTransform
from polyfield.errors import ConfigError, InputError, MissingDependencyError, UnknownNameError
from polyfield.run import RunDirectory
from polyfield.training.cameras import read_cameras
from polyfield.training.evaluate_lidar import evaluate_lidar
from polyfield.training.evaluate_signal import evaluate_signal, file_stem
from polyfield.training.metrics import Lpips, psnr, round_to_8_bits, ssim
from polyfield.training.model import Model, load
from polyfield.training.photos import background_colour, photo
from polyfield.training.pictures import error_map, save_picture, side_by_side, stacked
from polyfield.training.tiles import render_frame

PROTOCOL = {
    "name": "polyfield-1",
    "rounding": "prediction and truth to 8 bits",
    "psnr": "-10 log10(MSE) per view over pixels and channels, mean over views",
    "ssim": "11x11 Gaussian window, sigma 1.5, K 0.01/0.03, data range 1, valid windows",
    "masks": "PSNR without ignored pixels; for SSIM and LPIPS they are black in both",
}

SPLITS = ("train", "val", "test")
SHOWN = 3  # views in side-by-side.png


def evaluate(
    run: str | Path,
    *,
    scene: str | Path | None = None,
    split: str = "test",
    downscale: int | None = None,
    every: int = 1,
    rank: int | None = None,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare a run's renderings with held-out photos; writes eval.json and pictures.

    Scores on another scene go to ``eval-NAME.json``, those with fewer components to
    ``eval-rank-R.json``. Signals and LiDAR: see `evaluate_signal`, `evaluate_lidar`.

    Args:
        run: Run directory.
        scene: Another scene in the same world (None: the one the run was fitted to).
        split: ``test``, ``val`` or ``train``.
        downscale: Divide image sizes by this (None: as fitted).
        every: Use every n-th view of the split.
        rank: Components of a factored backbone to use (None: all).
        device: Where to render.
        progress: Called with a line per view.

    Returns:
        ``psnr, ssim, lpips (and lpips_reason), views, protocol, seconds_per_view`` (the median).

    Raises:
        InputError, ConfigError: The scene has no such views, or a name or number is wrong.
    """
    directory = RunDirectory(run)
    config = directory.read_config()
    _check(split, every)
    modality = config.get("modality", "images")
    if modality == "lidar":
        return evaluate_lidar(run, split, every, scene, rank, device, progress)
    if modality != "images":
        return evaluate_signal(run, scene, rank, device, progress)
    model = load(run, device, rank=rank)
    loaded = load_for_run(config, scene, split, downscale)
    loaded = replace(loaded, cameras=read_cameras(directory).in_run_coordinates(loaded.cameras))
    views = loaded.splits[split][::every]
    if not views:
        raise InputError(f"{scene} has no '{split}' views; choose another --split")
    name = file_stem(None if scene is None else loaded.name, rank)
    folder = directory.renders / f"{name}-{split}"
    rows, seconds, lpips = _evaluate_views(model, loaded, views, folder, progress or _silent)
    asked = {"downscale": downscale or config["settings"]["data"]["downscale"]}
    asked |= {"every": every, "views": len(rows), "rank": rank}
    result = {
        "run": str(run),
        "split": split,
        **_summary(rows, lpips),
        "protocol": {**_protocol(loaded), **asked},
        "seconds_per_view": round(statistics.median(seconds), 4),
    }
    directory.write_json(f"{name}.json", result)
    return result


def _check(split: str, every: int) -> None:
    if every < 1:
        raise ConfigError(f"--every takes a whole number from 1 up, got {every}")
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)


def _silent(line: str) -> None:
    pass


def _evaluate_views(
    model: Model,
    scene: PosedImages,
    views: Sequence[int],
    folder: Path,
    progress: Callable[[str], None],
) -> tuple[list[dict[str, Any]], list[float], Lpips | str]:
    """Rows, seconds of rendering each, and how LPIPS was (or was not) computed; writes pictures."""
    rows, shown, seconds, lpips = [], [], [], _lpips()
    for old in folder.glob("*.png"):
        old.unlink()
    for view in views:
        row, took, pictures = evaluate_view(model, scene, view, lpips)
        seconds.append(took)
        rows.append(row)
        name = scene.names[view].replace("/", "_").replace("\\", "_")
        beside = side_by_side(pictures)
        save_picture(folder / f"{name}.png", beside)
        if (len(rows) - 1) % max(1, len(views) // SHOWN) == 0:
            shown.append(beside)
        progress(f"{row['name']}: PSNR {_db(row['psnr'])}  SSIM {row['ssim']:.4f}")
    save_picture(folder.parent / "side-by-side.png", stacked(shown[:SHOWN]))
    return rows, seconds, lpips


def _protocol(scene: PosedImages) -> dict[str, Any]:
    return {
        **PROTOCOL,
        "background": "white" if scene.background == "random" else scene.background,
        "scene": str(scene.root),
        "content_hash": scene.content_hash,
    }


def load_for_run(
    config: dict[str, Any], scene: str | Path | None, split: str | None, downscale: int | None
) -> PosedImages:
    """The images of a run's scene (or another one) in the run's scene box."""
    options = from_plain(LoadOptions, config["settings"]["data"], "data")
    if downscale is not None:
        if downscale < 1:
            raise ConfigError(f"--downscale takes a whole number from 1 up, got {downscale}")
        options = replace(options, downscale=downscale)
    if scene is not None:
        options = replace(options, format=None)
    transform = from_plain(SceneTransform, config["transform"], "transform")
    bounded = config["contraction"] == "none"
    options = replace(options, unbounded=not bounded, background=config["background"])
    loaded = load_scene(
        scene or config["scene"]["path"],
        options,
        transform=transform,
        only=None if split is None or scene is not None else (split,),
    )
    if scene is not None and split == "test" and not _names_its_test_views(loaded):
        everything = tuple(range(len(loaded)))
        return replace(loaded, splits={**loaded.splits, "test": everything})
    return loaded


def _names_its_test_views(scene: PosedImages) -> bool:
    return not str(scene.report.notes.get("split", "")).startswith(("held out", "too few"))


@torch.no_grad()
def evaluate_view(
    model: Model, scene: PosedImages, view: int, lpips: Lpips | str
) -> tuple[dict[str, Any], float, list[Tensor]]:
    """Scores of a view, seconds to render it, and its photo, rendering and error map."""
    background = background_colour(scene, model.device)
    rendered, seconds = render_frame(model, scene.cameras, view, background)
    prediction, truth = round_to_8_bits(rendered["rgb"]), round_to_8_bits(photo(scene, view))
    used = usable(scene, view)
    prediction, truth = prediction * used[..., None], truth * used[..., None]
    row = {
        "name": scene.names[view],
        "psnr": psnr(prediction[used], truth[used]) if bool(used.any()) else math.inf,
        "ssim": ssim(prediction, truth),
    }
    if isinstance(lpips, Lpips):
        row["lpips"] = lpips(prediction, truth)
    if math.isinf(row["psnr"]):
        row["psnr"] = None  # identical images: no number, and JSON has no infinity
    return row, seconds, [truth, prediction, error_map(prediction, truth)]


def usable(scene: PosedImages, view: int) -> Bool[Tensor, "h w"]:
    """Pixels of a view that its mask does not ignore."""
    if scene.masks is None:
        height, width = scene.images.image(view).shape[:2]
        return torch.ones(height, width, dtype=torch.bool)
    return torch.from_numpy(scene.masks.image(view)[..., 0] > 0)


def _lpips() -> Lpips | str:
    try:
        return Lpips()
    except MissingDependencyError as error:
        return str(error)


def _summary(rows: list[dict[str, Any]], lpips: Lpips | str) -> dict[str, Any]:
    def mean(key: str) -> float | None:
        values = [row[key] for row in rows if row.get(key) is not None]
        return sum(values) / len(values) if values else None

    summary: dict[str, Any] = {"psnr": mean("psnr"), "ssim": mean("ssim"), "lpips": mean("lpips")}
    if isinstance(lpips, Lpips):
        summary["lpips_net"] = lpips.name
    else:
        summary["lpips_reason"] = lpips
    return {**summary, "views": rows}


def _db(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"
