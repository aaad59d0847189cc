"""Occupancy grid: remember where the field is empty and march past it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.encodings.base import Cells
from polyfield.encodings.contraction import contract, uncontract
from polyfield.errors import ConfigError
from polyfield.registry import register
from polyfield.renderers.cameras import Cameras
from polyfield.renderers.marching import Lattice, cell_indices, clearance, march, needs_clearance
from polyfield.renderers.occupancy import (
    Derived,
    mean_seen,
    occupied_cells,
    points_in_cells,
    remember,
)
from polyfield.renderers.pdf import uniforms
from polyfield.renderers.samplers.base import MakeField, Sampler
from polyfield.renderers.scans import select_packed
from polyfield.renderers.types import Intervals, Rays, Samples
from polyfield.renderers.visible import visible_samples

# Points per density query of an update, and the farthest point a contracted cell stands for.
_QUERY = 2**18
_FARTHEST = 1e4
# Müller et al. 2022, appendix E.3: every 16 steps; all cells during the first 256, later a
# quarter of them anywhere and a quarter among the occupied ones.
PAPER_SCHEDULE = {"update_every": 16, "rarer": False, "warmup": 256, "share": 0.25}


@dataclass(frozen=True)
class OccupancyGridConfig:
    """Settings of the occupancy-grid sampler."""

    resolution: int = 64
    """Cells per axis of the (contracted) scene box."""
    steps: int = 512
    """Steps along the diagonal of the scene box: sets the step length."""
    first_steps: int | None = None
    """The same at the start of a fit, growing by a fixed factor per share of its budget (None, or
    more than `steps`: `steps` throughout)."""
    growth: float = 0.5
    """Share of a fit's budget over which `first_steps` grow to `steps`."""
    cone_angle: float | None = None
    """Growth of the step with distance (None: 0 in bounded scenes, 1/256 in unbounded ones)."""
    threshold: float = 0.01
    """Opacity of one step from which a cell counts as occupied (the mean, where that is lower)."""
    decay: float = 0.95
    """Factor on a cell's remembered opacity per `update_every` steps, where it is looked at."""
    update_every: int = 16
    """Training steps between updates (while warming up, if they get `rarer`)."""
    rarer: bool = True
    """Update half as often after the warm-up, and a quarter as often after twice its steps."""
    warmup: int = 128
    """Training steps during which every update looks at all cells."""
    share: float = 0.125
    """Share of the cells that later updates look at anywhere, and again among occupied ones."""
    dilate: bool = True
    """Count the neighbours of occupied cells as occupied, against missed thin edges."""
    early_stop_eps: float = 1e-4
    """Drop intervals that less than this share of the light reaches (0: keep all)."""
    alpha_threshold: float = 0.0
    """Drop intervals of less opacity than this (or than the grid's mean, where that is lower)."""

    def __post_init__(self) -> None:
        for name in ("resolution", "steps", "update_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.first_steps is not None and self.first_steps < 1:
            raise ValueError(f"first_steps must be at least 1, got {self.first_steps}")
        if not 0 < self.growth <= 1:
            raise ValueError(f"growth must be in (0, 1], got {self.growth}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], got {self.share}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {self.decay}")
        if self.cone_angle is not None and not 0 <= self.cone_angle < 1:
            raise ValueError(f"cone_angle must be in [0, 1), got {self.cone_angle}")
        if not 0 <= self.early_stop_eps < 1 or not 0 <= self.alpha_threshold < 1:
            raise ValueError("early_stop_eps and alpha_threshold must be in [0, 1)")


@register(
    "occupancy-grid",
    config=OccupancyGridConfig,
    paper="Müller et al. 2022; Li et al. 2023",
    presets={
        "paper": {"sampler": {"resolution": 128, "steps": 1024, **PAPER_SCHEDULE}},
        # 1/256 asks for over a thousand steps a ray before the grid knows what is empty
        "unbounded": {"sampler": {"cone_angle": 0.03}},
    },
)
class OccupancyGrid(Sampler):
    """Packed samples in the occupied cells of a grid over the contracted scene box.

    `occupancy`: opacity of one step at each cell as last seen, -1 where no sensor looks;
    `occupied`: the cells that are marched through, all of them before the first update. One
    grid serves bounded scenes and, through the contraction, unbounded ones.
    """

    occupancy: Tensor
    occupied: Tensor

    def __init__(
        self,
        config: OccupancyGridConfig,
        contraction: str = "none",
        make_field: MakeField | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config, self.contraction = config, contraction
        cone = config.cone_angle
        if cone is None:
            cone = 0.0 if contraction == "none" else 1 / 256
        if contraction != "none" and cone == 0:
            raise ConfigError(
                "sampler.cone_angle is 0, but this scene has no end, so rays would need endless "
                "steps; leave it unset or give about 0.004"
            )
        self._cone = cone
        self.schedule(1.0)
        shape = (config.resolution,) * 3
        self.register_buffer("occupancy", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self._clearance = Derived(partial(clearance, contraction=contraction))
        self._mean = Derived(mean_seen)

    def forward(self, rays: Rays, field: Any, generator: torch.Generator | None = None) -> Samples:
        """Packed intervals of `rays`; the field is asked for densities where pruning is on."""
        offset = None if generator is None else uniforms((len(rays),), rays.near, generator)
        clear = self._clearance(self.occupied) if needs_clearance(rays) else None
        intervals = march(rays, self.occupied, self.lattice, self.contraction, offset, clear)
        if self.config.early_stop_eps > 0 or self.config.alpha_threshold > 0:
            intervals = self._prune(rays, intervals, field)
        return Samples(intervals)

    def schedule(self, fraction: float) -> None:
        """Set the step length: long at the start, while there is nothing fine to be seen."""
        steps = float(self.config.steps)
        if self.config.first_steps is not None:
            left = 1 - min(1.0, fraction / self.config.growth)
            steps *= min(1.0, self.config.first_steps / steps) ** left
        self.lattice = Lattice(2 * 3**0.5 / steps, self._cone)

    def _prune(self, rays: Rays, intervals: Intervals, field: Any) -> Intervals:
        """The intervals that can be seen (a second, gradient-free look at the density)."""
        threshold = self.config.alpha_threshold
        if threshold > 0:
            threshold = min(threshold, float(self._mean(self.occupancy)))
        eps = self.config.early_stop_eps
        seen = visible_samples(field.density, rays, intervals, eps, threshold)
        return intervals.select(seen)[0]

    def update(self, field: Any, step: int, generator: torch.Generator) -> None:
        """Look at the field again: at all cells while warming up, then at some.

        Later updates look at a `share` of the cells at random and at as many random occupied
        ones, each at a random point inside. If `rarer`, they come less and less often, since
        the field changes less and less, and fade what is remembered by as much more.

        Source: Müller et al. 2022, appendix E.3; Li et al. 2023.
        """
        warmup = self.config.warmup
        rarer = 1 if step < warmup or not self.config.rarer else 2 if step < 2 * warmup else 4
        if step % (self.config.update_every * rarer):
            return
        flat = self.occupancy.flatten()
        cells = _where(flat >= 0) if step < warmup else self._some_cells(generator)
        value = self._look(field, cells, generator)
        new = remember(flat, cells, value, self.config.decay**rarer)
        self.occupancy.copy_(new.reshape(self.occupancy.shape))
        self._threshold()

    def _threshold(self) -> None:
        # A shade under the mean: rounding must not empty a grid whose cells are all alike.
        limit = min(float(mean_seen(self.occupancy)) * (1 - 1e-4), self.config.threshold)
        self.occupied.copy_(occupied_cells(self.occupancy, limit, self.config.dilate))

    def _some_cells(self, generator: torch.Generator) -> Int64[Tensor, "m"]:
        total, device = self.occupancy.numel(), self.occupancy.device
        n = max(1, round(total * self.config.share))

        def draw(high: int) -> Tensor:
            drawn = torch.randint(high, (n,), generator=generator, device=generator.device)
            return drawn.to(device)

        anywhere = draw(total)
        anywhere = anywhere[_where(self.occupancy.flatten().index_select(0, anywhere) >= 0)]
        occupied = _where(self.occupied.flatten())
        again = occupied[draw(len(occupied))] if len(occupied) > n else occupied
        return torch.cat([anywhere, again])

    @torch.no_grad()
    def _look(
        self, field: Any, cells: Int64[Tensor, "m"], generator: torch.Generator | None
    ) -> Float[Tensor, "m"]:
        """Opacity of one marching step at a random point of each cell."""
        values = []
        for part in cells.split(_QUERY):
            x = self.cell_points(part, generator)
            length = self.lattice.step
            if self.lattice.cone_angle:
                # Steps grow with the distance to the camera, for which the distance to the
                # box's centre stands in.
                length = (x.norm(dim=-1) * self.lattice.cone_angle).clamp(min=length)
            values.append(field.density(x).to(x.dtype) * length)
        return torch.cat(values) if values else self.occupancy.new_zeros(0)

    def occupied_cells(self) -> Cells | None:
        """The cells that are marched through; None before the first update.

        In scenes without an end they are those of the contracted box, which backbones see.
        """
        if bool(self.occupied.all()):
            return None
        r = self.config.resolution
        index = self.occupied.nonzero()
        return Cells((2 * index.to(self.occupancy.dtype) + 1) / r - 1, 1 / r)

    def cell_points(
        self, cells: Int64[Tensor, "m"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "m 3"]:
        """A random point of each cell in the scene box (without a generator, its centre)."""
        place = uniforms((len(cells), 3), self.occupancy, generator)
        y = points_in_cells(place, cells, self.config.resolution)
        if self.contraction == "none":
            return y
        limit = 1 - 1 / (2 * _FARTHEST)
        y = y * (limit / y.norm(dim=-1, keepdim=True).clamp(min=limit))
        return uncontract(y, self.contraction)

    @torch.no_grad()
    def mark_unseen(self, cameras: Cameras) -> int:
        """Switch off, for good, the cells that no camera sees; returns their number.

        A cell is seen where its centre projects into an image, give or take the cell's size.
        """
        r = self.config.resolution
        cells = torch.arange(self.occupancy.numel(), device=self.occupancy.device)
        x = self.cell_points(cells)
        reach = 3**0.5 / r * self._stretch(x)
        seen = torch.zeros_like(cells, dtype=torch.bool)
        for view in range(len(cameras)):
            left = (~seen).nonzero()[:, 0]
            for part in left.split(_QUERY):
                seen[part] = _sees(cameras, view, x[part], reach[part])
        self.occupancy.copy_(
            torch.where(seen.reshape(self.occupancy.shape), self.occupancy.clamp(min=0), -1.0)
        )
        self.occupied &= self.occupancy >= 0
        return int((~seen).sum())

    @torch.no_grad()
    def restrict(self, points: Float[Tensor, "n 3"], reach: int = 1) -> int:
        """Switch off, for good, the cells with none of these points nearby; returns their number.

        What sensors that measure distance got no return from is empty as far as anyone knows.

        Args:
            points: Where something was found, scene box.
            reach: Cells around a point's own that stay, along every axis.
        """
        r = self.config.resolution
        y = contract(points.to(self.occupancy), self.contraction)
        kept = torch.zeros(r**3, dtype=self.occupancy.dtype, device=y.device)
        kept[cell_indices(y, r)] = 1
        kept = kept.reshape(1, 1, r, r, r)
        kept = torch.nn.functional.max_pool3d(kept, 2 * reach + 1, 1, reach)[0, 0] > 0
        self.occupancy.copy_(torch.where(kept, self.occupancy.clamp(min=0), -1.0))
        self.occupied &= kept
        return int((~kept).sum())

    def _stretch(self, x: Tensor) -> Tensor:
        """Size of a cell at x relative to one of the uncontracted box, at most."""
        if self.contraction == "none":
            return torch.ones_like(x[:, 0])
        return 2 * x.norm(dim=-1).clamp(min=1).square()

    def occupied_at(self, y: Float[Tensor, "*batch 3"]) -> Tensor:
        """Whether contracted positions lie in occupied cells."""
        return self.occupied.flatten()[cell_indices(y, self.config.resolution)]


def _where(mask: Bool[Tensor, "k"]) -> Int64[Tensor, "m"]:
    """Positions of the true values."""
    return select_packed(mask, torch.tensor([0, len(mask)], device=mask.device))[0]


def _sees(cameras: Cameras, view: int, x: Tensor, reach: Tensor) -> Tensor:
    views = torch.full(x.shape[:1], view, dtype=torch.int64, device=x.device)
    xy, z = cameras.project(views, x)
    margin = reach * cameras.intrinsics[view, :2].max() / z.clamp(min=1e-6)
    width, height = cameras.sizes[view].tolist()
    inside = (xy[:, 0] > -margin) & (xy[:, 0] < width + margin)
    inside &= (xy[:, 1] > -margin) & (xy[:, 1] < height + margin)
    close = reach >= (x - cameras.c2w[view, :, 3]).norm(dim=-1)
    return (inside & (z + reach > 0)) | close
