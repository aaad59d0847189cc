"""LiDAR: two ways through the medium, ranges in windows, second returns, and beams that widen."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.renderers.compositing import weights_from_density
from polyfield.renderers.lidar import (
    LidarRendererConfig,
    absorbed_at,
    first_returns,
    render_lidar,
    strongest,
    within_window,
)
from polyfield.renderers.lidar_beams import Footprint, diverge, returns_of_bundles
from polyfield.renderers.samplers.base import Sampler
from polyfield.renderers.types import Intervals, Rays, Rendered, Samples

WALL = 1e5


class Slabs(torch.nn.Module):
    """Density by functions of x along the first axis; `second` says what its logit is."""

    def __init__(self, density, second=-5.0):
        super().__init__()
        self.of, self.second = density, second
        self.scale = torch.ones(())

    def density(self, x):
        return self.of(x[..., 0])

    def density_and_features(self, x):
        return self.density(x), x

    def attributes(self, features, d=None, index=None):
        seen = torch.tensor([0.25, -3.0, self.second]).to(features)
        return seen.expand(len(features), 3)


class Even(Sampler):
    """Dense, even intervals between near and far."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, rays, field, generator=None):
        edges = torch.linspace(0, 1, self.count + 1).to(rays.near)
        t = rays.near[:, None] + (rays.far - rays.near)[:, None] * edges
        return Samples(Intervals(t[:, :-1], t[:, 1:], len(rays)))


def rays(n=1, near=0.0, far=8.0, dtype=torch.float64):
    directions = torch.zeros(n, 3, dtype=dtype)
    directions[:, 0] = 1
    limits = [torch.full((n,), v, dtype=dtype) for v in (near, far)]
    return Rays(torch.zeros(n, 3, dtype=dtype), directions, *limits)


def wall(at, thick=0.5, density=WALL):
    return lambda x: torch.where((x >= at) & (x < at + thick), density, 0.0).to(x)


def test_two_ways_are_one_with_doubled_density():
    field, sampler = Slabs(lambda x: 0.3 + 0.1 * x), Even(64)
    two = first_returns(field, rays(), sampler, LidarRendererConfig(early_stop_eps=0))
    sigma = field.density(torch.linspace(0, 8, 129, dtype=torch.float64)[1::2, None])
    expected = weights_from_density(2 * sigma[None], torch.full((1, 64), 0.125).double())
    torch.testing.assert_close(two.extras["weights"], expected, rtol=1e-6, atol=1e-9)
    assert float(two.opacity) == pytest.approx(1 - math.exp(-2 * (0.3 * 8 + 0.1 * 32)), abs=1e-9)


def test_light_of_one_way_is_that_of_a_camera():
    field = Slabs(lambda x: torch.full_like(x, 0.2))
    once = first_returns(field, rays(), Even(32), LidarRendererConfig(two_way=False))
    assert float(once.opacity) == pytest.approx(1 - math.exp(-0.2 * 8))


@pytest.mark.parametrize("at", [1.0, 2.5, 4.96875])
def test_a_wall_gives_its_range(at):
    config = LidarRendererConfig(window=0.5, fine_samples=16, rounds=4)
    found = first_returns(Slabs(wall(at)), rays(), Even(256), config)
    assert float(found.depth) == pytest.approx(at, abs=1e-4)


def test_an_expected_range_floats_between_edge_and_wall_and_a_window_does_not():
    def density(x):  # half of the light returns from a thin sheet
        sheet = torch.where((x > 2) & (x < 2.03125), 11.0, 0.0)
        return sheet.to(x) + wall(6.0)(x)

    mean = first_returns(Slabs(density), rays(), Even(256), LidarRendererConfig(range="expected"))
    window = first_returns(Slabs(density), rays(), Even(256), LidarRendererConfig())
    assert 3 < float(mean.depth) < 5
    near_one = min(abs(float(window.depth) - 2.0), abs(float(window.depth) - 6.0))
    assert near_one < 0.05


def test_what_lies_outside_the_window_does_not_matter():
    config, centre = LidarRendererConfig(window=0.5), torch.tensor([3.0]).double()
    plain = within_window(Slabs(wall(3.0)), rays(), centre, config)
    other = within_window(Slabs(lambda x: wall(3.0)(x) + wall(1.0)(x)), rays(), centre, config)
    assert torch.equal(plain, other) and abs(float(plain) - 3.0) < 0.5


def test_an_empty_window_keeps_its_centre_and_an_empty_ray_has_no_range():
    config, centre = LidarRendererConfig(), torch.tensor([3.0]).double()
    assert float(within_window(Slabs(wall(6.0)), rays(), centre, config)) == 3.0
    found = render_lidar(Slabs(wall(9.0)), rays(), Even(64), config)
    assert float(found.depth) == 0 and float(found.opacity) == 0
    assert float(found.extras["drop"]) > 0  # it does not come back


def test_second_returns_are_the_first_of_what_lies_behind():
    def density(x):
        return wall(2.0, 0.25)(x) + wall(5.0)(x)

    config = LidarRendererConfig(gap=1.0, early_stop_eps=0, rounds=3)
    told = render_lidar(Slabs(density, second=3.0), rays(), Even(256), config)
    assert float(told.depth) == pytest.approx(2.0, abs=1e-3)
    assert float(told.extras["second_range"]) == pytest.approx(5.0, abs=1e-3)
    silent = render_lidar(Slabs(density, second=-3.0), rays(), Even(256), config)
    assert not bool(silent.extras["second"]) and float(silent.extras["second_range"]) == 0


