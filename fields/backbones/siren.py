"""SIREN: sines as activations (Sitzmann et al., NeurIPS 2020, arXiv 2006.09661)."""

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
class SirenConfig:
    """Settings of Siren; the defaults are the paper's for images."""

    width: int = 256
    """Units of every layer, and number of features."""
    depth: int = 4
    """Layers, the first included."""
    omega: float = 30.0
    """Frequency."""
    first_omega: float | None = None
    """Frequency in the first layer (null: omega); larger for signals with more detail."""

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth)
        self.activation()

    def activation(self) -> Activation:
        """The settings that belong to the activation."""
        return Activation("siren", self.omega, self.first_omega)


PRESETS = {
    "paper": {
        "backbone": {"width": 256, "depth": 4},
        "field": {**LINEAR_HEADS, "hidden": [256]},
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {**ADAM, "lr": 1e-4},
    },
    "cpu": network_on_two_cores({"width": 128, "depth": 4}, lr=1e-3),
    "signal": {
        "backbone": {"width": 256, "depth": 4},
        "field": CENTRED,
        "fit": {**ADAM, "lr": 5e-4, "points": SMALL_BATCH},
    },
    "shape": {"field": AS_IT_IS, "fit": {"lr": 1e-4}},
    # a second of sound has kilohertz; not from the text of the paper
    "audio": {"backbone": {"first_omega": 3000.0}, "field": AS_IT_IS, "fit": {"lr": 1e-4}},
    "tiny": {"backbone": {"width": 16, "depth": 2, "omega": 10.0}},
}


@register(
    "siren",
    config=SirenConfig,
    paper="Sitzmann et al. 2020",
    presets=PRESETS,
    size=("width",),
)
class Siren(CoordinateMLP):
    """Layers sin(omega (W x + b)) on raw coordinates; its derivatives are of the same kind.

    W ~ U(1/d) in the first layer, U(sqrt(6 / width) / omega) in the others and in a signal's last
    one (section 3.2): activations have a deviation of 0.71 in every layer. Biases are U(1 / sqrt
    of the inputs), which the section leaves open.
    """

    def __init__(
        self, config: SirenConfig, in_dim: int = 3, generator: torch.Generator | None = None
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
