"""What a fit is about: posed images, or a signal. The fit loop knows nothing more of either."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from polyfield.run import RunDirectory
from polyfield.training.settings import FitConfig
from polyfield.training.state import FitState


@dataclass(frozen=True)
class Measured:
    """A batch that was evaluated: the loss to lower, and what is told about it.

    mse: mean squared error of the values; rays: rays or points that were drawn; samples: points
    at which the field was evaluated with gradients.
    """

    loss: Tensor
    mse: Tensor
    rays: int
    samples: int


@dataclass(frozen=True)
class About:
    """What is told of the data before a fit: one line, and what was noticed."""

    line: str
    warnings: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """Where batches come from, what is compared, and how the result is looked at."""

    @property
    def about(self) -> About:
        """What is told before the fit."""

    def describe(self) -> dict[str, Any]:
        """Plain data for the run's config.json, enough to render without the data."""

    def write(self, run: RunDirectory) -> None:
        """Keep with the run what is too large for its config."""

    def prepare(self, state: FitState) -> None:
        """Let the model look at the data, once, before the first step of a new fit."""

    def batch_size(self, config: FitConfig) -> int:
        """How much is drawn in the first step."""

    def measure(self, state: FitState) -> Measured:
        """Draw a batch and evaluate it."""

    def check(self, state: FitState, run: RunDirectory) -> dict[str, Any]:
        """Look at something held out: figures of it (none where nothing is); keeps a picture."""


def stored_path(scene: str | Path) -> str:
    """A scene as it is written into a run: absolute, unless it is a sample."""
    sample = str(scene).startswith("sample:")
    return str(scene) if sample else str(Path(scene).expanduser().resolve())
