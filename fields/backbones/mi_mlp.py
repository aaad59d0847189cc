"""mi-MLP: inputs to every layer (Zhu et al., CVPR 2024, arXiv 2403.06092), its structure.

e: encoded coordinates, E values; D: depth.

    h_1 = relu(W_1 e)        h_k = relu(W_k [e, h_{k-1}])        features: [h_D, e]

The short ways from inputs to outputs let a simple solution be found without giving up capacity,
for which few views are not enough in a plain network. The density comes from a network of its own
on lower frequencies, because geometry is smoother than appearance. The text of the paper could not
be read beyond its abstract: sizes and octaves are choices made here, and its two regularisers
(background, sampling annealing) are not part of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.config import Spec
from polyfield.fields.activations import Activation
from polyfield.fields.backbones.mlp import PRESETS as MLP_PRESETS
from polyfield.fields.base import Backbone
from polyfield.fields.coordinate_mlp import CoordinateMLP
from polyfield.fields.heads import linear
from polyfield.registry import register


def _frequencies(levels: int) -> dict[str, Any]:
    return {"type": "frequency", "levels": levels}


@dataclass(frozen=True)
class MiMLPConfig:
    """Settings of mi-MLP; the paper's are not known."""

    encoding: Spec = field(default_factory=lambda: _frequencies(10))
    """Encoding of the coordinates, for appearance."""
    density_encoding: Spec = field(default_factory=lambda: _frequencies(6))
    """Encoding of the coordinates, for the density's own network."""
    width: int = 256
    """Units of every layer."""
    depth: int = 8
    """Layers."""
    density_depth: int = 8
    """Layers of a network of its own for the density, which becomes the first feature (0: there
    is none, as for signals)."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {self.width}, {self.depth}")
        if self.density_depth < 0:
            raise ValueError(f"density_depth must not be negative, got {self.density_depth}")


class InjectedMLP(CoordinateMLP):
    """ReLU layers that all see the encoded coordinates; features are the last one's and these."""

    def __init__(
        self,
        in_dim: int,
        width: int,
        depth: int,
        encoding: Spec,
        generator: torch.Generator | None = None,
    ):
        every = tuple(range(depth - 1))
        super().__init__(in_dim, width, depth, Activation("relu"), encoding, every, generator)
        self.out_dim = width + self.encoding.out_dim

    def _features(self, code: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
        out = super()._features(code, layers)
        return torch.cat((out, code.to(out.dtype)), -1)


_FIELD = {"type": "radiance", "density": "feature"}
PRESETS = {
    "paper": {
        **MLP_PRESETS["paper"],
        "backbone": {"width": 256, "depth": 8, "density_depth": 8},
        "field": {**MLP_PRESETS["paper"]["field"], **_FIELD, "bottleneck": None},
    },
    "cpu": {
        **MLP_PRESETS["cpu"],
        "backbone": {
            "encoding": _frequencies(8),
            "density_encoding": _frequencies(5),
            "width": 128,
            "depth": 4,
            "density_depth": 3,
        },
        "field": {**MLP_PRESETS["cpu"]["field"], **_FIELD},
    },
    "signal": {
        **MLP_PRESETS["signal"],
        "backbone": {"width": 256, "depth": 4, "density_depth": 0},
    },
    "tiny": {
        "backbone": {
            "encoding": _frequencies(2),
            "density_encoding": _frequencies(1),
            "width": 16,
            "depth": 3,
            "density_depth": 2,
        }
    },
}


@register(
    "mi-mlp",
    config=MiMLPConfig,
    paper="Zhu et al. 2024 (mi-MLP)",
    presets=PRESETS,
    size=("width",),
)
class MiMLP(Backbone):
    """An MLP that sees its inputs in every layer, and another one for the density.

    Features: the raw density, if it has its own network; the last layer's activations; the encoded
    coordinates. To keep the branches apart, ask the field for ``density: "feature"``: the density
    then depends on its own network only, and colour on that network only through its value.
    """

    def __init__(
        self, config: MiMLPConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        sizes = in_dim, config.width
        self.appearance = InjectedMLP(*sizes, config.depth, config.encoding, generator)
        self.density = self.density_head = None
        if config.density_depth:
            spec = config.density_encoding
            self.density = InjectedMLP(*sizes, config.density_depth, spec, generator)
            self.density_head = linear(self.density.out_dim, 1, generator=generator)
        self.in_dim = in_dim
        self.out_dim = self.appearance.out_dim + bool(config.density_depth)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        appearance = self.appearance(x)
        if self.density is None:
            return appearance
        return torch.cat((self.density_head(self.density(x)), appearance), -1)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What the encodings have to train, and the layers."""
        groups = self.appearance.parameter_groups(lr)
        if self.density is not None:
            groups += self.density.parameter_groups(lr)
            groups.append({"params": list(self.density_head.parameters()), "lr": lr})
        return groups
