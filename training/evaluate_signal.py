"""Scores of a fitted signal under a named protocol."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyfield.config import from_plain
from polyfield.data.signal import Signal, SignalOptions
from polyfield.data.signals.load import load_signal, output_grid
from polyfield.data.signals.meshes import read_mesh
from polyfield.data.signals.shape import surface
from polyfield.data.signals.shape_metrics import iou, overlap, surface_distance
from polyfield.errors import InputError, TrainingError
from polyfield.run import RunDirectory
from polyfield.training.metrics import ssim
from polyfield.training.model import Model, load
from polyfield.training.render_signal import grid_values
from polyfield.training.signal_pictures import as_colour, preview

SHOWN_PIXELS = 512 * 512
SURFACE_RESOLUTION = 128
BLOCK = 1 << 17
STRIP = 256  # rows of an image that are scored at once
WINDOW = 11  # of SSIM
FRAMES = 16  # of a video that are scored for SSIM
PROTOCOL = {
    "name": "polyfield-signal-1",
    "psnr": "-10 log10(MSE) over entries and channels, peak 1",
    "ssim": "11x11 Gaussian window, sigma 1.5, K 0.01/0.03, data range 1, valid windows; over "
    "white; of video the mean over up to 16 frames",
    "iou": "of held-out points uniform in the box",
    "chamfer": "mean of both directions, exact distances from 100,000 points on each surface, "
    "reconstruction by marching cubes on 128 cells a side, in the file's units",
}


@dataclass
class _Errors:
    """Sums of squared errors, of the held-out entries apart."""

    total: float = 0.0
    held_out: float = 0.0
    absolute: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0, 0])
    inside: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, prediction: Tensor, truth: Tensor, held_out: Tensor) -> None:
        """Count a block in."""
        self.absolute += float((prediction - truth).abs().double().sum())
        errors = (prediction.double() - truth.double()).square().mean(-1)
        self.total += float(errors.sum())
        self.held_out += float(errors[held_out].sum())
        self.counts[0] += len(errors)
        self.counts[1] += int(held_out.sum())

    def add_shape(self, prediction: Tensor, truth: Tensor, kept: Tensor, occupancy: bool) -> None:
        """Count points inside both, and inside either, of those spread evenly over the box."""
        inside = [(v > 0.5 if occupancy else v < 0)[kept, 0] for v in (prediction, truth)]
        both, either = overlap(*inside)
        self.inside[0] += both
        self.inside[1] += either

    def psnr(self) -> tuple[float | None, float | None, float | None]:
        """Of all entries, of the held-out and of the fitted ones; None where there are none."""
        all_, kept = self.counts
        rest = max(0.0, self.total - self.held_out)
        return _db(self.total, all_), _db(self.held_out, kept), _db(rest, all_ - kept)


def _db(total: float, count: int) -> float | None:
    if not count or total == 0:
        return None  # nothing to score, or identical: no number, and JSON has no infinity
    return -10 * math.log10(total / count)


def rounded(values: Tensor, signal: Signal) -> Tensor:
    """Values as a file would hold them: 8 or 16 bits for pictures, in range."""
    if signal.modality in ("image", "video"):
        top = 2 ** int(signal.meta.get("bits", 8)) - 1
        return (values.clamp(0, 1) * top).round() / top
    if signal.modality == "audio":
        return values.clamp(-1, 1)
    return values


@torch.no_grad()
def score_entries(model: Model, signal: Signal, progress: Callable[[str], None]) -> dict[str, Any]:
    """PSNR of all entries, and of those held out and fitted; absolute error for shapes."""
    errors, seconds, done = _Errors(), 0.0, 0
    shape, occupancy = signal.modality == "shape", signal.meta.get("target") == "occupancy"
    for block in signal.samples.blocks(BLOCK):
        start = time.perf_counter()
        found = model.look(block.x)
        seconds += time.perf_counter() - start
        errors.add(rounded(found, signal), block.values, block.held_out)
        if shape:
            errors.add_shape(found, block.values, block.held_out, occupancy)
        done += len(block.index)
        progress(f"{done:,} of {signal.samples.entries:,} entries")
    everything, held_out, fitted = errors.psnr()
    kept = errors.counts[1] > 0
    return {
        "psnr": held_out if kept else everything,
        "psnr_of": "held-out entries" if kept else "all entries",
        "psnr_all": everything,
        "psnr_fitted": fitted,
        "mean_absolute_error": errors.absolute / max(1, done * signal.channels),
        **({"iou": iou(*errors.inside)} if shape else {}),
        "entries": done,
        "held_out_entries": errors.counts[1],
        "seconds": round(seconds, 4),
    }


@torch.no_grad()
def score_ssim(model: Model, signal: Signal) -> float | None:
    """SSIM of an image in strips, or of some frames of a video; None for others and small ones."""
    if signal.modality not in ("image", "video") or min(signal.shape[:2]) < WINDOW:
        return None
    frames = [0]
    if signal.modality == "video":
        count = min(FRAMES, signal.shape[2])
        frames = [i * signal.shape[2] // count for i in range(count)]
    scores = [_picture_ssim(model, signal, frame) for frame in frames]
    return sum(scores) / len(scores)


def _picture_ssim(model: Model, signal: Signal, frame: int) -> float:
    """Strips overlap by the window less one row, so that each window is counted once."""
    total, windows = 0.0, 0
    for low, high in _strips(signal.shape[1]):
        truth, found = _rows(model, signal, frame, low, high)
        count = high - low - WINDOW + 1
        total += ssim(as_colour(found), as_colour(truth)) * count
        windows += count
    return total / windows


def _strips(height: int) -> Iterator[tuple[int, int]]:
    low = 0
    while low + WINDOW <= height:
        high = min(low + STRIP, height)
        yield low, high
        low = high - WINDOW + 1


def _rows(model: Model, signal: Signal, frame: int, low: int, high: int) -> tuple[Tensor, Tensor]:
    """True and reconstructed values of rows of a picture, (rows, width, channels)."""
    assert signal.grid is not None
    width = signal.shape[0]
    y, x = torch.meshgrid(torch.arange(low, high), torch.arange(width), indexing="ij")
    columns = [x.flatten(), y.flatten()] + [torch.full((x.numel(),), frame)] * (signal.dims - 2)
    x, truth = signal.samples.at(signal.grid.index(torch.stack(columns, 1)))
    found = rounded(model.look(x), signal)
    return truth.reshape(high - low, width, -1), found.reshape(high - low, width, -1)


@torch.no_grad()
def score_surface(model: Model, signal: Signal) -> dict[str, Any]:
    """Distances between the true surface and the reconstructed one, in the file's units."""
    grid = output_grid(signal.meta, (SURFACE_RESOLUTION,) * 3)
    vertices, faces = read_mesh(signal.path)
    try:
        found, triangles = surface(grid_values(model, grid), signal.meta, grid)
    except TrainingError as error:
        return {"chamfer": None, "chamfer_reason": str(error)}
    distance = surface_distance(found[triangles], vertices[faces])
    return {"chamfer": distance.chamfer, "fscore": distance.fscore, "surface": asdict(distance)}


