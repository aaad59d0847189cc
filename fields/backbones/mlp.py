"""Dense layers over encoded coordinates: NeRF's MLP, and any activation in it.

NeRF: Mildenhall et al., ECCV 2020, arXiv 2003.08934, section 3 and figure 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.config import Spec
from polyfield.fields.activations import (
    ENCODED,
    EXTENT,
    Activation,
    ActivationName,
    activate,
    matrix_product,
)
from polyfield.fields.coordinate_mlp import CoordinateMLP
from polyfield.fields.insight import MOST, POINTS, Insight, curves
from polyfield.fields.recipes import SMALL_BATCH, network_on_two_cores
from polyfield.fields.small_mlp import WIDEST, small_mlp
from polyfield.registry import register

NERF_SKIP = 4


@dataclass(frozen=True)
class MLPConfig:
    """Settings of the MLP; the defaults are NeRF's."""

    encoding: Spec | None = None
    """Encoding of the coordinates (null: frequency, but none for activations that have frequencies
    of their own: siren, gauss, wire, finer, hosc, sinc)."""
    levels: int = 10
    """Octaves of the frequency encoding where `encoding` is null."""
    width: int = 256
    """Units of every layer, and number of features (wire: complex units, two features each)."""
    depth: int = 8
    """Number of layers."""
    skips: tuple[int, ...] | None = None
    """Layers (counted from 0) behind which the encoding is put in front of the activations (null:
    NeRF's [4] where there are more than 5 layers and an encoding of frequencies)."""
    activation: ActivationName = "relu"
    """After every layer, the last included."""
    omega: float | None = None
    """Frequency of siren, finer, hosc and sinc (null: 30), and of wire (null: 20)."""
    first_omega: float | None = None
    """Frequency in the first layer (null: omega)."""
    scale: float | None = None
    """Inverse width of gauss (null: 30) and wire (null: 10); first steepness of hosc (null: 2)."""
    bias_scale: float | None = None
    """Range of finer's first biases (null: as other biases); more lets in higher frequencies."""
    detach: bool = True
    """Leave finer's factor |z| + 1 out of gradients, as its authors do; then they are not the
    derivative, and normals are wrong."""
    tridiagonal: bool = False
    """Give trainable-matrix two more diagonals."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {self.width}, {self.depth}")
        if any(not 0 <= skip < self.depth - 1 for skip in self.skips or ()):
            raise ValueError(
                f"skips must lie in 0..{self.depth - 2} for depth {self.depth}, got {self.skips}; "
                "use [] for none"
            )
        self.shape()

    def shape(self) -> Activation:
        """The settings that belong to the activation."""
        return Activation(
            self.activation,
            self.omega,
            self.first_omega,
            self.scale,
            self.bias_scale,
            self.detach,
            self.tridiagonal,
        )

    def resolved(self) -> tuple[Spec, tuple[int, ...]]:
        """Encoding and skips, also where they are None."""
        encoding, skips = self.encoding, self.skips
        encoded = self.activation in ENCODED
        if skips is None:
            skips = (NERF_SKIP,) if encoded and self.depth > NERF_SKIP + 1 else ()
        if encoding is None:
            encoding = {"type": "frequency", "levels": self.levels}
            encoding = encoding if encoded else {"type": "identity"}
        return encoding, skips


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
        "backbone": {
            "encoding": {"type": "frequency", "levels": 10},
            "width": 256,
            "depth": 8,
            "skips": [4],
        },
        "field": _NERF_HEADS,
        "sampler": {"type": "hierarchical", "coarse_samples": 64, "fine_samples": 128},
        "fit": {**_NERF_FIT, "rays": 1024, "lr": 5e-4, "crop_steps": 500},
    },
    # hierarchical sampling, as published, leaves time for few steps: 2 dB less on the sample
    "cpu": network_on_two_cores({"levels": 8, "width": 128, "depth": 4, "skips": []}, lr=3e-3),
    "signal": {
        "backbone": {"width": 256, "depth": 4, "skips": []},
        "fit": {**_NERF_FIT, "lr": 1e-3, "points": SMALL_BATCH},
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


@register(
    "mlp",
    config=MLPConfig,
    paper="Mildenhall et al. 2020 (NeRF)",
    presets=PRESETS,
    size=("width",),
)
class MLPBackbone(CoordinateMLP):
    """Dense layers over encoded coordinates, with skip connections of the encoding.

    With ReLU: Glorot-uniform weights, zero biases. Other activations bring their own initial
    values (`polyfield.fields.activations`).
    """

    def __init__(
        self, config: MLPConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        encoding, skips = config.resolved()
        activation = config.shape()
        super().__init__(in_dim, config.width, config.depth, activation, encoding, skips, generator)
        self.config = config

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        if self.config.activation != "relu" or self.skips or self.width > WIDEST:
            return super().forward(x)
        weights, biases = zip(*[(layer.weight, layer.bias) for layer in self.layers], strict=True)
        return small_mlp(self.encoding(x), weights, biases).relu()

    @torch.no_grad()
    def insights(self, limit: int = MOST) -> list[Insight]:
        """Activations that are trained, over what they take.

        One per layer, or the strongest units' of each layer with trainable-matrix, without what
        neighbours add.
        """
        if not len(self.own[0]):
            return []
        u = torch.linspace(-1.5 * EXTENT, 1.5 * EXTENT, POINTS).to(next(self.own.parameters()))
        if self.config.activation == "trainable-matrix":
            units = u[:, None].expand(-1, self.width)
            return [
                curves(
                    f"activations of layer {n + 1}",
                    u,
                    matrix_product(units, own["table"][:1]),
                    limit,
                )
                for n, own in enumerate(self.own)
            ]
        values = [
            activate(self.activation, u[:, None], n == 0, own) for n, own in enumerate(self.own)
        ]
        labels = [f"layer {n + 1}" for n in range(len(values))]
        return [curves("trained activations", u, torch.cat(values, 1), limit, labels)]
