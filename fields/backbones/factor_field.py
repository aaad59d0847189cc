"""Factor fields and their proposal, DiF (Chen et al., "Dictionary Fields", SIGGRAPH 2023,
arXiv 2302.01226, sections 3 and 4): a projection of a product of factors.

    s(x) = P( c(g_0(x)) * [b_1(g_1(x)), ..., b_L(g_L(x))] )

c: coefficients; b_l: levels of the basis, side by side; g: coordinate maps (`fields.mappings`);
P: a small network. The factors themselves are in `fields.factors`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import mul
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.config import from_plain
from polyfield.encodings.base import require_dims
from polyfield.encodings.grid import MAX_DIM
from polyfield.fields.base import Backbone
from polyfield.fields.factors import FactorConfig, HashedLevels, Tables, make_factors
from polyfield.fields.heads import linear
from polyfield.fields.insight import MOST, Insight, middle
from polyfield.fields.recipes import FEW_STEPS, HEADS, TENSORF_HEADS, UNBOUNDED, two_cores
from polyfield.fields.small_mlp import small_mlp
from polyfield.registry import register

DIMS = tuple(range(1, MAX_DIM + 1))
NERF_COEFFICIENTS = {"kind": "grid", "resolution": [32], "scale": 1.0, "align_corners": False}
NERF_BASIS = {
    "kind": "grid",
    "mapping": "sawtooth",
    "channels": [4, 4, 4, 2, 2, 2],
    "resolution": [25, 39, 54, 69, 84, 99],
    # 768 cells over the finest level's extent: the paper's 2 to 8 times 768 / (99 * 8)
    "frequency": [1.94, 3.10, 4.27, 5.43, 6.59, 7.76],
    "init": "cosine",
}


@dataclass(frozen=True)
class FactorFieldConfig:
    """Settings of a factor field; the defaults are DiF-grid for radiance fields."""

    coefficients: FactorConfig | None = field(
        default_factory=lambda: from_plain(FactorConfig, NERF_COEFFICIENTS)
    )
    """The first factor (null: ones)."""
    basis: FactorConfig | None = field(default_factory=lambda: from_plain(FactorConfig, NERF_BASIS))
    """The second factor (null: ones)."""
    further: tuple[FactorConfig, ...] = ()
    """More factors."""
    hidden: tuple[int, ...] = (64,)
    """Hidden widths of the projector."""
    out_features: int | None = 32
    """Features the projector hands on (null: the product itself, and a signal's head is the
    projector)."""
    table_rate: float = 20.0
    """Learning rate of grids, as a multiple of that of networks."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths must be at least 1, got {self.hidden}")
        if self.out_features is not None and self.out_features < 1:
            raise ValueError(f"out_features must be at least 1 or null, got {self.out_features}")
        if not 0 < self.table_rate < math.inf:
            raise ValueError(f"table_rate must be positive, got {self.table_rate}")
        if not self.factors:
            raise ValueError("there is nothing to project: set coefficients, basis or further")

    @property
    def factors(self) -> tuple[FactorConfig, ...]:
        """All factors there are."""
        return tuple(f for f in (self.coefficients, self.basis, *self.further) if f is not None)


