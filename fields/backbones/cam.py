"""Coordinate-aware modulation (CAM; Lee et al., ICLR 2024, arXiv 2311.14993, section 3): a network
whose hidden units are scaled and shifted by small grids over the coordinates.

    h' = relu( gamma(u) norm(W h + b) + beta(u) )

u: the coordinates that modulate; gamma, beta: interpolated from a grid per layer, 1 and 0 at the
start; norm: over a point's features, without parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from polyfield.config import Spec
from polyfield.encodings.grid import MAX_DIM
from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.fields.base import Backbone
from polyfield.fields.heads import linear
from polyfield.fields.insight import MOST, Insight, middle
from polyfield.fields.recipes import FEW_STEPS, SMALL_BATCH, UNBOUNDED, two_cores
from polyfield.registry import build, register

EPS = 1e-5


def _gaussian_features() -> dict[str, Any]:
    # the paper's 10 cycles per unit are of [0, 1], which is half as long as [-1, 1]
    return {"type": "random-fourier", "frequencies": 256, "scale": 5.0}


@dataclass(frozen=True)
class CAMConfig:
    """Settings of the modulated network; the defaults are the paper's for images."""

    encoding: Spec = field(default_factory=_gaussian_features)
    """Encoding of the coordinates."""
    width: int = 256
    """Width of every layer, and number of features."""
    depth: int = 3
    """Number of layers, all of them modulated."""
    coordinates: tuple[int, ...] = ()
    """The coordinates that modulate, counted from 0 ([]: all, where these are at most three, else
    the last one, which is time)."""
    resolution: int = 32
    """Nodes of the modulating grids along each coordinate."""
    groups: int = 1
    """Groups of channels with a scale and a shift of their own: 1 for one of each in a layer, the
    width for one of each per channel."""
    layout: Literal["grid", "planes"] = "grid"
    """One grid over all modulating coordinates, or a product of planes over pairs of them."""
    norm: Literal["feature", "none"] = "feature"
    """Normalise the features of a point before they are modulated."""
    grid_rate: float = 10.0
    """Learning rate of the grids, as a multiple of the network's."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.resolution < 2:
            raise ValueError(f"resolution must be at least 2, got {self.resolution}")
        if self.width % self.groups:
            raise ValueError(f"groups ({self.groups}) must divide width ({self.width})")
        if not 0 < self.grid_rate < math.inf:
            raise ValueError(f"grid_rate must be positive, got {self.grid_rate}")
        if any(c < 0 for c in self.coordinates) or len(set(self.coordinates)) < len(
            self.coordinates
        ):
            raise ValueError(f"coordinates must be different and from 0, got {self.coordinates}")


def modulating(config: CAMConfig, in_dim: int) -> tuple[int, ...]:
    """The coordinates that modulate.

    Raises:
        ConfigError: There are not so many coordinates, or the layout cannot take so many.
    """
    chosen = config.coordinates or (tuple(range(in_dim)) if in_dim <= 3 else (in_dim - 1,))
    if max(chosen) >= in_dim:
        raise ConfigError(f"coordinates {list(chosen)} modulate, but there are only {in_dim}")
    if config.layout == "grid" and len(chosen) > MAX_DIM:
        raise ConfigError(
            f"a modulating grid takes up to {MAX_DIM} coordinates, got {len(chosen)}; name fewer "
            "in 'coordinates', or use layout planes"
        )
    if config.layout == "planes" and len(chosen) < 2:
        raise ConfigError("modulation by planes takes 2 or more coordinates; use layout grid")
    return chosen


class Modulation(nn.Module):
    """Scales and shifts of all layers at a point: R^q -> R^(2 x layers x groups).

    One table holds them all, so that a point is looked up once; its last axis is (gamma or beta,
    layer, group). `tables`: one (r, ..., 2 layers groups), or one plane per pair of coordinates,
    multiplied with each other. Beyond the box the border continues.
    """

    def __init__(self, config: CAMConfig, in_dim: int):
        super().__init__()
        self.coordinates = list(modulating(config, in_dim))
        self.shape = (2, config.depth, config.groups)
        dims = len(self.coordinates)
        self.axes = [tuple(range(dims))]
        if config.layout == "planes":
            self.axes = list(combinations(range(dims), 2))
        self.tables = nn.ParameterList()
        for i, axes in enumerate(self.axes):
            values = torch.ones(*(config.resolution,) * len(axes), *self.shape)
            if i == 0:  # a product of zeros alone would never change
                values[..., 1, :, :] = 0
            self.tables.append(nn.Parameter(values.flatten(-3)))

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "2 layers *batch groups"]:
        """Scales, then shifts, of each layer."""
        u = x[..., self.coordinates]
        values = None
        for axes, table in zip(self.axes, self.tables, strict=True):
            part = interpolate(u if len(axes) == u.shape[-1] else u[..., list(axes)], table)
            values = part if values is None else values * part
        return values.unflatten(-1, self.shape).movedim((-3, -2), (0, 1))


def modulate(
    z: Float[Tensor, "*batch C"],
    scale: Float[Tensor, "*batch groups"],
    shift: Float[Tensor, "*batch groups"],
    norm: bool = True,
) -> Float[Tensor, "*batch C"]:
    """``scale norm(z) + shift``; norm: mean 0, variance 1 over C.

    Channel c belongs to group c mod groups, so that memory is read in one go.
    """
    if norm:
        z = layer_norm(z, z.shape[-1:], eps=EPS)
    grouped = z.unflatten(-1, (-1, scale.shape[-1]))
    return (grouped * scale[..., None, :] + shift[..., None, :]).flatten(-2)


_HEADS = {
    "type": "radiance",
    "direction": {"type": "frequency", "levels": 4},
    "density": "linear",
    "density_activation": "softplus",
    "density_shift": -1.0,
    "bottleneck": 256,
    "hidden": [128],
    "bias": True,
}
_ADAM = {"betas": [0.9, 0.999], "eps": 1e-8}
_SIGNAL = {
    "backbone": {
        "encoding": {"type": "frequency", "levels": 6},
        "width": 128,
        "depth": 3,
        "resolution": 32,
        "groups": 32,
        # short fits are better without: the normalisation hides how large a value is
        "norm": "none",
    },
    "fit": {**_ADAM, "lr": 3e-3, "lr_final": 0.01, "points": SMALL_BATCH},
}
PRESETS = {
    "paper": {
        "backbone": {
            "encoding": {"type": "frequency", "levels": 10},
            "width": 256,
            "depth": 8,
            "layout": "planes",
            "resolution": 512,
            "norm": "none",
        },
        "field": _HEADS,
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 1024},
        "fit": {**_ADAM, "rays": 1024, "lr": 5e-4, "lr_final": 0.01},
    },
    "cpu": two_cores(
        {
            "encoding": {"type": "frequency", "levels": 6},
            "width": 64,
            "depth": 3,
            "resolution": 32,
            "groups": 16,
            "norm": "none",
        },
        {
            **_HEADS,
            "direction": {"type": "spherical-harmonics", "degree": 4},
            "density_activation": "exp",
            "bottleneck": 16,
            "hidden": [64],
            "bias": False,
        },
        FEW_STEPS,
        lr=3e-3,
    ),
    "unbounded": UNBOUNDED,
    "signal": _SIGNAL,
    "image": {
        "backbone": {
            "encoding": _gaussian_features(),
            "width": 256,
            "depth": 3,
            "resolution": 32,
            "groups": 1,
            "norm": "feature",
        },
        "fit": {**_SIGNAL["fit"], "lr": 1e-3},
    },
    "audio": {
        "backbone": {
            **_SIGNAL["backbone"],
            "encoding": {"type": "random-fourier", "frequencies": 128, "scale": 1000.0},
            "resolution": 1024,
        },
        "fit": _SIGNAL["fit"],
    },
    "tiny": {
        "backbone": {
            "encoding": {"type": "frequency", "levels": 2},
            "width": 8,
            "depth": 2,
            "resolution": 4,
            "groups": 2,
        }
    },
}


def _scaled(settings: dict[str, Any], factor: float) -> dict[str, Any]:
    """Settings of another width, which groups still divide, and of grids as much coarser."""
    width = max(1, int(settings["width"] * factor / settings["groups"])) * settings["groups"]
    resolution = max(2, int(settings["resolution"] * factor))
    return {**settings, "width": width, "resolution": resolution}


@register(
    "cam",
    config=CAMConfig,
    paper="Lee et al. 2024 (CAM)",
    presets=PRESETS,
    size=_scaled,
)
class CAMBackbone(Backbone):
    """A ReLU network over encoded coordinates, scaled and shifted layer by layer by small grids.

    The paper modulates radiance fields by the view direction, which a backbone does not see; here
    positions modulate, as in its static NerfAcc variant, or time where there are four coordinates.
    Groups of channels are between its scalars and its per-channel grids. Features: the last layer's
    activations. Glorot-uniform weights, zero biases.
    """

    def __init__(
        self, config: CAMConfig, in_dim: int = 3, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        self.in_dim, self.out_dim = in_dim, config.width
        self.encoding = build("encodings", config.encoding, in_dim=in_dim, generator=generator)
        inputs = [self.encoding.out_dim] + [config.width] * (config.depth - 1)
        self.layers = nn.ModuleList(linear(n, config.width, generator=generator) for n in inputs)
        self.modulation = Modulation(config, in_dim)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x."""
        out = self.encoding(x)
        scales, shifts = self.modulation(x)
        norm = self.config.norm == "feature"
        for layer, scale, shift in zip(self.layers, scales, shifts, strict=True):
            out = modulate(layer(out), scale, shift, norm).relu()
        return out

    def insights(self, limit: int = MOST) -> list[Insight]:
        """Scales, less the 1 they start from, and shifts of each layer on a slice."""
        at = self.modulation
        return [
            middle(
                f"{kind} of layer {n + 1}", lambda x, k=k, n=n: at(x)[k, n] - (1 - k), self.in_dim,
                at.tables[0], axes=at.coordinates, limit=limit,
            )
            for n in range(self.config.depth)
            for k, kind in enumerate(("scale less 1", "shift"))
        ]  # fmt: skip

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The grids at `grid_rate` times the rate, where points touch them; the rest at it."""
        grids = {"params": list(self.modulation.parameters()), "lr": lr * self.config.grid_rate}
        groups = [g for g in self.encoding.parameter_groups(lr) if g["params"]]
        groups += [{"params": list(self.layers.parameters()), "lr": lr}]
        return [*groups, {**grids, "weight_decay": 0.0, "sparse": True}]
