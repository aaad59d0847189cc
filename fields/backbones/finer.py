"""FINER: sines of growing frequency (Liu et al., CVPR 2024, arXiv 2312.02434)."""

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
class FinerConfig:
    """Settings of Finer; the defaults are the paper's for images."""

    width: int = 256
    """Units of every layer, and number of features."""
    depth: int = 4
    """Layers, the first included."""
    omega: float = 30.0
    """Frequency where the argument is 0."""
    first_omega: float | None = None
    """Frequency in the first layer (null: omega); larger for signals with more detail."""
    bias_scale: float | None = None
    """Range of the first biases (null: as other biases): 5 for pictures of 64 to 256 pixels a
    side, 20 for 512, 1 for signed distances."""
    detach: bool = True
    """Leave |z| + 1 out of gradients, as the authors do; turn it off where the field's own
    derivatives matter."""

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth)
        self.activation()

    def activation(self) -> Activation:
        """The settings that belong to the activation."""
        return Activation("finer", self.omega, self.first_omega, None, self.bias_scale, self.detach)


PRESETS = {
    "paper": {
        "backbone": {"width": 182, "depth": 4},
        "field": {**LINEAR_HEADS, "hidden": [182, 182, 182]},
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {**ADAM, "lr": 2e-4, "target_samples": 262144},
    },
    "cpu": network_on_two_cores({"width": 128, "depth": 4}, lr=1e-3),
    "signal": {
        "backbone": {"width": 256, "depth": 4},
        "field": CENTRED,
        "fit": {**ADAM, "lr": 5e-4, "points": SMALL_BATCH},
    },
    "image": {"backbone": {"bias_scale": 5.0}},
    "shape": {
        "backbone": {"bias_scale": 1.0},
        "field": AS_IT_IS,
        "fit": {"lr": 1e-4},
    },
    "tiny": {"backbone": {"width": 16, "depth": 2, "omega": 10.0, "detach": False}},
}


@register(
    "finer",
    config=FinerConfig,
    paper="Liu et al. 2024",
    presets=PRESETS,
    size=("width",),
)
class Finer(CoordinateMLP):
    """Layers sin(omega (|z| + 1) z), z = W x + b, on raw coordinates.

    Weights as SIREN's. Locally the frequency is omega (2 |z| + 1), so the range of the first
    layer's biases sets the band there is to choose from. With `detach` the gradients of values by
    coordinates and parameters are those of a sine whose frequency |z| + 1 is given.
    """

    def __init__(
        self, config: FinerConfig, in_dim: int = 3, generator: torch.Generator | None = None
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
