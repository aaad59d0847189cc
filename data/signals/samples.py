"""Samples of a stored array: what is asked for becomes float32, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.data.signal import Grid, HeldOut, SignalBlock


@dataclass(frozen=True)
class Scaling:
    """From stored numbers to values: ``value = (stored - zero) * scale``, rounded to float32.

    packed: the array's last axis holds the bytes of one little-endian 24-bit number.
    """

    scale: float = 1.0
    zero: float = 0.0
    packed: bool = False

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """Values (..., channels) of stored numbers."""
        if self.packed:
            wide = stored.astype(np.int32)
            stored = wide[..., 0] | wide[..., 1] << 8 | (wide[..., 2] << 24) >> 8
        return ((stored.astype(np.float64) - self.zero) * self.scale).astype(np.float32)


class GridSamples:
    """Entries of a regular grid.

    Args:
        grid: How they are numbered.
        data: ``(*grid.stored_shape, channels)``, or with a further axis of 3 bytes where
            `scaling` is packed; any strides, usually a memory map, never copied.
        scaling: From its numbers to values.
        holdout: What is not drawn.
    """

    def __init__(self, grid: Grid, data: np.ndarray, scaling: Scaling, holdout: HeldOut | None):
        assert data.shape[: grid.dims] == grid.stored_shape, (data.shape, grid)
        self.grid, self.scaling, self.holdout = grid, scaling, holdout
        # a plain array over the same memory: indexing is faster
        plain = np.asarray(data)
        whole = plain.flags.c_contiguous
        self._data = plain.reshape(-1, *plain.shape[grid.dims :]) if whole else plain
        self._flat = whole

    @property
    def entries(self) -> int:
        """How many entries there are, held out or not."""
        return self.grid.entries

    @property
    def nbytes(self) -> int:
        """Bytes of the stored numbers."""
        return self._data.nbytes

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n dims"], Float[Tensor, "n channels"]]:
        """Coordinates and values of entries drawn uniformly from those not held out."""
        if self.holdout is None:
            return self.at(torch.randint(self.entries, (n,), generator=generator))
        return self.at(self.holdout.draw(n, generator))

    def at(
        self, index: Int64[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n dims"], Float[Tensor, "n channels"]]:
        """Coordinates and values of numbered entries."""
        return self.grid.coordinates(index), self.values(index)

    def values(self, index: Int64[Tensor, "n"]) -> Float[Tensor, "n channels"]:
        """Values of numbered entries."""
        if self._flat:
            stored = self._data[index.numpy()]
        else:
            positions = self.grid.positions(index).numpy()
            stored = self._data[tuple(positions[:, axis] for axis in self.grid.order)]
        return torch.from_numpy(self.scaling(stored))

    def blocks(self, size: int) -> Iterator[SignalBlock]:
        """All entries in order, at most `size` at a time."""
        for index, x in self.grid.blocks(size):
            held = torch.zeros(len(index), dtype=torch.bool)
            if self.holdout is not None:
                held = self.holdout.contains(index)
            yield SignalBlock(index, x, self.values(index), held)


class PointSamples:
    """Scattered points with values.

    Args:
        x, values: ``(P, dims)`` and ``(P, channels)`` float32 arrays, usually memory maps.
        kept: How many of the last points are held out: an evaluation set of their own.
    """

    def __init__(self, x: np.ndarray, values: np.ndarray, kept: int):
        self._x, self._values, self.kept = np.asarray(x), np.asarray(values), kept

    @property
    def entries(self) -> int:
        """How many points there are, held out or not."""
        return len(self._x)

    @property
    def nbytes(self) -> int:
        """Bytes of points and values."""
        return self._x.nbytes + self._values.nbytes

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n dims"], Float[Tensor, "n channels"]]:
        """Points and values drawn uniformly from those not held out."""
        return self.at(torch.randint(self.entries - self.kept, (n,), generator=generator))

    def at(
        self, index: Int64[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n dims"], Float[Tensor, "n channels"]]:
        """Numbered points and their values."""
        rows = index.numpy()
        return torch.from_numpy(self._x[rows]), torch.from_numpy(self._values[rows])

    def blocks(self, size: int) -> Iterator[SignalBlock]:
        """All points in order, at most `size` at a time; those held out come last."""
        for low in range(0, self.entries, size):
            index = torch.arange(low, min(low + size, self.entries))
            yield SignalBlock(index, *self.at(index), index >= self.entries - self.kept)
