"""WIRE: complex Gabor wavelets as activations (Saragadam et al., CVPR 2023, arXiv 2301.05187)."""

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
class WireConfig:
    """Settings of Wire; the defaults are the paper's for images."""

    width: int = 181
    """Complex units of every layer; int(n / sqrt 2) has about the parameters of n real ones."""
    depth: int = 3
    """Layers, the first included."""
    omega: float = 20.0
    """Frequency."""
    first_omega: float | None = None
    """Frequency in the first layer (null: omega)."""
    scale: float = 10.0
    """Inverse width of the window."""

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth)
        self.activation()

    def activation(self) -> Activation:
        """The settings that belong to the activation."""
        return Activation("wire", self.omega, self.first_omega, self.scale)


PRESETS = {
    "paper": {
        "backbone": {"width": 181, "depth": 3},
        "field": {**LINEAR_HEADS, "hidden": [256]},
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {**ADAM, "lr": 5e-3},
    },
    "cpu": network_on_two_cores(
        {"width": 64, "depth": 3, "omega": 10.0, "scale": 10.0}, lr=5e-3, clip=1.0
    ),
    "signal": {
        # 20 suits pictures of 512 pixels a side and thousands of steps
        "backbone": {"width": 181, "depth": 3, "omega": 10.0, "scale": 10.0},
        "field": CENTRED,
        "fit": {**ADAM, "lr": 5e-3, "clip": 1.0, "points": SMALL_BATCH},
    },
    "shape": {"backbone": {"omega": 10.0, "scale": 40.0}, "field": AS_IT_IS},
    "tiny": {"backbone": {"width": 8, "depth": 2, "omega": 2.0, "scale": 2.0}},
}


@register(
    "wire",
    config=WireConfig,
    paper="Saragadam et al. 2023",
    presets=PRESETS,
    size=("width",),
)
class Wire(CoordinateMLP):
    """Layers exp(j omega z - |scale z|^2), z = W x + b, with complex W and b behind the first.

    All are U(1 / sqrt of the inputs), real and imaginary parts alike. Features are the real parts
    of all units, then the imaginary ones; a real linear layer on them is the real part of a
    complex one, with which the paper's networks end. Arithmetic and parameters are real, so one
    complex number counts as two.
    """

    def __init__(
        self, config: WireConfig, in_dim: int = 3, generator: torch.Generator | None = None
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
