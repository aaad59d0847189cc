"""Signals: images, audio, video, volumes and shapes as samples (coordinates, values).

Coordinates lie in [-1, 1] per axis. Entry i of n along an axis sits at its centre,
``(2i + 1) / n - 1``. The axes, in order:

========  ==========================  =====================================
modality  coordinates                 values
========  ==========================  =====================================
image     x along columns, y down     grey, grey+alpha, RGB, RGBA in [0, 1]
audio     t                           one per channel in [-1, 1]
video     x, y, t                     RGB in [0, 1]
volume    the array's axes, in order  min-max normalised to [0, 1]
shape     x, y, z of the file's axes  signed distance, or occupancy 0 / 1
========  ==========================  =====================================

Data keep their stored number type and are memory-mapped where large; only what is asked for
becomes float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Modality = Literal["image", "audio", "video", "volume", "shape"]

# coordinate axes from the slowest to the fastest, as entries are numbered (and files store them)
_ORDERS: Mapping[str, tuple[int, ...]] = {"image": (1, 0), "audio": (0,), "video": (2, 1, 0)}


@dataclass(frozen=True)
class Grid:
    """The regular grid of a signal: how its entries are numbered and where they lie.

    shape: entries along each coordinate axis; order: coordinate axes from the slowest to the
    fastest in which entries are numbered.

    >>> Grid((3, 2), order=(1, 0)).positions(torch.tensor([0, 2, 3]))
    tensor([[0, 0],
            [2, 0],
            [0, 1]])
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]

    @staticmethod
    def of(modality: Modality, shape: tuple[int, ...]) -> Grid:
        """The grid of a modality with `shape` entries along its coordinate axes."""
        return Grid(tuple(shape), _ORDERS.get(modality, tuple(range(len(shape)))))

    @property
    def dims(self) -> int:
        """Number of coordinates."""
        return len(self.shape)

    @property
    def entries(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of an array whose C order is the numbering: (height, width) of an image."""
        return tuple(self.shape[axis] for axis in self.order)

    def positions(self, index: Int64[Tensor, "n"]) -> Int64[Tensor, "n dims"]:
        """Whole-number position along each coordinate axis of numbered entries."""
        out = index.new_empty(len(index), self.dims)
        rest = index
        for axis in reversed(self.order):
            out[:, axis] = rest % self.shape[axis]
            rest = torch.div(rest, self.shape[axis], rounding_mode="floor")
        return out

    def index(self, positions: Int64[Tensor, "n dims"]) -> Int64[Tensor, "n"]:
        """Numbers of the entries at whole-number positions."""
        out = positions.new_zeros(len(positions))
        for axis in self.order:
            out = out * self.shape[axis] + positions[:, axis]
        return out

    def coordinates(self, index: Int64[Tensor, "n"]) -> Float[Tensor, "n dims"]:
        """Centres of numbered entries in [-1, 1], float32."""
        sizes = torch.tensor(self.shape, dtype=torch.float64, device=index.device)
        return ((2 * self.positions(index) + 1) / sizes - 1).float()

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers (n,) and coordinates (n, dims) of all entries, `size` at a time, in order."""
        for low in range(0, self.entries, size):
            index = torch.arange(low, min(low + size, self.entries))
            yield index, self.coordinates(index)


@dataclass(frozen=True)
class SignalBlock:
    """Consecutive entries of a signal.

    index: their numbers; x: coordinates; values: true values, float32; held_out: kept for
    evaluation.
    """

    index: Int64[Tensor, "n"]
    x: Float[Tensor, "n dims"]
    values: Float[Tensor, "n channels"]
    held_out: Bool[Tensor, "n"]


@runtime_checkable
class SignalSamples(Protocol):
    """What a fit draws from and an evaluation walks over. All tensors are on the CPU."""

    @property
    def entries(self) -> int:
        """How many entries there are, held out or not."""

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n dims"], Float[Tensor, "n channels"]]:
        """Coordinates and values of entries drawn uniformly from those not held out."""

    def at(
        self, index: Int64[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n dims"], Float[Tensor, "n channels"]]:
        """Coordinates and values of numbered entries."""

    def blocks(self, size: int) -> Iterator[SignalBlock]:
        """All entries in order, at most `size` at a time."""


@runtime_checkable
class HeldOut(Protocol):
    """Which entries are kept for evaluation (`polyfield.data.signals.holdout`)."""

    @property
    def spec(self) -> str:
        """As the user wrote it."""

    def contains(self, index: Int64[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Which of the numbered entries are held out."""

    def draw(self, n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
        """Numbers of entries drawn uniformly, with repetition, from the others."""


@dataclass(frozen=True)
class SignalReport:
    """What a loader noticed: shown by ``polyfield data`` and at the start of a fit."""

    format: str
    why: str
    warnings: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Signal:
    """A signal to fit.

    dims, channels: numbers of coordinates and of values; shape: entries along each coordinate
    axis, () for shapes; content_hash: of the file and of the options that change the values;
    meta: plain data, enough to write a reconstruction without the original file
    (`polyfield.data.signals.load.write_signal`), stored with the run.
    """

    name: str
    path: Path
    modality: Modality
    content_hash: str
    dims: int
    channels: int
    shape: tuple[int, ...]
    samples: SignalSamples
    holdout: HeldOut | None
    report: SignalReport
    meta: dict[str, Any]

    @property
    def grid(self) -> Grid | None:
        """The grid of its entries; None for shapes, whose samples are scattered points."""
        return Grid.of(self.modality, self.shape) if self.shape else None


@dataclass(frozen=True)
class SignalOptions:
    """How to read a signal (the ``data`` settings of a run)."""

    format: str | None = None
    """Force a modality instead of detecting it: image, audio, video, volume or shape."""
    downscale: int = 1
    """Divide width and height of images and video by this (area average)."""
    holdout: str | int | float | None = None
    """Entries kept for evaluation: a share such as '0.5' (at random), 'every:2' (all but every
    second along each axis), or 'mask:FILE' (what is white, or not zero, in the file)."""
    holdout_seed: int = 0
    """Seed of the share that is held out at random."""
    start: float | None = None
    """First second of audio or video to use."""
    stop: float | None = None
    """Second at which to stop."""
    target: Literal["sdf", "occupancy"] = "sdf"
    """What is fitted of a shape: signed distance (negative inside), or 1 inside and 0 outside."""
    points: int = 1 << 20
    """Points prepared around a shape."""
    near: float = 0.75
    """Share of them near the surface; the others fill the box uniformly."""
    near_std: tuple[float, float] = (0.01, 0.05)
    """Standard deviations of the two halves of the near points from the surface, box units."""
    margin: float = 0.1
    """Free space left between a shape's largest extent and the box, as a share of the box."""

    def __post_init__(self) -> None:
        if self.downscale < 1:
            raise ValueError(f"downscale must be at least 1, got {self.downscale}")
        if self.start is not None and self.start < 0:
            raise ValueError(f"start must not be negative, got {self.start}")
        if self.stop is not None and not self.stop > (self.start or 0):
            raise ValueError(f"stop must exceed start, got start {self.start} and stop {self.stop}")
        if self.points < 1024:
            raise ValueError(f"points must be at least 1024, got {self.points}")
        if not 0 <= self.near <= 1:
            raise ValueError(f"near must lie in [0, 1], got {self.near}")
        if not all(std > 0 for std in self.near_std):
            raise ValueError(f"near_std must be positive, got {self.near_std}")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin must lie in [0, 1), got {self.margin}")
