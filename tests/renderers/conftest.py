"""Analytic stand-ins for fields, and rays at a box."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polyfield.fields.base import RadianceSample
from polyfield.renderers.types import Rays


class Ball:
    """A ball of constant density around the origin, coloured by position."""

    def __init__(self, density: float = 25.0, radius: float = 0.6, soft: float = 0.0):
        self.value, self.radius, self.soft = density, radius, soft
        self.directions: list[Tensor] = []
        self.coloured = 0

    def density(self, x: Tensor) -> Tensor:
        r = x.norm(dim=-1)
        if self.soft > 0:
            return self.value * torch.sigmoid((self.radius - r) / self.soft)
        return self.value * (r < self.radius).to(x.dtype)

    def density_and_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), x

    def colour(self, features: Tensor, d: Tensor, index: Tensor | None = None) -> Tensor:
        self.directions.append(d if index is None else d[index])
        self.coloured += features.shape[:-1].numel()
        return (features + 1) / 2

    def __call__(self, x: Tensor, d: Tensor, t: Tensor | None = None) -> RadianceSample:
        sigma, features = self.density_and_features(x)
        return RadianceSample(sigma, self.colour(features, d))


class Uniform(Ball):
    """The same density everywhere."""

    def density(self, x: Tensor) -> Tensor:
        return torch.full_like(x[..., 0], self.value)


def rays_at_box(n: int, seed: int = 0, dtype: torch.dtype = torch.float32, radius: float = 3.0):
    """Rays from a sphere around the box to points inside it."""
    g = torch.Generator().manual_seed(seed)
    o = torch.nn.functional.normalize(torch.randn(n, 3, generator=g, dtype=dtype), dim=-1) * radius
    target = torch.rand(n, 3, generator=g, dtype=dtype) * 1.4 - 0.7
    d = torch.nn.functional.normalize(target - o, dim=-1)
    return Rays(o, d, torch.full((n,), 0.1, dtype=dtype), torch.full((n,), 10.0, dtype=dtype))


@pytest.fixture
def make_ball():
    return Ball


@pytest.fixture
def make_uniform():
    return Uniform


@pytest.fixture
def make_rays():
    return rays_at_box
