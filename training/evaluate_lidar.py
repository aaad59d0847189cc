"""Scores of fitted sweeps under a named protocol, beside those of a naive baseline."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.config import from_plain
from polyfield.data.lidar.baseline import accumulate, reproject
from polyfield.data.lidar.batches import box_rays
from polyfield.data.lidar.load import LidarOptions, load_sweeps
from polyfield.data.lidar.metrics import mean_scores, sweep_scores
from polyfield.data.lidar.rays import sweep_rays
from polyfield.data.lidar.sweeps import LidarSweeps, SweepRays
from polyfield.data.scene import SceneTransform
from polyfield.errors import InputError
from polyfield.run import RunDirectory
from polyfield.training.evaluate_signal import file_stem
from polyfield.training.lidar import measure_beams
from polyfield.training.model import Model, load
from polyfield.training.pictures import save_picture

COLUMNS = 1024  # of range pictures
FARTHEST = 0.5  # metres of error that are drawn white
PROTOCOL = {
    "name": "polyfield-lidar-1",
    "range": "metres, over rays with a return in prediction and truth; medians pooled",
    "drop": "over all slots, dropped is positive; a beam is dropped above probability 1/2",
    "chamfer_m": "sum of both mean nearest distances of the clouds of first returns, metres",
    "fscore": "threshold 0.05 m",
    "baseline": "returns of the training sweeps, the nearest surface in every slot",
}


def evaluate_lidar(
    run: str | Path,
    split: str = "test",
    every: int = 1,
    scene: str | Path | None = None,
    rank: int | None = None,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare a run with held-out sweeps; writes eval.json and range pictures.

    The naive baseline, training returns seen again from the held-out poses, is scored likewise.

    Args:
        run: Run directory.
        split: ``test``, ``val`` or ``train``.
        every: Use every n-th sweep.
        scene: Other sweeps of the same world (None: the run's).
        rank, device, progress: As for `polyfield.training.evaluate.evaluate`.

    Raises:
        PolyfieldError: The sweeps are gone, have changed, or the split holds none.
    """
    directory = RunDirectory(run)
    config = directory.read_config()
    sweeps = sweeps_of_run(config, scene)
    chosen = sweeps.splits[split][::every]
    if not chosen:
        raise InputError(f"{sweeps.name} has no sweeps in split '{split}'; fit with --holdout")
    model = load(run, device, rank=rank)
    cloud = accumulate(sweeps) if split != "train" and scene is None else None
    name = file_stem(None if scene is None else sweeps.name, rank)
    found, naive, seconds = [], [], []
    for index in chosen:
        truth = sweep_rays(sweeps, index)
        start = time.monotonic()
        prediction = predict(model, sweeps, truth)
        seconds.append(time.monotonic() - start)
        found.append(sweep_scores(prediction, truth))
        if cloud is not None:
            naive.append(sweep_scores(reproject(cloud, truth), truth))
        picture = directory.renders / f"{name}-{split}" / f"{Path(sweeps.names[index]).stem}.png"
        save_picture(picture, range_pictures(sweeps, index, truth, prediction))
        if progress:
            progress(f"{sweeps.names[index]}: {found[-1].values['range_mae_m']} m mean error")
    result = {
        "run": str(run),
        "modality": "lidar",
        "split": split,
        **mean_scores(found),
        "baseline": mean_scores(naive) if naive else None,
        "sweeps": [
            {"name": sweeps.names[i], **s.values} for i, s in zip(chosen, found, strict=True)
        ],
        "seconds_per_sweep": round(statistics.median(seconds), 4),
        "protocol": {**PROTOCOL, "scene": str(sweeps.root), "content_hash": sweeps.content_hash},
    }
    directory.write_json(f"{name}.json", result)
    return result


def sweeps_of_run(config: dict[str, Any], scene: str | Path | None = None) -> LidarSweeps:
    """The sweeps of a run, or others, in the run's scene box.

    Raises:
        InputError: They have changed since the fit.
    """
    options = from_plain(LidarOptions, config["settings"]["data"], "data")
    transform = from_plain(SceneTransform, config["transform"], "transform")
    loaded = load_sweeps(scene or config["scene"]["path"], options, transform)
    if scene is None and loaded.content_hash != config["scene"]["content_hash"]:
        raise InputError(f"{config['scene']['path']} has changed since the run was fitted to it")
    return loaded


def predict(model: Model, scene: LidarSweeps, truth: SweepRays) -> SweepRays:
    """What the fitted field says of the slots of a sweep."""
    sensor = scene.sensor
    rays = box_rays(truth, scene.transform, sensor.nearest, sensor.farthest)
    found = measure_beams(model, rays)
    hit = ~torch.isnan(found["ranges"])
    return replace(
        truth,
        ranges=found["ranges"].to(truth.ranges),
        second=found["second"].to(truth.second),
        intensity=torch.where(hit, found["intensity"], 0.0).to(truth.intensity),
    )


def range_pictures(
    scene: LidarSweeps, index: int, truth: SweepRays, prediction: SweepRays
) -> Float[Tensor, "h w 3"]:
    """Ranges measured, ranges found, and how far they differ, one above the other; none: black."""
    turned = truth.directions @ torch.from_numpy(scene.poses[index][:3, :3])  # in the sensor
    azimuth = torch.atan2(turned[:, 1], turned[:, 0])
    column = ((0.5 - azimuth / (2 * torch.pi)) * COLUMNS).long() % COLUMNS
    at = truth.ring.clamp(min=0) * COLUMNS + column
    rows = max(scene.sensor.rings, int(truth.ring.max()) + 1 if len(truth) else 1)

    def picture(values: Tensor, colour: bool) -> Tensor:
        flat = torch.zeros(rows * COLUMNS, 3)
        known = ~torch.isnan(values)
        shade = values[known].float().clamp(0, 1)
        flat[at[known]] = _colours(shade) if colour else shade[:, None].expand(-1, 3)
        tall = flat.reshape(rows, COLUMNS, 3).repeat_interleave(max(1, 128 // rows), 0)
        return tall

    far = torch.log1p(torch.tensor(scene.sensor.farthest))
    shades = [torch.log1p(sweep.ranges) / far for sweep in (truth, prediction)]
    error = (prediction.ranges - truth.ranges).abs() / FARTHEST
    return torch.cat([*(picture(s, True) for s in shades), picture(error, False)])


def _colours(shade: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    """Near: warm, far: cold."""
    knots = torch.tensor([[1.0, 0.9, 0.6], [0.9, 0.35, 0.2], [0.45, 0.1, 0.45], [0.1, 0.15, 0.4]])
    place = shade * (len(knots) - 1)
    low = place.long().clamp(max=len(knots) - 2)
    return torch.lerp(knots[low], knots[low + 1], (place - low)[:, None])
