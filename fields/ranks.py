"""Ranks that grow while a field is fitted, so that it can be cut to any of them (SlimmeRF).

Yuan and Zhao, 3DV 2024, arXiv 2312.10034: components become active one after the other; early
ones learn what is coarse, late ones details, and the first r of them are a field of their own.

R: rank, the number of such components; a factor with `count` slices takes its share of them:
``ceil(r count / R)`` belong to the first r. eps: what inactive factors are multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError

# Not zero, so that gradients have a path (section 3 of the paper); too small to be seen.
EPS = 1e-6


@dataclass(frozen=True)
class RankSchedule:
    """When components become active, beginning with one.

    kind: ``none``: all are from the start; ``fixed``: one after the other, evenly over the first
    `share` of the budget; ``jump``: the paper's rule, one more whenever the mean squared error of
    a step differs from that of the step before by more than `jump` of itself, but not within
    `gap` steps of the last. The rule is driven by the noise of the batches: it may never fire, or
    at once. The fixed schedule is not in the paper.
    """

    kind: Literal["none", "fixed", "jump"] = "none"
    share: float = 0.5
    jump: float = 0.4
    gap: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"rank_share must be in (0, 1], got {self.share}")
        if not self.jump > 0:
            raise ValueError(f"rank_jump must be positive, got {self.jump}")
        if self.gap < 0:
            raise ValueError(f"rank_gap must not be negative, got {self.gap}")


@dataclass(frozen=True)
class RankSettings:
    """Settings that backbones with a `RankSchedule` have in common."""

    rank_schedule: Literal["none", "fixed", "jump"] = "none"
    """When components become active, so that the field can be cut to fewer of them: all from the
    start, evenly over `rank_share` of the budget, or when the error jumps (SlimmeRF)."""
    rank_share: float = 0.5
    """Share of the budget after which all are active (fixed)."""
    rank_jump: float = 0.4
    """Relative change of the error from step to step that activates one more (jump)."""
    rank_gap: int = 0
    """Fewest steps between two activations (jump)."""

    def schedule(self) -> RankSchedule:
        """When components become active."""
        return RankSchedule(self.rank_schedule, self.rank_share, self.rank_jump, self.rank_gap)


def scheduled_rank(fraction: float, rank: int, share: float) -> int:
    """Active components at a fraction of the budget, all of them from `share` on.

    Example:
        >>> [scheduled_rank(f, rank=4, share=0.5) for f in (0.0, 0.125, 0.3, 0.5, 1.0)]
        [1, 2, 3, 4, 4]
    """
    return min(rank, 1 + int(fraction / share * rank))


def rank_mask(
    active: int, like: Float[Tensor, "..."], count: int, power: int = 1
) -> Float[Tensor, "count"]:
    """1 for the first `active` components and ``eps**power`` for the rest.

    Args:
        active: How many components are active.
        like: Gives device and number type.
        count: Components.
        power: Factors of a product at once: each of them has eps.
    """
    mask = like.new_ones(count)
    mask[active:] = EPS**power
    return mask


def first_components(
    values: Tensor, old: int, new: int, dim: int = -1, blocks: int = 1
) -> Float[Tensor, "..."]:
    """The first `new` slices of each block of `old` along a dimension, copied.

    Args:
        values: Any tensor whose dimension `dim` has ``blocks * old`` entries.
        old: Slices of a block.
        new: Slices to keep.
        dim: The dimension.
        blocks: Blocks that lie one behind the other (the columns of a matrix that takes
            components orientation by orientation).
    """
    split = values.detach().unflatten(dim, (blocks, old))
    at = dim if dim < 0 else dim + 1
    return split.narrow(at, 0, new).flatten(at - 1, at).clone()


class Ranks:
    """How many of a field's components are active, and how many there are.

    Plain state of a backbone, kept in its `sizes`. `rank`: components there are; `active`: those
    that take part.

    Args:
        schedule: When components become active.
        rank: The rank of the config.
    """

    def __init__(self, schedule: RankSchedule, rank: int):
        self.schedule = schedule
        self.full = self.rank = rank
        self.active = rank if schedule.kind == "none" else 1
        self._last, self._mse = 0, None

    def advance(self, progress: Progress) -> None:
        """Activate what the schedule says; called from `grow`."""
        if self.active == self.rank:
            return
        if self.schedule.kind == "fixed":
            self.active = max(
                self.active, scheduled_rank(progress.fraction, self.rank, self.schedule.share)
            )
        elif self.schedule.kind == "jump":
            self._jump(progress)

    def _jump(self, progress: Progress) -> None:
        before, now = self._mse, progress.mse
        self._mse = now
        if before is None or not now:
            return
        due = progress.step - self._last > self.schedule.gap
        if due and abs(before - now) / now > self.schedule.jump:
            self.active, self._last = self.active + 1, progress.step

    def share(self, count: int, rank: int | None = None) -> int:
        """How many of a factor's `count` slices (by the config) the first `rank` components own.

        Args:
            count: Slices of the factor when nothing is cut.
            rank: Components (None: those there are now).
        """
        return -(-(self.rank if rank is None else rank) * count // self.full)

    def mask(
        self, count: int, like: Float[Tensor, "..."], power: int = 1
    ) -> Float[Tensor, "kept"] | None:
        """`rank_mask` for a factor of `count` slices (by the config); None: all are active."""
        if self.active == self.rank:
            return None
        return rank_mask(self.share(count, self.active), like, self.share(count), power)

    def keep(self, rank: int) -> None:
        """Keep the first `rank` components for good; the backbone cuts its parameters.

        Raises:
            ConfigError: There are not so many.
        """
        if not 1 <= rank <= self.rank:
            raise ConfigError(f"rank must lie in 1..{self.rank}, what the run has, got {rank}")
        self.rank, self.active = rank, min(self.active, rank)

    def sizes(self) -> dict[str, Any]:
        """Plain data enough to go on."""
        return {"rank": self.rank, "active": self.active, "last": self._last, "mse": self._mse}

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take what `sizes` gave."""
        self.rank, self.active = sizes["rank"], sizes["active"]
        self._last, self._mse = sizes["last"], sizes["mse"]
