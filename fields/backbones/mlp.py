"""NeRF's MLP (Mildenhall et al., ECCV 2020, arXiv 2003.08934, section 3 and figure 7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from polyfield.config import Spec
from polyfield.fields.base import Backbone
from polyfield.fields.heads import linear
from polyfield.registry import build, register

ACTIVATIONS = {"relu": relu}


def _frequencies() -> dict[str, Any]:
    return {"type": "frequency", "levels": 10}


@dataclass(frozen=True)
class MLPConfig:
    """Settings of the MLP; the defaults are NeRF's."""

    encoding: Spec = field(default_factory=_frequencies)
    """Encoding of the coordinates."""
    width: int = 256
    """Width of every layer, and number of features."""
    depth: int = 8
    """Number of layers."""
    skips: tuple[int, ...] = (4,)
    """Layers (counted from 0) behind which the encoding is put in front of the activations."""
    activation: Literal["relu"] = "relu"
    """After every layer, the last included."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {self.width}, {self.depth}")
        if any(not 0 <= skip < self.depth - 1 for skip in self.skips):
            raise ValueError(
                f"skips must lie in 0..{self.depth - 2} for depth {self.depth}, got {self.skips}; "
                "use [] for none"
            )


_NERF_HEADS = {
    "type": "radiance",
    "direction": {"type": "frequency", "levels": 4},
    "density": "linear",
    "density_activation": "relu",
    "bottleneck": 256,
    "hidden": [128],
    "bias": True,
}
_NERF_FIT = {"betas": [0.9, 0.999], "eps": 1e-8, "lr_final": 0.1}
PRESETS = {
    "paper": {
        "backbone": {"encoding": _frequencies(), "width": 256, "depth": 8, "skips": [4]},
        "field": _NERF_HEADS,
        "sampler": {"type": "hierarchical", "coarse_samples": 64, "fine_samples": 128},
        "fit": {**_NERF_FIT, "rays": 1024, "lr": 5e-4, "crop_steps": 500},
    },
    "cpu": {
        "backbone": {
            "encoding": {"type": "frequency", "levels": 8},
            "width": 128,
            "depth": 4,
            "skips": [],
        },
        "field": {
            **_NERF_HEADS,
            "direction": {"type": "frequency", "levels": 2},
            # a ReLU that is dead everywhere at the start never recovers
            "density_activation": "softplus",
            "density_shift": -1.0,
            "bottleneck": None,
            "hidden": [64],
        },
        "sampler": {"type": "hierarchical"},
        "fit": {**_NERF_FIT, "rays": 1024, "lr": 1e-3, "crop_steps": 100},
    },
    "tiny": {
        "backbone": {
            "encoding": {"type": "frequency", "levels": 2},
            "width": 16,
            "depth": 3,
            "skips": [1],
        }
    },
}


@register("mlp", config=MLPConfig, paper="Mildenhall et al. 2020 (NeRF)", presets=PRESETS)
class MLPBackbone(Backbone):
    """Dense layers over encoded coordinates, with skip connections of the encoding.

    Glorot-uniform weights, zero biases. The features are the last layer's activations.
    """

    def __init__(
        self, config: MLPConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.width
        self.encoding = build("encodings", config.encoding, in_dim=in_dim, generator=generator)
        encoded, width = self.encoding.out_dim, config.width
        inputs = [encoded] + [width] * (config.depth - 1)
        for skip in config.skips:
            inputs[skip + 1] += encoded
        self.layers = nn.ModuleList(linear(n, width, generator=generator) for n in inputs)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        code = out = self.encoding(x)
        activate = ACTIVATIONS[self.config.activation]
        for i, layer in enumerate(self.layers):
            if i - 1 in self.config.skips:
                out = torch.cat((code.to(out.dtype), out), -1)
            out = activate(layer(out))
        return out

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The layers, and what the encoding has to train."""
        groups = [g for g in self.encoding.parameter_groups(lr) if g["params"]]
        return [*groups, {"params": list(self.layers.parameters()), "lr": lr}]
