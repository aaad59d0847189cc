"""Radiance distributions: the published functions, and integrals that are exact."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.fields.radiance_distribution import (
    RadianceDistribution,
    RadianceDistributionConfig,
    functions_at,
    integrals_of_square,
    nodes_of_square,
)
from polyfield.registry import configure

FINE = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
BASES = ["fourier", "cosine"]


def distribution(n=3, near=1.0, far=4.0, seed=0, coefficients=None, **settings):
    config = RadianceDistributionConfig(**settings)
    if coefficients is None:
        g = torch.Generator().manual_seed(seed)
        coefficients = torch.randn(n, 4, config.functions, generator=g, dtype=torch.float64)
    ends = [torch.full((len(coefficients),), t, dtype=torch.float64) for t in (near, far)]
    return RadianceDistribution(coefficients, *ends, config)


def edges(n):
    return torch.linspace(0, 1, n + 1, dtype=torch.float64)


def test_the_published_functions_are_one_sine_cosine_and_so_on():
    tau = torch.tensor([0.1, 0.37], dtype=torch.float64)
    expected = [torch.ones_like(tau)]
    for k in range(2, 23, 2):
        expected += [(k * math.pi * tau).sin(), (k * math.pi * tau).cos()]
    expected += [(24 * math.pi * tau).sin()]
    torch.testing.assert_close(functions_at(tau, 24, "fourier"), torch.stack(expected))


@pytest.mark.parametrize("basis", BASES)
def test_the_functions_are_orthogonal_on_the_ray(basis):
    table = functions_at(FINE, 24, basis)
    expected = torch.full((24,), 0.5, dtype=torch.float64)
    expected[0] = 1
    gram = table @ table.T / len(FINE)
    torch.testing.assert_close(gram, torch.diag(expected), atol=1e-12, rtol=0)


def test_the_published_functions_are_alike_at_both_ends_and_cosines_are_not():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    first, last = functions_at(ends, 24, "fourier").unbind(1)
    torch.testing.assert_close(first, last, atol=1e-12, rtol=0)
    first, last = functions_at(ends, 24, "cosine").unbind(1)
    assert float((first - last).abs().max()) == pytest.approx(2)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_squares_of_series_are_integrated_exactly(basis, count):
    g = torch.Generator().manual_seed(count)
    w = torch.randn(4, count, generator=g, dtype=torch.float64)
    borders = torch.tensor([0.0, 0.13, 0.2, 0.77, 1.0], dtype=torch.float64)
    nodes = nodes_of_square(count, basis)
    values = (w @ functions_at(nodes, count, basis)).square()
    found = values @ integrals_of_square(borders, count, basis)
    dense = (w @ functions_at(FINE, count, basis)).square() / len(FINE)
    for k in range(4):
        inside = (FINE > borders[k]) & (FINE < borders[k + 1])
        torch.testing.assert_close(found[:, k], dense[:, inside].sum(1), rtol=1e-5, atol=1e-8)


def test_the_exact_integral_does_not_depend_on_the_number_of_intervals():
    made = distribution(density="square")
    few, many = (made.along(edges(n))[0] for n in (3, 96))
    torch.testing.assert_close(few.sum(1), many.sum(1))
    torch.testing.assert_close(few, many.view(3, 3, 32).sum(-1))


@pytest.mark.parametrize("density", ["relu", "softplus", "square"])
def test_densities_are_not_negative_and_quadratures_converge(density):
    made = distribution(density=density, functions=6)
    assert float(made.density(FINE).min()) >= 0
    optical = made.along(edges(4096))[0].sum(1)
    torch.testing.assert_close(optical, 3 * made.density(FINE).mean(1), rtol=1e-4, atol=0)
    assert float(made.along(edges(64))[0].min()) >= 0


@pytest.mark.parametrize("density", ["relu", "square"])
def test_a_constant_series_is_a_homogeneous_medium(density):
    w = torch.zeros(1, 4, 24, dtype=torch.float64)
    w[0, :, 0] = torch.tensor([0.8, 0.3, -1.0, 2.0])
    made = distribution(coefficients=w, density=density, density_scale=2.0)
    optical, rgb = made.along(edges(64))
    sigma = 2.0 * (0.8 if density == "relu" else 0.8**2)
    assert float(optical.sum()) == pytest.approx(sigma * 3)
    torch.testing.assert_close(rgb, w[:, 1:, 0].sigmoid()[:, None].expand(1, 64, 3))


def test_jitter_moves_the_points_inside_their_intervals():
    w = torch.zeros(1, 4, 4, dtype=torch.float64)
    w[0, 1, 1] = 1.0  # red grows and falls with the depth
    made = distribution(coefficients=w, functions=4)
    still = made.along(edges(8))[1][0, :, 0]
    moved = made.along(edges(8), torch.Generator().manual_seed(0))[1][0, :, 0]
    assert not torch.equal(still, moved)
    slope = 2 * math.pi / 4  # largest change of the sigmoid per unit of tau
    assert float((still - moved).abs().max()) <= slope / 16 + 1e-9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"functions": 0}, "functions must be at least 1"),
        ({"density_scale": 0.0}, "density_scale must be positive"),
        ({"hidden": [0]}, "hidden widths"),
        ({"basis": "wavelets"}, "basis"),
        ({"density": "exp"}, "density"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        configure("fields", {"type": "radiance-distribution", **settings})
