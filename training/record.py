"""What a fit leaves behind while it runs: rows, checks with previews, saves, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polyfield.data.scene import PosedImages
from polyfield.run import RunDirectory
from polyfield.training.metrics import psnr
from polyfield.training.photos import background_colour, photo
from polyfield.training.pictures import save_picture, side_by_side
from polyfield.training.state import FitState, save_state

Progress = Callable[[dict[str, Any]], None]
PREVIEW_PIXELS = 150 * 150


class Recorder:
    """Writes metrics rows every ``log_every`` steps, checks and saves on their schedules."""

    def __init__(self, run: RunDirectory, scene: PosedImages, progress: Progress | None = None):
        self.run = run
        self.scene = scene
        self.progress = progress
        self.saved_at = time.monotonic()

    def after_step(self, state: FitState, fraction_before: float) -> None:
        """Record the step just done; `fraction_before` is the budget share when it began."""
        if state.step % state.config.log_every == 0 or state.finished:
            self.row(state)
        checks = state.config.checks
        if checks and math.floor(state.fraction * checks) > math.floor(fraction_before * checks):
            self.check(state)
        if time.monotonic() - self.saved_at > 60 * state.config.save_minutes:
            self.save(state)

    def row(self, state: FitState) -> None:
        """Write the means since the last row."""
        steps = max(1.0, state.totals.get("row_steps", 0))
        mean = {k: state.totals.pop(f"row_{k}", 0.0) / steps for k in ("loss", "mse")}
        state.totals["row_steps"] = 0
        row = {
            "step": state.step,
            "loss": mean["loss"],
            "psnr": -10 * math.log10(max(mean["mse"], 1e-10)),
            "rays": state.last["rays"],
            "samples": state.last["samples"],
            "lr": state.optimiser.param_groups[0]["lr"],
            "seconds": round(state.seconds, 3),
            "rays_per_second": round(state.totals["rays"] / max(state.seconds, 1e-9), 1),
        }
        self.run.append_metrics(row)
        if self.progress:
            self.progress({**row, "fraction": state.fraction})

    def check(self, state: FitState) -> None:
        """Render a held-out view, coarsely, and keep the picture beside the photo."""
        view = next(iter(self.scene.splits["test"]), None)
        if view is None:
            return
        state.model.eval()
        truth, prediction = preview(state, self.scene, view)
        state.model.train()
        score = psnr(prediction, truth)
        save_picture(self.run.renders / "preview.png", side_by_side([truth, prediction]))
        row = {"step": state.step, "check_view": self.scene.names[view], "check_psnr": score}
        self.run.append_metrics(row)
        if self.progress:
            self.progress({**row, "fraction": state.fraction})

    def save(self, state: FitState) -> None:
        """Save everything needed to go on."""
        save_state(self.run, state)
        self.saved_at = time.monotonic()


@torch.no_grad()
def preview(state: FitState, scene: PosedImages, view: int) -> tuple[Tensor, Tensor]:
    """Photo and rendering of every k-th pixel of a view, (h, w, 3) each on the CPU."""
    image = photo(scene, view)
    stride = max(1, math.ceil(math.sqrt(image.shape[0] * image.shape[1] / PREVIEW_PIXELS)))
    rays = scene.cameras.image_rays(view)[::stride, ::stride]
    background = background_colour(scene, state.model.device)
    rendered = state.model.render(rays, background)["rgb"].cpu()
    return image[::stride, ::stride], rendered.clamp(0, 1)
