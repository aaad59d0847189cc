"""The state of a fit: everything that changes from step to step, saved and restored exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polyfield.errors import RunError, TrainingError
from polyfield.run import RunDirectory
from polyfield.training.model import Model
from polyfield.training.optimisers import Adam
from polyfield.training.settings import FitConfig


@dataclass
class FitState:
    """What a fit is at a step.

    step: optimisation steps done; seconds: wall clock spent so far, over all sittings; rays:
    rays drawn per step, at most max_rays; crop: centre fraction of the images that is drawn from;
    host and generator: random numbers on the CPU and on the model's device; totals: running sums
    since the start or the last row; last: figures of the step just done.
    """

    model: Model
    optimiser: torch.optim.Optimizer
    config: FitConfig
    host: torch.Generator
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    rays: int = 0
    max_rays: int = 0
    crop: float = 1.0
    totals: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        if self.config.steps is not None:
            return min(1.0, self.step / self.config.steps)
        return min(1.0, self.seconds / (60 * (self.config.minutes or 1.0)))

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.fraction >= 1.0

    def renew_optimiser(self) -> None:
        """Follow a model whose parameters were replaced: moments of those that stayed are kept."""
        known = self.optimiser.state
        self.optimiser = make_optimiser(self.model, self.config)
        for parameter in _parameters(self.optimiser):
            if parameter in known:
                self.optimiser.state[parameter] = known[parameter]

    def add(self, **values: float | int) -> None:
        """Add to the running totals."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0) + value


def make_optimiser(model: Model, config: FitConfig) -> Adam:
    """Adam over the model's groups; every group remembers its base rate as ``base_lr``."""
    groups = [{"weight_decay": config.weight_decay, **g} for g in model.parameter_groups(config.lr)]
    for group in groups:
        group["base_lr"] = group["lr"]
    return Adam(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def make_generators(seed: int, device: torch.device) -> tuple[torch.Generator, torch.Generator]:
    """A CPU generator and one on `device`, both from the run's seed."""
    host = torch.Generator().manual_seed(seed)
    return host, torch.Generator(device).manual_seed(seed + 1)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds a value which is not finite, if there is one."""
    floating = ((n, t) for n, t in tensors.items() if t.is_floating_point())
    return next((name for name, t in floating if not bool(torch.isfinite(t).all())), None)


def save_state(run: RunDirectory, state: FitState) -> None:
    """Write weights and the complete state.

    Raises:
        TrainingError: The weights are not finite; what was saved before stays.
    """
    weights = dict(state.model.state_dict())
    bad = not_finite(weights)
    if bad is not None:
        raise TrainingError(
            f"step {state.step}: {bad} is not a number any more and is not saved; fit with a lower "
            "rate (--set fit.lr=...)"
        )
    tensors = {f"model/{name}": tensor for name, tensor in weights.items()}
    tensors |= _optimiser_tensors(state.optimiser)
    tensors["generator/host"] = state.host.get_state()
    tensors["generator/device"] = state.generator.get_state()
    plain = {
        "step": state.step,
        "seconds": state.seconds,
        "rays": state.rays,
        "max_rays": state.max_rays,
        "crop": state.crop,
        "totals": state.totals,
        "last": state.last,
        "sizes": state.model.sizes(),
        "device": state.model.device.type,
    }
    run.write_state(tensors, plain)
    run.write_weights(weights, state.model.sizes())


def load_state(run: RunDirectory, state: FitState) -> None:
    """Continue `state` (freshly built from the run's settings) from what was saved.

    Raises:
        RunError: Damaged, or of another model.
    """
    tensors, plain = run.read_state()
    model = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    state.model.load_tensors(model, plain.get("sizes", {}))
    if plain.get("sizes"):
        state.optimiser = make_optimiser(state.model, state.config)
    try:
        _restore_optimiser(state.optimiser, tensors)
        state.host.set_state(tensors["generator/host"])
        if plain["device"] == state.model.device.type:
            state.generator.set_state(tensors["generator/device"])
        for name in ("step", "seconds", "rays", "max_rays", "crop", "totals", "last"):
            setattr(state, name, plain[name])
    except KeyError as error:
        raise RunError(f"{run.path}/state.safetensors lacks {error}; fit anew") from error


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"optimiser/{index}/{key}": value
        for index, parameter in enumerate(_parameters(optimiser))
        for key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = _parameters(optimiser)
    found: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser/"):
            _, index, key = name.split("/")
            found.setdefault(int(index), {})[key] = tensor
    for index, values in found.items():
        parameter = parameters[index]
        optimiser.state[parameter] = {
            key: value if key == "step" else value.to(parameter.device)
            for key, value in values.items()
        }
