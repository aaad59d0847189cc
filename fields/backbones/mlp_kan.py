"""MLP-KAN: every point goes to experts, half of them MLPs, half Kolmogorov-Arnold networks.

He et al. 2024, arXiv 2410.03027. The paper puts such blocks into Transformers; as a field they
stand behind an encoding. x: coordinates in [-1, 1]; D: width of the stream; H: hidden width;
E: experts; p: gate weights, which sum to 1.

The text's gate hands experts mixtures of points: the value of a point would depend on its batch,
and it is left out. The gate here is the code's, per point, except that it sees coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, one_hot, silu

from polyfield.config import Spec
from polyfield.fields.base import Backbone
from polyfield.fields.heads import linear
from polyfield.fields.insight import MOST, Insight, middle
from polyfield.fields.kan_layers import LayerConfig, make_layer, uniform_linear
from polyfield.fields.recipes import ADAM, network_on_two_cores
from polyfield.registry import build, register

ACTIVATIONS = {"silu": silu, "gelu": gelu}
# FasterKAN: 8 bumps on normalised inputs, no bias, no base branch.
KAN = LayerConfig(size=8, squash="norm", init="xavier")
# Points at which the balance of the gates is measured.
PROBES = 512


def _frequencies(levels: int) -> dict[str, Any]:
    return {"type": "frequency", "levels": levels}


def _random(frequencies: int, scale: float) -> dict[str, Any]:
    return {"type": "random-fourier", "frequencies": frequencies, "scale": scale}


@dataclass(frozen=True)
class MLPKANConfig:
    """Settings of MLP-KAN; experts are the paper's, all around them is ours."""

    encoding: Spec = field(default_factory=lambda: _frequencies(10))
    """Encoding of the coordinates that experts work on."""
    gate: Spec = field(default_factory=lambda: _frequencies(2))
    """Encoding of the coordinates that gates look at: low frequencies give connected regions."""
    width: int = 64
    """Width of the stream, and number of features."""
    hidden: int = 64
    """Hidden width of MLP experts; KAN experts have half of it."""
    blocks: int = 2
    """Blocks with a residual connection."""
    experts: int = 8
    """Experts per block."""
    kan_experts: int | None = None
    """How many of them are KANs (None: half)."""
    top_k: int | None = 2
    """Experts that a point goes to, as in the paper; None: all, which is smooth."""
    activation: Literal["silu", "gelu"] = "silu"
    """Of MLP experts: SiLU in the text, GELU in the code."""
    balance: float = 1e-2
    """Weight of the penalty E sum_e f_e P_e on uneven use of experts (0: none)."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.hidden < 2 or self.blocks < 1 or self.experts < 1:
            raise ValueError(
                "width, blocks and experts must be at least 1 and hidden at least 2, got "
                f"{self.width}, {self.blocks}, {self.experts}, {self.hidden}"
            )
        if self.kan_experts is not None and not 0 <= self.kan_experts <= self.experts:
            raise ValueError(f"kan_experts must lie in 0..{self.experts}, got {self.kan_experts}")
        if self.top_k is not None and not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k must lie in 1..{self.experts} or be null, got {self.top_k}")
        if self.balance < 0:
            raise ValueError(f"balance must not be negative, got {self.balance}")


_BALANCED = {"losses": {"mse": 1.0, "regularisation": 1.0}}
PRESETS = {
    "paper": {
        **_BALANCED,
        "backbone": {"experts": 8, "top_k": 2, "width": 64, "hidden": 64, "blocks": 2},
        "fit": {**ADAM, "lr": 1e-3},
    },
    "cpu": {
        **_BALANCED,
        **network_on_two_cores(
            {
                "encoding": _frequencies(8),
                "experts": 4,
                "top_k": 1,
                "width": 32,
                "hidden": 32,
                "blocks": 1,
            },
            lr=3e-3,
        ),
    },
    # one expert per point, and frequencies at random: of what was tried the best for its time
    "signal": {
        **_BALANCED,
        "backbone": {"encoding": _random(128, 8.0), "experts": 4, "top_k": 1, "blocks": 1},
        "fit": {**ADAM, "lr": 5e-3, "points": 2048},
    },
    "volume": {"backbone": {"encoding": _random(128, 4.0)}},
    "video": {"backbone": {"encoding": _random(128, 4.0)}},
    "audio": {"backbone": {"encoding": _random(256, 500.0), "top_k": None}, "fit": {"lr": 2e-3}},
    "shape": {
        "backbone": {"encoding": _frequencies(6), "width": 32, "hidden": 32},
        "fit": {"lr": 2e-3, "points": 8192},
    },
    "tiny": {
        "backbone": {
            "encoding": _frequencies(2),
            "gate": _frequencies(1),
            "width": 8,
            "hidden": 8,
            "blocks": 2,
            "experts": 4,
            "top_k": None,
        }
    },
}


class MLPExpert(nn.Module):
    """W2 act(W1 x + b1) + b2; Glorot-uniform weights, zero biases."""

    def __init__(self, width: int, hidden: int, activation: str, generator: torch.Generator | None):
        super().__init__()
        self.activate = ACTIVATIONS[activation]
        self.first = linear(width, hidden, generator=generator)
        self.second = linear(hidden, width, generator=generator)

    def forward(self, x: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """Outputs at x."""
        return self.second(self.activate(self.first(x)))


def kan_expert(width: int, hidden: int, generator: torch.Generator | None = None) -> nn.Sequential:
    """FasterKAN of two layers, width -> hidden / 2 -> width, each behind its own LayerNorm."""
    first = make_layer("rswaf", width, hidden // 2, KAN, generator)
    return nn.Sequential(first, make_layer("rswaf", hidden // 2, width, KAN, generator))


def gate_weights(
    logits: Float[Tensor, "n experts"], top_k: int | None = None
) -> Float[Tensor, "n experts"]:
    """Softmax over experts; with `top_k` the others are 0 and the rest sums to 1 again.

    Computed in float32 at least. Where the order of experts changes, weights of a top-k jump.
    """
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    if top_k is None or top_k == logits.shape[-1]:
        return p
    chosen = p.topk(top_k, -1).indices
    kept = torch.zeros_like(p).scatter(-1, chosen, p.gather(-1, chosen))
    return kept / kept.sum(-1, keepdim=True)


def balance_penalty(p: Float[Tensor, "n experts"], top_k: int | None = None) -> Float[Tensor, ""]:
    """E sum_e f_e P_e: f the share of points an expert gets, P its mean softmax weight.

    1 where all are used alike, E where one gets everything; its gradient is P's.
    """
    k, count = top_k or 1, p.shape[-1]
    routed = one_hot(p.topk(k, -1).indices, count).sum(-2).to(p.dtype).mean(0) / k
    return count * (routed.detach() * p.mean(0)).sum()


def scattered_points(count: int, dims: int) -> Float[Tensor, "count dims"]:
    """Points that cover [-1, 1]^dims evenly: multiples of powers of a root of g^(d+1) = g + 1."""
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dims + 1))
    steps = torch.tensor([root ** -(i + 1) for i in range(dims)], dtype=torch.float64)
    return (0.5 + torch.arange(1, count + 1)[:, None] * steps) % 1 * 2 - 1


class MixtureBlock(nn.Module):
    """x + sum_e p_e Expert_e(LayerNorm(x)), the gate without bias.

    Args:
        config: The settings.
        gate_dim: Inputs of the gate.
        generator: CPU generator of the initial values.
    """

    def __init__(
        self, config: MLPKANConfig, gate_dim: int, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.top_k = config.top_k
        kans = config.experts // 2 if config.kan_experts is None else config.kan_experts
        width, hidden = config.width, config.hidden
        mlps = [
            MLPExpert(width, hidden, config.activation, generator)
            for _ in range(config.experts - kans)
        ]
        self.experts = nn.ModuleList(mlps)
        self.experts.extend(kan_expert(width, hidden, generator) for _ in range(kans))
        self.gate = linear(gate_dim, config.experts, bias=False, generator=generator)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "n width"], seen: Float[Tensor, "n gate_dim"]
    ) -> Float[Tensor, "n width"]:
        """The stream behind the block; seen: what the gate looks at."""
        p = gate_weights(self.gate(seen), self.top_k).to(x.dtype)
        normal = self.norm(x)
        if self.top_k is None or self.top_k == len(self.experts):
            for e, expert in enumerate(self.experts):
                x = torch.addcmul(x, p[:, e : e + 1], expert(normal))
            return x
        for e, expert in enumerate(self.experts):
            rows = p[:, e].nonzero()[:, 0]
            x = x.index_add(0, rows, p[rows, e : e + 1] * expert(normal[rows]))
        return x


@register(
    "mlp-kan",
    config=MLPKANConfig,
    paper="He et al. 2024",
    presets=PRESETS,
    size=("width", "hidden"),
)
class MLPKANBackbone(Backbone):
    """Encoding, a linear layer to the stream, blocks of experts."""

    def __init__(
        self, config: MLPKANConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.width
        self.encoding = build("encodings", config.encoding, in_dim=in_dim, generator=generator)
        self.gate_encoding = build("encodings", config.gate, in_dim=in_dim, generator=generator)
        fan_in = self.encoding.out_dim
        self.lift = uniform_linear(fan_in, config.width, math.sqrt(3 / fan_in), generator)
        seen = self.gate_encoding.out_dim
        self.blocks = nn.ModuleList(
            MixtureBlock(config, seen, generator) for _ in range(config.blocks)
        )
        self.register_buffer("probes", scattered_points(PROBES, in_dim).float(), persistent=False)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        rows = x.reshape(-1, self.in_dim)
        seen, out = self.gate_encoding(rows), self.lift(self.encoding(rows))
        for block in self.blocks:
            out = block(out, seen)
        return out.reshape(*x.shape[:-1], self.out_dim)

    def gates(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "blocks n experts"]:
        """Every block's weights of its experts at x."""
        seen, k = self.gate_encoding(x), self.config.top_k
        return torch.stack([gate_weights(block.gate(seen), k) for block in self.blocks])

    def insights(self, limit: int = MOST) -> list[Insight]:
        """What share each block's experts have in the points of a slice."""
        kinds = ["KAN" if isinstance(e, nn.Sequential) else "MLP" for e in self.blocks[0].experts]
        labels = [f"{e + 1} ({kind})" for e, kind in enumerate(kinds)]
        return [
            middle(
                f"shares of experts of block {n + 1}", lambda x, n=n: self.gates(x)[n],
                self.in_dim, self.lift.weight, limit=limit, labels=labels,
            )
            for n in range(len(self.blocks))
        ]  # fmt: skip

    def regularisation(self) -> dict[str, Tensor]:
        """How unevenly experts are used over the whole box, if that has a weight."""
        c = self.config
        if c.balance == 0 or c.experts == 1:
            return {}
        seen = self.gate_encoding(self.probes)
        shares = [balance_penalty(block.gate(seen).softmax(-1), c.top_k) for block in self.blocks]
        return {"balance": c.balance * torch.stack(shares).sum()}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Encodings' own groups, and one of all the rest."""
        encodings = (self.encoding, self.gate_encoding)
        groups = [g for e in encodings for g in e.parameter_groups(lr) if g["params"]]
        rest = [*self.lift.parameters(), *self.blocks.parameters()]
        return [*groups, {"params": rest, "lr": lr}]
