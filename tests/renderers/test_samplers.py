"""Stratified, hierarchical and proposal samplers."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from polyfield.errors import ConfigError
from polyfield.registry import build, configure, entries, names
from polyfield.renderers.boxes import clip_to_box
from polyfield.renderers.pdf import interlevel_loss
from polyfield.renderers.samplers.proposal import anneal_exponent, trains_proposals
from polyfield.renderers.volume import VolumeConfig, render_volume


class Learned(nn.Module):
    """A ball with a trainable density, standing in for a field of the run's kind."""

    def __init__(self, ball):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.ball = ball

    def density(self, x):
        return self.scale * self.ball.density(x)

    def __call__(self, x, d, t=None):
        sample = self.ball(x, d)
        return type(sample)(self.scale * sample.sigma, sample.rgb)

    def parameter_groups(self, lr):
        return [{"params": [self.scale], "lr": lr * 2}]


@pytest.fixture
def make_learned(make_ball):
    return lambda spec=None: Learned(make_ball(8.0, 0.6, soft=0.05))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name, make_field, contraction="none", **settings):
    return build(
        "samplers", {"type": name, **settings}, contraction=contraction, make_field=make_field
    )


def test_the_four_samplers_are_found_by_name():
    assert {"stratified", "hierarchical", "occupancy-grid", "proposal"} <= set(names("samplers"))


@pytest.mark.parametrize("name", ["stratified", "hierarchical", "proposal"])
def test_dense_intervals_ascend_within_the_box(name, make_learned, make_rays):
    rays, field = make_rays(40), make_learned()
    for g in (None, generator()):
        intervals = make(name, make_learned)(rays, field, g).intervals
        clipped = clip_to_box(rays)
        assert not intervals.packed and intervals.n_rays == 40
        assert torch.equal(intervals.t0[:, 1:], intervals.t1[:, :-1])
        assert (intervals.t1 - intervals.t0 >= -1e-6).all()
        assert (intervals.t0 >= clipped.near[:, None] - 1e-5).all()
        assert (intervals.t1 <= clipped.far[:, None] + 1e-5).all()


@pytest.mark.parametrize("name", ["stratified", "hierarchical", "proposal", "occupancy-grid"])
def test_no_rays(name, make_learned, make_rays):
    samples = make(name, make_learned)(make_rays(0), make_learned(), generator())
    assert samples.intervals.t0.numel() == 0 and samples.intervals.n_rays == 0


@pytest.mark.parametrize("name", ["stratified", "hierarchical", "proposal"])
def test_unbounded_scenes_are_sampled_up_to_far(name, make_learned, make_rays):
    sampler = make(name, make_learned, "sphere", spacing="disparity")
    samples = sampler(make_rays(5), make_learned())
    t0, t1 = samples.intervals.t0, samples.intervals.t1
    if name == "proposal":  # the final intervals gather; the first round looks everywhere
        t0 = t1 = samples.extras["proposals"][0][0]
    assert t1.max() > 8 and t0.min() < 0.2


