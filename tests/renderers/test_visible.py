"""Finding the samples that count, front to back."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield import backend
from polyfield.renderers import visible, visible_numba
from polyfield.renderers.compositing import visibility_from_density
from polyfield.renderers.types import Intervals, Rays
from polyfield.renderers.visible import FIRST_WAVE, visible_samples

LENGTHS = [0, 1, FIRST_WAVE, FIRST_WAVE + 1, 100, 0, 3 * FIRST_WAVE, 7]


class Counted:
    """Densities of samples by the distance they are at, and how often they were asked for."""

    def __init__(self, values):
        self.values, self.asked = values, 0

    def __call__(self, x):
        self.asked += len(x)
        return self.values[x[:, 0].long()]


def scene(value, lengths=LENGTHS):
    """Densities, rays along x and packed unit intervals, no two of them at one distance."""
    index = torch.repeat_interleave(torch.tensor(lengths))
    t0 = torch.arange(len(index)).float()
    sigma = torch.zeros(len(index))
    sigma[:] = value(index, torch.arange(len(index))) if callable(value) else value
    n, ends = len(lengths), torch.zeros(len(lengths))
    along = torch.tensor([[1.0, 0, 0]]).expand(n, 3)
    rays = Rays(torch.zeros(n, 3), along, near=ends, far=ends + 1e4)
    return sigma, rays, Intervals(t0, t0 + 1, n, index)


@pytest.mark.parametrize("name", ["torch", "numba"])
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_waves_find_what_one_look_at_everything_finds(name, eps, threshold):
    random = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 0.6
    sigma, *given = scene(lambda rays, at: random[: len(at)])
    with backend.using(name):
        seen = visible_samples(Counted(sigma), *given, eps, threshold)
        expected = visibility_from_density(
            sigma, torch.ones(len(sigma)), *given[1].layout,
            early_stop_eps=eps, alpha_threshold=threshold,
        )  # fmt: skip
    assert torch.equal(seen, expected)
    assert 0 < int(seen.sum()) <= len(sigma)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_take_the_steps_of_the_reference(dtype):
    g = torch.Generator().manual_seed(4)
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    m, n = int(offsets[-1]), len(LENGTHS)
    delta, found = torch.rand(m, generator=g, dtype=dtype), torch.rand(m, generator=g, dtype=dtype)
    states = [[torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=dtype),
               torch.zeros(m, dtype=dtype)] for _ in range(2)]  # fmt: skip
    for _ in range(4):
        waves = []
        for step, keep, (done, depth, sigma) in zip(
            (visible.next_wave_torch, visible_numba.next_wave),
            (visible.absorb_torch, visible_numba.absorb), states, strict=True,
        ):  # fmt: skip
            at, first = step(offsets, done, depth, 4.0, 10)
            keep(at, first, found[at], delta, sigma, depth)
            waves.append((at, first))
        assert all(torch.equal(a, b) for a, b in zip(*waves, strict=True))
        assert all(torch.allclose(a, b) for a, b in zip(*states, strict=True))
    assert 0 < int(states[0][0].sum()) < m


def test_hidden_samples_are_never_asked_for():
    sigma, *given = scene(10.0, [500] * 3)
    density = Counted(sigma)
    seen = visible_samples(density, *given, 0.01, 0.0)
    assert density.asked == 3 * FIRST_WAVE
    assert seen.nonzero()[:, 0].tolist() == [0, 500, 1000]


def test_empty_space_is_asked_for_once():
    sigma, *given = scene(0.0)
    density = Counted(sigma)
    assert bool(visible_samples(density, *given, 0.01, 0.0).all())
    assert density.asked == len(sigma)


def test_a_ray_ends_at_the_optical_depth_of_eps():
    sigma, *given = scene(0.1, [100])
    seen = visible_samples(Counted(sigma), *given, math.exp(-3.05), 0.0)
    assert int(seen.sum()) == 31  # depths 0.0, 0.1, ... 3.0 before the sample


def test_a_thin_field_that_grows_keeps_its_samples():
    sigma, *given = scene(0.01)
    assert not visible_samples(Counted(sigma), *given, 0.01, 0.1).any()
    assert visible_samples(Counted(sigma), *given, 0.01, 0.1, growing=True).all()


def test_thick_samples_set_the_threshold_as_given():
    sigma, *given = scene(lambda rays, at: torch.where(at % 2 == 0, 1.0, 0.05))
    grown = visible_samples(Counted(sigma), *given, 0.0, 0.1, growing=True)
    assert torch.equal(grown, visible_samples(Counted(sigma), *given, 0.0, 0.1))
    assert grown.float().mean() < 0.6


def test_no_samples():
    sigma, *given = scene(1.0, [0, 0])
    assert visible_samples(Counted(sigma), *given, 0.01, 0.1, growing=True).shape == (0,)


def test_densities_that_are_not_numbers_are_visible():
    sigma, *given = scene(lambda rays, at: torch.where(at == 2, math.nan, 10.0), [6])
    assert bool(visible_samples(Counted(sigma), *given, 0.0, 0.5)[2])
