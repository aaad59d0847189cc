"""The volume renderer, over analytic fields."""

import math
from dataclasses import replace

import pytest
import torch

from polyfield import backend
from polyfield.registry import lookup
from polyfield.renderers.boxes import clip_to_box
from polyfield.renderers.positions import positions
from polyfield.renderers.samplers.base import Sampler
from polyfield.renderers.samplers.occupancy_grid import OccupancyGrid, OccupancyGridConfig
from polyfield.renderers.samplers.stratified import Stratified, StratifiedConfig
from polyfield.renderers.types import Intervals, Samples
from polyfield.renderers.volume import VolumeConfig, render_intervals, render_volume


class Fixed(Sampler):
    """Given intervals."""

    def __init__(self, intervals, extras=None):
        super().__init__()
        self.intervals, self.extras = intervals, extras or {}

    def forward(self, rays, field, generator=None):
        return Samples(self.intervals, self.extras)


def even(n=64):
    return Stratified(StratifiedConfig(samples=n))


def packed(intervals):
    n, s = intervals.t0.shape
    index = torch.arange(n).repeat_interleave(s)
    return Intervals(intervals.t0.flatten(), intervals.t1.flatten(), n, index)


def test_registered_as_a_renderer_of_radiance_fields():
    entry = lookup("renderers", "volume")
    assert entry.target is render_volume and entry.config is VolumeConfig
    assert entry.traits == {"field": "radiance", "levels": ("point", "ray"), "sampled": True}


def test_equals_the_sum_written_out(make_ball, make_rays):
    rays, field = make_rays(6), make_ball(8.0, 0.6, soft=0.05)
    intervals = even(20)(rays, field).intervals
    out = render_intervals(field, rays, intervals)
    for ray in range(6):
        T, colour, opacity, depth = 1.0, torch.zeros(3), 0.0, 0.0
        for i in range(20):
            t0, t1 = intervals.t0[ray, i], intervals.t1[ray, i]
            x = rays.origins[ray] + (t0 + t1) / 2 * rays.directions[ray]
            alpha = 1 - math.exp(-float(field.density(x[None])[0] * (t1 - t0)))
            colour = colour + T * alpha * (x + 1) / 2
            opacity, depth = opacity + T * alpha, depth + T * alpha * float((t0 + t1) / 2)
            T *= 1 - alpha
        assert torch.allclose(out.rgb[ray], colour, atol=1e-5)
        assert out.opacity[ray].item() == pytest.approx(opacity, abs=1e-5)
        assert out.depth[ray].item() == pytest.approx(depth / opacity, abs=1e-4)


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_packed_equals_dense_with_gradients(name, make_ball, make_rays):
    rays, results = make_rays(30), []
    config = VolumeConfig(median_depth=True, distortion=True, normals=True)
    intervals = even(24)(rays, None).intervals
    for layout in (intervals, packed(intervals)):
        field = make_ball(8.0, 0.6, soft=0.05)
        field.value = torch.tensor(8.0, requires_grad=True)
        with backend.using(name):
            out = render_volume(field, rays, Fixed(layout), config, background=torch.ones(3))
        (out.rgb.square().sum() + out.depth.sum() + out.extras["distortion"].sum()).backward()
        results.append((out, field.value.grad))
    (a, grad_a), (b, grad_b) = results
    for name in ("rgb", "depth", "opacity", "normals"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-5), name
    for name in ("median_depth", "distortion"):
        assert torch.allclose(a.extras[name], b.extras[name], atol=1e-5), name
    assert torch.allclose(grad_a, grad_b, rtol=1e-4)
    assert a.extras["samples"] == b.extras["samples"] == 30 * 24


def test_gradients_of_the_picture_are_right(make_ball, make_rays):
    rays = make_rays(3, dtype=torch.float64)
    value = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    radius = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def picture(value, radius):
        field = make_ball(value, radius, soft=0.1)
        out = render_volume(
            field, rays, even(12), VolumeConfig(), background=torch.ones(3).double()
        )
        return out.rgb, out.depth, out.opacity

    assert torch.autograd.gradcheck(picture, (value, radius))


def test_constant_density_gives_one_minus_exponential_for_any_placement(make_uniform, make_rays):
    rays, field = make_rays(20), make_uniform(1.3)
    length = clip_to_box(rays).far - clip_to_box(rays).near
    for n in (1, 7, 50):
        for g in (None, torch.Generator().manual_seed(n)):
            out = render_volume(field, rays, even(n), VolumeConfig(), generator=g)
            assert torch.allclose(out.opacity, 1 - torch.exp(-1.3 * length), atol=1e-5)


