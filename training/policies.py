"""Policies change something on a schedule while a field trains.

A policy has `check` (once, before the first step), `before_step` and `after_step`; it keeps
nothing between steps that is not in the `FitState` or its own `state_dict`.
"""

from __future__ import annotations

from typing import Any, Protocol

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.training.settings import FitConfig
from polyfield.training.state import FitState

RAY_MULTIPLE = 256


class Policy(Protocol):
    """What the fit loop calls."""

    def check(self, state: FitState) -> None:
        """Refuse settings that cannot work, before anything is done."""

    def before_step(self, state: FitState) -> None:
        """Prepare the step."""

    def after_step(self, state: FitState) -> None:
        """React to the step's figures (``state.last``)."""


class BasePolicy:
    """Does nothing; policies override what they need."""

    def check(self, state: FitState) -> None:
        """See `Policy`."""

    def before_step(self, state: FitState) -> None:
        """See `Policy`."""

    def after_step(self, state: FitState) -> None:
        """See `Policy`."""


class LearningRate(BasePolicy):
    """Linear warm-up, a plateau, then exponential decay to ``lr_final`` of the base rate."""

    @staticmethod
    def factor(config: FitConfig, step: int, fraction: float) -> float:
        """Multiplier of the base rates at a step and share of the budget."""
        decay = max(0.0, fraction - config.lr_hold) / max(1e-9, 1 - config.lr_hold)
        warm = min(1.0, 0.01 + 0.99 * step / config.warmup) if config.warmup else 1.0
        return warm * config.lr_final ** min(1.0, decay)

    def check(self, state: FitState) -> None:
        """A final factor outside (0, 1] is refused."""
        if not 0 < state.config.lr_final <= 1:
            raise ConfigError(f"fit.lr_final must be in (0, 1], got {state.config.lr_final}")
        if not 0 <= state.config.lr_hold < 1:
            raise ConfigError(f"fit.lr_hold must be in [0, 1), got {state.config.lr_hold}")

    def before_step(self, state: FitState) -> None:
        """Set every group's rate."""
        factor = self.factor(state.config, state.step, state.fraction)
        for group in state.optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor


class CentreCrop(BasePolicy):
    """The first ``crop_steps`` only see the centre half of the images (Mildenhall et al. 2020)."""

    def before_step(self, state: FitState) -> None:
        """Choose the crop."""
        state.crop = 0.5 if state.step < state.config.crop_steps else 1.0


class FollowField(BasePolicy):
    """The sampler follows the schedule, and looks at the field (occupancy grids do both)."""

    def before_step(self, state: FitState) -> None:
        """Update the sampler."""
        if state.model.sampler is not None:
            state.model.sampler.schedule(state.fraction)
            state.model.sampler.update(state.model.field, state.step, state.generator)


class GrowField(BasePolicy):
    """Fields that change while they train do so before the step: sizes, ranks, masks."""

    def before_step(self, state: FitState) -> None:
        """Let the field change; parameters it replaced begin with fresh moments."""
        sampler = state.model.sampler
        progress = Progress(
            step=state.step,
            fraction=state.fraction,
            mse=state.last.get("mse"),
            occupied=None if sampler is None else sampler.occupied_cells,
        )
        if state.model.field.grow(progress):
            state.renew_optimiser()


class HoldSamples(BasePolicy):
    """Adapts the number of rays so that a step holds ``target_samples`` samples (Müller 2022).

    Small steps at the start, because many rough corrections beat few exact ones there; larger
    ones towards the end (``target_samples_final``), where noise is what is left to remove. The
    number of rays moves by at most a factor of two a step, in multiples of 256.
    """

    @staticmethod
    def target(config: FitConfig, fraction: float) -> int | None:
        """Samples to hold at a share of the budget."""
        if config.target_samples is None:
            return None
        last = max(config.target_samples_final or 0, config.target_samples)
        return round(config.target_samples * (last / config.target_samples) ** fraction)

    def after_step(self, state: FitState) -> None:
        """Choose the next number of rays."""
        target = self.target(state.config, state.fraction)
        measured = state.last["samples"]
        if target is None:
            return
        if not measured:  # nothing was hit, or the renderer takes no samples: look further
            measured = target if state.model.sampler is None else 1
        wanted = state.rays * min(2.0, max(0.5, target / measured))
        rounded = int(round(wanted / RAY_MULTIPLE)) * RAY_MULTIPLE
        state.rays = min(state.max_rays, max(RAY_MULTIPLE, rounded))


def default_policies() -> list[Any]:
    """The policies of every fit, in the order they act."""
    return [GrowField(), LearningRate(), CentreCrop(), FollowField(), HoldSamples()]
