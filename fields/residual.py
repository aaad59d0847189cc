"""Networks of residual blocks, as light fields use them (R2L; Wang et al., ECCV 2022,
arXiv 2203.17261, section 3.2).

    h_0 = relu(W x + b),  h <- h + W_2 relu(W_1 h + b_1) + b_2 per block,  y = h + h_0
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu


def plain_linear(in_dim: int, out_dim: int, generator: torch.Generator | None = None) -> nn.Linear:
    """A linear layer drawn as torch draws it, U(-1, 1) / sqrt(in_dim), from `generator` alone."""
    layer = nn.utils.skip_init(nn.Linear, in_dim, out_dim)
    for tensor in (layer.weight, layer.bias):
        nn.init.uniform_(tensor, -(in_dim**-0.5), in_dim**-0.5, generator=generator)
    return layer


class ResidualBlock(nn.Module):
    """``x + W_2 relu(W_1 x + b_1) + b_2``."""

    def __init__(self, width: int, generator: torch.Generator | None = None):
        super().__init__()
        self.first = plain_linear(width, width, generator)
        self.second = plain_linear(width, width, generator)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """What comes out of the block."""
        return x + self.second(relu(self.first(x)))


class ResidualNetwork(nn.Module):
    """A first layer with ReLU, residual blocks, and a skip around all blocks.

    Args:
        in_dim: Inputs.
        width: Of every layer, and number of outputs.
        blocks: Residual blocks, possibly none.
        skip: Whether what entered the blocks is added to what left them.
        generator: CPU generator of the initial values (torch's own distribution).
    """

    def __init__(
        self,
        in_dim: int,
        width: int,
        blocks: int,
        skip: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.in_dim, self.out_dim, self.skip = in_dim, width, skip
        self.head = plain_linear(in_dim, width, generator)
        self.blocks = nn.ModuleList(ResidualBlock(width, generator) for _ in range(blocks))

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch width"]:
        """Activations of the last block."""
        start = h = relu(self.head(x))
        for block in self.blocks:
            h = block(h)
        return h + start if self.skip else h