def test_backgrounds(make_ball, make_rays):
    rays, field = make_rays(10), make_ball(0.0)
    one, each = torch.tensor([0.1, 0.5, 0.9]), torch.rand(10, 3)
    assert torch.allclose(
        render_volume(field, rays, even(), VolumeConfig(), background=one).rgb, one.expand(10, 3)
    )
    assert torch.equal(
        render_volume(field, rays, even(), VolumeConfig(), background=each).rgb, each
    )
    assert (render_volume(field, rays, even(), VolumeConfig()).rgb == 0).all()


def test_an_opaque_background_fills_every_ray(make_ball, make_rays):
    out = render_volume(make_ball(0.0), make_rays(10), even(), VolumeConfig(opaque_background=True))
    assert torch.allclose(out.opacity, torch.ones(10))


@pytest.mark.parametrize(
    "sampler", [even(), OccupancyGrid(OccupancyGridConfig(resolution=8))], ids=["dense", "packed"]
)
def test_no_rays(sampler, make_ball, make_rays):
    config = VolumeConfig(normals=True, median_depth=True, distortion=True)
    out = render_volume(
        make_ball(soft=0.1), make_rays(0), sampler, config, background=torch.ones(3)
    )
    assert out.rgb.shape == (0, 3) and out.depth.shape == (0,) and out.normals.shape == (0, 3)
    assert out.extras["samples"] == 0 and out.extras["samples"].shape == ()


def test_no_samples(make_ball, make_rays):
    none = Intervals(torch.zeros(0), torch.zeros(0), 4, torch.zeros(0, dtype=torch.int64))
    config = VolumeConfig(normals=True, median_depth=True, distortion=True)
    out = render_volume(
        make_ball(soft=0.1), make_rays(4), Fixed(none), config, background=torch.ones(3)
    )
    assert (out.rgb == 1).all() and (out.opacity == 0).all() and (out.depth == 0).all()


def test_the_field_sees_view_directions_where_there_are_any(make_ball, make_rays):
    rays, field = make_rays(2), make_ball()
    render_volume(field, rays, even(3), VolumeConfig())
    assert torch.equal(field.directions[-1], rays.directions[:, None].expand(2, 3, 3))
    shown = torch.tensor([[0.0, 0, 1], [0, 1, 0]])
    render_volume(field, replace(rays, view_directions=shown), even(3), VolumeConfig())
    assert torch.equal(field.directions[-1], shown[:, None].expand(2, 3, 3))


def test_times_reach_the_field(make_ball, make_rays):
    times = []

    class Dynamic(make_ball):
        """Remembers the times it is asked for."""

        def __call__(self, x, d, t=None):
            times.append(t)
            return super().__call__(x, d)

    rays = make_rays(2)
    render_volume(Dynamic(), replace(rays, times=torch.tensor([0.2, 0.8])), even(3), VolumeConfig())
    assert torch.allclose(times[0], torch.tensor([[0.2] * 3, [0.8] * 3]))


@pytest.mark.parametrize("layout", [lambda i: i, packed], ids=["dense", "packed"])
def test_early_stopping_saves_colours_and_keeps_the_picture(layout, make_ball, make_rays):
    rays = make_rays(40)
    intervals = layout(even(64)(rays, None).intervals)
    whole, lazy = make_ball(40.0), make_ball(40.0)
    a = render_volume(whole, rays, Fixed(intervals), VolumeConfig())
    b = render_volume(lazy, rays, Fixed(intervals), VolumeConfig(early_stop_eps=1e-3))
    assert lazy.coloured < 0.8 * whole.coloured
    assert (a.rgb - b.rgb).abs().max() < 1e-3
    assert (a.opacity - b.opacity).abs().max() < 1e-3


@pytest.mark.parametrize("differentiable", [False, True])
def test_packed_samples_that_do_not_count_are_left_out(differentiable, make_ball, make_rays):
    rays = make_rays(40)
    intervals = packed(even(64)(rays, None).intervals)
    field = make_ball(40.0)
    field.value = torch.tensor(40.0, requires_grad=True)
    config = VolumeConfig(early_stop_eps=1e-3, alpha_threshold=1e-2)
    with torch.set_grad_enabled(differentiable):
        whole = render_intervals(field, rays, intervals)
        lit = render_intervals(field, rays, intervals, config)
    left = lit.extras["intervals"]
    inside = positions(rays, left).norm(dim=-1)
    assert 0 < left.t0.numel() < 0.5 * intervals.t0.numel()
    assert (inside < 0.6).all(), "nothing outside the ball has any opacity"
    assert lit.extras["weights"].requires_grad == differentiable
    assert left.t0.numel() == field.coloured - intervals.t0.numel()
    assert lit.extras["samples"] == left.t0.numel()
    assert (whole.rgb - lit.rgb).abs().max() < 1e-3
    assert (whole.depth - lit.depth).abs().max() < 1e-2


