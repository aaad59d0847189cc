"""A whole training step and a whole frame: torch reference against the fast path.

One fit is begun with the fast path, so that its occupancy grid knows the scene; what it has
become is saved, and both backends go on from there, step by step in turn.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polyfield import backend
from polyfield.config import from_plain
from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions, PosedImages
from polyfield.run import RunDirectory
from polyfield.training.images import ImagesTask
from polyfield.training.model import Model
from polyfield.training.photos import background_colour
from polyfield.training.policies import default_policies
from polyfield.training.settings import FitConfig, resolve
from polyfield.training.state import (
    FitState,
    load_state,
    make_generators,
    make_optimiser,
    save_state,
)
from polyfield.training.step import train_step

NAMES = {"reference": "torch", "fast": "auto"}
BUDGET = {"fit": {"minutes": 5.0}}  # the fit of which the warm-up is the beginning
ADAPTING = 3  # steps until the number of rays fits the batch
TURN = 4  # steps of one backend before it is the other's turn
UNTIMED = 2  # steps at the start that compile, or find caches cold


@dataclass
class Loop:
    """A fit without what it writes: its parts, and one step of it."""

    state: FitState
    task: ImagesTask
    run: RunDirectory

    def step(self) -> float:
        """One step with all policies; its seconds."""
        state, policies = self.state, default_policies()
        start = time.perf_counter()
        with backend.using(state.model.settings["backend"]):
            for policy in policies:
                policy.before_step(state)
            train_step(state, self.task, self.run)
            for policy in policies:
                policy.after_step(state)
        return time.perf_counter() - start


def open_scene(path: str) -> PosedImages:
    """The scene as a fit with the preset ``cpu`` loads it."""
    data = resolve({}, preset="cpu")["data"]
    return load_scene(path, from_plain(LoadOptions, data, "data"))


def new_loop(scene: PosedImages, run: RunDirectory, name: str) -> Loop:
    """The hash grid's preset ``cpu`` before its first step, to be run by a backend."""
    settings = resolve({**BUDGET, "backend": name}, preset="cpu", unbounded=not scene.bounded)
    config = from_plain(FitConfig, settings["fit"], "fit")
    device = torch.device("cpu")
    host, generator = make_generators(settings["seed"], device)
    model = Model(settings, "none" if scene.bounded else "sphere", host).train()
    state = FitState(model, make_optimiser(model, config), config, host, generator)
    state.rays, state.max_rays = config.rays, config.max_rays
    return Loop(state, ImagesTask(scene, scene.root, device), run)


def warm_up(loop: Loop, seconds: float) -> dict[str, Any]:
    """Train for some seconds, compilation not counted, and save."""
    for _ in range(UNTIMED):
        loop.step()
    before = dict(loop.state.totals)
    while loop.state.seconds < seconds:
        loop.state.seconds += loop.step()
    done = {key: loop.state.totals[key] - before[key] for key in ("rays", "samples")}
    loop.run.create()
    save_state(loop.run, loop.state)
    return {
        "seconds": round(loop.state.seconds, 2),
        "steps": loop.state.step,
        "rays_per_second": round(done["rays"] / loop.state.seconds),
        "samples_per_second": round(done["samples"] / loop.state.seconds),
        "loss": round(loop.state.last["loss"], 6),
        "occupied": _occupied(loop.state.model),
    }


def _occupied(model: Model) -> float | None:
    """Share of the cells that rays are sampled in."""
    cells = getattr(model.sampler, "occupied", None)
    return None if cells is None else round(float(cells.float().mean()), 4)


def compare_steps(
    scene: PosedImages, run: RunDirectory, steps: int, late: bool = False
) -> dict[str, Any]:
    """Both backends from the saved state: the same steps, in turns of `TURN` steps.

    A fit takes its steps one after the other, with the caches as the last step left them; the
    first of a turn finds what the other backend left there, and is not timed.

    late: With the batch that the schedule has come to shortly before its end.
    """
    loops = {label: new_loop(scene, run, name) for label, name in NAMES.items()}
    seconds: dict[str, list[float]] = {label: [] for label in loops}
    counted = {label: Counter() for label in loops}
    losses = {}
    for label, loop in loops.items():
        load_state(run, loop.state)
        if late:
            loop.state.seconds = 0.999 * 60 * BUDGET["fit"]["minutes"]
        loop.step()  # with cold caches: not timed
        losses[label] = loop.state.last["loss"]
        for _ in range(ADAPTING if late else 0):  # until the number of rays has followed
            loop.step()
    difference = abs(losses["fast"] / losses["reference"] - 1)
    for _ in range(max(1, steps // TURN)):
        for label, loop in loops.items():
            loop.step()
            before = dict(loop.state.totals)
            seconds[label] += [loop.step() for _ in range(TURN)]
            for name in ("rays", "samples"):
                counted[label][name] += loop.state.totals[name] - before[name]
    rows = {label: _figures(counted[label], seconds[label]) for label in loops}
    reference, fast = rows["reference"], rows["fast"]
    return rows | {
        "ratio": round(reference["step_ms"] / fast["step_ms"], 2),
        "first_loss_difference": float(f"{difference:.1e}"),
    }


def _figures(counted: Counter, seconds: list[float]) -> dict[str, Any]:
    """Medians, and rates over all timed steps."""
    total, steps = sum(seconds), len(seconds)
    return {
        "steps": steps,
        "step_ms": round(1e3 * statistics.median(seconds), 3),
        "mean_step_ms": round(1e3 * total / steps, 3),
        "rays_per_step": round(counted["rays"] / steps),
        "samples_per_step": round(counted["samples"] / steps),
        "rays_per_second": round(counted["rays"] / total),
        "samples_per_second": round(counted["samples"] / total),
    }


def compare_frames(
    scene: PosedImages, run: RunDirectory, sizes: tuple[int, ...], repeats: int
) -> dict[str, Any]:
    """Seconds for square frames of the saved state, the best of as many for both."""
    view = (*scene.splits["test"], *scene.splits["train"])[0]
    background = background_colour(scene)
    models = {}
    for label, name in NAMES.items():
        loop = new_loop(scene, run, name)
        load_state(run, loop.state)
        models[label] = loop.state.model.eval()
    frames = {}
    for size in sizes:
        rays = scene.cameras[torch.tensor([view])].resized(size, size).image_rays(0)
        seconds, pictures = {}, {}
        for label in NAMES:
            taken = []
            for _ in range(repeats):
                start = time.perf_counter()
                pictures[label] = models[label].render(rays, background)["rgb"]
                taken.append(time.perf_counter() - start)
            seconds[label] = min(taken)
        frames[f"{size}x{size}"] = {
            "reference_seconds": round(seconds["reference"], 4),
            "fast_seconds": round(seconds["fast"], 4),
            "ratio": round(seconds["reference"] / seconds["fast"], 2),
            "max_error": float(f"{_largest(pictures['fast'] - pictures['reference']):.1e}"),
        }
    return frames


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def scratch_run(folder: str) -> RunDirectory:
    """Where the state is kept while the benchmark runs."""
    return RunDirectory(Path(folder) / "run")
