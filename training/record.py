"""What a fit leaves behind while it runs: rows, checks with previews, saves, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from polyfield.run import RunDirectory
from polyfield.training.state import FitState, save_state
from polyfield.training.task import Task

Progress = Callable[[dict[str, Any]], None]


class Recorder:
    """Writes metrics rows every ``log_every`` steps, checks and saves on their schedules."""

    def __init__(self, run: RunDirectory, task: Task, progress: Progress | None = None):
        self.run = run
        self.task = task
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
        """Look at something held out."""
        found = self.task.check(state, self.run)
        if not found:
            return
        row = {"step": state.step, **found}
        self.run.append_metrics(row)
        if self.progress:
            self.progress({**row, "fraction": state.fraction})

    def save(self, state: FitState) -> None:
        """Save everything needed to go on."""
        save_state(self.run, state)
        self.saved_at = time.monotonic()
