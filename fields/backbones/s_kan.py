"""S-KAN: each node chooses the family of its learnable activations from a pool.

Yang et al. 2024, arXiv 2408.08338. There is no public code; the abstract and introduction say
that training goes from all families over a selection to pruning. The gates, their schedule and
every constant here are our reading, not the paper's. x: inputs of a layer; a node: an input
feature of a layer with all its outgoing edges; m: family; g: gates, softmax over m of logits / T;
T: temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from polyfield.encodings.base import Progress
from polyfield.fields.base import Backbone
from polyfield.fields.insight import MOST, POINTS, Insight, edge_curves
from polyfield.fields.kan_layers import FAMILIES, LayerConfig, check_layer, unit_init
from polyfield.fields.kan_product import repeated, repeated_product, table_product
from polyfield.fields.recipes import ADAM, network_on_two_cores
from polyfield.registry import register

POOL = ("spline", "chebyshev", "rbf", "mexican-hat", "fourier")


@dataclass(frozen=True)
class SKANConfig:
    """Settings of S-KAN; those of the paper are not known."""

    widths: tuple[int, ...] = (32, 32)
    """Outputs of every layer; the last is the number of features."""
    pool: tuple[str, ...] = POOL
    """Families to choose from."""
    size: int = 8
    """Functions per edge, the same for every family."""
    first_size: int | None = None
    """Functions per edge of the first layer, which sees coordinates (None: `size`)."""
    granularity: Literal["node", "layer"] = "node"
    """What chooses: every input of a layer for itself, or the layer."""
    full: float = 0.4
    """Share of the fit in which all families are trained alike."""
    selection: float = 0.4
    """Share after that in which the gates harden; in its second half the forward pass takes the
    largest gate only. Then the others are dropped."""
    final_temperature: float = 0.1
    """Temperature at the end of the selection; it starts at 1 and falls geometrically."""
    entropy: float = 1e-2
    """Final weight of the gates' entropy in the penalty; rises as 1 / T^2 over the selection."""

    def __post_init__(self) -> None:
        if not self.widths or any(width < 1 for width in self.widths):
            raise ValueError(f"widths must be one or more numbers from 1, got {self.widths}")
        if not self.pool or len(set(self.pool)) != len(self.pool):
            raise ValueError(f"pool must name one or more families once, got {self.pool}")
        for size in {self.size, self.first_size or self.size}:
            for name in self.pool:
                check_layer(name, LayerConfig(size))
        if self.full < 0 or self.selection < 0 or self.full + self.selection > 1:
            raise ValueError(
                "full and selection must be shares that sum to at most 1, got "
                f"{self.full}, {self.selection}"
            )
        if not 0 < self.final_temperature <= 1:
            raise ValueError(f"final_temperature must lie in (0, 1], got {self.final_temperature}")
        if self.entropy < 0:
            raise ValueError(f"entropy must not be negative, got {self.entropy}")


_SEARCH = {"losses": {"mse": 1.0, "regularisation": 1.0}}
PRESETS = {
    "paper": {
        **_SEARCH,
        "backbone": {"widths": [32, 32], "pool": list(POOL), "size": 8},
        "fit": {**ADAM, "lr": 1e-2},
    },
    "cpu": {
        **_SEARCH,
        **network_on_two_cores({"widths": [16, 16], "first_size": 32, "size": 6}, lr=1e-2),
    },
    "signal": {
        **_SEARCH,
        "backbone": {"widths": [64, 32], "first_size": 64, "size": 6},
        "fit": {**ADAM, "lr": 5e-3, "points": 2048},
    },
    "audio": {"backbone": {"widths": [64, 32], "first_size": 512}, "fit": {"points": 4096}},
    "shape": {"backbone": {"widths": [32, 16], "first_size": 32}, "fit": {"points": 8192}},
    "tiny": {"backbone": {"widths": [6, 4], "pool": ["spline", "chebyshev", "fourier"], "size": 4}},
}


