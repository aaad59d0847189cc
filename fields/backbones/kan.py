"""Kolmogorov-Arnold network (KAN; Liu et al., ICLR 2025, arXiv 2404.19756).

Layers of learnable curves, one per edge; nodes only add. The curves are B-splines whose grids
follow samples and get finer while the network is fitted, or functions of the families of
`polyfield.fields.kan_layers`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.fields.base import Backbone
from polyfield.fields.insight import MOST, POINTS, Insight, axis_names, edge_curves
from polyfield.fields.kan_layers import LayerConfig, check_layer, make_layer
from polyfield.fields.recipes import FEW_STEPS, HEADS, NGP_HEADS, two_cores
from polyfield.fields.spline_layer import SplineConfig, SplineLayer, Squash
from polyfield.fields.splines import curves, inner
from polyfield.fields.symbolic import FUNCTIONS, Suggestion, suggest
from polyfield.registry import register

# Points of the box at which a network looks at itself, when it is not told where.
GRID_POINTS = 2048
PENALTY_POINTS = 256


@dataclass(frozen=True)
class KANConfig:
    """Settings of the KAN; the defaults are the paper's for small problems."""

    basis: str = "spline"
    """What curves are made of: spline, or a family (chebyshev, legendre, ..., see kan-families)."""
    hidden: tuple[int, ...] = (5,)
    """Widths of the hidden layers."""
    out_features: int = 16
    """Features handed to the field: width of the last layer."""
    intervals: int = 5
    """Intervals G of the splines' grids at the start."""
    first_intervals: int | None = None
    """Intervals of the first layer's grids, those of the coordinates (null: as the others)."""
    order: int = 3
    """Degree k of the splines' pieces."""
    squash: Squash = "none"
    """What brings activations onto the grids behind the first layer: nothing (let `updates` make
    the grids follow), tanh, or norm: tanh of a LayerNorm."""
    base: bool = True
    """Whether spline edges have a part w SiLU(x)."""
    scale: bool = True
    """Whether splines have a trainable factor of their own."""
    init: float = 0.1
    """Standard deviation of the splines' initial coefficients."""
    extensions: tuple[tuple[float, int], ...] = ()
    """Finer grids on a schedule: pairs of a share of the fit and the intervals from there on;
    `first_intervals` grows in proportion."""
    updates: tuple[float, ...] = ()
    """Shares of the fit at which the grids behind the first layer follow the activations."""
    penalty: float = 0.0
    """Weight of the sparsity penalty (paper: 1e-3 to 1e-2)."""
    entropy: float = 1.0
    """Weight of the entropy within the penalty, against 1 for the norm."""
    family: LayerConfig = field(default_factory=LayerConfig)
    """Settings of the layers of other bases than spline; the first takes coordinates as is."""

    def __post_init__(self) -> None:
        if self.out_features < 1 or any(width < 1 for width in self.hidden):
            raise ValueError(
                f"widths must be at least 1, got hidden {self.hidden} and {self.out_features}"
            )
        if self.penalty < 0 or self.entropy < 0:
            raise ValueError("penalty and entropy must not be negative")
        if self.basis == "spline":
            for first in (True, False):
                self.layer(first)
        else:
            check_layer(self.basis, self.family)
        self._check_schedule()

    def _check_schedule(self) -> None:
        shares, counts = [f for f, _ in self.extensions], [n for _, n in self.extensions]
        if self.basis != "spline" and (self.extensions or self.updates):
            raise ValueError(f"extensions and updates belong to splines, got basis {self.basis!r}")
        if any(not 0 <= f <= 1 for f in [*shares, *self.updates]):
            raise ValueError("shares in extensions and updates must lie in [0, 1]")
        sizes = [self.intervals, *counts]
        if shares != sorted(shares) or any(a >= b for a, b in zip(sizes, sizes[1:], strict=False)):
            raise ValueError(
                "extensions must name later shares and more intervals, one after the other, from "
                f"{self.intervals} intervals on; got {self.extensions}"
            )
        if list(self.updates) != sorted(self.updates):
            raise ValueError(f"updates must be in order, got {self.updates}")

    def layer(self, first: bool) -> SplineConfig:
        """Settings of one layer of splines."""
        intervals = self.intervals_of(first)
        squash = "none" if first else self.squash
        return SplineConfig(intervals, self.order, squash, self.base, self.scale, self.init)

    def intervals_of(self, first: bool, now: int | None = None) -> int:
        """Intervals of a layer when those of the others are `now` (None: at the start)."""
        now = self.intervals if now is None else now
        if not first or self.first_intervals is None:
            return now
        return round(self.first_intervals * now / self.intervals)


