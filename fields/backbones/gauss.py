"""Gaussians as activations (Ramasinghe and Lucey, ECCV 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polyfield.fields.activations import Activation
from polyfield.fields.coordinate_mlp import CoordinateMLP, check_sizes
from polyfield.fields.recipes import (
    ADAM,
    AS_IT_IS,
    CENTRED,
    LINEAR_HEADS,
    SMALL_BATCH,
    network_on_two_cores,
)
from polyfield.registry import register


@dataclass(frozen=True)
class GaussConfig:
    """Settings of Gauss; the defaults are the paper's for images."""

    width: int = 256
    """Units of every layer, and number of features."""
    depth: int = 4
    """Layers, the first included."""
    scale: float = 30.0
    """Inverse width: a standard deviation of 1 / (sqrt(2) scale)."""

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth)
        self.activation()

    def activation(self) -> Activation:
        """The settings that belong to the activation."""
        return Activation("gauss", scale=self.scale)


PRESETS = {
    "paper": {
        "backbone": {"width": 256, "depth": 4},
        "field": {**LINEAR_HEADS, "hidden": [256]},
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {**ADAM, "lr": 1e-3},
    },
    "cpu": network_on_two_cores({"width": 128, "depth": 4, "scale": 10.0}, lr=1e-3),
    "signal": {
        # the paper's scale suits networks without encodings and long fits
        "backbone": {"width": 256, "depth": 4, "scale": 10.0},
        "field": CENTRED,
        "fit": {**ADAM, "lr": 1e-3, "points": SMALL_BATCH},
    },
    "shape": {"backbone": {"scale": 10.0}, "field": AS_IT_IS},
    "tiny": {"backbone": {"width": 16, "depth": 2, "scale": 2.0}},
}


@register(
    "gauss",
    config=GaussConfig,
    paper="Ramasinghe and Lucey 2022",
    presets=PRESETS,
    size=("width",),
)
class Gauss(CoordinateMLP):
    """Layers exp(-(scale (W x + b))^2) on raw coordinates, whose derivatives stay local.

    Weights and biases are U(1 / sqrt of the inputs), torch's default.
    """

    def __init__(
        self, config: GaussConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__(
            in_dim,
            config.width,
            config.depth,
            config.activation(),
            {"type": "identity"},
            generator=generator,
        )
        self.config = config