def test_intensity_is_that_of_what_returns():
    found = first_returns(Slabs(lambda x: torch.full_like(x, 0.05)), rays(), Even(64),
                          LidarRendererConfig())  # fmt: skip
    assert float(found.opacity) < 0.6
    assert float(found.extras["intensity"]) == pytest.approx(0.25)


def test_the_strongest_return_of_packed_rays_is_that_of_dense_ones():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 9, generator=generator)
    t = torch.linspace(0, 1, 10).expand(5, 10)
    dense = Intervals(t[:, :-1], t[:, 1:], 5)
    index = torch.arange(5).repeat_interleave(9)
    packed = Intervals(dense.t0.flatten(), dense.t1.flatten(), 6, index)
    found = strongest(weights.flatten(), packed)
    torch.testing.assert_close(found[:5], strongest(weights, dense))
    assert float(found[5]) == 0  # a ray without intervals


@pytest.mark.parametrize("tau", [1e-9, 1e-3, 0.0099, 0.0101, 0.5, 20.0, 500.0])
def test_light_is_absorbed_where_its_mean_says(tau):
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    power = torch.exp(-tau * s)
    expected = float((s * power).sum() / power.sum())
    assert float(absorbed_at(torch.tensor(tau).double())) == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_only_the_window():
    field = Slabs(lambda x: torch.zeros_like(x))
    raw = torch.zeros(800, dtype=torch.float64, requires_grad=True)
    field.of = lambda x: raw[(x * 100).long().clamp(0, 799)] + wall(3.0, 0.1, 5.0)(x)
    centre = torch.tensor([3.0]).double()
    within_window(field, rays(), centre, LidarRendererConfig(window=0.5)).sum().backward()
    touched = raw.grad.nonzero()[:, 0] / 100
    assert len(touched) and float(touched.min()) >= 2.5 and float(touched.max()) <= 3.5


def test_a_beam_of_37_rays_has_the_power_of_a_gaussian():
    power = Footprint(37, 1.5e-3).power()
    rings = [power[0], power[1:7].sum(), power[7:19].sum(), power[19:].sum()]
    assert [round(float(p), 4) for p in rings] == [0.0759, 0.3647, 0.3745, 0.1849]
    assert float(power.sum()) == pytest.approx(1)


@pytest.mark.parametrize("incidence, std", [(0, 0.0), (60, 0.0575), (80, 0.188)])
def test_the_footprint_on_a_tilted_wall_has_its_spread(incidence, std):
    """A wall at 50 m, 1.5 mrad."""
    footprint, angle = Footprint(37, 1.5e-3), math.radians(incidence)
    spread = diverge(rays(), footprint)
    normal = torch.tensor([math.cos(angle), math.sin(angle), 0.0]).double()
    ranges = 50 * normal[0] / (spread.directions @ normal)
    power = footprint.power()
    mean = float((power * ranges).sum())
    assert float((power * (ranges - mean) ** 2).sum().sqrt()) == pytest.approx(std, abs=1.5e-3)


def bundle(ranges, beams=7):
    depth = torch.tensor(ranges).double()
    extras = {name: torch.zeros(len(ranges)).double() for name in
              ("intensity", "drop", "second_logit")}  # fmt: skip
    extras["samples"] = torch.tensor(0)
    opacity = (depth > 0).double()
    parts = Rendered(depth[:, None].expand(-1, 3), depth, opacity, None, extras)
    return returns_of_bundles(parts, Footprint(beams, 1.5e-3), 1.0, 0.1)


def test_a_split_beam_comes_back_twice():
    split = bundle([5.0, 5.1, 5.1, 9.0, 9.0, 9.0, 5.1])
    assert 5.0 < float(split.depth) < 5.1
    assert float(split.extras["second_range"]) == pytest.approx(9.0)
    assert bool(split.extras["second"])


def test_a_whole_beam_comes_back_once_and_a_lost_one_never():
    whole, lost = bundle([5.0, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6]), bundle([0.0] * 7)
    assert not bool(whole.extras["second"]) and 5.0 < float(whole.depth) < 5.6
    assert float(lost.depth) == 0 and not bool(lost.extras["second"])


def test_a_return_of_too_little_power_is_not_told():
    edge = bundle([5.0] * 6 + [9.0], beams=7)  # an outer ray holds 2 % of the power
    assert not bool(edge.extras["second"])


def test_a_widened_beam_finds_the_second_return_that_its_axis_misses():
    class Edge(Slabs):
        """A sheet at x = 2 that covers y < 0.0004, and a wall behind it."""

        def density(self, x):
            sheet = (x[..., 0] > 2) & (x[..., 0] < 2.2) & (x[..., 1] < 0.0004)
            return torch.where(sheet | (x[..., 0] > 5), WALL, 0.0).to(x)

    config = LidarRendererConfig(beams=37, divergence=1.5e-3)
    wide = render_lidar(Edge(None), rays(), Even(256), config)
    thin = render_lidar(Edge(None), rays(), Even(256), LidarRendererConfig())
    assert float(wide.depth) == pytest.approx(2.0, abs=0.02)
    assert float(wide.extras["second_range"]) == pytest.approx(5.0, abs=0.05)
    assert not bool(thin.extras["second"])


@pytest.mark.parametrize("settings", [{"window": 0.0}, {"beams": 5}, {"second_power": 1.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LidarRendererConfig(**settings)


def test_no_rays_work():
    found = render_lidar(Slabs(wall(2.0)), rays(0), Even(8), LidarRendererConfig())
    assert found.depth.shape == (0,) and found.extras["drop"].shape == (0,)
