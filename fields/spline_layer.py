"""The layer of a Kolmogorov-Arnold network with B-splines: a learnable curve on every edge.

y_o = sum over i of m_io (w_io SiLU(x_i) + s_io spline_io(u_i)), u = squash(x) (Liu et al., ICLR
2025, arXiv 2404.19756, section 2.2, in the form of Blealtan's efficient-kan: bases once per
input, then one product). i: input; o: output; w: base weight; s: spline scale; m: mask, 0 where
an edge has been pruned; G: intervals; k: order; M = G + k: bases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from polyfield.fields.splines import (
    adaptive_knots,
    curves,
    inserted,
    refined_knots,
    spline_sum,
    transfer,
    uniform_knots,
)

Squash = Literal["none", "tanh", "norm"]
LOW, HIGH = -1.0, 1.0


@dataclass(frozen=True)
class SplineConfig:
    """Settings of a layer; the defaults are the paper's."""

    intervals: int = 5
    """Intervals G of the grid on [-1, 1]."""
    order: int = 3
    """Degree k of the pieces."""
    squash: Squash = "none"
    """Before the splines: nothing, tanh, or tanh of a LayerNorm without scale and shift (tanh
    alone where there is one input)."""
    base: bool = True
    """Whether the edges have a part w SiLU(x)."""
    scale: bool = True
    """Whether the splines have a trainable factor s."""
    init: float = 0.1
    """Standard deviation of the initial coefficients."""

    def __post_init__(self) -> None:
        if self.intervals < 1 or self.order < 1:
            raise ValueError(
                f"intervals and order must be at least 1, got {self.intervals} and {self.order}"
            )
        if not self.init > 0:
            raise ValueError(f"init must be positive, got {self.init}")


class SplineLayer(nn.Module):
    """Curves between all inputs and outputs; no bias, nothing after the sum.

    Coefficients N(0, init^2), spline scales 1, base weights Glorot uniform, as in the paper.

    Args:
        in_dim: Inputs.
        out_dim: Outputs.
        config: The settings.
        generator: CPU generator of the initial values.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        config: SplineConfig,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        knots = uniform_knots(config.intervals, config.order, LOW, HIGH)
        self.register_buffer("knots", knots.repeat(in_dim, 1))
        self.register_buffer("mask", torch.ones(in_dim, out_dim))
        shape = (in_dim, config.intervals + config.order, out_dim)
        self.coefficients = nn.Parameter(torch.empty(shape))
        nn.init.normal_(self.coefficients, std=config.init, generator=generator)
        self.scale = nn.Parameter(torch.ones(in_dim, out_dim)) if config.scale else None
        self.base_weight = None
        if config.base:
            self.base_weight = nn.Parameter(torch.empty(in_dim, out_dim))
            nn.init.xavier_uniform_(self.base_weight, generator=generator)

    @property
    def in_dim(self) -> int:
        """Inputs."""
        return self.coefficients.shape[0]

    @property
    def out_dim(self) -> int:
        """Outputs."""
        return self.coefficients.shape[2]

    @property
    def intervals(self) -> int:
        """Intervals of the grid, G."""
        return self.coefficients.shape[1] - self.config.order

    def squash(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch i"]:
        """What the splines see of x, in the number type of the knots."""
        x = x.to(self.knots.dtype)
        if self.config.squash == "none":
            return x
        if self.config.squash == "norm" and self.in_dim > 1:
            x = layer_norm(x, (self.in_dim,))
        return x.tanh()

    def effective(self) -> Float[Tensor, "i M o"]:
        """The coefficients with scale and mask."""
        factor = self.mask if self.scale is None else self.mask * self.scale
        return self.coefficients * factor[:, None]

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """Outputs at x."""
        rows = x.reshape(-1, self.in_dim)
        # where the rest of a network runs on fewer digits, the cubes of the bases need theirs
        with torch.autocast(x.device.type, enabled=False):
            out = spline_sum(self.squash(rows), self.knots, self.effective())
            if self.base_weight is not None:
                out = torch.addmm(out, silu(rows.to(out.dtype)), self.base_weight * self.mask)
        return out.reshape(*x.shape[:-1], self.out_dim)

    def edges(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n i o"]:
        """Every edge by itself: n x i x o values, for looking at a network."""
        out = curves(self.squash(x), self.knots, self.effective())
        if self.base_weight is not None:
            out = out + silu(x.to(out.dtype))[..., None] * (self.base_weight * self.mask)
        return out

    def update_grid(self, x: Float[Tensor, "n i"], uniform: float = 0.02) -> None:
        """Let the knots follow samples (paper, section 2.2); the curves stay, up to projection.

        Squashed inputs keep the grid's ends at -1 and 1, so that other samples lie on it, too.

        Args:
            x: Inputs of the layer, at least one.
            uniform: Share of an even grid in the new one.
        """
        span = None if self.config.squash == "none" else (LOW, HIGH)
        seen = self.squash(x.detach())
        knots = adaptive_knots(seen, self.intervals, self.config.order, uniform, span)
        with torch.no_grad():
            self.coefficients.copy_(transfer(self.coefficients, self.knots, knots))
            self.knots.copy_(knots)

    def refine(self, intervals: int) -> None:
        """Cut the grid into more intervals (paper, section 2.4); the curves stay as they are.

        Raises:
            ValueError: Fewer than before.
        """
        knots = refined_knots(self.knots, self.config.order, intervals)
        self.coefficients = nn.Parameter(inserted(self.coefficients.detach(), self.knots, knots))
        self.knots = knots

    def select(self, inputs: Int64[Tensor, "a"], outputs: Int64[Tensor, "b"]) -> None:
        """Keep these inputs and outputs only."""
        self.knots = self.knots[inputs]
        self.mask = self.mask[inputs][:, outputs]
        for name in ("coefficients", "scale", "base_weight"):
            value = getattr(self, name)
            if value is not None:
                kept = value.detach().index_select(0, inputs).index_select(-1, outputs)
                setattr(self, name, nn.Parameter(kept))

    def resize(self, in_dim: int, out_dim: int, intervals: int) -> None:
        """Take these sizes; the values are for somebody else to fill in."""
        order, old = self.config.order, self.coefficients.detach()
        self.knots = self.knots.new_zeros(in_dim, intervals + 2 * order + 1)
        self.mask = self.mask.new_ones(in_dim, out_dim)
        self.coefficients = nn.Parameter(old.new_zeros(in_dim, intervals + order, out_dim))
        for name in ("scale", "base_weight"):
            if getattr(self, name) is not None:
                setattr(self, name, nn.Parameter(old.new_zeros(in_dim, out_dim)))