def evaluate_signal(
    run: str | Path,
    scene: str | Path | None = None,
    rank: int | None = None,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare a run's reconstruction with its signal; writes eval.json and a picture.

    With held-out entries, ``psnr`` is theirs: how well the gaps are filled.

    Args:
        run: Run directory.
        scene: Another file of the same sizes (None: the one the run was fitted to).
        rank: Components of a factored backbone to use (None: all).
        device: Where to evaluate.
        progress: Called with a line now and then.

    Raises:
        InputError: The file is not there any more, has changed, or is of another kind.
    """
    directory = RunDirectory(run)
    config = directory.read_config()
    model = load(run, device, rank=rank)
    signal = _open(config, scene)
    result: dict[str, Any] = {
        "run": str(run),
        "modality": signal.modality,
        **score_entries(model, signal, progress or _silent),
        "ssim": score_ssim(model, signal),
        "lpips": None,
        "lpips_reason": "not computed for signals",
    }
    if signal.modality == "shape":
        result |= score_surface(model, signal)
    result["views"] = [{"name": signal.name, "psnr": result["psnr"], "ssim": result["ssim"]}]
    result["seconds_per_view"] = result.pop("seconds")
    asked = {"rank": rank, "content_hash": signal.content_hash}
    result["protocol"] = {**PROTOCOL, "modality": signal.modality, **asked}
    preview(model, signal, directory.renders / "side-by-side.png", SHOWN_PIXELS)
    name = file_stem(None if scene is None else signal.name, rank)
    directory.write_json(f"{name}.json", result)
    return result


def file_stem(scene: str | None, rank: int | None) -> str:
    """What scores are called: ``eval``, with the name of another scene, with a rank."""
    parts = ["eval", scene, None if rank is None else f"rank-{rank}"]
    return "-".join(part for part in parts if part is not None)


def _silent(line: str) -> None:
    pass


def _open(config: Mapping[str, Any], scene: str | Path | None) -> Signal:
    path = scene or config["scene"]["path"]
    signal = load_signal(path, from_plain(SignalOptions, config["settings"]["data"], "data"))
    fitted = (config["modality"], config["signal"]["dims"], config["signal"]["channels"])
    found = (signal.modality, signal.dims, signal.channels)
    if found != fitted:
        raise InputError(
            f"{path} is a {found[0]} of {found[1]} coordinates and {found[2]} channels, but the "
            f"run was fitted to a {fitted[0]} of {fitted[1]} and {fitted[2]}"
        )
    if scene is None and signal.content_hash != config["scene"]["content_hash"]:
        raise InputError(f"{path} has changed since the run was made; name it with --scene")
    return signal
