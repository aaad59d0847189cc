"""One optimisation step: measure a batch, gradients, update."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from polyfield.errors import TrainingError
from polyfield.run import RunDirectory
from polyfield.training.memory import is_out_of_memory
from polyfield.training.model import Model
from polyfield.training.state import FitState, not_finite, save_state
from polyfield.training.task import Task

logger = logging.getLogger("polyfield")
SMALLEST_BATCH = 64


def train_step(state: FitState, task: Task, run: RunDirectory) -> None:
    """One optimisation step; halves the batch and tries again when memory runs out."""
    while True:
        try:
            loss, figures = forward_backward(state, task)
            break
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or state.rays <= SMALLEST_BATCH:
                raise
        state.optimiser.zero_grad(set_to_none=True)
        state.rays = state.max_rays = state.rays // 2
        logger.warning("out of memory: going on with %d rays per step", state.rays)
    _check_finite(state, loss, run)
    if state.config.clip is not None:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), state.config.clip)
    state.optimiser.step()
    state.step += 1
    state.last = figures
    state.add(rays=figures["rays"], samples=figures["samples"], row_steps=1,
              row_loss=figures["loss"], row_mse=figures["mse"])  # fmt: skip


def forward_backward(state: FitState, task: Task) -> tuple[Tensor, dict[str, float | int]]:
    """Measure a batch and leave gradients; returns the loss and the step's figures."""
    measured = task.measure(state)
    state.optimiser.zero_grad(set_to_none=True)
    if measured.loss.requires_grad:
        measured.loss.backward()
    figures = {
        "loss": float(measured.loss.detach()),
        "mse": float(measured.mse),
        "rays": measured.rays,
        "samples": measured.samples,
    }
    return measured.loss, figures


def _check_finite(state: FitState, loss: Tensor, run: RunDirectory) -> None:
    """Refuse to take a step that is not finite, naming the first bad tensor.

    Raises:
        TrainingError: The state before the step is saved, unless it is bad itself.
    """
    gradients = [p.grad.sum() for p in state.model.parameters() if p.grad is not None]
    if math.isfinite(float(loss.detach() + sum(g.to(loss) for g in gradients))):
        return
    bad = not_finite(dict(state.model.named_parameters()))
    if bad is None:
        save_state(run, state)
        bad = "the loss" if not math.isfinite(float(loss.detach())) else _bad_gradient(state.model)
    kept = (
        f"{run.path} holds the last good state; resume it with a lower rate (--set fit.lr=...)"
        if run.has_state
        else "nothing good was saved; fit anew with a lower rate (--set fit.lr=...)"
    )
    raise TrainingError(f"step {state.step}: {bad} is not a number any more; {kept}")


def _bad_gradient(model: Model) -> str:
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return f"the gradient of {not_finite(gradients)}"