@pytest.mark.parametrize("name", ["stratified", "hierarchical", "proposal"])
def test_jitter_comes_from_the_generator_alone(name, make_learned, make_rays):
    sampler, rays, field = make(name, make_learned), make_rays(5), make_learned()
    a, b, c = (
        sampler(rays, field, g).intervals.t0 for g in (generator(), generator(), generator(1))
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_opacity_of_constant_density_is_the_same_under_every_sampler(make_uniform, make_rays):
    field, rays = make_uniform(0.7), make_rays(30)
    clipped = clip_to_box(rays)
    want = 1 - torch.exp(-0.7 * (clipped.far - clipped.near))
    for name in ("stratified", "hierarchical", "occupancy-grid"):
        sampler = make(name, lambda spec: make_uniform(0.7))
        for g in (None, generator()):
            out = render_volume(field, rays, sampler, VolumeConfig(), generator=g)
            assert torch.allclose(out.opacity, want, atol=1e-5), name


def test_fine_samples_gather_where_the_coarse_pass_sees_something(make_learned, make_rays):
    rays, field = make_rays(50), make_learned()
    samples = make("hierarchical", make_learned, coarse_samples=32, fine_samples=32)(rays, field)
    intervals, coarse = samples.intervals, samples.extras["coarse"]
    assert intervals.t0.shape == (50, 64) and coarse.extras["weights"].shape == (50, 32)
    edges = torch.cat([coarse.extras["intervals"].t0, coarse.extras["intervals"].t1[:, -1:]], -1)
    union = torch.cat([intervals.t0, intervals.t1[:, -1:]], -1)
    for ray in range(50):  # the coarse edges are kept
        assert torch.isin(edges[ray], union[ray]).all()
    mean = (coarse.extras["weights"] * coarse.extras["intervals"].mid).sum(-1)
    mean = mean / coarse.extras["weights"].sum(-1)
    seen = coarse.opacity > 0.5
    assert ((union - mean[:, None]).abs() < 0.3).float().mean(-1)[seen].min() > 0.4


def test_the_coarse_pass_trains_its_own_field_only(make_learned, make_rays):
    sampler, field = make("hierarchical", make_learned), make_learned()
    coarse = sampler(make_rays(10), field, generator()).extras["coarse"]
    (coarse.rgb.sum() + coarse.opacity.sum()).backward()
    assert sampler.coarse.scale.grad != 0 and field.scale.grad is None
    assert sampler.parameter_groups(0.1) == [{"params": [sampler.coarse.scale], "lr": 0.2}]


def test_a_shared_coarse_pass_uses_the_main_field(make_learned, make_rays):
    sampler, field = make("hierarchical", make_learned, shared=True), make_learned()
    coarse = sampler(make_rays(10), field).extras["coarse"]
    coarse.opacity.sum().backward()
    assert field.scale.grad != 0
    assert list(sampler.parameters()) == [] and sampler.parameter_groups(0.1) == []


def test_proposals_come_with_edges_weights_and_gradients(make_learned, make_rays):
    sampler = make(
        "proposal",
        make_learned,
        proposals=[None, {"type": "mlp"}],
        proposal_samples=[24, 16],
        samples=8,
    )
    field, rays = make_learned(), make_rays(12)
    out = render_volume(field, rays, sampler, VolumeConfig(), generator=generator())
    shapes = [(tuple(e.shape), tuple(w.shape)) for e, w in out.extras["proposals"]]
    assert shapes == [((12, 25), (12, 24)), ((12, 17), (12, 16))]
    assert out.extras["weights"].shape == (12, 8)
    intervals = out.extras["intervals"]
    edges = torch.cat([intervals.t0, intervals.t1[:, -1:]], -1)
    loss = sum(
        interlevel_loss(edges, out.extras["weights"], e, 0.5 * w).mean()
        for e, w in out.extras["proposals"]
    )
    loss.backward()
    assert field.scale.grad is None
    assert all(p.scale.grad != 0 for p in sampler.fields)
    assert len(sampler.parameter_groups(0.1)) == 2


def test_proposals_place_the_samples(make_learned, make_rays):
    rays, field = make_rays(50), make_learned()
    even = make("stratified", make_learned, samples=24)(rays, field).intervals
    placed = make("proposal", make_learned, samples=24)(rays, field).intervals

    def near_surface(intervals):
        x = rays.origins[:, None] + intervals.mid[..., None] * rays.directions[:, None]
        return (x.norm(dim=-1) < 0.65).float().mean()

    assert near_surface(placed) > 1.5 * near_surface(even)


def test_annealing_starts_even_and_ends_with_the_weights(make_learned, make_rays):
    assert [anneal_exponent(s, 100) for s in (0, 100, 500)] == [0, 1, 1]
    assert anneal_exponent(50, 100) == pytest.approx(5 / 5.5)
    sampler, field, rays = make("proposal", make_learned), make_learned(), make_rays(4)
    sampler.update(field, 0, generator())
    flat = sampler(rays, field).intervals
    width = flat.t1 - flat.t0
    assert torch.allclose(width, width.mean(-1, keepdim=True).expand_as(width), atol=1e-3)
    sampler.update(field, 1000, generator())
    assert sampler.anneal == 1
    other = make("proposal", make_learned)
    sampler.update(field, 3, generator())
    other.load_state_dict(sampler.state_dict())
    assert other.anneal == sampler.anneal


def test_proposals_train_every_step_at_first_then_ever_rarer():
    early = [trains_proposals(s, 5, 1000) for s in range(50)]
    late = [trains_proposals(s, 5, 1000) for s in range(1000, 1100)]
    assert all(early) and sum(late) == 20


def test_untrained_steps_give_weights_without_gradient(make_learned, make_rays):
    sampler, field = make("proposal", make_learned), make_learned()
    sampler.update(field, 1001, generator())
    (_, weights), *_ = sampler(make_rays(3), field).extras["proposals"]
    assert not weights.requires_grad
    sampler.update(field, 1005, generator())
    (_, weights), *_ = sampler(make_rays(3), field).extras["proposals"]
    assert weights.requires_grad


def test_presets_hold_settings_that_exist():
    for entry in entries("samplers"):
        for preset in entry.presets.values():
            config = configure("samplers", {"type": entry.name, **preset.get("sampler", {})})
            for spec in getattr(config, "proposals", ()):
                if spec is not None:
                    configure("backbones", spec)
            assert preset.get("losses", {}).keys() <= set(names("losses"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("stratified", {"samples": 0}),
        ("stratified", {"spacing": "log"}),
        ("hierarchical", {"fine_samples": 0}),
        ("proposal", {"proposal_samples": [8, 8]}),
        ("proposal", {"samples": 0}),
        ("occupancy-grid", {"decay": 2.0}),
        ("occupancy-grid", {"early_stop_eps": 1.0}),
    ],
)
def test_unusable_settings_are_refused(name, settings, make_learned):
    with pytest.raises(ConfigError):
        make(name, make_learned, **settings)


def test_samplers_do_not_need_the_renderers():
    script = (
        "import sys; import polyfield.renderers.samplers.proposal; "
        "assert 'polyfield.renderers.volume' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
