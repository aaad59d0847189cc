"""NeRF's coarse-to-fine sampling: a coarse pass says where the fine samples go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from polyfield.registry import register
from polyfield.renderers.pdf import sample_pdf
from polyfield.renderers.samplers.base import MakeField, Sampler
from polyfield.renderers.samplers.stratified import stratified_intervals
from polyfield.renderers.spacing import Spacing, bounded, dense_intervals
from polyfield.renderers.types import Rays, Samples
from polyfield.renderers.volume import render_intervals


@dataclass(frozen=True)
class HierarchicalConfig:
    """Settings of the hierarchical sampler."""

    coarse_samples: int = 64
    """Intervals of the coarse pass."""
    fine_samples: int = 128
    """Edges added where the coarse pass sees something."""
    spacing: Spacing = "uniform"
    """Coarse steps even in distance, or in its inverse ('disparity')."""
    shared: bool = False
    """Use the main field for the coarse pass, instead of a second one."""

    def __post_init__(self) -> None:
        if self.coarse_samples < 1 or self.fine_samples < 1:
            raise ValueError("coarse_samples and fine_samples must be at least 1")


@register(
    "hierarchical",
    config=HierarchicalConfig,
    paper="Mildenhall et al. 2020",
    presets={
        "cpu": {
            "sampler": {"coarse_samples": 48, "fine_samples": 48},
            "losses": {"mse": 1.0, "coarse": 1.0},
        },
        "paper": {"losses": {"mse": 1.0, "coarse": 1.0}},
        "unbounded": {"sampler": {"spacing": "disparity"}},
    },
)
class Hierarchical(Sampler):
    """Coarse intervals, then the sorted union of their edges and fine ones drawn from them.

    ``extras["coarse"]`` is the coarse rendering in front of black, with gradients: the loss
    named ``coarse`` trains on it. The fine positions carry no gradient.
    """

    def __init__(
        self,
        config: HierarchicalConfig,
        contraction: str = "none",
        make_field: MakeField | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config, self.contraction = config, contraction
        self.coarse = None if config.shared or make_field is None else make_field(None)

    def forward(self, rays: Rays, field: Any, generator: torch.Generator | None = None) -> Samples:
        """Dense intervals (N, coarse + fine samples)."""
        inside = bounded(rays, self.contraction)
        first = stratified_intervals(
            inside, self.config.coarse_samples, self.config.spacing, generator
        )
        coarse = render_intervals(field if self.coarse is None else self.coarse, rays, first)
        edges = torch.cat([first.t0, first.t1[:, -1:]], -1)
        weights = coarse.extras["weights"].detach()
        fine = sample_pdf(edges, weights, self.config.fine_samples, generator)
        union = torch.cat([edges, fine], -1).sort(-1).values
        return Samples(dense_intervals(union), {"coarse": coarse})

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups of the coarse field."""
        return [] if self.coarse is None else self.coarse.parameter_groups(lr)
