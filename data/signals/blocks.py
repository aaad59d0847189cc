"""Values that arrive in blocks, gathered into the array that a file holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from polyfield.data.signal import Grid
from polyfield.errors import InputError, TrainingError
from polyfield.files import replacing


def gather(blocks: Iterable[Tensor], grid: Grid, channels: int, levels: int) -> np.ndarray:
    """Values in [0, 1] as whole numbers up to `levels`, 8 or 16 bits, in the grid's stored shape.

    Raises:
        TrainingError: A value is not a number.
    """
    out = np.empty((grid.entries, channels), np.uint8 if levels < 256 else np.uint16)
    for low, values in numbered(blocks, grid, channels):
        out[low : low + len(values)] = quantise(values, levels)
    return out.reshape(*grid.stored_shape, channels)


def quantise(values: np.ndarray, levels: int) -> np.ndarray:
    """The nearest of the whole numbers 0 to `levels` for values in [0, 1]."""
    wide = np.rint(np.clip(values.astype(np.float64), 0.0, 1.0) * levels)
    return wide.astype(np.uint8 if levels < 256 else np.uint16)


def numbered(
    blocks: Iterable[Tensor], grid: Grid, channels: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Each block as an array (n, channels) with the number of its first entry.

    Raises:
        TrainingError: A value is not a number.
        ValueError: Blocks do not make up the grid (a mistake of the caller).
    """
    low = 0
    for block in blocks:
        values = block.detach().cpu().numpy()
        if values.shape[1:] != (channels,) or low + len(values) > grid.entries:
            raise ValueError(f"block of shape {values.shape} at entry {low} of {grid}")
        if not np.isfinite(values).all():
            raise TrainingError(
                f"the field gives values that are not numbers, first in entries {low} to "
                f"{low + len(values) - 1}; fit it again with a smaller learning rate"
            )
        yield low, values
        low += len(values)
    if low != grid.entries:
        raise ValueError(f"blocks ended after {low} of {grid.entries} entries")


def in_rows(blocks: Iterable[Tensor], grid: Grid, channels: int) -> Iterator[np.ndarray]:
    """The blocks cut anew: one array per step of the slowest axis (a frame, a layer)."""
    size = grid.entries // grid.stored_shape[0]
    waiting: list[np.ndarray] = []
    count = 0
    for _, values in numbered(blocks, grid, channels):
        waiting.append(values)
        count += len(values)
        if count < size:
            continue
        joined = np.concatenate(waiting)
        for start in range(0, count - size + 1, size):
            yield joined[start : start + size].reshape(*grid.stored_shape[1:], channels)
        rest = joined[count - count % size :]
        waiting, count = [rest], len(rest)


def write_npy(blocks: Iterable[Tensor], grid: Grid, channels: int, out: Path) -> None:
    """Float32 values as ``.npy`` in the grid's stored shape, block by block.

    Raises:
        InputError: The file cannot be written.
        TrainingError: A value is not a number.
    """
    shape = (*grid.stored_shape, channels) if channels > 1 else grid.stored_shape
    with replacing(out) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        flat = array.reshape(grid.entries, channels)
        for low, values in numbered(blocks, grid, channels):
            flat[low : low + len(values)] = values
        array.flush()


def refuse_suffix(out: Path, known: Iterable[str], what: str) -> InputError:
    """The error for an output file whose kind cannot be written."""
    return InputError(
        f"cannot write {what} as '{out.suffix or out.name}'; choose one of {', '.join(known)}"
    )
