"""Hash encoding and a tiny MLP (Instant-NGP; Müller et al., SIGGRAPH 2022, arXiv 2201.05989)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.encodings.base import require_dims
from polyfield.encodings.grid import MAX_DIM
from polyfield.encodings.hash_grid import HashGridConfig, HashGridEncoding
from polyfield.fields.base import Backbone
from polyfield.fields.heads import SmallMLP
from polyfield.fields.insight import MOST, Insight, middle
from polyfield.fields.recipes import NGP_HEADS, UNBOUNDED, two_cores
from polyfield.registry import register

MLP_WEIGHT_DECAY = 1e-6


@dataclass(frozen=True)
class HashGridBackboneConfig:
    """Settings of the hash-grid backbone; the defaults are the paper's for radiance fields."""

    levels: int = 16
    """Resolutions, each with its own table."""
    features: int = 2
    """Features per level."""
    log2_entries: int = 19
    """Base-2 logarithm of the most entries a level may have."""
    base_resolution: int = 16
    """Nodes per axis of the coarsest level."""
    max_resolution: int = 2048
    """Nodes per axis of the finest level."""
    interpolation: Literal["linear", "smoothstep"] = "linear"
    """Weights between nodes; smoothstep for fields whose normals are used."""
    width: int = 64
    """Width of the hidden layers."""
    layers: int = 1
    """Hidden layers."""
    out_features: int = 16
    """Features handed to the field."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.layers < 0 or self.out_features < 1:
            raise ValueError("width and out_features must be at least 1, layers at least 0")
        self.encoding()

    def encoding(self) -> HashGridConfig:
        """The settings that belong to the encoding."""
        return HashGridConfig(
            levels=self.levels,
            features=self.features,
            log2_entries=self.log2_entries,
            base_resolution=self.base_resolution,
            max_resolution=self.max_resolution,
            interpolation=self.interpolation,
        )


DIMS = tuple(range(1, MAX_DIM + 1))
PRESETS = {
    "paper": {
        "backbone": {"levels": 16, "features": 2, "log2_entries": 19, "max_resolution": 2048},
        "field": NGP_HEADS,
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {"rays": 4096, "target_samples": 262144, "weight_decay": 1e-6, "lr_final": 0.0333},
    },
    "cpu": two_cores(
        {"levels": 8, "features": 4, "log2_entries": 17, "max_resolution": 512},
        lr=3e-2,
    ),
    "unbounded": UNBOUNDED,
    # cells of a decimetre or two average the noise of ranges; finer ones learn it
    "lidar": {"backbone": {"levels": 10, "log2_entries": 19, "max_resolution": 1536}},
    "signal": {
        "backbone": {"levels": 12, "features": 2, "log2_entries": 16, "max_resolution": 1024,
                     "layers": 2},
        "fit": {"points": 32768, "lr": 1e-2, "lr_final": 0.02},
    },
    "image": {"backbone": {"log2_entries": 13, "max_resolution": 512}},
    "audio": {"backbone": {"levels": 16, "max_resolution": 2**18}},
    "tiny": {"backbone": {"levels": 3, "features": 2, "log2_entries": 6, "max_resolution": 32,
                          "width": 16, "out_features": 8}},
}  # fmt: skip


@register(
    "hash-grid",
    config=HashGridBackboneConfig,
    paper="Müller et al. 2022 (Instant-NGP)",
    presets=PRESETS,
    dims=DIMS,
    size=("log2_entries",),
)
class HashGridBackbone(Backbone):
    """Multiresolution hash encoding followed by a small ReLU MLP without biases."""

    def __init__(
        self,
        config: HashGridBackboneConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        require_dims("hash-grid", in_dim, DIMS)
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.out_features
        self.encoding = HashGridEncoding(config.encoding(), in_dim, generator)
        hidden = (config.width,) * config.layers
        self.mlp = SmallMLP(self.encoding.out_dim, hidden, self.out_dim, False, generator)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        return self.mlp(self.encoding(x))

    def insights(self, limit: int = MOST) -> list[Insight]:
        """The features of every level on a slice."""
        features, table = self.config.features, self.encoding.table
        return [
            middle(
                f"level {level + 1} ({nodes} nodes per axis)",
                lambda x, first=level * features: self.encoding(x)[:, first : first + features],
                self.in_dim, table, limit=limit,
            )
            for level, nodes in enumerate(self.encoding.layout.resolutions)
        ]  # fmt: skip

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The table; the MLP's matrices with the paper's L2 penalty of 1e-6 (section 4)."""
        mlp = {"params": list(self.mlp.parameters()), "lr": lr, "weight_decay": MLP_WEIGHT_DECAY}
        return [*self.encoding.parameter_groups(lr), mlp]
