"""Tensor decompositions whose factors are networks of one coordinate (F-INR).

Vemuri, Büchner and Denzler, "F-INR: Functional Tensor Decomposition for Implicit Neural
Representations", WACV 2026, arXiv 2503.21507. The contractions, and their letters, are those of
`polyfield.fields.contractions`: u_i is a network of coordinate i alone. Ranks that grow with the
fit are SlimmeRF's, see `polyfield.fields.ranks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from polyfield.config import Spec
from polyfield.encodings.base import Cells, Progress
from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.fields.base import Backbone
from polyfield.fields.contractions import (
    cp_grid,
    cp_points,
    diagonal_core,
    train_grid,
    train_points,
    tucker_grid,
    tucker_points,
)
from polyfield.fields.heads import linear
from polyfield.fields.insight import MOST, POINTS, Insight, axis_names, curves
from polyfield.fields.ranks import Ranks, RankSettings
from polyfield.fields.recipes import HEADS, NGP_HEADS, two_cores
from polyfield.registry import build, register

CORE_NOISE = 0.01
LARGEST_CORE = 2**28  # values: 1 GiB in single precision
BLOCK = 2**19  # values of a factor that stay in the cache until they are contracted
PROBE = 1024  # coordinates looked at to see whether they recur
GRID_SHARE = 4  # a whole grid's matrix products cost less than contractions at a fourth of it


def _relu_network() -> dict[str, Any]:
    """The paper's: four layers of 256 with the factor's, sines and cosines of 2^-4 ... 2^4 x."""
    encoding = {"type": "frequency", "levels": 9, "first": -4, "include_input": False}
    return {"type": "mlp", "encoding": encoding, "width": 256, "depth": 3, "skips": []}


@dataclass(frozen=True)
class FunctionalTensorConfig(RankSettings):
    """Settings of the functional tensor; the defaults are the paper's for images."""

    mode: Literal["cp", "tt", "tucker"] = "cp"
    """Decomposition: sum of products (cp), tensor train (tt), or core tensor (tucker)."""
    rank: int = 128
    """Columns of the factors per feature; a train's middle factors have as many rows."""
    features: int = 3
    """Features, each with columns of its own at the end of the shared networks."""
    axis: Spec = field(default_factory=_relu_network)
    """Network of one coordinate, one per axis: a backbone; a linear layer for the columns
    comes behind it."""
    nodes: int | None = None
    """Evaluate the networks at this many coordinates per axis and interpolate linearly between
    (null: at the coordinates asked for). Fast for scattered points; no second derivatives."""
    bias: float = 0.0
    """Standard deviation of the columns' initial biases. Products of networks that start near
    zero, as those on tables, hardly leave it without."""

    def __post_init__(self) -> None:
        for name in ("rank", "features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.nodes is not None and self.nodes < 2:
            raise ValueError(f"nodes must be at least 2 or null, got {self.nodes}")
        if self.bias < 0:
            raise ValueError(f"bias is a standard deviation, at least 0, got {self.bias}")
        self.schedule()


def _cut(values: Tensor, shape: Sequence[int], rank: int) -> nn.Parameter:
    """The first `rank` of every rank of rows that lie as (c, R, ...)."""
    kept = values.detach().unflatten(0, shape)
    for dim in range(1, len(shape)):
        kept = kept.narrow(dim, 0, rank)
    return nn.Parameter(kept.flatten(0, len(shape) - 1).clone())


def _recurring(x: Float[Tensor, "n"]) -> tuple[Tensor, Tensor] | None:
    """The coordinates that differ, and which of them each is; None where few recur.

    A few are looked at first, since telling them all apart takes a sort.
    """
    if len(x) < 4 * PROBE or x.requires_grad:
        return None
    probe = x[:: len(x) // PROBE]
    if len(torch.unique(probe)) > 0.9 * len(probe):
        return None
    return torch.unique(x, return_inverse=True)


def _along(progress: Progress, axis: int) -> Progress:
    """What one coordinate's network is told of a fit."""
    ask = progress.occupied
    if ask is None:
        return progress

    def occupied() -> Cells | None:
        cells = ask()
        return None if cells is None else Cells(cells.centres[:, axis : axis + 1], cells.half)

    return replace(progress, occupied=occupied)


def _on_waves(octaves: int, width: int, depth: int = 3) -> dict[str, Any]:
    """A ReLU network on sines and cosines of pi x, 2 pi x, 4 pi x, ..."""
    encoding = {"type": "frequency", "levels": octaves, "include_input": False, "pi": True}
    return {"type": "mlp", "encoding": encoding, "width": width, "depth": depth, "skips": []}


_ADAM = {"betas": [0.9, 0.999], "eps": 1e-8}
PRESETS: dict[str, Any] = {
    # "the 3-D hash grid is replaced by three 1-D ones, everything else unchanged"; the best row,
    # of trains of rank 16, takes backbone.mode=tt
    "paper": {
        "backbone": {
            "mode": "cp",
            "rank": 16,
            "features": 16,
            "axis": {
                "type": "mlp",
                "encoding": {"type": "hash-grid"},
                "width": 64,
                "depth": 1,
                "skips": [],
            },
            "bias": 0.3,
        },
        "field": NGP_HEADS,
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {"rays": 4096, "target_samples": 262144, "lr_final": 0.0333},
    },
    # wide shallow networks on random waves learn far sooner than deep ones or tables; densities
    # from all columns, not from those of one feature
    "cpu": two_cores(
        {
            "mode": "cp",
            "rank": 16,
            "features": 16,
            "axis": {
                "type": "mlp",
                "encoding": {"type": "random-fourier", "frequencies": 64, "scale": 5.0},
                "width": 128,
                "depth": 1,
                "skips": [],
            },
            "nodes": 256,
        },
        {**HEADS, "density": "linear"},
        lr=5e-3,
    ),
    "signal": {
        "backbone": {"mode": "tt", "rank": 32, "features": 1, "axis": _on_waves(8, 128)},
        "fit": {**_ADAM, "lr": 1e-3, "lr_final": 0.1, "points": 65536},
    },
    # a table per axis follows single rows and columns of pixels sooner than waves do
    "image": {
        "backbone": {
            "mode": "cp",
            "rank": 128,
            "features": 3,
            "axis": {
                "type": "mlp",
                "encoding": {
                    "type": "hash-grid",
                    "levels": 8,
                    "features": 4,
                    "max_resolution": 512,
                },
                "width": 128,
                "depth": 1,
                "skips": [],
            },
            "bias": 0.03,
        },
        "fit": {"lr": 1e-2},
    },
    "audio": {"backbone": {"axis": _on_waves(16, 256)}, "fit": {"points": 16384}},
    "video": {"backbone": {"features": 3, "axis": _on_waves(8, 256)}},
    "volume": {"backbone": {"axis": _on_waves(6, 128)}},
    # scattered points: the networks at nodes only
    "shape": {"backbone": {"mode": "cp", "rank": 64, "nodes": 512, "axis": _on_waves(6, 128)}},
    "tiny": {
        "backbone": {
            "mode": "tucker",
            "rank": 3,
            "features": 4,
            "axis": {
                "type": "mlp",
                "encoding": {"type": "frequency", "levels": 2},
                "width": 8,
                "depth": 2,
                "skips": [],
            },
            "rank_schedule": "fixed",
        }
    },
}


@register(
    "functional-tensor",
    config=FunctionalTensorConfig,
    paper="Vemuri et al. 2026 (F-INR)",
    presets=PRESETS,
    size=("rank", "axis.width"),
)
class FunctionalTensor(Backbone):
    """A tensor of low rank whose factors are networks of one coordinate each.

    Separable: `grid` evaluates every network once per coordinate of an axis. One axis is its
    network with a linear layer, of rank 1; a train of two axes is the CP form. The Tucker core
    starts super-diagonal with N(0, 0.01^2) noise added, so as the CP form (not found in the
    paper).

    Parameters: `axes`, the networks; `columns`, a linear layer each, whose outputs lie as
    (c, R), or (c, R, R) between the ends of a train; `core` (c, R, ..., R) of the Tucker form.

    Raises:
        ConfigError: The Tucker core would not fit into memory.
    """

    def __init__(
        self,
        config: FunctionalTensorConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.features
        self.mode = config.mode if in_dim > 1 else "cp"
        self.ranks = Ranks(config.schedule(), config.rank if in_dim > 1 else 1)
        nets = [
            build("backbones", config.axis, in_dim=1, generator=generator) for _ in range(in_dim)
        ]
        self.axes = nn.ModuleList(nets)
        self.columns = nn.ModuleList(self._columns(i, net, generator) for i, net in enumerate(nets))
        self.core = self._core(generator) if self.mode == "tucker" else None

    def _shape(self, axis: int, rank: int | None = None) -> tuple[int, ...]:
        """How the outputs of an axis lie."""
        rank = self.ranks.rank if rank is None else rank
        middle = self.mode == "tt" and 0 < axis < self.in_dim - 1
        return (self.out_dim, rank, rank) if middle else (self.out_dim, rank)

    def _columns(self, axis: int, net: Backbone, generator: torch.Generator | None) -> nn.Linear:
        """The last layer of an axis: as its network's method ends, where that is linear."""
        width = torch.Size(self._shape(axis)).numel()
        layer = net.make_head(width, generator)
        if not isinstance(layer, nn.Linear):
            layer = linear(net.out_dim, width, generator=generator)
        if self.config.bias and layer.bias is not None:
            nn.init.normal_(layer.bias, std=self.config.bias, generator=generator)
        return layer

    def _core(self, generator: torch.Generator | None) -> nn.Parameter:
        rank, size = self.ranks.rank, self.out_dim * self.ranks.rank**self.in_dim
        if size > LARGEST_CORE:
            raise ConfigError(
                f"a Tucker core of rank {rank} over {self.in_dim} axes, for {self.out_dim} "
                f"features, has {size:.2g} values; lower backbone.rank or set backbone.mode=tt"
            )
        core = diagonal_core(self.out_dim, rank, self.in_dim)
        noise = torch.randn(core.shape, generator=generator)
        return nn.Parameter(core.add_(noise, alpha=CORE_NOISE))

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x.

        Where coordinates recur, as those of pixels do, networks are evaluated once for each
        that differs, and contractions for the whole grid if that is not many times larger;
        unless derivatives in x are wanted.
        """
        points = x.reshape(-1, self.in_dim)
        known = [None if self.config.nodes else _recurring(a) for a in points.unbind(-1)]
        whole = math.prod(len(points) if k is None else len(k[0]) for k in known)
        if len(points) and whole <= GRID_SHARE * len(points) and None not in known:
            out = self._from_grid([k for k in known if k is not None])
        else:
            out = self._by_blocks(points, known)
        return out.reshape(*x.shape[:-1], self.out_dim)

    def _by_blocks(
        self, points: Tensor, known: Sequence[tuple[Tensor, Tensor] | None]
    ) -> Float[Tensor, "n out_dim"]:
        """Features of points that need not lie on a grid."""
        readers = [
            self._reader(i, points[:, i : i + 1], recurring) for i, recurring in enumerate(known)
        ]
        step = max(256, BLOCK // self._widest())
        # the last of no points is an empty block
        blocks = [slice(i, i + step) for i in range(0, max(1, len(points)), step)]
        return torch.cat([self._contract([read(rows) for read in readers]) for rows in blocks])

    def _from_grid(self, known: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, "n out_dim"]:
        """Features of points as entries of the grid of their coordinates."""
        values = self.grid([unique for unique, _ in known])
        cell = reduce(lambda at, k: at * len(k[0]) + k[1], known, torch.zeros_like(known[0][1]))
        return embedding(cell, values.flatten(0, -2))

    def _widest(self) -> int:
        """Values per point of the largest tensor on the way."""
        widest = max(layer.out_features for layer in self.columns)
        return widest if self.core is None else max(widest, self.core[..., 0].numel())

    def grid(self, axes: Sequence[Float[Tensor, "_"]]) -> Float[Tensor, "*n out_dim"]:
        """Features on the grid of all combinations of coordinates, each network once per axis.

        Args:
            axes: Coordinates of every axis, in [-1, 1].

        Returns:
            (n_1, ..., n_d, features): `forward` at ``torch.meshgrid(*axes, indexing="ij")``.
        """
        points = [a[:, None] for a in axes]
        factors = [self._reader(i, p, None)(slice(None)) for i, p in enumerate(points)]
        if self.mode == "tucker":
            return tucker_grid(self.core, factors)
        return cp_grid(factors) if self.mode == "cp" else train_grid(factors)

    def _contract(self, factors: Sequence[Tensor]) -> Float[Tensor, "n out_dim"]:
        if self.mode == "tucker":
            return tucker_points(self.core, factors)
        return cp_points(factors) if self.mode == "cp" else train_points(factors)

    def _reader(
        self, axis: int, x: Float[Tensor, "n 1"], recurring: tuple[Tensor, Tensor] | None
    ) -> Callable[[slice], Tensor]:
        """The factor of an axis at x, to be asked for by rows."""
        shape = self._shape(axis)
        if self.config.nodes is not None:
            nodes = torch.linspace(-1, 1, self.config.nodes, dtype=x.dtype, device=x.device)
            table = self._factor(axis, nodes[:, None])
            return lambda rows: interpolate(x[rows], table).unflatten(-1, shape)
        if recurring is not None:
            unique, index = recurring
            table = self._factor(axis, unique[:, None])
            return lambda rows: embedding(index[rows], table).unflatten(-1, shape)
        return lambda rows: self._factor(axis, x[rows]).unflatten(-1, shape)

    def _factor(self, axis: int, x: Float[Tensor, "n 1"]) -> Float[Tensor, "n columns"]:
        """The columns of an axis at x; those of inactive ranks are all but zero.

        A product has one factor eps per factor with that rank: the CP form's of all axes are in
        the first axis, those of the train's two neighbours in the left of them, and those of the
        Tucker form's core and factor in the factor.
        """
        columns = self.columns[axis](self.axes[axis](x))
        last = axis == self.in_dim - 1
        if self.mode == "cp" and axis > 0 or self.mode == "tt" and last:
            return columns
        power = self.in_dim if self.mode == "cp" else 2
        mask = self.ranks.mask(self.ranks.full, columns, power=power)
        if mask is None:
            return columns
        return (columns.unflatten(-1, (-1, len(mask))) * mask).flatten(-2)

    @torch.no_grad()
    def insights(self, limit: int = MOST) -> list[Insight]:
        """The strongest functions of every axis."""
        x = torch.linspace(-1, 1, POINTS).to(self.columns[0].weight)
        return [
            curves(f"functions of {name}", x, self._factor(axis, x[:, None]), limit)
            for axis, name in enumerate(axis_names(self.in_dim))
        ]

    def make_head(self, out_dim: int, generator: torch.Generator | None = None) -> nn.Module:
        """Nothing where there is a feature per value, as in the paper, else a linear layer."""
        if out_dim == self.out_dim:
            return nn.Identity()
        return super().make_head(out_dim, generator)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The groups of the networks; the columns and the core."""
        own = [*self.columns.parameters(), *([] if self.core is None else [self.core])]
        groups = [g for net in self.axes for g in net.parameter_groups(lr)]
        return [*groups, {"params": own, "lr": lr}]

    def regularisation(self) -> dict[str, Tensor]:
        """The penalties of the networks, added up over the axes."""
        found: dict[str, Tensor] = {}
        for net in self.axes:
            for name, value in net.regularisation().items():
                found[name] = found[name] + value if name in found else value
        return found

    def grow(self, progress: Progress) -> bool:
        """Activate ranks; let the networks change. Whether parameters were replaced."""
        self.ranks.advance(progress)
        replaced = [net.grow(_along(progress, i)) for i, net in enumerate(self.axes)]
        return any(replaced)

    def slim(self, rank: int) -> None:
        """Keep the first `rank` columns of every feature, for good.

        Raises:
            ConfigError: There are not so many.
        """
        old = self.ranks.rank
        self.ranks.keep(rank)
        self._take(old)

    def sizes(self) -> dict[str, Any]:
        """The ranks there are and those that are active."""
        return {"ranks": self.ranks.sizes()}

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take the ranks of `sizes()`."""
        old = self.ranks.rank
        self.ranks.resize(sizes["ranks"])
        self._take(old)

    def _take(self, old: int) -> None:
        """Cut parameters of rank `old` to the present one."""
        rank = self.ranks.rank
        for i, layer in enumerate(self.columns):
            shape = self._shape(i, old)
            layer.weight = _cut(layer.weight, shape, rank)
            if layer.bias is not None:
                layer.bias = _cut(layer.bias, shape, rank)
            layer.out_features = len(layer.weight)
        if self.core is not None:
            self.core = _cut(self.core.flatten(), self.core.shape, rank)
            self.core.data = self.core.data.reshape(self.out_dim, *[rank] * self.in_dim)
