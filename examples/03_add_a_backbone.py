"""A backbone of your own: one file, one decorator. Random Fourier features and a small MLP."""

import sys
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import polyfield
from polyfield.config import merge, parse_overrides
from polyfield.fields.base import Backbone
from polyfield.fields.heads import SmallMLP
from polyfield.registry import build, register


@dataclass(frozen=True)
class MyFourierConfig:
    """Settings of the backbone: what --set backbone.KEY=VALUE changes."""

    frequencies: int = 64
    """Random frequencies."""
    width: int = 64
    """Width of the hidden layer, and number of features."""


@register("my-fourier", config=MyFourierConfig, paper="Tancik et al. 2020")
class MyFourier(Backbone):
    """Random Fourier features, then one hidden layer."""

    def __init__(self, config: MyFourierConfig, in_dim: int = 3, generator=None):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, config.width
        spec = {"type": "random-fourier", "frequencies": config.frequencies, "scale": 1.0}
        self.encoding = build("encodings", spec, in_dim=in_dim, generator=generator)
        widths = self.encoding.out_dim, (config.width,), config.width
        self.mlp = SmallMLP(*widths, generator=generator)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x in [-1, 1]."""
        return self.mlp(self.encoding(x))


if __name__ == "__main__":
    out, steps, *overrides = sys.argv[1:]
    settings = merge({"backbone": {"type": "my-fourier"}}, parse_overrides(overrides))
    print(polyfield.fit("sample:orrery", out, steps=int(steps), settings=settings))
    points = torch.linspace(-1, 1, 30).reshape(10, 3)
    print("density of the saved run:", polyfield.load(out, "cpu").field.density(points))
