"""Occupancy grid: remember where the field is empty and march past it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.encodings.contraction import uncontract
from polyfield.errors import ConfigError
from polyfield.registry import register
from polyfield.renderers.cameras import Cameras
from polyfield.renderers.compositing import visibility_from_density
from polyfield.renderers.marching import Lattice, cell_indices, clearance, march, needs_clearance
from polyfield.renderers.pdf import uniforms
from polyfield.renderers.positions import positions
from polyfield.renderers.samplers.base import MakeField, Sampler
from polyfield.renderers.types import Intervals, Rays, Samples

# Points per density query of an update, and the farthest point a contracted cell stands for.
_QUERY = 2**18
_FARTHEST = 1e4


@dataclass(frozen=True)
class OccupancyGridConfig:
    """Settings of the occupancy-grid sampler."""

    resolution: int = 64
    """Cells per axis of the (contracted) scene box."""
    steps: int = 512
    """Steps along the diagonal of the scene box: sets the step length."""
    cone_angle: float | None = None
    """Growth of the step with distance (None: 0 in bounded scenes, 1/256 in unbounded ones)."""
    threshold: float = 0.01
    """Opacity of one step from which a cell counts as occupied (the mean, where that is lower)."""
    decay: float = 0.95
    """Factor on a cell's remembered opacity at every update."""
    update_every: int = 16
    """Training steps between updates."""
    warmup: int = 256
    """Training steps during which every update looks at all cells."""
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
        "paper": {"sampler": {"resolution": 128, "steps": 1024}},
        # 1/256 asks for over a thousand steps a ray before the grid knows what is empty
        "unbounded": {"sampler": {"cone_angle": 0.03}},
    },
)
class OccupancyGrid(Sampler):
    """Packed samples in the occupied cells of a grid over the contracted scene box.

    `occupancy`: opacity of one step at each cell as last seen, -1 where no camera looks;
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
        self.lattice = Lattice(2 * 3**0.5 / config.steps, cone)
        shape = (config.resolution,) * 3
        self.register_buffer("occupancy", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self._cleared: tuple[Tensor, int, Tensor] | None = None

    def forward(self, rays: Rays, field: Any, generator: torch.Generator | None = None) -> Samples:
        """Packed intervals of `rays`; the field is asked for densities where pruning is on."""
        offset = None if generator is None else uniforms((len(rays),), rays.near, generator)
        clear = self._clearance() if needs_clearance(rays) else None
        intervals = march(rays, self.occupied, self.lattice, self.contraction, offset, clear)
        if self.config.early_stop_eps > 0 or self.config.alpha_threshold > 0:
            intervals = self._prune(rays, intervals, field)
        return Samples(intervals)

    def _clearance(self) -> Tensor | None:
        """`clearance` of the occupied cells, found again only after they were written to."""
        if self.occupied.is_inference():  # writes to such tensors are not counted
            return None
        known = self._cleared
        if known is None or known[0] is not self.occupied or known[1] != self.occupied._version:
            known = (self.occupied, self.occupied._version, clearance(self.occupied))
            self._cleared = known
        return known[2]

    @torch.no_grad()
    def _prune(self, rays: Rays, intervals: Intervals, field: Any) -> Intervals:
        """The intervals that can be seen (a second, gradient-free look at the density)."""
        threshold = self.config.alpha_threshold
        if threshold > 0:
            threshold = min(threshold, float(self._mean()))
        sigma, delta = field.density(positions(rays, intervals)), intervals.t1 - intervals.t0
        seen = visibility_from_density(
            sigma,
            delta,
            *intervals.layout,
            early_stop_eps=self.config.early_stop_eps,
            alpha_threshold=threshold,
        )
        return intervals.select(seen)[0]

    def update(self, field: Any, step: int, generator: torch.Generator) -> None:
        """Look at the field again: at all cells while warming up, then at some.

        Later updates look at a quarter of the cells at random and at as many random occupied
        ones, each at a random point inside.

        Source: Müller et al. 2022, appendix E.3; Li et al. 2023.
        """
        if step % self.config.update_every:
            return
        if step < self.config.warmup:
            cells = torch.arange(self.occupancy.numel(), device=self.occupancy.device)
        else:
            cells = self._some_cells(generator)
        cells = cells[self.occupancy.flatten()[cells] >= 0]
        value = self._look(field, cells, generator)
        old = self.occupancy.flatten()
        new = old.clone()
        new[cells] = old[cells] * self.config.decay
        new = new.scatter_reduce(0, cells, value, "amax")
        self.occupancy.copy_(new.reshape(self.occupancy.shape))
        self._threshold()

    def _mean(self) -> Tensor:
        """Mean opacity over cells that a camera sees."""
        seen = self.occupancy >= 0
        return torch.where(seen, self.occupancy, 0).sum() / seen.sum().clamp(min=1)

    def _threshold(self) -> None:
        # A shade under the mean: rounding must not empty a grid whose cells are all alike.
        limit = (self._mean() * (1 - 1e-4)).clamp(max=self.config.threshold)
        seen = self.occupancy >= 0
        occupied = (self.occupancy >= limit) & seen
        if self.config.dilate:
            grown = torch.nn.functional.max_pool3d(occupied.float()[None, None], 3, 1, 1)
            occupied = (grown[0, 0] > 0) & seen
        self.occupied.copy_(occupied)

    def _some_cells(self, generator: torch.Generator) -> Int64[Tensor, "m"]:
        n, device = self.occupancy.numel() // 4, self.occupancy.device

        def draw(high: int) -> Tensor:
            drawn = torch.randint(high, (n,), generator=generator, device=generator.device)
            return drawn.to(device)

        anywhere = draw(self.occupancy.numel())
        occupied = self.occupied.flatten().nonzero()[:, 0]
        if len(occupied) == 0:
            return anywhere
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
            # Steps grow with the distance to the camera, for which the distance to the box's
            # centre stands in.
            length = (x.norm(dim=-1) * self.lattice.cone_angle).clamp(min=self.lattice.step)
            values.append(field.density(x).to(x.dtype) * length)
        return torch.cat(values) if values else self.occupancy.new_zeros(0)

    def cell_points(
        self, cells: Int64[Tensor, "m"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "m 3"]:
        """A random point of each cell in the scene box (without a generator, its centre)."""
        r = self.config.resolution
        corner = torch.stack([cells // (r * r), (cells // r) % r, cells % r], -1)
        inside = uniforms((len(cells), 3), self.occupancy, generator)
        y = (corner + inside) * (2 / r) - 1
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

    def _stretch(self, x: Tensor) -> Tensor:
        """Size of a cell at x relative to one of the uncontracted box, at most."""
        if self.contraction == "none":
            return torch.ones_like(x[:, 0])
        return 2 * x.norm(dim=-1).clamp(min=1).square()

    def occupied_at(self, y: Float[Tensor, "*batch 3"]) -> Tensor:
        """Whether contracted positions lie in occupied cells."""
        return self.occupied.flatten()[cell_indices(y, self.config.resolution)]


def _sees(cameras: Cameras, view: int, x: Tensor, reach: Tensor) -> Tensor:
    views = torch.full(x.shape[:1], view, dtype=torch.int64, device=x.device)
    xy, z = cameras.project(views, x)
    margin = reach * cameras.intrinsics[view, :2].max() / z.clamp(min=1e-6)
    width, height = cameras.sizes[view].tolist()
    inside = (xy[:, 0] > -margin) & (xy[:, 0] < width + margin)
    inside &= (xy[:, 1] > -margin) & (xy[:, 1] < height + margin)
    close = reach >= (x - cameras.c2w[view, :, 3]).norm(dim=-1)
    return (inside & (z + reach > 0)) | close
