"""The network that methods share which differ in their activation only.

E: values of the encoded coordinates; H: width.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from polyfield.config import Spec
from polyfield.fields.activations import (
    Activation,
    activate,
    dense,
    features,
    last_layer,
    own_parameters,
    with_gain,
)
from polyfield.fields.base import Backbone
from polyfield.registry import build

BLOCK = 4096  # rows that go through all layers together, while the cache holds them


def check_sizes(width: int, depth: int) -> None:
    """Refuse networks without units or layers.

    Raises:
        ValueError: One of them is less than 1.
    """
    if width < 1 or depth < 1:
        raise ValueError(f"width and depth must be at least 1, got {width}, {depth}")


class CoordinateMLP(Backbone):
    """Dense layers over encoded coordinates; the features are the last one's activations.

    Args:
        in_dim: Coordinates.
        width: Units of every layer.
        depth: Layers.
        activation: After every layer, the last included.
        encoding: Encoding of the coordinates.
        skips: Layers (counted from 0) behind which the encoding is put in front of the
            activations.
        generator: CPU generator of the initial values.
    """

    def __init__(
        self,
        in_dim: int,
        width: int,
        depth: int,
        activation: Activation,
        encoding: Spec,
        skips: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, features(activation, width)
        self.width, self.activation, self.skips = width, activation, skips
        self.encoding = build("encodings", encoding, in_dim=in_dim, generator=generator)
        code = self.encoding.out_dim
        plain = [code if i == 0 or i - 1 in skips else 0 for i in range(depth)]
        self.layers = nn.ModuleList(
            dense(activation, n, width if i else 0, width, generator) for i, n in enumerate(plain)
        )
        self.own = nn.ModuleList(own_parameters(activation, width) for _ in range(depth))

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        gains = [self.activation.gain(i == 0) for i in range(len(self.layers))]
        layers = [with_gain(*pair) for pair in zip(self.layers, gains, strict=True)]
        rows = x.reshape(-1, self.in_dim)
        if x.device.type == "cpu" and len(rows) > 2 * BLOCK:
            blocks = rows.split(BLOCK)
            out = torch.cat([self._features(self.encoding(block), layers) for block in blocks])
        else:
            out = self._features(self.encoding(rows), layers)
        return out.reshape(*x.shape[:-1], self.out_dim)

    def _features(self, code: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Features at encoded coordinates, from the layers' weights and biases."""
        out = code
        for i, (weight, bias) in enumerate(layers):
            if i - 1 in self.skips:
                out = torch.cat((code.to(out.dtype), out), -1)
            out = activate(self.activation, linear(out, weight, bias), i == 0, self.own[i])
        return out

    def make_head(self, out_dim: int, generator: torch.Generator | None = None) -> nn.Module:
        """The last layer, with the initial values of the method."""
        return last_layer(self.activation, self.width, out_dim, generator)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What the encoding has to train, and the layers."""
        groups = [g for g in self.encoding.parameter_groups(lr) if g["params"]]
        own = [*self.layers.parameters(), *self.own.parameters()]
        return [*groups, {"params": own, "lr": lr}]
