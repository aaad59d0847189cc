"""Fitting a field to a scene: one loop, read from top to bottom.

`fit` prepares a run directory and trains until the budget is spent; `resume` goes on where a
run was stopped. Both save on Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyfield import backend
from polyfield._version import __version__
from polyfield.config import from_plain, merge
from polyfield.errors import ConfigError, InputError, Interrupted, RunError
from polyfield.run import RunDirectory
from polyfield.training.interrupt import StopRequest
from polyfield.training.memory import available_bytes, is_out_of_memory
from polyfield.training.model import Model, pick_device
from polyfield.training.policies import default_policies
from polyfield.training.record import Progress, Recorder
from polyfield.training.settings import FitConfig, complete
from polyfield.training.sizing import within
from polyfield.training.state import FitState, load_state, make_generators, make_optimiser
from polyfield.training.step import train_step
from polyfield.training.task import Task
from polyfield.training.tasks import open_task, reopen_task
from polyfield.training.warmup import get_ready

logger = logging.getLogger("polyfield")
CLOCKS = {"wall": time.monotonic, "processor": time.process_time}
RESUMABLE = {"fit", "losses", "backend", "threads"}


@dataclass(frozen=True)
class FitResult:
    """Figures of a finished fit: `rays` (or points of a signal) and `samples` are totals, `bytes`
    the weights file's; modality: ``images``, or a signal's."""

    run: str
    modality: str
    steps: int
    seconds: float
    rays: int
    samples: int
    rays_per_second: float
    parameters: int
    bytes: int
    backend: dict[str, Any]
    loss: float
    psnr: float


def fit(
    scene: str | Path,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    max_parameters: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> FitResult:
    """Fit a field to a scene of posed images and write a run directory.

    Args:
        scene: Folder or file in a supported format, or ``sample:NAME``.
        out: Run directory to create.
        minutes: Budget in minutes (by ``fit.clock``, on the wall), or
        steps: in optimisation steps (default: 5 minutes).
        settings: Nested settings by section, e.g. ``{"backbone": {"type": "mlp"}}``.
        preset: Preset of the backbone.
        max_parameters: Scale the backbone to at most so many (`polyfield.training.sizing`).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        progress: Called with every row of figures.

    Raises:
        PolyfieldError: What was wrong, where, and what to do.
        Interrupted: The user stopped the fit; the run is saved.
    """
    run = RunDirectory(out)
    if run.has_state:
        raise RunError(f"{run.path} holds a run already; resume it, or choose another folder")
    if not run.exists and run.path.is_dir() and any(run.path.iterdir()):
        raise RunError(f"{run.path} holds other files and no run; choose a new or empty folder")
    user = merge(settings or {}, {"fit": _budget(minutes, steps, (settings or {}).get("fit", {}))})
    target = pick_device(device)
    task, chosen = open_task(scene, user, preset, target)
    if max_parameters is not None:
        chosen = within(chosen, task.describe()["contraction"], max_parameters)
    state = _new_state(chosen, task, target)
    task.prepare(state)
    run.create()
    run.truncate_metrics(-1)  # of a run that was stopped before its first save
    run.write_config(_describe(task, chosen, target))
    task.write(run)
    return _train(run, task, state, progress)


def resume(
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> FitResult:
    """Go on with an interrupted run; a larger total budget may be given to extend a finished one.

    Args:
        out: Run directory.
        minutes: New total budget in minutes, or
        steps: in steps.
        settings: Changes to the sections ``fit`` and ``losses``, to ``backend`` or ``threads``.
        device: Where to train.
        progress: Called with every row of figures.

    Raises:
        ConfigError: `settings` touch what is already built.
        RunError: Not a run, nothing saved yet, or the scene has changed since.
    """
    run = RunDirectory(out)
    config = run.read_config()
    frozen = set(settings or {}) - RESUMABLE
    if frozen:
        raise ConfigError(f"a resumed run takes new {sorted(RESUMABLE)}, not {sorted(frozen)}")
    given = (settings or {}).get("fit", {})
    settings = complete(merge(config["settings"], settings or {}))
    if minutes is not None or steps is not None:
        settings = merge(settings, {"fit": _budget(minutes, steps, {})})
    elif {"minutes", "steps"} & set(given):
        settings = merge(settings, {"fit": _budget(None, None, given)})
    if settings["fit"]["clock"] != config["settings"]["fit"].get("clock", "wall"):
        raise ConfigError("fit.clock cannot change: seconds of the two do not add up")
    target = pick_device(device)
    task = reopen_task(config, settings, target)
    if task.describe()["scene"]["content_hash"] != config["scene"]["content_hash"]:
        raise RunError(f"{config['scene']['path']} has changed since {run.path} was made; fit anew")
    state = _new_state(settings, task, target)
    load_state(run, state)
    if state.finished:
        logger.warning("%s is finished; a larger total of minutes or steps extends it", run.path)
    run.truncate_metrics(state.step)
    run.write_config({**config, "settings": settings})
    return _train(run, task, state, progress)


def _budget(minutes: float | None, steps: int | None, given: Mapping[str, Any]) -> dict[str, Any]:
    minutes = minutes if minutes is not None else given.get("minutes")
    steps = steps if steps is not None else given.get("steps")
    if minutes is not None and steps is not None:
        raise ConfigError("give either minutes or steps, not both")
    return {"minutes": 5.0 if minutes is None and steps is None else minutes, "steps": steps}


def _new_state(settings: Mapping[str, Any], task: Task, device: torch.device) -> FitState:
    config = from_plain(FitConfig, settings["fit"], "fit")
    if config.clock == "processor" and device.type != "cpu":
        raise ConfigError(f"fit.clock=processor counts no time on {device}; use wall there")
    host, generator = make_generators(settings["seed"], device)
    contraction = task.describe()["contraction"]
    try:
        model = Model(settings, contraction, host).to(device).train()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"no memory for the model ({error}); make it smaller") from error
    state = FitState(model, make_optimiser(model, config), config, host, generator)
    state.rays = task.batch_size(config)
    if config.target_samples is not None:  # then it adapts
        state.rays = min(state.rays, config.max_rays)
    state.max_rays = config.max_rays
    for policy in default_policies():
        policy.check(state)
    _check_memory(state)
    return state


def _check_memory(state: FitState) -> None:
    """Refuse what cannot fit: parameters with gradient, moments and a copy, and a batch."""
    config = state.config
    most = max(config.target_samples or 0, config.target_samples_final or 0)
    needed = 20 * state.model.parameter_count + 2048 * (most or config.rays * 64)
    free = available_bytes()
    logger.info("memory: about %d MB", needed >> 20)
    if free is not None and needed > free and state.model.device.type == "cpu":
        raise InputError(
            f"the fit needs about {needed >> 20} MB and {free >> 20} MB are free; lower fit.rays, "
            "fit.target_samples or the backbone's size"
        )


def _describe(task: Task, settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        **task.describe(),
        "settings": dict(settings),
        "device": str(device),
        "versions": {
            "polyfield": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _train(run: RunDirectory, task: Task, state: FitState, progress: Progress | None) -> FitResult:
    policies, recorder = default_policies(), Recorder(run, task, progress)
    config = run.read_config()
    settings = state.model.settings
    with (
        _logging_to(run),
        _threads(settings["threads"]),
        StopRequest() as stop,
        backend.using(settings["backend"]),
    ):
        _announce(task, state)
        if not state.finished:
            _prepare(state, task, stop)
        now = CLOCKS[state.config.clock]
        clock = now()
        while not state.finished:
            before = state.fraction
            for policy in policies:
                policy.before_step(state)
            train_step(state, task, run)
            for policy in policies:
                policy.after_step(state)
            state.seconds += now() - clock
            clock = now()
            recorder.after_step(state, before)
            if config.get("backends") != backend.choices():
                config |= {"backends": backend.choices()}
                run.write_config(config)
                if backend.choices():
                    logger.info("backends: %s", _told(backend.choices()))
            if stop.requested:
                recorder.save(state)
                raise Interrupted(
                    f"stopped at step {state.step}; 'polyfield resume {run.path}' goes on"
                )
        recorder.save(state)
        return _finish(run, state)


def _prepare(state: FitState, task: Task, stop: StopRequest) -> None:
    try:
        get_ready(state, task)
    except RuntimeError:
        if stop.insisted:  # compilers turn an interrupt into errors of their own
            raise KeyboardInterrupt from None
        raise


@contextlib.contextmanager
def _logging_to(run: RunDirectory) -> Iterator[None]:
    """Copy what is logged inside the block to the run's log.txt."""
    handler = logging.FileHandler(run.path / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """The run's number of CPU threads inside the block: sums depend on it in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _announce(task: Task, state: FitState) -> None:
    about, settings = task.about, state.model.settings
    for warning in about.warnings:
        logger.warning("%s", warning)
    if (settings["threads"] or 1) > (os.cpu_count() or 1):
        logger.warning("%d threads on %d cores only wait for each other", settings["threads"],
                       os.cpu_count())  # fmt: skip
    renderer = f", {settings['renderer']['type']} renderer" if "renderer" in settings else ""
    logger.info(
        "%s; %s with %s parameters%s, on %s%s",
        about.line, settings["backbone"]["type"], f"{state.model.parameter_count:,}", renderer,
        state.model.device, f", from step {state.step}" if state.step else "",
    )  # fmt: skip


def _told(choices: Mapping[str, Mapping[str, str]]) -> str:
    """Operations by what runs them and why."""
    groups: dict[tuple[str, str], list[str]] = {}
    for op, choice in choices.items():
        groups.setdefault((choice["backend"], choice["reason"]), []).append(op)
    return "; ".join(f"{b} ({why}): {', '.join(ops)}" for (b, why), ops in groups.items())


def _finish(run: RunDirectory, state: FitState) -> FitResult:
    rows = [row for row in run.metrics() if "loss" in row]
    result = FitResult(
        run=str(run.path),
        modality=run.read_config().get("modality", "images"),
        steps=state.step,
        seconds=round(state.seconds, 2),
        rays=int(state.totals.get("rays", 0)),
        samples=int(state.totals.get("samples", 0)),
        rays_per_second=round(state.totals.get("rays", 0) / max(state.seconds, 1e-9), 1),
        parameters=state.model.parameter_count,
        bytes=(run.path / "weights.safetensors").stat().st_size,
        backend=backend.choices(),
        loss=rows[-1]["loss"] if rows else float("nan"),
        psnr=rows[-1]["psnr"] if rows else float("nan"),
    )
    run.write_json("fit.json", asdict(result))
    return result