def gates(
    logits: Float[Tensor, "pool nodes"], temperature: float, hard: bool
) -> Float[Tensor, "pool nodes"]:
    """Softmax over the pool; hard: 1 for the largest, with the softmax's gradient."""
    soft = (logits / temperature).softmax(0)
    if not hard:
        return soft
    largest = one_hot(soft.argmax(0), len(logits)).T.to(soft.dtype)
    return largest + soft - soft.detach()


class SelectableLayer(nn.Module):
    """y_o = sum_i sum_m g_mi sum_k C[m, k, i, o] b^m_k(u_i) + (SiLU(x) W)_o.

    Args:
        pool: Names of families.
        in_dim: Inputs.
        out_dim: Outputs.
        config: Settings, the same for every family.
        shared: One gate for all inputs.
        generator: CPU generator of the initial values.
    """

    choice: Int64[Tensor, "in_dim"] | None

    def __init__(
        self,
        pool: tuple[str, ...],
        in_dim: int,
        out_dim: int,
        config: LayerConfig,
        shared: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.pool, self.config = pool, config
        self.in_dim, self.out_dim, self.choice = in_dim, out_dim, None
        self.coefficients = nn.Parameter(torch.empty(len(pool), config.size, in_dim, out_dim))
        for name, own in zip(pool, self.coefficients, strict=True):
            unit_init(own, FAMILIES[name], config, generator)
        self.base_weight = nn.Parameter(torch.empty(in_dim, out_dim))
        nn.init.xavier_uniform_(self.base_weight, generator=generator)
        self.logits = nn.Parameter(torch.zeros(len(pool), 1 if shared else in_dim))

    def forward(
        self, x: Float[Tensor, "n in_dim"], temperature: float, hard: bool
    ) -> Float[Tensor, "n out_dim"]:
        """Outputs at x; a pruned layer has no use for temperature and hardness."""
        u = (x.tanh() if self.config.squash == "tanh" else x).T.contiguous()
        axes, matrix = None, self.coefficients
        if self.choice is None:
            axes, gate = repeated(u), gates(self.logits, temperature, hard)
            matrix = (matrix * gate[:, None, :, None]).flatten(0, 1)
        if axes is None:
            out = table_product(self._table, u, matrix.flatten(0, 1))
        else:  # points of a pixel grid
            out = repeated_product(lambda v: self._table(v)[:, None], axes, matrix)
        return torch.addmm(out, silu(x), self.base_weight)

    def edges(
        self, u: Float[Tensor, "n"], temperature: float, hard: bool
    ) -> Float[Tensor, "n in_dim out_dim"]:
        """Every edge by itself at squashed inputs, without the base, for looking at a network."""
        rows, matrix = u.expand(self.in_dim, -1).contiguous(), self.coefficients
        if self.choice is None:
            gate = gates(self.logits, temperature, hard)
            matrix = (matrix * gate[:, None, :, None]).flatten(0, 1)
        table = self._table(rows).unflatten(0, (-1, self.in_dim))
        found = torch.einsum("kin,kio->nio", table, matrix)
        # a pruned layer keeps its inputs sorted by family
        return (
            found if self.choice is None else found[:, self.choice.argsort(stable=True).argsort()]
        )

    def _table(self, u: Tensor) -> Tensor:
        """Values of every family at every input; of a pruned layer, of the chosen ones."""
        if self.choice is None:
            return torch.cat([self._values(name, u).flatten(0, 1) for name in self.pool])
        used = [(name, self.choice == m) for m, name in enumerate(self.pool)]
        parts = [self._values(name, u[nodes]) for name, nodes in used if bool(nodes.any())]
        return torch.cat(parts, 1).flatten(0, 1)

    def _values(self, name: str, u: Tensor) -> Tensor:
        family = FAMILIES[name]
        own = family.parameters(len(u), self.config.size)
        return family.evaluate(u, self.config, {k: v.to(u) for k, v in own.items()})

    @torch.no_grad()
    def prune(self, choice: Int64[Tensor, "in_dim"] | None = None) -> None:
        """Keep one family per input: the chosen ones, or those with the largest gates.

        The layer computes what it computed with hard gates.
        """
        if choice is None:
            choice = self.logits.argmax(0).expand(self.in_dim)
        order = choice.argsort(stable=True)  # inputs of a family lie together
        kept = self.coefficients.movedim(2, 1)[choice, torch.arange(self.in_dim)]
        self.coefficients = nn.Parameter(kept[order].transpose(0, 1).contiguous())
        self.choice = choice.clone()
        del self.logits


@register(
    "s-kan",
    config=SKANConfig,
    paper="Yang et al. 2024",
    presets=PRESETS,
    size=("widths",),
)
class SKANBackbone(Backbone):
    """Layers of learnable activations whose families are selected while they are fitted.

    Coordinates enter the first layer as they are, later layers see tanh of their inputs. The
    stage of the fit is part of `sizes`.
    """

    def __init__(
        self, config: SKANConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.widths[-1]
        self.temperature, self.hard = 1.0, False
        inputs = (in_dim, *config.widths[:-1])
        self.layers = nn.ModuleList(
            SelectableLayer(
                config.pool,
                a,
                b,
                self._layer_config(i),
                config.granularity == "layer",
                generator,
            )
            for i, (a, b) in enumerate(zip(inputs, config.widths, strict=True))
        )

    def _layer_config(self, layer: int) -> LayerConfig:
        if layer == 0:
            return LayerConfig(self.config.first_size or self.config.size, "none")
        return LayerConfig(self.config.size, "tanh")

    @property
    def pruned(self) -> bool:
        """Whether the selection is done."""
        return self.layers[0].choice is not None

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        out = x.reshape(-1, self.in_dim)
        for layer in self.layers:
            out = layer(out, self.temperature, self.hard)
        return out.reshape(*x.shape[:-1], self.out_dim)

    def selection(self) -> list[list[str]]:
        """Family of every input of every layer; before pruning the one with the largest gate."""
        choices = [
            layer.choice if layer.choice is not None
            else layer.logits.argmax(0).expand(layer.in_dim)
            for layer in self.layers
        ]  # fmt: skip
        return [[self.config.pool[m] for m in choice.tolist()] for choice in choices]

    @torch.no_grad()
    def insights(self, limit: int = MOST) -> list[Insight]:
        """The strongest edges of each layer over its squashed inputs, and their families."""
        found: list[Insight] = []
        for n, (layer, families) in enumerate(zip(self.layers, self.selection(), strict=True)):
            u = torch.linspace(-1, 1, POINTS).to(layer.coefficients)
            edges = layer.edges(u, self.temperature, self.hard)
            inputs = [f"{family} {i + 1}" for i, family in enumerate(families)]
            found.append(edge_curves(f"edges of layer {n + 1}", u, edges, limit, inputs))
        return found

    def regularisation(self) -> dict[str, Tensor]:
        """Entropy of the gates while they are selected."""
        c = self.config
        if self.pruned or self.temperature == 1 or c.entropy == 0:
            return {}
        soft = [gates(layer.logits, self.temperature, False) for layer in self.layers]
        entropy = torch.stack([-(g * (g + 1e-12).log()).sum() for g in soft]).sum()
        return {"entropy": c.entropy * (c.final_temperature / self.temperature) ** 2 * entropy}

    def grow(self, progress: Progress) -> bool:
        """Cool down, then prune: once, which replaces parameters."""
        c = self.config
        if self.pruned:
            return False
        done = (progress.fraction - c.full) / max(c.selection, 1e-12)
        if done >= 1:
            for layer in self.layers:
                layer.prune()
            return True
        if done > 0:
            self.temperature = c.final_temperature**done
            self.hard = done >= 0.5
        return False

    def sizes(self) -> dict[str, Any]:
        """Stage and choices."""
        chosen = [layer.choice.tolist() for layer in self.layers] if self.pruned else None
        return {"temperature": self.temperature, "hard": self.hard, "choice": chosen}

    def resize(self, sizes: dict[str, Any]) -> None:
        """Take a stage and its choices."""
        self.temperature, self.hard = float(sizes["temperature"]), bool(sizes["hard"])
        if sizes["choice"] is not None and not self.pruned:
            for layer, choice in zip(self.layers, sizes["choice"], strict=True):
                layer.prune(torch.tensor(choice))