def test_a_thin_field_keeps_its_samples_while_it_trains(make_uniform, make_rays):
    rays = make_rays(10)
    intervals = packed(even(64)(rays, None).intervals)
    config = VolumeConfig(alpha_threshold=0.1)
    counts = []
    for growing in (True, False):
        out = render_intervals(make_uniform(0.01), rays, intervals, config, growing=growing)
        counts.append(out.extras["intervals"].t0.numel())
        assert out.extras["marched"] == intervals.t0.numel()
    assert counts == [intervals.t0.numel(), 0]


def test_leaving_samples_out_gives_the_same_picture_with_and_without_gradients(
    make_ball, make_rays
):
    rays, config = make_rays(40), VolumeConfig(early_stop_eps=0.1, alpha_threshold=1e-2)
    intervals, pictures = packed(even(64)(rays, None).intervals), []
    for differentiable in (False, True):
        with torch.set_grad_enabled(differentiable):
            pictures.append(render_intervals(make_ball(20.0), rays, intervals, config).rgb)
    torch.testing.assert_close(*pictures)


def test_normals_of_a_ball_point_outwards(make_ball, make_rays):
    rays, field = make_rays(60), make_ball(60.0, 0.6, soft=0.02)
    with torch.no_grad():
        out = render_volume(field, rays, even(256), VolumeConfig(normals=True))
    hit = out.opacity > 0.99
    surface = rays.origins + out.depth[:, None] * rays.directions
    outward = torch.nn.functional.normalize(surface, dim=-1)
    assert hit.sum() > 10 and ((outward * out.normals).sum(-1)[hit] > 0.98).all()
    assert not out.normals.requires_grad


def test_median_depth_of_a_wall_is_its_front(make_ball, make_rays):
    rays, field = make_rays(40), make_ball(500.0)
    out = render_volume(field, rays, even(512), VolumeConfig(median_depth=True))
    hit = out.opacity > 0.99
    surface = rays.origins + out.extras["median_depth"][:, None] * rays.directions
    assert torch.allclose(surface[hit].norm(dim=-1), torch.tensor(0.6), atol=0.02)
    assert (out.extras["median_depth"][out.opacity < 0.4] == 0).all()


def test_sampler_extras_are_handed_on(make_ball, make_rays):
    rays = make_rays(2)
    intervals = even(4)(rays, None).intervals
    out = render_volume(make_ball(), rays, Fixed(intervals, {"proposals": ["x"]}), VolumeConfig())
    assert out.extras["proposals"] == ["x"] and out.extras["weights"].shape == (2, 4)


def test_moving_along_the_ray_changes_depth_but_not_colour(make_ball, make_rays):
    rays, field = make_rays(10), make_ball(8.0, 0.6, soft=0.05)
    back = replace(rays, origins=rays.origins - 0.5 * rays.directions)
    a, b = (render_volume(field, r, even(), VolumeConfig()) for r in (rays, back))
    assert torch.allclose(a.rgb, b.rgb, atol=1e-4)
    seen = a.opacity > 0.01
    assert torch.allclose((b.depth - a.depth)[seen], torch.tensor(0.5), atol=1e-4)


@pytest.mark.parametrize("layout", [lambda i: i, packed], ids=["dense", "packed"])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_an_opaque_background_is_where_the_ray_ends_whatever_is_left_out(
    layout, eps, make_ball, make_rays
):
    rays = make_rays(40)
    intervals = layout(even(64)(rays, None).intervals)
    config = VolumeConfig(early_stop_eps=eps, alpha_threshold=1e-2, opaque_background=True)
    out = render_intervals(make_ball(3.0), rays, intervals, config)
    whole = render_intervals(make_ball(3.0), rays, intervals, replace(config, early_stop_eps=0.0,
                             alpha_threshold=0.0))  # fmt: skip
    assert torch.allclose(out.opacity, torch.ones(40), atol=1e-4 + eps)
    assert (out.depth - whole.depth).abs().max() < 0.05 + 2 * eps


@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_early_stopping_means_the_same_for_dense_and_packed_samples(eps, make_ball, make_rays):
    rays, dense = make_rays(40), even(64)(make_rays(40), None).intervals
    config = VolumeConfig(early_stop_eps=eps)
    a, b = (render_intervals(make_ball(10.0), rays, i, config) for i in (dense, packed(dense)))
    assert (a.opacity < 1 - eps / 4).any()
    torch.testing.assert_close(a.opacity, b.opacity, rtol=0, atol=1e-4)
    torch.testing.assert_close(a.rgb, b.rgb, rtol=0, atol=1e-4)
