"""The task of fitting a signal: values at coordinates, without any rays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyfield.config import to_plain
from polyfield.data.signal import Signal
from polyfield.registry import lookup
from polyfield.run import RunDirectory
from polyfield.training.metrics import psnr
from polyfield.training.model import Model
from polyfield.training.settings import FitConfig
from polyfield.training.signal_pictures import preview
from polyfield.training.state import FitState
from polyfield.training.task import About, Measured, stored_path

LOOKED_AT = 1 << 16  # entries of a check during the fit


class SignalTask:
    """Random entries of a signal, evaluated and compared.

    Args:
        signal: What is fitted.
        path: What the user called it, stored with the run.
        device: Where batches are wanted.
    """

    def __init__(self, signal: Signal, path: str | Path, device: torch.device | str = "cpu"):
        self.signal, self.path, self.device = signal, path, torch.device(device)

    @property
    def about(self) -> About:
        """Name, modality and sizes."""
        signal = self.signal
        sizes = " x ".join(map(str, signal.shape)) or f"{signal.samples.entries:,} points"
        kept = f", held out: {signal.holdout.spec}" if signal.holdout is not None else ""
        line = f"{signal.name} ({signal.modality}): {sizes}, {signal.channels} channels{kept}"
        return About(line, signal.report.warnings, dict(signal.report.notes))

    def describe(self) -> dict[str, Any]:
        """The signal, and all that is needed to write it back without the file."""
        signal = self.signal
        return {
            "scene": {
                "path": stored_path(self.path),
                "format": signal.report.format,
                "content_hash": signal.content_hash,
            },
            "modality": signal.modality,
            "signal": {
                "name": signal.name,
                "dims": signal.dims,
                "channels": signal.channels,
                "shape": list(signal.shape),
                "meta": to_plain(signal.meta),
            },
            "contraction": "none",
        }

    def write(self, run: RunDirectory) -> None:
        """Nothing: the config holds it all."""

    def prepare(self, state: FitState) -> None:
        """Nothing: coordinates lie in [-1, 1] as they are."""

    def batch_size(self, config: FitConfig) -> int:
        """Points per step."""
        return config.points

    def measure(self, state: FitState) -> Measured:
        """Draw entries and compare values."""
        x, truth = self.signal.samples.sample(state.rays, state.host)
        x, truth = x.to(self.device), truth.to(self.device)
        precision = torch.bfloat16 if state.config.precision == "bfloat16" else None
        with torch.autocast(self.device.type, precision, enabled=precision is not None):
            prediction = state.model.values(x)
        prediction = prediction.float()
        with torch.no_grad():
            mse = (prediction - truth).square().mean()
        return Measured(total_loss(prediction, truth, state.model), mse, len(x), len(x))

    def check(self, state: FitState, run: RunDirectory) -> dict[str, Any]:
        """Score some of the held-out entries (of all, where none are); keep a picture."""
        state.model.eval()
        held_out, score = quick_score(state.model, self.signal)
        preview(state.model, self.signal, run.renders / "preview.png")
        state.model.train()
        return {"check_of": "held out" if held_out else "all entries", "check_psnr": score}


def total_loss(prediction: Tensor, truth: Tensor, model: Model) -> Tensor:
    """Weighted sum of the run's losses, a scalar."""
    terms = []
    for name, weight in model.settings["losses"].items():
        if weight:
            entry = lookup("losses", name)
            given = (prediction, truth) if entry.traits["of"] == "values" else (model.field,)
            terms.append(weight * entry.target(*given))
    return sum(terms, prediction.new_zeros(()))


@torch.no_grad()
def quick_score(model: Model, signal: Signal, most: int = LOOKED_AT) -> tuple[bool, float]:
    """PSNR of evenly spaced entries, of the held-out ones among them where there are any."""
    entries = signal.samples.entries
    index = torch.arange(0, entries, max(1, -(-entries // most)))
    if signal.holdout is not None:
        kept = index[signal.holdout.contains(index)]
        if not len(kept):
            kept = torch.arange(min(entries, 8 * most))
            kept = kept[signal.holdout.contains(kept)]
        index = kept if len(kept) else index
    x, truth = signal.samples.at(index)
    prediction = model.look(x)
    return signal.holdout is not None, psnr(prediction, truth)