class Projector(nn.Module):
    """A ReLU network whose last layer has no bias."""

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        widths = (in_dim, *hidden, out_dim)
        self.layers = nn.ModuleList(
            linear(a, b, i < len(hidden), generator)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Outputs at features x."""
        weights = [layer.weight for layer in self.layers]
        return small_mlp(x, weights, [layer.bias for layer in self.layers])


_HEADS = {**TENSORF_HEADS, "direction": {"type": "frequency", "levels": 6}}
_CPU = two_cores(
    {
        "coefficients": NERF_COEFFICIENTS,
        # triangles, since jumps between tiles cost quality; lookups like powers of two
        "basis": {**NERF_BASIS, "mapping": "triangle", "channels": [8, 8, 4, 4, 4, 4]},
        "out_features": 16,
        "table_rate": 16.0,
    },
    HEADS,
    FEW_STEPS,
    lr=1e-2,
)


def _variant(coefficients: Any, basis: Any, **fit: Any) -> dict[str, Any]:
    """A row of the paper's ablation for radiance fields, fitted as the preset ``cpu`` is."""
    backbone = {**_CPU["backbone"], "coefficients": coefficients, "basis": basis}
    if basis is not None and basis["kind"] == "x":
        backbone["hidden"] = [256] * 8
    return {**_CPU, "backbone": backbone, "fit": {**_CPU["fit"], **fit}}


_NETWORK = {"kind": "mlp", "channels": [18]}
_VARIANTS = {
    "no-coefficients": _variant(None, NERF_BASIS),
    "single-level": _variant(
        NERF_COEFFICIENTS,
        {**NERF_BASIS, "channels": [18], "resolution": [70], "frequency": [8.0]},
    ),
    "dvgo-like": _variant({**NERF_COEFFICIENTS, "channels": [18], "resolution": [80]}, None),
    "cp-like": _variant(
        {**NERF_COEFFICIENTS, "kind": "vec", "resolution": [512]},
        {"kind": "cp", "channels": [32] * 6, "resolution": [512], "init": "normal", "scale": 0.1},
    ),
    "vm-like": _variant(
        {**NERF_COEFFICIENTS, "kind": "vm-lines"},
        {**NERF_BASIS, "kind": "vm-planes", "init": "normal", "scale": 0.1},
    ),
    "ngp-like": _variant(None, {"kind": "hash", "channels": [2] * 16, "resolution": [16, 2048]}),
    "hash-basis": _variant(
        NERF_COEFFICIENTS, {"kind": "hash", "channels": [2] * 16, "resolution": [16, 2048]}
    ),
    "occupancy-net": _variant(None, {"kind": "x"}, lr=1e-3),
    "nerf-like": _variant(
        None,
        {"kind": "x", "mapping": "trigonometric", "frequency": [2.0**k for k in range(10)]},
        lr=1e-3,
    ),
    "mlp-basis": _variant(NERF_COEFFICIENTS, _NETWORK),
    "mlp-coefficients": _variant(_NETWORK, NERF_BASIS),
    "sinc": _variant(NERF_COEFFICIENTS, {**NERF_BASIS, "mapping": "sinc"}),
    "triangle": _variant(NERF_COEFFICIENTS, {**NERF_BASIS, "mapping": "triangle"}),
    "dct": _variant(NERF_COEFFICIENTS, {**NERF_BASIS, "kind": "fixed-grid"}),
}
_PERIODIC = {"kind": "grid", "mapping": "triangle", "init": "cosine"}
_SIGNAL = {
    "backbone": {
        "coefficients": {"kind": "grid", "resolution": [32], "scale": 0.05,
                         "align_corners": False},
        "basis": {**_PERIODIC, "channels": [4, 4, 4, 2, 2, 2],
                  "resolution": [20, 32, 44, 56, 68, 80],
                  "frequency": [2.0, 3.2, 4.4, 5.6, 6.8, 8.0]},
        "hidden": [64],
        "out_features": None,
        "table_rate": 4.0,
    },
    "fit": {"lr": 5e-3, "eps": 1e-8, "lr_final": 0.1, "points": 2**15},
}  # fmt: skip
PRESETS = {
    "paper": {
        "backbone": {"coefficients": NERF_COEFFICIENTS, "basis": NERF_BASIS},
        "field": _HEADS,
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {"rays": 4096, "lr": 1e-3, "eps": 1e-8, "lr_final": 0.1},
    },
    "cpu": _CPU,
    "unbounded": UNBOUNDED,
    **_VARIANTS,
    "signal": _SIGNAL,
    "image": {
        "backbone": {
            **_SIGNAL["backbone"],
            "coefficients": {"kind": "grid", "resolution": [63], "scale": 1e-3,
                             "align_corners": False, "interpolation": "nearest"},
            # tiles of as many pixels as nodes, in pictures of 1024 a side
            "basis": {"kind": "grid", "mapping": "sawtooth", "init": "cosine",
                      "interpolation": "nearest",
                      "channels": [32, 32, 32, 16, 16, 16],
                      "resolution": [32, 51, 70, 89, 108, 128],
                      "frequency": [1024 / r for r in (32, 51, 70, 89, 108, 128)]},
            "table_rate": 4.0,
        },
        "fit": {**_SIGNAL["fit"], "points": 2**15},
    },
    "audio": {
        "backbone": {
            **_SIGNAL["backbone"],
            "coefficients": {"kind": "grid", "resolution": [2048], "align_corners": False},
            "basis": {**_PERIODIC, "channels": [4, 4, 4, 4, 4, 4], "resolution": [1024],
                      "frequency": [8.0, 12.0, 18.0, 27.0, 40.0, 60.0]},
        },
        "fit": {**_SIGNAL["fit"], "points": 2**14},
    },
    "shape": {
        "backbone": {
            **_SIGNAL["backbone"],
            "coefficients": {"kind": "grid", "resolution": [54], "scale": 0.05,
                             "align_corners": False},
            "basis": {**NERF_BASIS, "mapping": "triangle",
                      "resolution": [20, 32, 44, 56, 68, 80],
                      "frequency": [1.0, 1.6, 2.2, 2.8, 3.4, 4.0]},
        },
        "fit": {**_SIGNAL["fit"], "points": 2**15},
    },
    "tiny": {
        "backbone": {
            "coefficients": {"kind": "grid", "resolution": [3], "align_corners": False},
            "basis": {"kind": "grid", "mapping": "sawtooth", "channels": [3, 2],
                      "resolution": [4, 5], "frequency": [2.0, 3.0], "init": "normal"},
            "hidden": [8],
            "out_features": 6,
        }
    },
}  # fmt: skip


@register(
    "factor-field",
    config=FactorFieldConfig,
    paper="Chen et al. 2023 (Dictionary Fields)",
    presets=PRESETS,
    dims=DIMS,
    size=("coefficients.resolution", "basis.resolution"),
)
class FactorFieldBackbone(Backbone):
    """A small network on the product of factors, each over coordinates mapped in its own way."""

    def __init__(
        self,
        config: FactorFieldConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        require_dims("factor-field", in_dim, DIMS)
        self.config = config
        self.in_dim = in_dim
        self.factors = nn.ModuleList(make_factors(config.factors, in_dim, generator))
        width = self.factors[0].out_dim
        self.out_dim = width if config.out_features is None else config.out_features
        self.projector = None
        if config.out_features is not None:
            self.projector = Projector(width, config.hidden, self.out_dim, generator)

    def product(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch width"]:
        """The product of the factors at x."""
        return reduce(mul, [factor(x) for factor in self.factors])

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        product = self.product(x)
        return product if self.projector is None else self.projector(product)

    def insights(self, limit: int = MOST) -> list[Insight]:
        """The strongest channels of every factor on a slice."""
        named = (("coefficients", self.config.coefficients), ("basis", self.config.basis))
        names = [name for name, factor in named if factor is not None]
        names += [f"factor {n + 3}" for n in range(len(self.config.further))]
        like = next(self.parameters())
        return [
            middle(name, factor, self.in_dim, like, limit=limit)
            for name, factor in zip(names, self.factors, strict=True)
        ]

    def make_head(self, out_dim: int, generator: torch.Generator | None = None) -> nn.Module:
        """The projector, if the features are the product itself; else a linear layer."""
        if self.projector is None:
            return Projector(self.out_dim, self.config.hidden, out_dim, generator)
        return super().make_head(out_dim, generator)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Tables at `table_rate` times the rate, where points touch them; networks at the rate."""
        tables = []
        for module in self.modules():
            if isinstance(module, (Tables, HashedLevels)):
                tables += [p for p in module.parameters() if p.requires_grad]
        held = {id(p) for p in tables}
        networks = [p for p in self.parameters() if p.requires_grad and id(p) not in held]
        own = {"weight_decay": 0.0, "sparse": True}
        groups = [
            {"params": tables, "lr": lr * self.config.table_rate, **own},
            {"params": networks, "lr": lr},
        ]
        return [group for group in groups if group["params"]]
