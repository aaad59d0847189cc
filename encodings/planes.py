"""One plane of trainable features per pair of axes, combined.

Sums or lists of three planes are tri-planes (EG3D; Chan et al., CVPR 2022, arXiv 2112.07945,
section 3.1); products are K-Planes (Fridovich-Keil et al., CVPR 2023, arXiv 2301.10241,
section 3.1), six planes of them for four coordinates.
"""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.encodings.base import Encoding
from polyfield.encodings.interpolation import interpolate
from polyfield.encodings.lines import FactorsConfig, axis_resolutions, combine_features, factor
from polyfield.errors import ConfigError
from polyfield.registry import register


@register("planes", config=FactorsConfig, paper="Fridovich-Keil et al. 2023 (K-Planes)")
class PlanesEncoding(Encoding):
    """A plane of features for each pair of axes, interpolated bilinearly, then combined.

    Parameters: `planes`, one (nodes of the first axis, nodes of the second, F) per pair in the
    order (0, 1), (0, 2), (1, 2). Beyond the box the border continues.
    """

    def __init__(
        self,
        config: FactorsConfig,
        in_dim: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if in_dim < 2:
            raise ConfigError(
                f"encoding 'planes' takes 2 or more coordinates, got {in_dim}; use 'lines'"
            )
        self.config = config
        self.in_dim = in_dim
        counts = axis_resolutions(config, in_dim)
        self.pairs = list(combinations(range(in_dim), 2))
        self.planes = nn.ParameterList(
            factor((counts[i], counts[j]), config, generator) for i, j in self.pairs
        )
        self.out_dim = config.features * (len(self.pairs) if config.combine == "concat" else 1)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Features at x in [-1, 1]."""
        axes = x.unbind(-1)
        parts = [
            interpolate(torch.stack((axes[i], axes[j]), -1), plane)
            for (i, j), plane in zip(self.pairs, self.planes, strict=True)
        ]
        return combine_features(parts, self.config.combine)
