"""NeuRBF: adaptive radial basis functions beside a grid (Z. Chen et al., ICCV 2023,
arXiv 2309.15426, sections 3.1 to 3.4).

    g(x)_j = sum over the k nearest kernels i of  c_ij sin(w_i(x) m_j),  w_i = phi_i / sum phi
    phi(x) = 1 / (1 + d^T S d)  or  product over axes of  max(0, 1 - s |d_a|),  d = x - centre

c: trainable features; m: multipliers, log-uniform over the features (sinusoidal composition);
S, s: inverse shape of a kernel. g, beside the features of a hash grid, goes through a small network
whose first activation is h + sin(h w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding

from polyfield.encodings.base import Cells, Progress, require_dims
from polyfield.encodings.grid import MAX_DIM
from polyfield.encodings.hash_grid import HashGridConfig, HashGridEncoding
from polyfield.fields.base import Backbone
from polyfield.fields.heads import linear
from polyfield.fields.insight import MOST, Boxes, Insight, plain
from polyfield.fields.recipes import FEW_STEPS, HEADS, SMALL_BATCH, UNBOUNDED, two_cores
from polyfield.fields.scattered import (
    Kernel,
    cell_centres,
    cell_numbers,
    half_widths,
    kernel_shapes,
    kernel_values,
    nearest,
    packed,
    second_moments,
    spread_points,
    weighted_kmeans,
)
from polyfield.fields.small_mlp import small_mlp
from polyfield.registry import register

DIMS = tuple(range(1, MAX_DIM + 1))
INIT = 1e-4
PROBE = 1 / 128  # half the distance over which features are compared when kernels are placed
Range = tuple[float, float]


@dataclass(frozen=True)
class RBFConfig:
    """Settings of the RBF backbone; the defaults are the paper's for signed distances."""

    kernels: int = 23600
    """Number of kernels."""
    neighbours: int = 8
    """Kernels that a point sees."""
    features: int = 16
    """Features per kernel."""
    kernel: Kernel = "tent"
    """Shape: inverse quadratic with a full matrix, or a tent with one width."""
    normalise: bool = True
    """Divide kernel values by their sum."""
    composition: Range | None = (1.0, 8.0)
    """Lowest and highest multiplier of kernel values in the sine (null: no sine)."""
    first_layer: Range | None = (30.0, 300.0)
    """Lowest and highest frequency of the network's first activation (null: ReLU)."""
    cells: int = 2**18
    """Cells of the box (at most) for which the nearest kernels are listed."""
    place_at: tuple[float, ...] = (0.05,)
    """Shares of the budget at which kernels are placed anew, where features change most."""
    place_points: int = 2**17
    """Random points by which kernels are placed."""
    lloyd: int = 10
    """Iterations of weighted k-means."""
    narrowing: float = 0.5
    """Variance of a kernel's cluster is divided by this to give the kernel's."""
    levels: int = 16
    """Levels of the hash grid (0: no grid)."""
    grid_features: int = 1
    """Features per level."""
    log2_entries: int = 15
    """Base-2 logarithm of the most entries a level may have."""
    base_resolution: int = 16
    """Nodes per axis of the coarsest level."""
    max_resolution: int = 2048
    """Nodes per axis of the finest level."""
    width: int = 64
    """Width of the network's two hidden layers."""
    out_features: int | None = 16
    """Features handed on (null: the last hidden layer's activations)."""
    feature_rate: float = 1.0
    """Learning rate of kernels' and grid's features, as a multiple of the network's."""

    def __post_init__(self) -> None:
        for name in ("kernels", "neighbours", "features", "cells", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.out_features is not None and self.out_features < 1:
            raise ValueError(f"out_features must be at least 1 or null, got {self.out_features}")
        if self.neighbours > self.kernels:
            raise ValueError(
                f"neighbours ({self.neighbours}) must not be above kernels ({self.kernels})"
            )
        self._check_placement()
        for name in ("composition", "first_layer"):
            limits = getattr(self, name)
            if limits is not None and not 0 < limits[0] <= limits[1]:
                raise ValueError(f"{name} must be a range of positive numbers, got {limits}")
        if self.levels:
            self.encoding()

    def _check_placement(self) -> None:
        if self.place_at and self.place_points < self.kernels:
            raise ValueError(
                f"place_points ({self.place_points}) must not be below kernels ({self.kernels})"
            )
        if any(not 0 < share <= 1 for share in self.place_at):
            raise ValueError(f"place_at must be shares in (0, 1], got {self.place_at}")
        for name in ("narrowing", "feature_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.lloyd < 0 or self.levels < 0:
            raise ValueError("lloyd and levels must not be negative")

    def encoding(self) -> HashGridConfig:
        """The settings of the hash grid."""
        return HashGridConfig(
            levels=self.levels,
            features=self.grid_features,
            log2_entries=self.log2_entries,
            base_resolution=self.base_resolution,
            max_resolution=self.max_resolution,
        )


def log_spaced(limits: Range, count: int) -> Float[Tensor, "count"]:
    """Numbers from the lower to the upper limit with equal ratios."""
    low, high = (math.log2(v) for v in limits)
    return torch.exp2(torch.linspace(low, high, count))


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator | None) -> Tensor:
    return torch.rand(*shape, generator=generator).mul_(2 * bound).sub_(bound)


def _layer(in_dim: int, out_dim: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer as torch starts it: weights and biases U(+-1 / sqrt(in_dim))."""
    layer = linear(in_dim, out_dim, generator=generator)
    for parameter in layer.parameters():
        parameter.data = _uniform(tuple(parameter.shape), in_dim**-0.5, generator)
    return layer


class AdaptiveRBF(nn.Module):
    """Features of scattered kernels: R^D -> R^F.

    `coefficients` (kernels, F) are trained; `centres`, `shapes` and `neighbours` (the kernels
    nearest to the centre of each cell) are buffers. They start as an even lattice of round kernels
    that reach to their neighbours; `place` puts them where they are needed.

    The nearest kernels are those of a point's cell and not of the point itself: a table look-up
    instead of a tree search per point.
    """

    centres: Tensor
    shapes: Tensor
    neighbours: Int[Tensor, "cells k"]
    multipliers: Tensor

    def __init__(self, config: RBFConfig, in_dim: int, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.features
        self.per_axis = max(1, math.floor(config.cells ** (1 / in_dim) + 1e-9))
        self.coefficients = nn.Parameter(
            _uniform((config.kernels, config.features), INIT, generator)
        )
        if config.composition is not None:
            self.register_buffer("multipliers", log_spaced(config.composition, config.features))
        centres = spread_points(config.kernels, in_dim, generator)
        spacing = 2 / config.kernels ** (1 / in_dim)
        covariance = torch.eye(in_dim).expand(config.kernels, -1, -1) * spacing**2
        if config.kernel == "tent":
            shapes = torch.full((config.kernels, 1), 0.5 / spacing)
        else:
            shapes = packed(torch.linalg.inv(covariance))
        self.register_buffer("centres", centres)
        self.register_buffer("shapes", shapes)
        self.register_buffer("neighbours", self._list(centres))

    def _list(self, centres: Tensor) -> Tensor:
        cells = cell_centres(self.per_axis, self.in_dim).to(centres)
        return nearest(cells, centres, self.config.neighbours).int()

    def values(self, x: Float[Tensor, "N D"]) -> tuple[Int[Tensor, "N k"], Float[Tensor, "N k"]]:
        """The kernels that points see, and their (normalised) values there.

        Differentiable in x, through the normaliser too, which the paper's code holds constant: it
        matters for normals only, since centres and shapes are not trained.
        """
        index = self.neighbours[cell_numbers(x, self.per_axis)]
        offset = x[:, None] - embedding(index, self.centres)
        phi = kernel_values(offset, embedding(index, self.shapes), self.config.kernel)
        if self.config.normalise:
            phi = phi / (phi.sum(-1, keepdim=True) + 1e-8)
        return index, phi

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Features at x in [-1, 1]."""
        index, weights = self.values(x)
        waves = weights[..., None]
        if self.config.composition is not None:
            waves = (waves * self.multipliers).sin()
        return (embedding(index, self.coefficients) * waves).sum(-2)

    @torch.no_grad()
    def place(
        self,
        points: Float[Tensor, "N D"],
        weights: Float[Tensor, "N"],
        generator: torch.Generator | None = None,
    ) -> None:
        """Put the kernels where the weights are: weighted k-means, and its clusters' shapes.

        Coefficients start anew.
        """
        config = self.config
        chosen = torch.multinomial(weights.cpu(), config.kernels, generator=generator)
        centres = weighted_kmeans(points, weights, points[chosen.to(points.device)], config.lloyd)
        covariance = second_moments(points, weights, centres)
        self.centres = centres
        self.shapes = kernel_shapes(covariance, config.kernel, config.narrowing)
        self.neighbours = self._list(centres)
        shape = tuple(self.coefficients.shape)
        fresh = _uniform(shape, INIT, generator).to(self.coefficients)
        self.coefficients = nn.Parameter(fresh)


_SIGNAL = {
    "backbone": {
        "kernels": 8192,
        "neighbours": 6,
        "features": 8,
        "kernel": "inverse-quadratic",
        "composition": [1.0, 32.0],
        "first_layer": [3.0, 30.0],
        "place_points": 2**16,
        "levels": 6,
        "grid_features": 2,
        "log2_entries": 15,
        "base_resolution": 16,
        "max_resolution": 256,
        "out_features": None,
        "feature_rate": 1.0,
    },
    "fit": {"lr": 5e-3, "lr_final": 0.01, "points": SMALL_BATCH},
}
PRESETS = {
    "paper": {
        "backbone": {"kernels": 23600, "kernel": "inverse-quadratic"},
        "field": {
            "type": "radiance",
            "direction": {"type": "spherical-harmonics", "degree": 4},
            "density": "feature",
            "hidden": [64, 64],
        },
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {"rays": 4096, "target_samples": 262144, "lr": 1e-2, "lr_final": 0.01},
    },
    "cpu": two_cores(
        {
            "kernels": 4096,
            "neighbours": 4,
            "features": 8,
            "kernel": "inverse-quadratic",
            "first_layer": [3.0, 30.0],
            "width": 32,
            "cells": 2**17,
            "place_points": 2**15,
            "levels": 6,
            "grid_features": 4,
            "log2_entries": 16,
            "max_resolution": 256,
        },
        HEADS,
        FEW_STEPS,
        lr=1e-2,
    ),
    "unbounded": UNBOUNDED,
    "signal": _SIGNAL,
    "image": {
        "backbone": {
            **_SIGNAL["backbone"],
            "kernels": 24275,
            "neighbours": 4,
            "features": 32,
            "composition": [0.125, 4096.0],
            "first_layer": [10.0, 100.0],
            "place_points": 2**18,
            "levels": 2,
            "log2_entries": 24,
            "max_resolution": 512,
            "feature_rate": 0.5,
        },
        "fit": {**_SIGNAL["fit"], "lr": 1e-2},
    },
    "audio": {
        "backbone": {
            **_SIGNAL["backbone"],
            "features": 16,
            "composition": [1.0, 1024.0],
            "base_resolution": 1024,
            "max_resolution": 32768,
        },
        "fit": _SIGNAL["fit"],
    },
    "tiny": {
        "backbone": {
            "kernels": 12,
            "neighbours": 3,
            "features": 4,
            "kernel": "inverse-quadratic",
            "composition": [0.5, 2.0],
            "first_layer": [1.0, 4.0],
            "cells": 64,
            "place_at": [0.3],
            "place_points": 200,
            "levels": 2,
            "grid_features": 2,
            "log2_entries": 6,
            "max_resolution": 24,
            "width": 8,
            "out_features": 6,
        }
    },
}


@register(
    "rbf",
    config=RBFConfig,
    paper="Z. Chen et al. 2023 (NeuRBF)",
    presets=PRESETS,
    dims=DIMS,
    size=("kernels", "log2_entries"),
)
class RBFBackbone(Backbone):
    """Adaptive radial basis functions and a hash grid, then a small network.

    The paper places kernels before the fit, from the target's gradients or (radiance fields) from
    the features of a model that was fitted briefly. A backbone does not see the target, so here it
    is always the second: at `place_at` of the budget kernels go where this backbone's own features
    change most, among occupied cells where those are known; until then they are an even lattice.
    """

    seed: Tensor
    placements: Tensor
    frequencies: Tensor

    def __init__(
        self,
        config: RBFConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        require_dims("rbf", in_dim, DIMS)
        self.config = config
        self.in_dim = in_dim
        self.rbf = AdaptiveRBF(config, in_dim, generator)
        self.hash_grid = None
        width = config.features
        if config.levels:
            self.hash_grid = HashGridEncoding(config.encoding(), in_dim, generator)
            width += self.hash_grid.out_dim
        self.shift = nn.Parameter(_uniform((width,), INIT, generator))
        widths = [width, config.width, config.width]
        if config.out_features is not None:
            widths.append(config.out_features)
        self.out_dim = widths[-1]
        self.layers = nn.ModuleList(
            _layer(a, b, generator) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        if config.first_layer is not None:
            self.register_buffer("frequencies", log_spaced(config.first_layer, config.width))
        self.register_buffer("seed", torch.randint(2**31, (), generator=generator))
        self.register_buffer("placements", torch.zeros((), dtype=torch.long))

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        rows = x.reshape(-1, self.in_dim)
        parts = [self.rbf(rows)]
        if self.hash_grid is not None:
            parts.insert(0, self.hash_grid(rows))
        hidden = self.layers[0](torch.cat(parts, -1) + self.shift)
        if self.config.first_layer is None:
            hidden = hidden.relu()
        else:
            hidden = hidden + (hidden * self.frequencies).sin()
        rest = self.layers[1:]
        out = small_mlp(hidden, [layer.weight for layer in rest], [layer.bias for layer in rest])
        if self.config.out_features is None:
            out = out.relu()
        return out.reshape(*x.shape[:-1], self.out_dim)

    def grow(self, progress: Progress) -> bool:
        """Place the kernels anew where the schedule says so."""
        due = sum(progress.fraction >= share for share in self.config.place_at)
        done = int(self.placements)
        if due <= done:
            return False
        generator = torch.Generator().manual_seed(int(self.seed) + done)
        points = self._probes(progress.occupied() if progress.occupied else None, generator)
        self.rbf.place(points, self._change(points), generator)
        self.placements.fill_(due)
        return True

    def _probes(self, cells: Cells | None, generator: torch.Generator) -> Tensor:
        """Random points in the occupied cells, or anywhere."""
        count = self.config.place_points
        points = _uniform((count, self.in_dim), 1.0, generator)
        if cells is not None and len(cells.centres):
            chosen = torch.randint(len(cells.centres), (count,), generator=generator)
            points = cells.centres.cpu()[chosen] + points * cells.half
        return points.to(self.rbf.centres)

    @torch.no_grad()
    def _change(self, points: Tensor) -> Tensor:
        """How much the features change around each point: the norm of central differences."""
        total = torch.zeros(len(points), dtype=points.dtype, device=points.device)
        for step in PROBE * torch.eye(self.in_dim).to(points):
            total += (self(points + step) - self(points - step)).square().sum(-1)
        # nowhere nothing: a field that is flat so far gets even kernels
        return total.sqrt() + 1e-3 * total.mean().sqrt() + 1e-12

    def insights(self, limit: int = MOST) -> list[Insight]:
        """Where the kernels reach half their height; values: how large their features are."""
        half = half_widths(self.rbf.shapes, self.config.kernel, self.in_dim)
        corners = torch.stack((self.rbf.centres - half, self.rbf.centres + half), 1)
        return [Boxes("kernels", plain(corners), plain(self.rbf.coefficients.norm(dim=1)))]

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Features at `feature_rate` times the rate, where points touch them; the rest at it."""
        features = [self.rbf.coefficients] + (
            [] if self.hash_grid is None else [self.hash_grid.table]
        )
        own = {"eps": 1e-15, "weight_decay": 0.0, "sparse": True}
        rest = [self.shift, *self.layers.parameters()]
        return [
            {"params": features, "lr": lr * self.config.feature_rate, **own},
            {"params": rest, "lr": lr},
        ]
