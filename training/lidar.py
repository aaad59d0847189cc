"""The task of fitting LiDAR sweeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyfield.config import to_plain
from polyfield.data.lidar.batches import LidarBatch, SweepSource, box_rays
from polyfield.data.lidar.metrics import range_metrics
from polyfield.data.lidar.rays import sweep_rays
from polyfield.data.lidar.sweeps import LidarSweeps
from polyfield.registry import lookup
from polyfield.renderers.types import Rays, Rendered
from polyfield.run import RunDirectory
from polyfield.training.lidar_losses import WIDTH, kernel_width
from polyfield.training.model import Model
from polyfield.training.settings import FitConfig
from polyfield.training.state import FitState
from polyfield.training.task import About, Measured, stored_path

LOOKED_AT = 8192  # beams of a check during the fit
BEYOND = 3.0  # widths of the kernel that a beam is followed behind its return


class LidarTask:
    """Random beams of the training sweeps, rendered and compared.

    Args:
        scene: The sweeps.
        path: What the user called them, stored with the run.
        device: Where batches are wanted.
    """

    def __init__(self, scene: LidarSweeps, path: str | Path, device: torch.device | str = "cpu"):
        self.scene, self.path = scene, path
        self.source = SweepSource(scene, scene.splits["train"], device)

    @property
    def about(self) -> About:
        """Name, sensor, and numbers of sweeps and slots."""
        scene = self.scene
        counts = ", ".join(f"{len(v)} {name}" for name, v in scene.splits.items() if v)
        line = f"{scene.name} ({scene.report.format}, {scene.sensor.name}): {counts} sweeps"
        notes = {"slots": len(self.source), **scene.report.notes}
        return About(f"{line}, {len(self.source):,} slots", scene.report.warnings, notes)

    def describe(self) -> dict[str, Any]:
        """The scene, its sensor and its poses."""
        scene = self.scene
        return {
            "scene": {
                "path": stored_path(self.path),
                "format": scene.report.format,
                "content_hash": scene.content_hash,
                "splits": {name: len(v) for name, v in scene.splits.items()},
            },
            "modality": "lidar",
            "contraction": "none",
            "transform": to_plain(scene.transform),
            "sensor": to_plain(scene.sensor),
            "sweeps": [
                {"name": name, "split": _split_of(scene, i), "pose": pose.tolist()}
                for i, (name, pose) in enumerate(zip(scene.names, scene.poses, strict=True))
            ],
        }

    def write(self, run: RunDirectory) -> None:
        """Nothing: the config holds it all."""

    def prepare(self, state: FitState) -> None:
        """Tell the field its scale, and the sampler where anything ever came back from."""
        state.model.field.scale.fill_(self.scene.transform.scale)
        if hasattr(state.model.sampler, "restrict"):
            state.model.sampler.restrict(self.source.points())

    def batch_size(self, config: FitConfig) -> int:
        """Beams of the first step."""
        return config.rays

    def measure(self, state: FitState) -> Measured:
        """Draw beams, render them and compare what came back."""
        scale = self.scene.transform.scale
        gap = state.model.settings["renderer"]["gap"] * scale
        batch = self.source.sample(state.rays, state.host, gap)
        width = kernel_width(state.fraction) * scale
        batch = replace(batch, rays=followed(batch, width))
        precision = torch.bfloat16 if state.config.precision == "bfloat16" else None
        with torch.autocast(state.model.device.type, precision, enabled=precision is not None):
            rendered = state.model(batch.rays, None, state.generator)
        loss = total_loss(rendered, batch, state.model, scale, state.fraction)
        with torch.no_grad():
            error = (rendered.depth - batch.ranges)[batch.hit].abs() / scale
            mse = error.clamp(max=WIDTH[0]).square().mean() if len(error) else error.sum()
        return Measured(loss, mse, len(batch.rays), int(rendered.extras["samples"]))

    def check(self, state: FitState, run: RunDirectory) -> dict[str, Any]:
        """Range errors of some beams of a held-out sweep."""
        index = next(iter(self.scene.splits["test"]), None)
        if index is None:
            return {}
        slots = sweep_rays(self.scene, index)
        chosen = torch.arange(0, len(slots), max(1, len(slots) // LOOKED_AT))
        sensor = self.scene.sensor
        rays = box_rays(slots, self.scene.transform, sensor.nearest, sensor.farthest)[chosen]
        state.model.eval()
        found = measure_beams(state.model, rays)
        state.model.train()
        off = (found["ranges"] - slots.ranges[chosen].float()).abs()
        errors = range_metrics(off[~torch.isnan(off)])
        return {
            "check_sweep": self.scene.names[index],
            "check_range_mae_m": errors["range_mae_m"],
            "check_range_medae_m": errors["range_medae_m"],
        }


def _split_of(scene: LidarSweeps, index: int) -> str:
    return next((name for name, chosen in scene.splits.items() if index in chosen), "unused")


def followed(batch: LidarBatch, width: float) -> Rays:
    """Rays that end a little behind what they returned from: nobody knows what comes later."""
    end = torch.where(batch.hit, batch.ranges + BEYOND * width, batch.rays.far)
    return replace(batch.rays, far=torch.minimum(end, batch.rays.far))


def total_loss(
    rendered: Rendered, batch: LidarBatch, model: Model, scale: float, fraction: float
) -> Tensor:
    """Weighted sum of the run's losses, a scalar."""
    terms = []
    for name, weight in model.settings["losses"].items():
        if weight:
            entry = lookup("losses", name)
            beams = entry.traits["of"] == "beams"
            given = (rendered, batch, scale, fraction) if beams else (model.field,)
            terms.append(weight * entry.target(*given))
    return sum(terms, rendered.depth.new_zeros(()))


@torch.no_grad()
def measure_beams(model: Model, rays: Rays) -> dict[str, Tensor]:
    """What the fitted sensor reports of beams, on the CPU, in metres.

    Returns:
        ``ranges`` and ``second`` (n,), NaN where nothing comes back; ``intensity`` and ``drop``
        (n,): the probability of not coming back; ``expected``: ranges of dropped beams as well.
    """
    out = {name: value.cpu() for name, value in model.render(rays).items()}
    metres = out["depth"] / model.field.scale.cpu()
    drop = out["drop"].sigmoid()
    kept = (drop < 0.5) & (out["depth"] > 0)
    nothing = torch.full_like(metres, torch.nan)
    second = out["second_range"] / model.field.scale.cpu()
    return {
        "ranges": torch.where(kept, metres, nothing),
        "second": torch.where(kept & (second > 0), second, nothing),
        "intensity": out["intensity"].clamp(0, 1),
        "drop": drop,
        "expected": metres,
    }
