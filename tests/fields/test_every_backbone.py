"""What holds for every registered backbone, in every number of dimensions it is defined for.

A backbone takes part by being registered; its preset ``tiny`` says how small it can be.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from polyfield.config import field_help, from_plain, merge, to_plain
from polyfield.encodings.base import Cells, Progress
from polyfield.errors import ConfigError
from polyfield.fields.base import ALL_DIMS
from polyfield.fields.insight import Boxes, Curves, Picture
from polyfield.registry import build, configure, lookup, names

NAMES = names("backbones")


def dims(name):
    return lookup("backbones", name).traits.get("dims", ALL_DIMS)


def usual(name):
    """Three dimensions, or what the backbone is defined for."""
    return 3 if 3 in dims(name) else dims(name)[0]


def make(name, seed=0, in_dim=None, **settings):
    tiny = lookup("backbones", name).presets["tiny"].get("backbone", {})
    generator = torch.Generator().manual_seed(seed)
    spec = {**tiny, "type": name, **settings}
    return build("backbones", spec, in_dim=in_dim or usual(name), generator=generator)


def points(*shape, in_dim=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, in_dim, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


def progress(fraction, in_dim, mse=0.1):
    """A moment of a fit that found something in the middle of the box."""

    def occupied():
        axis = torch.linspace(-0.5, 0.5, 3)
        return Cells(torch.tensor(list(itertools.product(axis.tolist(), repeat=in_dim))), 0.25)

    return Progress(round(1000 * fraction), fraction, mse, occupied)


def grown(name, until=1.0):
    """A backbone that a fit has changed up to a share of its budget."""
    backbone, n = make(name), usual(name)
    for i in range(int(until * 20) + 1):
        backbone.grow(progress(i / 20, n, mse=0.1 * 0.5**i))
    return backbone


def check_insight(insight, in_dim, limit):
    """The tensors of an insight, whose shapes are as declared."""
    if isinstance(insight, Curves):
        lines = list(insight.lines.values())
        assert insight.x.dim() == 1 and bool((insight.x.diff() > 0).all())
        assert 1 <= len(lines) <= limit and all(y.shape == insight.x.shape for y in lines)
        return [insight.x, *lines]
    if isinstance(insight, Picture):
        assert insight.values.dim() in (2, 3) and insight.values.numel()
        channels = insight.values.shape[2] if insight.values.dim() == 3 else 1
        assert channels <= limit and len(insight.labels) in (0, channels)
        return [insight.values]
    assert isinstance(insight, Boxes) and insight.boxes.shape[1:] == (2, in_dim)
    assert bool((insight.boxes[:, 0] < insight.boxes[:, 1]).all())
    if insight.values is None:
        return [insight.boxes]
    assert insight.values.shape == insight.boxes.shape[:1]
    return [insight.boxes, insight.values]


@pytest.mark.parametrize("name", NAMES)
class TestEveryBackbone:
    @pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (3, 0)])
    def test_leading_shape_is_free(self, name, shape):
        n = usual(name)
        backbone, x = make(name), points(*shape, in_dim=n)
        out = backbone(x)
        assert out.shape == (*shape, backbone.out_dim) and backbone.in_dim == n
        flat = backbone(x.reshape(-1, n))
        torch.testing.assert_close(out.reshape(-1, backbone.out_dim), flat, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("in_dim", range(1, 7))
    def test_takes_the_dimensions_it_declares_and_refuses_others(self, name, in_dim):
        if in_dim in dims(name):
            backbone = make(name, in_dim=in_dim)
            assert backbone(points(5, in_dim=in_dim)).shape == (5, backbone.out_dim)
        else:
            with pytest.raises(ConfigError, match="dimension"):
                make(name, in_dim=in_dim)

    def test_computes_in_double_precision(self, name):
        backbone, x = make(name), points(50, in_dim=usual(name), dtype=torch.float64)
        single, double = backbone(x.float()), backbone.double()(x)
        assert double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)

    def test_gradients_match_finite_differences(self, name):
        backbone = make(name).double()
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
        x = points(3, in_dim=usual(name), dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(backbone, (x,), eps=1e-7, atol=1e-4)

    def test_every_parameter_receives_a_gradient(self, name):
        backbone = make(name)
        backbone(points(500, in_dim=usual(name))).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())

    def test_same_seed_same_values(self, name):
        a, b, c = make(name, 0), make(name, 0), make(name, 1)
        same = zip(a.parameters(), b.parameters(), strict=True)
        other = zip(a.parameters(), c.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in same)
        assert any(not torch.equal(p, q) for p, q in other)

    def test_constructor_leaves_the_global_generator_alone(self, name):
        before = torch.get_rng_state()
        make(name)
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("until", [0.0, 0.4, 1.0])
    def test_what_a_fit_has_changed_is_restored(self, name, until):
        a, b, x = grown(name, until), make(name, 1), points(40, in_dim=usual(name))
        b.resize(a.sizes())
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(x), b(x))
        # and both go on alike
        later = progress(min(1.0, until + 0.3), usual(name), mse=0.01)
        a.grow(later), b.grow(later)
        assert torch.equal(a(x), b(x)) and a.sizes() == b.sizes()

    def test_growing_says_whether_parameters_were_replaced(self, name):
        backbone, n = make(name), usual(name)
        for i in range(21):
            before = [id(p) for p in backbone.parameters()]
            replaced = backbone.grow(progress(i / 20, n, mse=0.1 * 0.5**i))
            assert replaced == (before != [id(p) for p in backbone.parameters()])

    def test_groups_hold_every_parameter_once_and_scale_with_the_rate(self, name):
        backbone = grown(name)
        one, two = backbone.parameter_groups(1.0), backbone.parameter_groups(2.0)
        held = [id(p) for g in one for p in g["params"]]
        assert sorted(held) == sorted(id(p) for p in backbone.parameters())
        assert [g["lr"] * 2 for g in one] == [g["lr"] for g in two]

    def test_penalties_are_scalars_that_can_be_differentiated(self, name):
        for penalty in make(name).regularisation().values():
            assert penalty.shape == () and bool(penalty.isfinite()) and penalty.requires_grad

    @pytest.mark.parametrize("until", [0.0, 1.0])
    def test_what_it_shows_is_finite_of_the_declared_shapes_and_detached(self, name, until):
        backbone = grown(name, until)
        shown = backbone.insights(limit=3)
        assert len({s.name for s in shown}) == len(shown)
        for insight in shown:
            tensors = check_insight(insight, backbone.in_dim, limit=3)
            assert all(bool(t.isfinite().all()) for t in tensors)
            assert all(t.dtype == torch.float32 and not t.requires_grad for t in tensors)

    @pytest.mark.parametrize("in_dim", range(1, 7))
    def test_shows_something_in_every_dimension_or_in_none(self, name, in_dim):
        if in_dim in dims(name):
            shown = make(name, in_dim=in_dim).insights()
            assert bool(shown) == bool(make(name).insights())

    def test_presets_are_plain_data_that_builds(self, name):
        presets = lookup("backbones", name).presets
        assert {"paper", "cpu", "tiny"} <= set(presets)
        for preset in presets.values():
            assert to_plain(preset) == preset
            configure("backbones", {"type": name, **preset.get("backbone", {})})
            configure("fields", {"type": "radiance", **preset.get("field", {})})

    def test_every_setting_has_a_help_line(self, name):
        config = lookup("backbones", name).config
        assert set(field_help(config)) == {f.name for f in dataclasses.fields(config)}

    def test_config_survives_plain_data(self, name):
        config = configure(
            "backbones", {**lookup("backbones", name).presets["tiny"]["backbone"], "type": name}
        )
        assert from_plain(type(config), to_plain(config)) == config

    def test_a_backbone_without_ranks_says_so_and_others_refuse_too_many(self, name):
        with pytest.raises(ConfigError, match="rank"):
            make(name).slim(10**6)


def test_the_backbones_of_the_house_are_found():
    assert {"mlp", "hash-grid"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_has_the_features_of_its_points_or_no_way_of_its_own(name):
    backbone, n = make(name), usual(name)
    axes = [torch.linspace(-1, 1, 3 + i) for i in range(n)]
    found = backbone.grid(axes)
    if found is not None:
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        torch.testing.assert_close(found, backbone(x), rtol=1e-4, atol=1e-5)


def test_preset_lists_may_be_overridden_by_the_user():
    preset = lookup("backbones", "mlp").presets["paper"]["backbone"]
    spec = merge({"type": "mlp"}, preset, {"encoding": {"levels": 6}})
    assert configure("backbones", spec).encoding == {"type": "frequency", "levels": 6}
