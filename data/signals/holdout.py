"""Entries kept for evaluation: ``0.5`` at random, ``every:2`` along each axis, ``mask:FILE``.

Nothing here holds a list of all entries: membership is computed from the entry's number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from polyfield.data.decode import decode
from polyfield.data.signal import Grid, HeldOut, SignalOptions
from polyfield.errors import ConfigError, InputError

EXPECTED = "expected a share such as '0.5', 'every:2', or 'mask:FILE'"
_RARE = 1 / 16  # entries to fit that are rarer than this are listed instead of searched for
_LOOK = 1 << 16  # entries among which some must be fitted and some held out
_WORD = (1 << 64) - 1


def parse_holdout(options: SignalOptions, grid: Grid) -> HeldOut | None:
    """What ``options.holdout`` keeps of the entries of `grid`; None without any.

    Raises:
        ConfigError: The specification cannot be read, or leaves nothing to fit or to keep.
        InputError: The mask cannot be read or has another shape.
    """
    if options.holdout is None:
        return None
    spec = str(options.holdout).strip()
    every = re.fullmatch(r"every:(\d+)", spec)
    if every:
        return EveryOther(spec, grid, _step(int(every[1]), spec, grid))
    if spec.startswith("mask:"):
        return Masked(spec, grid, _read_mask(Path(spec.removeprefix("mask:")).expanduser(), grid))
    if re.fullmatch(r"0?\.\d+", spec) and float(spec) > 0:
        return _both_sides(RandomShare(spec, grid, float(spec), options.holdout_seed))
    raise ConfigError(f"holdout '{spec}' cannot be read; {EXPECTED}")


def _step(step: int, spec: str, grid: Grid) -> int:
    if step < 2 or step >= max(grid.shape):
        raise ConfigError(
            f"holdout '{spec}' of a signal of {_size(grid.shape)} entries: the step must be at "
            "least 2 and smaller than the signal"
        )
    return step


def _both_sides(share: RandomShare) -> RandomShare:
    held = share.contains(torch.arange(min(share.grid.entries, _LOOK)))
    if held.all() or not held.any():
        raise ConfigError(
            f"holdout '{share.spec}' of a signal of {_size(share.grid.shape)} entries keeps "
            f"{'everything, so that nothing is left to fit' if held.all() else 'nothing'}"
        )
    return share


@dataclass(frozen=True)
class EveryOther:
    """Super-resolution: entries whose position is a multiple of `step` along every axis are
    fitted, all others are held out."""

    spec: str
    grid: Grid
    step: int

    def contains(self, index: Int64[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Which of the numbered entries are held out."""
        return (self.grid.positions(index) % self.step != 0).any(dim=1)

    def draw(self, n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
        """Numbers of entries drawn uniformly from the others."""
        coarse = Grid(tuple(-(-size // self.step) for size in self.grid.shape), self.grid.order)
        index = torch.randint(coarse.entries, (n,), generator=generator)
        return self.grid.index(coarse.positions(index) * self.step)


@dataclass(frozen=True)
class RandomShare:
    """A share of the entries, chosen by a hash of each entry's number and the seed."""

    spec: str
    grid: Grid
    share: float
    seed: int = 0

    def contains(self, index: Int64[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Which of the numbered entries are held out."""
        return torch.from_numpy(hash_unit(index.numpy(), self.seed) < self.share)

    def draw(self, n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
        """Numbers of entries drawn uniformly from the others."""
        return draw_outside(self.contains, self.grid.entries, n, generator)


class Masked:
    """Inpainting: entries that a mask marks.

    Args:
        mask: One boolean per entry, in their order.

    Raises:
        InputError: The mask marks everything, or nothing.
    """

    def __init__(self, spec: str, grid: Grid, mask: Bool[np.ndarray, "entries"]):
        self.spec, self.grid = spec, grid
        self._mask = mask
        fitted = int(mask.size - np.count_nonzero(mask))
        if fitted in (0, mask.size):
            what = "everything, so that nothing is left to fit" if fitted == 0 else "nothing"
            raise InputError(f"holdout '{spec}' keeps {what}; white (not zero) marks what is kept")
        self._fitted = np.flatnonzero(~mask) if fitted < _RARE * mask.size else None

    def contains(self, index: Int64[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Which of the numbered entries are held out."""
        return torch.from_numpy(self._mask[index.numpy()])

    def draw(self, n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
        """Numbers of entries drawn uniformly from the others."""
        if self._fitted is None:
            return draw_outside(self.contains, self.grid.entries, n, generator)
        chosen = torch.randint(len(self._fitted), (n,), generator=generator)
        return torch.from_numpy(self._fitted[chosen.numpy()])


def draw_outside(
    held: Callable[[Tensor], Tensor], entries: int, n: int, generator: torch.Generator
) -> Int64[Tensor, "n"]:
    """Draw until `n` entries are not held out. Something must be left to find."""
    found: list[Tensor] = []
    missing = n
    while missing > 0:
        index = torch.randint(entries, (missing + missing // 2 + 16,), generator=generator)
        index = index[~held(index)][:missing]
        found.append(index)
        missing -= len(index)
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def hash_unit(index: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each entry (SplitMix64, Steele et al., OOPSLA 2014)."""
    start = (0x9E3779B97F4A7C15 * (2 * seed + 1)) & _WORD
    z = index.astype(np.uint64) + np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _read_mask(path: Path, grid: Grid) -> np.ndarray:
    """One boolean per entry from an image (the same for every frame of a video) or ``.npy``."""
    if path.suffix.lower() == ".npy":
        try:
            marked = np.load(path, mmap_mode="r", allow_pickle=False) != 0
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"mask {path} cannot be read ({error}); write it again") from error
    elif not path.is_file():
        raise InputError(f"mask {path} does not exist; check the path")
    else:
        colour = decode(path)[..., :3].max(axis=2)
        marked = colour > (127 if colour.max(initial=0) > 1 else 0)
    stored = grid.stored_shape
    if len(stored) == 3 and marked.shape == stored[1:]:
        marked = np.broadcast_to(marked, stored)
    if marked.shape != stored:
        raise InputError(
            f"mask {path} has {_size(marked.shape)} entries, expected {_size(stored)} as the "
            "signal; resize it"
        )
    return np.ascontiguousarray(marked).reshape(-1)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
