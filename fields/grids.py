"""What explicit grids have in common: a box of their own, resolutions that grow, penalties.

A *grid* is a parameter (nodes along its axes..., features) whose outer nodes lie on the border
of the box: a line, a plane, a volume. While a field is fitted the box shrinks to what was found
and the grids get finer (TensoRF; Chen et al., ECCV 2022, arXiv 2203.09517, section 4.4 and
supplement; DirectVoxGO; Sun et al., CVPR 2022, arXiv 2111.11215).

x: coordinates in [-1, 1]; u: the same in units of the grids' own box, again [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from polyfield.encodings.base import Progress, require_dims
from polyfield.fields.base import Backbone
from polyfield.fields.insight import MOST, Insight, axis_names, curves, picture
from polyfield.fields.ranks import Ranks, first_components

# Raw density outside the grids' own box: nothing is left of it behind any activation.
OUTSIDE = -50.0
# The box that remains is larger than what was found by this share of it (DirectVoxGO's 5 %).
MARGIN = 0.05


@dataclass(frozen=True)
class Growth:
    """When grids get finer, and how fine.

    first, final: nodes per axis of the whole box, or as many nodes in a smaller one, whose
    numbers are spaced logarithmically; at: shares of the budget at which they are increased;
    shrink_at: share of the budget from which the box shrinks, once (None: never).
    """

    first: int
    final: int
    at: tuple[float, ...] = ()
    shrink_at: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.first <= self.final:
            raise ValueError(
                "resolution must be at least 2 and at most final_resolution, got "
                f"{self.first} and {self.final}"
            )
        if any(not 0 <= share <= 1 for share in self.at):
            raise ValueError(f"grow_at lists shares of the budget in [0, 1], got {self.at}")
        if any(later <= earlier for earlier, later in pairwise(self.at)):
            raise ValueError(f"grow_at must increase, got {self.at}")
        if not self.at and self.first != self.final:
            raise ValueError(
                f"final_resolution ({self.final}) is never reached from resolution {self.first} "
                "without grow_at; list shares of the budget there"
            )
        if self.shrink_at is not None and not 0 <= self.shrink_at <= 1:
            raise ValueError(f"shrink_at must be in [0, 1] or null, got {self.shrink_at}")

    def stage(self, fraction: float) -> int:
        """How often grids have been made finer at a share of the budget."""
        return sum(fraction >= share for share in self.at)

    def nodes(self, stage: int, in_dim: int) -> float:
        """Nodes of a dense grid at a stage.

        Example:
            >>> paper = Growth(128, 300, at=(0.1, 0.2, 0.3, 0.4, 0.5))
            >>> [round(paper.nodes(stage, 3)) for stage in range(1, 6)]
            [3496042, 5828052, 9715613, 16196344, 27000000]
        """
        if not stage:
            return float(self.first**in_dim)
        return self.first**in_dim * (self.final / self.first) ** (in_dim * stage / len(self.at))


@dataclass(frozen=True)
class GrowthSettings:
    """Settings that backbones with a `Growth` have in common."""

    resolution: int = 128
    """Nodes per axis at the start."""
    final_resolution: int = 300
    """Nodes per axis of the whole box in the end; a smaller box gets as many nodes in all."""
    grow_at: tuple[float, ...] = ()
    """Shares of the budget at which the grids get finer, in steps of equal ratio."""
    shrink_at: float | None = None
    """Share of the budget from which the box shrinks to what was found, once (null: never)."""

    def growth(self) -> Growth:
        """Resolutions and when they change."""
        return Growth(self.resolution, self.final_resolution, self.grow_at, self.shrink_at)


def box_resolution(box: Float[Tensor, "2 D"], nodes: float) -> tuple[int, ...]:
    """Nodes per axis, at least 2, that give cubic cells and at most `nodes` nodes of a dense grid.

    Source: TensoRF's code; 1e-4 keeps whole numbers from being rounded down.
    """
    size = (box[1] - box[0]).double().clamp(min=1e-6)
    side = (size.log().mean() - torch.tensor(nodes).double().log() / len(size)).exp()
    return tuple(max(2, int(n)) for n in (size / side + 1e-4).floor())


def resample(values: Tensor, dim: int, count: int) -> Tensor:
    """Values at `count` nodes instead along one dimension, linearly; the outer nodes stay.

    Nodes that were there before keep their values exactly.
    """
    old = values.shape[dim]
    if count == old:
        return values
    place = torch.arange(count, device=values.device) * (old - 1)
    below = place.div(count - 1, rounding_mode="floor").clamp(max=max(0, old - 2))
    weight = (place - below * (count - 1)).to(values.dtype) / (count - 1)
    weight = weight.reshape([-1 if d == dim else 1 for d in range(values.dim())])
    above = (below + 1).clamp(max=old - 1)
    return values.index_select(dim, below) * (1 - weight) + values.index_select(dim, above) * weight


def upsample(
    values: Float[Tensor, "*nodes F"], resolution: Iterable[int]
) -> Float[Tensor, "*finer F"]:
    """A grid at another resolution, multilinearly; see `resample`."""
    for dim, count in enumerate(resolution):
        values = resample(values, dim, count)
    return values


def total_variation(
    values: Float[Tensor, "*nodes F"], axes: int | None = None
) -> Float[Tensor, ""]:
    """Twice the sum over axes of the mean squared difference of neighbours (TensoRF's code).

    Args:
        values: A grid.
        axes: How many of its dimensions are axes (None: all but the last).

    Example:
        >>> total_variation(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), axes=2)
        tensor(10.)
    """
    axes = values.dim() - 1 if axes is None else axes
    differences = [values.diff(dim=d) for d in range(axes) if values.shape[d] > 1]
    return 2 * sum((d.square().mean() for d in differences), values.new_zeros(()))


def basis_matrix(
    in_dim: int, out_dim: int, generator: torch.Generator | None
) -> Float[Tensor, "out_dim in_dim"]:
    """A matrix drawn from U(-1/sqrt(in_dim), 1/sqrt(in_dim)), as torch draws that of a layer."""
    return (torch.rand(out_dim, in_dim, generator=generator) * 2 - 1) * in_dim**-0.5


class GridBackbone(Backbone):
    """A backbone of grids over a box that shrinks, with resolutions and ranks that grow.

    Parameters: `grids`, by name, each (nodes of its axes..., features); `grid_axes` names the
    axes, `counts` the features by the config. Buffer: `box` (2, D), the part of [-1, 1] that the
    grids cover. Outside it raw density is `OUTSIDE`, the other features are those of the border.

    Args:
        name: Registered name, for messages.
        dims: Numbers of coordinates the method is defined for.
        in_dim: Number of coordinates.
        growth: Resolutions and when they change.
        ranks: Where the features of grids are components: how many take part.
    """

    box: Tensor

    def __init__(
        self,
        name: str,
        dims: tuple[int, ...],
        in_dim: int,
        growth: Growth,
        ranks: Ranks | None = None,
    ):
        super().__init__()
        require_dims(name, in_dim, dims)
        self.in_dim, self.growth, self.ranks = in_dim, growth, ranks
        self.register_buffer("box", torch.tensor([[-1.0], [1.0]]).repeat(1, in_dim))
        self.resolution = (growth.first,) * in_dim
        self.stage, self.shrunk = 0, False
        self.grids = nn.ParameterDict()
        self.grid_axes: dict[str, tuple[int, ...]] = {}
        self.counts: dict[str, int] = {}

    def add_grid(
        self,
        name: str,
        axes: tuple[int, ...],
        features: int,
        std: float,
        generator: torch.Generator | None,
    ) -> None:
        """Make a grid along some axes, drawn from N(0, std^2)."""
        shape = (*(self.resolution[axis] for axis in axes), features)
        self.grids[name] = nn.Parameter(torch.randn(shape, generator=generator) * std)
        self.grid_axes[name], self.counts[name] = axes, features

    def locate(
        self, x: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Bool[Tensor, "*batch"] | None]:
        """Coordinates in the grids' own box, and which points lie in it (None: all)."""
        if not self.shrunk:
            return x, None
        low, high = self.box.to(x.dtype)
        u = (2 * x - (low + high)) / (high - low)
        return u, (u.abs() <= 1).all(-1)

    def masked(self, name: str) -> Tensor:
        """A grid of components as the penalties see it: inactive ones are as good as zero."""
        mask = None if self.ranks is None else self.ranks.mask(self.counts[name], self.grids[name])
        return self.grids[name] if mask is None else self.grids[name] * mask

    def total_magnitude(self, kind: str) -> Float[Tensor, ""]:
        """Sum over grids whose name begins with `kind` of their mean magnitude."""
        return sum(self.masked(n).abs().mean() for n in self.grids if n.startswith(kind))

    def total_variation(self, kind: str) -> Float[Tensor, ""]:
        """Sum over grids whose name begins with `kind` of their `total_variation`."""
        return sum(total_variation(self.masked(n)) for n in self.grids if n.startswith(kind))

    def grow(self, progress: Progress) -> bool:
        """Activate components, shrink the box, refine the grids; see `Growth`."""
        if self.ranks is not None:
            self.ranks.advance(progress)
        changed = self._shrink(progress)
        stage = self.growth.stage(progress.fraction)
        if stage > self.stage:
            self.stage = stage
            changed |= self._refine()
        return changed

    def _refine(self) -> bool:
        wanted = box_resolution(self.box, self.growth.nodes(self.stage, self.in_dim))
        if wanted == self.resolution:
            return False
        self.resolution = wanted
        for name, axes in self.grid_axes.items():
            self._replace(name, upsample(self.grids[name].detach(), [wanted[a] for a in axes]))
        return True

    def _shrink(self, progress: Progress) -> bool:
        """Cut the grids to the nodes around occupied cells, once they are known."""
        start = self.growth.shrink_at
        if self.shrunk or start is None or progress.fraction < start or progress.occupied is None:
            return False
        cells = progress.occupied()
        if cells is None or not len(cells.centres):
            return False
        found = cells.box.to(self.box)
        margin = (found[1] - found[0]) * MARGIN / 2
        self.shrunk = True
        return self.crop(torch.stack((found[0] - margin, found[1] + margin)))

    def crop(self, found: Float[Tensor, "2 D"]) -> bool:
        """Shrink the box to the nodes at or around a smaller one; whether that cut anything."""
        last = torch.tensor(self.resolution, device=self.box.device) - 1
        low, high = self.box
        place = (found.to(self.box) - low) / (high - low) * last
        # rounding must not cost a node's width
        first = (place[0] + 1e-4).floor().long().clamp(min=0).minimum(last - 1)
        end = (place[1] - 1e-4).ceil().long().minimum(last).maximum(first + 1)
        if bool((first == 0).all() and (end == last).all()):
            return False
        nodes = torch.stack((first, end))
        self.box = low + (high - low) * (nodes / last)
        self.resolution = tuple((end - first + 1).tolist())
        starts = first.tolist()
        for name, axes in self.grid_axes.items():
            values = self.grids[name].detach()
            for dim, axis in enumerate(axes):
                values = values.narrow(dim, starts[axis], self.resolution[axis])
            self._replace(name, values)
        return True

    def _replace(self, name: str, values: Tensor) -> None:
        """Put a new parameter in the place of a grid."""
        self.grids[name] = nn.Parameter(values.clone(memory_format=torch.contiguous_format))

    def insights(self, limit: int = MOST) -> list[Insight]:
        """Every line and plane, and of larger grids the slice through the middle."""
        return [self._insight(name, axes, limit) for name, axes in self.grid_axes.items()]

    def _insight(self, name: str, axes: tuple[int, ...], limit: int) -> Insight:
        values = self.masked(name)
        along = "".join(axis_names(self.in_dim)[axis] for axis in axes[:2])
        word = {1: "line", 2: "plane"}.get(len(axes), "over")
        kind = name.rstrip("0123456789_").replace("_", " ").removesuffix(word)
        title = " ".join([*([] if kind == along else kind.split()), word, along])
        if len(axes) == 1:
            low, high = self.box[:, axes[0]].tolist()
            return curves(title, torch.linspace(low, high, len(values)), values, limit)
        while values.dim() > 3:
            values = values.select(2, values.shape[2] // 2)
        return picture(title, values, limit, self.in_dim)

    def slim(self, rank: int) -> None:
        """Keep the first `rank` components; see `Ranks`."""
        if self.ranks is None:
            super().slim(rank)
        before = {name: self.ranks.share(count) for name, count in self.counts.items()}
        self.ranks.keep(rank)
        for name, count in self.counts.items():
            kept = self.ranks.share(count)
            self.grids[name] = nn.Parameter(first_components(self.grids[name], before[name], kept))

    def sizes(self) -> dict[str, Any]:
        """Resolution, stage, whether the box has shrunk, and the ranks."""
        sizes = {
            "resolution": list(self.resolution),
            "stage": self.stage,
            "shrunk": self.shrunk,
        }
        return sizes if self.ranks is None else {**sizes, "ranks": self.ranks.sizes()}

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take what `sizes` gave; the box comes with the weights."""
        self.resolution = tuple(sizes["resolution"])
        self.stage, self.shrunk = sizes["stage"], sizes["shrunk"]
        if self.ranks is not None:
            self.ranks.resize(sizes["ranks"])
        for name, axes in self.grid_axes.items():
            count = self.counts[name]
            features = count if self.ranks is None else self.ranks.share(count)
            shape = (*(self.resolution[axis] for axis in axes), features)
            self._replace(name, self.grids[name].new_zeros(shape).detach())

    def grid_group(self, lr: float, sparse: bool = False) -> dict[str, Any]:
        """Optimiser group of the grids."""
        return {"params": list(self.grids.values()), "lr": lr, "sparse": sparse}
