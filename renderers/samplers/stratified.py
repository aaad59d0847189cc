"""Even intervals along the ray, jittered while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from polyfield.registry import register
from polyfield.renderers.samplers.base import MakeField, Sampler
from polyfield.renderers.spacing import (
    Spacing,
    bounded,
    dense_intervals,
    distances,
    even_edges,
)
from polyfield.renderers.types import Intervals, Rays, Samples


@dataclass(frozen=True)
class StratifiedConfig:
    """Settings of the stratified sampler."""

    samples: int = 128
    """Intervals per ray."""
    spacing: Spacing = "uniform"
    """Even steps in distance, or in its inverse ('disparity', for far scenes)."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")


def stratified_intervals(
    rays: Rays, n: int, spacing: Spacing, generator: torch.Generator | None = None
) -> Intervals:
    """n intervals covering [near, far] of every ray."""
    s = even_edges(len(rays), n, rays.near, generator)
    return dense_intervals(distances(s, rays.near, rays.far, spacing))


@register(
    "stratified",
    config=StratifiedConfig,
    paper="Mildenhall et al. 2020",
    presets={"unbounded": {"sampler": {"spacing": "disparity"}}},
)
class Stratified(Sampler):
    """Even intervals between near and far, cut to the box in bounded scenes.

    Inner edges move by up to half a step at random while training; the intervals always cover
    the whole range, so the opacity of a constant density does not depend on the jitter.
    """

    def __init__(
        self,
        config: StratifiedConfig,
        contraction: str = "none",
        make_field: MakeField | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config, self.contraction = config, contraction

    def forward(self, rays: Rays, field: Any, generator: torch.Generator | None = None) -> Samples:
        """Dense intervals (N, samples)."""
        rays = bounded(rays, self.contraction)
        return Samples(
            stratified_intervals(rays, self.config.samples, self.config.spacing, generator)
        )
