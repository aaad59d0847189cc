"""Sparse tri-vectors (Strivec; Gao et al., ICCV 2023, arXiv 2307.13226).

Small CP tensors, three short vectors of features each, stand where the scene is, in boxes of
several sizes; see `polyfield.fields.local_tensors` for what one size of them says of a point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.fields.base import Backbone
from polyfield.fields.grids import OUTSIDE
from polyfield.fields.heads import linear
from polyfield.fields.insight import MOST, Insight, plain
from polyfield.fields.insight import Boxes as ShownBoxes
from polyfield.fields.local_tensors import (
    Boxes,
    centres,
    local_tensors,
    number_voxels,
    occupied_voxels,
    upsample,
    voxels_per_axis,
)
from polyfield.fields.recipes import FEW_STEPS, TENSORF_HEADS, two_cores
from polyfield.registry import register

SEEDS = 2**31


@dataclass(frozen=True)
class TriVectorConfig:
    """Settings of the tri-vectors; the defaults are the paper's for objects.

    Lengths are in units of the box [-1, 1], which is 3 wide in the paper. `pitch`, `intervals`,
    `density_ranks` and `appearance_ranks` have one value for each scale, the coarsest first.
    """

    pitch: tuple[float, ...] = (0.4 / 1.5, 0.2 / 1.5, 0.1 / 1.5)
    """Distance between neighbouring tensors."""
    overlap: float = 1.5
    """Side of a tensor's box as a multiple of the pitch, at least 1."""
    intervals: tuple[tuple[int, ...], ...] = (
        (29, 43, 65, 85, 103, 121),
        (15, 23, 35, 43, 53, 61),
        (7, 11, 17, 21, 27, 31),
    )
    """Intervals along the axes of a box: at first, and after each upsampling."""
    grow_at: tuple[float, ...] = (0.141, 0.172, 0.203, 0.249, 0.295)
    """Shares of the budget after which vectors are upsampled (the paper's steps of 30 000,
    counted from where its tensors are placed)."""
    place_at: tuple[float, ...] = (0.08,)
    """Shares of the budget after which tensors are placed where something was found; until the
    first of them the coarsest scale covers the box. The paper takes the geometry from another
    method."""
    neighbours: int = 4
    """Tensors of a scale that a point takes at most, the nearest ones."""
    window: bool = False
    """Let weights fall to zero towards the border of a box: no seams (not in the paper)."""
    cover: Literal["all", "any"] = "all"
    """Scales that must cover a point for it not to be empty."""
    density_ranks: tuple[int, ...] = (32, 24, 16)
    """Ranks of the density."""
    appearance_ranks: tuple[int, ...] = (48, 48, 48)
    """Ranks of the appearance."""
    features: int = 27
    """Appearance features, of which each scale has a linear share."""
    scale_reduce: Literal["sum", "mean"] = "sum"
    """What becomes of the scales' densities; the paper has means indoors."""
    init: float = 0.2
    """Standard deviation of the vectors' initial values."""
    l1: float = 1e-5
    """Weight of the penalty: mean absolute value of the density vectors, summed over scales and
    axes."""
    rate: float = 20.0
    """Learning rate of the vectors as a multiple of the base rate, which the linear layers and
    the heads have."""

    def __post_init__(self) -> None:
        self._check_scales()
        for name in ("grow_at", "place_at"):
            shares = getattr(self, name)
            if list(shares) != sorted(shares) or any(not 0 <= share <= 1 for share in shares):
                raise ValueError(f"{name} must ascend within [0, 1], got {shares}")
        if self.overlap < 1:
            raise ValueError(f"overlap must be at least 1 to leave no gaps, got {self.overlap}")
        for name in ("neighbours", "features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("init", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.l1 < 0:
            raise ValueError(f"l1 must not be negative, got {self.l1}")

    def _check_scales(self) -> None:
        scales, stages = len(self.pitch), len(self.grow_at) + 1
        for name in ("intervals", "density_ranks", "appearance_ranks"):
            if len(getattr(self, name)) != scales:
                raise ValueError(
                    f"{name} must have a value for each of the {scales} scales of pitch, "
                    f"got {getattr(self, name)}"
                )
        if not scales or any(not 0 < pitch <= 2 for pitch in self.pitch):
            raise ValueError(f"pitch must lie in (0, 2] and have a scale, got {self.pitch}")
        for name in ("density_ranks", "appearance_ranks"):
            if any(rank < 1 for rank in getattr(self, name)):
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for counts in self.intervals:
            if len(counts) != stages or min(counts) < 1:
                raise ValueError(
                    f"intervals must have {stages} values from 1 on, one more than grow_at, for "
                    f"every scale, got {counts}"
                )

    def boxes(self, scale: int) -> Boxes:
        """The sizes of a scale's boxes, and how they are blended."""
        return Boxes(
            pitch=self.pitch[scale],
            half=self.pitch[scale] * self.overlap / 2,
            neighbours=self.neighbours,
            density_ranks=self.density_ranks[scale],
            window=self.window,
        )


# nobody knows where a signal is not: all scales cover the box from the start
_SIGNAL = {
    "pitch": [0.5, 0.125],
    "intervals": [[12], [8]],
    "grow_at": [],
    "place_at": [0.0],
    "window": True,
    "density_ranks": [8, 8],
    "appearance_ranks": [16, 16],
    "features": 15,
    "l1": 0.0,
    "rate": 5.0,
}
PRESETS = {
    "paper": {
        "backbone": {"features": 27},
        "field": TENSORF_HEADS,
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "losses": {"mse": 1.0, "regularisation": 1.0},
        "fit": {"rays": 4096, "lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8, "lr_final": 0.1},
    },
    "cpu": two_cores(
        {
            "pitch": [0.4, 0.1],
            "intervals": [[8, 12, 24], [3, 6, 10]],
            "grow_at": [0.1, 0.2],
            "place_at": [0.05],
            "density_ranks": [16, 16],
            "appearance_ranks": [16, 16],
            "features": 15,
            "l1": 0.0,
        },
        {
            "type": "radiance",
            "direction": {"type": "spherical-harmonics", "degree": 4},
            "density": "feature",
            # products of three vectors grow fast enough without an exponential
            "density_activation": "softplus",
            "density_shift": -4.0,
            "density_scale": 25.0,
            "hidden": [64],
            "bias": False,
        },
        FEW_STEPS,
        lr=3e-3,
    ),
    "signal": {
        "backbone": _SIGNAL,
        "fit": {"points": 32768, "lr": 4e-3, "lr_final": 0.05},
    },
    "image": {"backbone": {**_SIGNAL, "pitch": [0.25, 0.0625], "intervals": [[16], [16]]}},
    "audio": {
        "backbone": {
            **_SIGNAL,
            "pitch": [2**-5, 2**-10],
            "intervals": [[64], [32]],
            "density_ranks": [1, 1],
            "appearance_ranks": [3, 3],
        }
    },
    "tiny": {
        "backbone": {
            "pitch": [1.0, 0.5],
            "intervals": [[2, 4], [2, 3]],
            "grow_at": [0.5],
            "place_at": [0.2],
            "density_ranks": [2, 2],
            "appearance_ranks": [4, 2],
            "features": 3,
        }
    },
}


@register(
    "tri-vector",
    config=TriVectorConfig,
    paper="Gao et al. 2023 (Strivec)",
    presets=PRESETS,
    size=("density_ranks", "appearance_ranks"),
)
class TriVectorBackbone(Backbone):
    """Local CP tensors of several sizes, placed where the scene is.

    Feature 0 is the density's: the sum of the scales, or `OUTSIDE` where no tensor is. The others
    are the appearance's: the sum of a linear map, without bias, of each scale's products. Where
    the point is empty they are 0, and nothing receives a gradient.

    A fit begins with the coarsest scale alone, all over the box. When it is told where something
    is, tensors elsewhere are dropped and those of the other scales are put there; when nobody
    knows, they cover the box. Parameters: per scale, `vectors` (tensors, axes, nodes, ranks), the
    density's ranks first, and `bases`. Buffers: the placement of each scale, int32, with the
    number of the tensor of each voxel or -1; and the seed of values that are drawn later.
    """

    def __init__(
        self, config: TriVectorConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, 1 + config.features
        self.register_buffer("seed", torch.randint(SEEDS, (1,), generator=generator))
        for scale, pitch in enumerate(config.pitch):
            shape = (voxels_per_axis(pitch, in_dim),) * in_dim
            self.register_buffer(f"index{scale}", torch.full(shape, -1, dtype=torch.int32))
        self.vectors, self.bases = nn.ParameterList(), nn.ModuleList()
        self._placed = self._stage = 0
        self.index0.copy_(number_voxels(torch.ones_like(self.index0, dtype=torch.bool)))
        self._add_scale(self.index0.numel(), generator)

    def index(self, scale: int) -> Int[Tensor, "*voxels"]:
        """The placement of a scale; see `polyfield.fields.local_tensors`."""
        return self.get_buffer(f"index{scale}")

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        rows, total, covers = x.reshape(-1, self.in_dim), 0.0, []
        for scale, vectors in enumerate(self.vectors):
            boxes = self.config.boxes(scale)
            values, covered = local_tensors(rows, vectors, self.index(scale), boxes)
            # one product for both: the density stands alone, the appearance goes through the basis
            basis = torch.block_diag(vectors.new_ones(1, 1), self.bases[scale].weight.T)
            total = total + values @ basis
            covers.append(covered)
        return self._where_covered(total, covers).reshape(*x.shape[:-1], self.out_dim)

    def first_feature(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch"]:
        """The density's feature alone, without the appearance's ranks."""
        rows, total, covers = x.reshape(-1, self.in_dim), 0.0, []
        for scale, vectors in enumerate(self.vectors):
            boxes = replace(self.config.boxes(scale), density_only=True)
            values, covered = local_tensors(rows, vectors, self.index(scale), boxes)
            total = total + values
            covers.append(covered)
        return self._where_covered(total, covers).reshape(x.shape[:-1])

    def _where_covered(self, total: Tensor, covers: list[Tensor]) -> Tensor:
        """Features (N, 1 or more) where the scales cover the point, and `OUTSIDE` elsewhere."""
        present = torch.stack(covers)
        if self.config.scale_reduce == "mean":
            count = present.sum(0).clamp(min=1)[:, None]
            total = torch.cat((total[:, :1] / count, total[:, 1:]), 1)
        present = present.all(0) if self.config.cover == "all" else present.any(0)
        empty = total.new_zeros(total.shape[1])
        empty[0] = OUTSIDE
        return total.where(present[:, None], empty)

    def insights(self, limit: int = MOST) -> list[Insight]:
        """The boxes of each scale's tensors; values: how large their densities are.

        That is the sum over ranks of the product over axes of the vectors' root mean squares.
        """
        found: list[Insight] = []
        for scale, vectors in enumerate(self.vectors):
            boxes = self.config.boxes(scale)
            middles = centres(self.index(scale), boxes.pitch)
            corners = torch.stack((middles - boxes.half, middles + boxes.half), 1)
            density = vectors.detach()[..., : boxes.density_ranks]
            size = density.square().mean(2).sqrt().prod(1).sum(-1)
            found.append(ShownBoxes(f"tensors of scale {scale + 1}", plain(corners), plain(size)))
        return found

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The vectors, of which only those around samples move, and the linear layers."""
        rate = lr * self.config.rate
        return [
            {"params": list(self.vectors), "lr": rate, "sparse": True, "weight_decay": 0.0},
            {"params": list(self.bases.parameters()), "lr": lr},
        ]

    def regularisation(self) -> dict[str, Tensor]:
        """``l1``: mean absolute value of each axis' density vectors, summed."""
        if not self.config.l1:
            return {}
        pairs = zip(self.vectors, self.config.density_ranks, strict=False)
        means = [v[..., :ranks].abs().mean((0, 2, 3)).sum() for v, ranks in pairs]
        return {"l1": self.config.l1 * torch.stack(means).sum()}

    @torch.no_grad()
    def grow(self, progress: Progress) -> bool:
        """Place tensors and upsample their vectors when it is time."""
        placed = sum(progress.fraction >= share for share in self.config.place_at)
        stage = sum(progress.fraction >= share for share in self.config.grow_at)
        changed = False
        if placed > self._placed:
            changed = self._place(progress, placed)
            self._placed = placed
        if stage > self._stage:
            self._stage = stage
            changed = self._upsample() or changed
        return changed

    def _nodes(self, scale: int) -> int:
        return self.config.intervals[scale][self._stage] + 1

    def _fresh(self, scale: int, tensors: int, generator: torch.Generator | None) -> Tensor:
        ranks = self.config.density_ranks[scale] + self.config.appearance_ranks[scale]
        shape = (tensors, self.in_dim, self._nodes(scale), ranks)
        return torch.randn(shape, generator=generator) * self.config.init

    def _add_scale(self, tensors: int, generator: torch.Generator | None) -> None:
        """The next finer scale, with new values."""
        scale = len(self.vectors)
        like = self.vectors[0] if scale else torch.empty(0)
        basis = linear(self.config.appearance_ranks[scale], self.config.features, False, generator)
        self.vectors.append(nn.Parameter(self._fresh(scale, tensors, generator).to(like)))
        self.bases.append(basis.to(like))

    def _place(self, progress: Progress, number: int) -> bool:
        """Put tensors where something is; those that are there already keep their values."""
        cells = progress.occupied() if progress.occupied is not None else None
        known = cells is not None and len(cells.centres) > 0
        if not known and self._placed:
            return False
        generator = torch.Generator().manual_seed((int(self.seed) + number) % SEEDS)
        changed = False
        for scale, pitch in enumerate(self.config.pitch):
            old = self.index(scale)
            wanted = torch.ones_like(old, dtype=torch.bool)
            new = number_voxels(occupied_voxels(cells, pitch).to(old.device) if known else wanted)
            if scale == len(self.vectors):
                self._add_scale(int(new.max()) + 1, generator)
            elif torch.equal(new, old):
                continue
            else:
                fresh = self._fresh(scale, int(new.max()) + 1, generator).to(self.vectors[scale])
                stays = (old >= 0) & (new >= 0)
                fresh[new[stays].long()] = self.vectors[scale][old[stays].long()]
                self.vectors[scale] = nn.Parameter(fresh)
            old.copy_(new)
            changed = True
        return changed

    def _upsample(self) -> bool:
        changed = False
        for scale, vectors in enumerate(self.vectors):
            if vectors.shape[2] != self._nodes(scale):
                self.vectors[scale] = nn.Parameter(upsample(vectors, self._nodes(scale) - 1))
                changed = True
        return changed

    def sizes(self) -> dict[str, Any]:
        """How often tensors were placed and upsampled, and how many there are of each scale."""
        return {
            "placed": self._placed,
            "stage": self._stage,
            "tensors": [len(vectors) for vectors in self.vectors],
        }

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take the shapes of `sizes()`; values are to be loaded.

        Raises:
            ConfigError: The sizes do not fit the settings.
        """
        tensors, stage = sizes["tensors"], sizes["stage"]
        if not 1 <= len(tensors) <= len(self.config.pitch) or stage > len(self.config.grow_at):
            raise ConfigError(
                f"the run has {len(tensors)} scales upsampled {stage} times, the settings of "
                f"'tri-vector' {len(self.config.pitch)} upsampled at most "
                f"{len(self.config.grow_at)} times; use the run's own settings"
            )
        self._placed, self._stage = sizes["placed"], stage
        generator = torch.Generator()  # the values do not matter, nobody else's may be drawn
        like = self.vectors[0].detach()
        first = self._fresh(0, tensors[0], generator).to(like)
        self.vectors, self.bases = nn.ParameterList([nn.Parameter(first)]), self.bases[:1]
        for count in tensors[1:]:
            self._add_scale(count, generator)