@dataclass(frozen=True)
class Attribution:
    """What the outputs owe to a layer's inputs and edges."""

    nodes: Float[Tensor, "i"]
    edges: Float[Tensor, "i o"]


def sparsity(
    norms: Float[Tensor, "..."], tiny: float = 1e-12
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum of a layer's edge norms, and the entropy of their shares (paper, section 2.5.1).

    The entropy of n equal norms is ln n, that of a single one 0.
    """
    total = norms.sum()
    share = norms / total.clamp(min=tiny)
    return total, -(share * share.clamp(min=tiny).log()).sum()


def spread_points(count: int, like: Float[Tensor, "..."], dims: int) -> Float[Tensor, "count dims"]:
    """Points that fill [-1, 1]^dims evenly, always the same: Roberts' generalised golden ratio."""
    ratio = 2.0
    for _ in range(60):  # the root of r^(dims + 1) = r + 1
        ratio = (1 + ratio) ** (1 / (dims + 1))
    steps = [math.fmod(ratio**-d, 1.0) for d in range(1, dims + 1)]
    numbers = torch.arange(1, count + 1, device=like.device, dtype=torch.float64)
    points = (0.5 + numbers[:, None] * numbers.new_tensor(steps)).remainder(1) * 2 - 1
    return points.to(like.dtype)


_FIELD = {"squash": "norm", "scale": False}
_SIGNAL = {
    "backbone": {**_FIELD, "hidden": [64], "out_features": 32, "intervals": 8,
                 "first_intervals": 16, "extensions": [[0.2, 16], [0.5, 64]]},
    "fit": {"lr": 1e-2, "eps": 1e-8, "lr_final": 0.1, "points": 4096},
}  # fmt: skip
PRESETS = {
    "paper": {
        "backbone": {
            "hidden": [5],
            "intervals": 5,
            "order": 3,
            "extensions": [[0.2, 10], [0.4, 20], [0.6, 50]],
            "updates": [0.01, 0.02, 0.03, 0.04, 0.05],
        },
        "field": {**NGP_HEADS, "hidden": [64]},
        "sampler": {"type": "occupancy-grid"},
        "fit": {"lr": 1e-3, "weight_decay": 1e-4},
    },
    "cpu": two_cores(
        {**_FIELD, "hidden": [64], "intervals": 16, "extensions": [[0.3, 32]]},
        HEADS,
        FEW_STEPS,
        lr=1e-2,
    ),
    "signal": _SIGNAL,
    "image": _SIGNAL,
    "audio": {
        **_SIGNAL,
        "backbone": {
            **_SIGNAL["backbone"],
            "first_intervals": 1024,
            "extensions": [[0.3, 16], [0.6, 32]],
        },
    },
    "shape": {
        **_SIGNAL,
        "backbone": {**_SIGNAL["backbone"], "first_intervals": 8, "extensions": [[0.5, 16]]},
    },
    "tiny": {
        "backbone": {
            "hidden": [6],
            "out_features": 4,
            "intervals": 3,
            "squash": "tanh",
            "extensions": [[0.5, 6]],
            "updates": [0.2],
        }
    },
}


@register(
    "kan",
    config=KANConfig,
    paper="Liu et al. 2025 (KAN)",
    presets=PRESETS,
    size=("hidden",),
)
class KANBackbone(Backbone):
    """Layers of learnable curves on edges, summed by nodes; coordinates are clamped to the box."""

    def __init__(
        self, config: KANConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.out_features
        widths = (in_dim, *config.hidden, config.out_features)
        self.layers = nn.ModuleList(
            _layer(config, n, widths[n], widths[n + 1], generator) for n in range(len(widths) - 1)
        )
        self._updated = 0

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        x = x.clamp(-1, 1)
        for layer in self.layers:
            x = layer(x)
        return x

    def activations(self, x: Float[Tensor, "n in_dim"]) -> list[Float[Tensor, "n width"]]:
        """What goes into every layer."""
        inputs = [x.clamp(-1, 1)]
        for layer in self.layers[:-1]:
            inputs.append(layer(inputs[-1]))
        return inputs

    @torch.no_grad()
    def insights(self, limit: int = MOST) -> list[Insight]:
        """The strongest edges of every layer.

        Over a layer's inputs; where they are squashed, over the squashed ones and without the
        part w SiLU(x), which is not a function of those.
        """
        found: list[Insight] = []
        for n, layer in enumerate(self.layers):
            x = torch.linspace(-1, 1, POINTS).to(layer.coefficients)
            if self.config.basis != "spline":
                x = x * 2 if layer.norm_input is not None else x
                edges = layer.edges(x)
            elif layer.config.squash == "none":
                grid = inner(layer.knots, layer.config.order)
                x = (x + 1) / 2 * (grid.max() - grid.min()) + grid.min()
                edges = layer.edges(x[:, None].expand(-1, layer.in_dim))
            else:
                edges = curves(x[:, None].expand(-1, layer.in_dim), layer.knots, layer.effective())
            names = None if n else axis_names(self.in_dim)
            found.append(edge_curves(f"edges of layer {n + 1}", x, edges, limit, names))
        return found

    def regularisation(self) -> dict[str, Tensor]:
        """``sparsity``: norms and entropies of all layers' edges (paper, section 2.5.1).

        The norm of a spline edge is its mean |value| over points that fill the box; that of other
        bases the mean |coefficient|.
        """
        c = self.config
        if not c.penalty:
            return {}
        if c.basis == "spline":
            norms = [e.abs().mean(0) for e in self._edges(self._points(PENALTY_POINTS))]
        else:
            norms = [layer.coefficients.abs().mean(0) for layer in self.layers]
        parts = [sparsity(n) for n in norms]
        total = sum(norm + c.entropy * entropy for norm, entropy in parts)
        return {"sparsity": c.penalty * total}

    def grow(self, progress: Progress) -> bool:
        """Let the hidden grids follow the activations, and make all grids finer, when it is time.

        Activations are taken at points that fill the box: the coordinates' own grid stays.
        """
        due = sum(share <= progress.fraction for share in self.config.updates)
        if due > self._updated:
            self._updated = due
            self.update_grids(self._points(GRID_POINTS), first=False)
        counts = [n for share, n in self.config.extensions if share <= progress.fraction]
        if not counts or not self._finer(counts[-1]):
            return False
        self.refine(counts[-1])
        return True

    def _finer(self, intervals: int) -> bool:
        """Whether any grid would have more intervals than it has."""
        wanted = (self.config.intervals_of(n == 0, intervals) for n in range(len(self.layers)))
        return any(a > b.intervals for a, b in zip(wanted, self._splines(), strict=True))

    def sizes(self) -> dict[str, Any]:
        """Widths, intervals, and how many updates of the grids are done."""
        if self.config.basis != "spline":
            return {}
        layers = self._splines()
        return {
            "hidden": [layer.out_dim for layer in layers[:-1]],
            "intervals": [layer.intervals for layer in layers],
            "updates": self._updated,
        }

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take the shapes of `sizes()`."""
        if not sizes:
            return
        self._updated = sizes["updates"]
        widths = (self.in_dim, *sizes["hidden"], self.out_dim)
        for n, layer in enumerate(self._splines()):
            layer.resize(widths[n], widths[n + 1], sizes["intervals"][n])

    @torch.no_grad()
    def update_grids(self, x: Float[Tensor, "n in_dim"], first: bool = True) -> None:
        """Let grids follow the activations at samples, layer after layer (paper, section 2.2).

        Args:
            x: Samples in the box.
            first: Whether the coordinates' own grid does so, too; it then ends at the outermost
                samples.
        """
        x = x.clamp(-1, 1)
        for n, layer in enumerate(self._splines()):
            if n or first:
                layer.update_grid(x)
            x = layer(x)

    def refine(self, intervals: int) -> None:
        """Cut all grids into more intervals (paper, section 2.4); the function stays as it is.

        Args:
            intervals: Of every layer but the first, which keeps its proportion to them.

        Raises:
            ValueError: Fewer than before.
        """
        for n, layer in enumerate(self._splines()):
            layer.refine(self.config.intervals_of(n == 0, intervals))

    @torch.no_grad()
    def attribution(self, x: Float[Tensor, "n in_dim"] | None = None) -> list[Attribution]:
        """What the outputs, taken together, owe to each layer's inputs and edges (pykan's score).

        From the last layer to the first: an edge receives its share, by standard deviation, of
        what its node is worth; an input is worth the sum of its edges.

        Args:
            x: Samples in the box (None: points that fill it).
        """
        worth = self.layers[-1].mask.new_full((self.out_dim,), 1 / self.out_dim)
        found: list[Attribution] = []
        for edges in reversed(self._edges(self._points(GRID_POINTS) if x is None else x)):
            deviation = edges.sum(1).std(0)
            shares = edges.std(0) * (worth / (deviation + 1e-4))
            worth = shares.sum(1)
            found.append(Attribution(worth, shares))
        return found[::-1]

    def prune(
        self,
        node_threshold: float = 1e-2,
        edge_threshold: float = 3e-2,
        x: Float[Tensor, "n in_dim"] | None = None,
    ) -> KANBackbone:
        """A smaller copy, without hidden nodes and edges that the outputs owe little to.

        Nodes are removed, edges of those that stay are masked out. The best node of every layer
        stays in any case.

        Args:
            node_threshold: Attribution below which a hidden node goes.
            edge_threshold: Attribution below which an edge goes.
            x: Samples in the box (None: points that fill it).
        """
        scores = [a.nodes for a in self.attribution(x)]
        keep = [torch.arange(self.in_dim, device=scores[0].device)]
        for nodes in scores[1:]:
            keep.append(((nodes >= node_threshold) | (nodes == nodes.max())).nonzero()[:, 0])
        keep.append(torch.arange(self.out_dim, device=scores[0].device))
        pruned = copy.deepcopy(self)
        for n, layer in enumerate(pruned._splines()):
            layer.select(keep[n], keep[n + 1])
        for layer, score in zip(pruned._splines(), pruned.attribution(x), strict=True):
            layer.mask *= score.edges >= edge_threshold
        return pruned

    @torch.no_grad()
    def suggest_symbolic(
        self,
        layer: int,
        i: int,
        o: int,
        x: Float[Tensor, "n in_dim"] | None = None,
        names: Sequence[str] = tuple(FUNCTIONS),
    ) -> list[Suggestion]:
        """Formulas for the curve from input i to output o of a layer, the best first.

        Args:
            layer: Number of the layer, from 0.
            i: Its input.
            o: Its output.
            x: Samples in the box (None: points that fill it).
            names: Functions to try.
        """
        inputs = self.activations(self._points(GRID_POINTS) if x is None else x)[layer]
        return suggest(inputs[:, i], self._splines()[layer].edges(inputs)[:, i, o], names)

    def _edges(self, x: Tensor) -> list[Tensor]:
        """Values of every layer's edges at x."""
        layers = self._splines()
        return [a.edges(b) for a, b in zip(layers, self.activations(x), strict=True)]

    def _splines(self) -> list[SplineLayer]:
        if self.config.basis != "spline":
            raise ConfigError(f"only splines have grids and edges; basis is '{self.config.basis}'")
        return list(self.layers)

    def _points(self, count: int) -> Tensor:
        return spread_points(count, self.layers[0].coefficients, self.in_dim)


def _layer(
    config: KANConfig, n: int, in_dim: int, out_dim: int, generator: torch.Generator | None
) -> nn.Module:
    """Layer number n."""
    if config.basis == "spline":
        return SplineLayer(in_dim, out_dim, config.layer(first=n == 0), generator)
    family = config.family if n else replace(config.family, squash="none")
    if n == len(config.hidden):  # a LayerNorm would take the density's and colours' scale away
        family = replace(family, norm=False)
    return make_layer(config.basis, in_dim, out_dim, family, generator)
