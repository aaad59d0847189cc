import dataclasses
import math

import pytest
import torch

from polyfield.encodings.base import CoordinateMap, Progress
from polyfield.encodings.contraction import contract
from polyfield.encodings.spherical_harmonics import spherical_harmonics
from polyfield.errors import ConfigError
from polyfield.fields.radiance import RadianceConfig, RadianceField
from polyfield.registry import build, lookup

GRID = {"type": "hash-grid", "levels": 3, "log2_entries": 8, "max_resolution": 32}


class Given(CoordinateMap):
    """A backbone whose features are a fixed function of x."""

    in_dim = 3

    def __init__(self, function, out_dim):
        super().__init__()
        self.function, self.out_dim = function, out_dim

    def forward(self, x):
        return self.function(x)

    def regularisation(self):
        return {"penalty": torch.tensor(3.0)}


def make(seed=0, contraction="none", backbone=None, **settings):
    generator = torch.Generator().manual_seed(seed)
    backbone = backbone or build("backbones", GRID, in_dim=3, generator=generator)
    return RadianceField(RadianceConfig(**settings), backbone, contraction, generator)


def points(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, 3, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


def directions(*shape, dtype=torch.float32):
    return torch.nn.functional.normalize(points(*shape, dtype=dtype), dim=-1)


def raw_field(value, **settings):
    backbone = Given(lambda x: torch.full((*x.shape[:-1], 2), value, dtype=x.dtype), 2)
    return make(backbone=backbone, **settings)


def from_preset(name, preset):
    chosen = lookup("backbones", name).presets[preset]
    generator = torch.Generator().manual_seed(0)
    backbone = build(
        "backbones", {"type": name, **chosen["backbone"]}, in_dim=3, generator=generator
    )
    return build("fields", chosen["field"], backbone=backbone, generator=generator)


class TestSizes:
    def test_nerf_has_595844_parameters(self):
        field = from_preset("mlp", "paper")
        assert sum(p.numel() for p in field.parameters()) == 595_844

    def test_nerf_parts_have_the_published_shapes(self):
        field = from_preset("mlp", "paper")
        count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
        assert count(field.density_head) == 257
        assert count(field.bottleneck) == 65_792
        assert [count(layer) for layer in field.colour_head.layers] == [36_352, 387]

    def test_instant_ngp_colour_branch(self):
        field = from_preset("hash-grid", "paper")
        assert field.density_head is None and field.bottleneck is None
        shapes = [tuple(layer.weight.shape) for layer in field.colour_head.layers]
        assert shapes == [(64, 32), (64, 64), (3, 64)]
        assert all(layer.bias is None for layer in field.colour_head.layers)

    @pytest.mark.parametrize("name", ["mlp", "hash-grid"])
    def test_cpu_presets_build(self, name):
        assert from_preset(name, "cpu")(points(3), directions(3)).rgb.shape == (3, 3)


class TestShapes:
    @pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 0, 3)])
    def test_leading_shape_is_free(self, shape):
        field = make()
        out = field(points(*shape), directions(*shape))
        assert out.sigma.shape == shape and out.rgb.shape == (*shape, 3)
        assert out.features.shape == (*shape, 16)
        assert field.density(points(*shape)).shape == shape

    def test_directions_broadcast_over_samples(self):
        field, x, d = make(), points(4, 5), directions(4)
        broadcast = field(x, d[:, None])
        torch.testing.assert_close(broadcast.rgb, field(x, d[:, None].expand(4, 5, 3)).rgb)

    def test_one_direction_serves_all_points(self):
        field, x, d = make(), points(4), directions()
        torch.testing.assert_close(field(x, d[None]).rgb, field(x, d.expand(4, 3)).rgb)


class TestInitialField:
    def test_density_is_near_one_and_colour_near_grey(self):
        out = make()(points(500), directions(500))
        torch.testing.assert_close(out.sigma, torch.ones(500), atol=1e-3, rtol=0)
        assert (out.rgb - 0.5).abs().mean() < 0.15

    def test_same_seed_same_field(self):
        x, d = points(20), directions(20)
        a, b, c = make(0)(x, d).rgb, make(0)(x, d).rgb, make(1)(x, d).rgb
        assert torch.equal(a, b) and not torch.equal(a, c)

    def test_constructor_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        make(density="linear", bottleneck=8)
        assert torch.equal(before, torch.get_rng_state())


class TestDensity:
    @pytest.mark.parametrize(
        "activation, raw, shift, expected",
        [
            ("exp", 2.0, 0.0, 7.389056),
            ("exp", 2.0, -1.0, 2.718282),
            ("softplus", 0.0, 0.0, 0.693147),
            ("softplus", 0.0, -1.0, 0.313262),
            ("relu", -2.0, 0.0, 0.0),
            ("relu", -2.0, 3.0, 1.0),
        ],
    )
    def test_activation_of_the_shifted_first_feature(self, activation, raw, shift, expected):
        field = raw_field(raw, density_activation=activation, density_shift=shift)
        sigma = field.density(points(4))
        torch.testing.assert_close(sigma, torch.full((4,), expected))

    def test_first_feature_and_no_other_is_the_raw_density(self):
        backbone = Given(lambda x: torch.stack([x[..., 0], x[..., 1] * 100], -1), 2)
        x = points(10)
        torch.testing.assert_close(make(backbone=backbone).density(x), x[:, 0].exp())

    def test_linear_head_sees_all_features(self):
        field = make(density="linear", bias=True)
        x = points(6)
        raw = field.density_head(field.features(x))[:, 0]
        torch.testing.assert_close(field.density(x), raw.exp())

    def test_is_zero_outside_the_box_and_only_there(self):
        x = torch.tensor([[0.9, 0, 0], [1.0, -1, 1], [1.01, 0, 0], [0, -3, 0], [0, 0, 1e6]])
        sigma = make().density(x)
        assert (sigma[:2] > 0).all() and (sigma[2:] == 0).all()

    @pytest.mark.parametrize("far", [1.5, -1.5])
    def test_is_zero_outside_whichever_side_it_is(self, far):
        x = torch.tensor([[0.5, 0, 0], [0, far, 0]])  # on one side alone
        assert make().density(x)[0] > 0 and make().density(x)[1] == 0

    def test_contracted_space_has_density_everywhere(self):
        assert (make(contraction="sphere").density(points(50) * 100) > 0).all()

    def test_equals_that_of_the_whole_field(self):
        field, x = make(), points(20) * 1.5
        torch.testing.assert_close(field.density(x), field(x, directions(20)).sigma)

    def test_gradient_survives_a_large_raw_value(self):
        field = raw_field(1.0)
        x = points(3).requires_grad_()
        field.backbone.function = lambda x: (x * 0 + 40)[..., :2] + x[..., :2]
        field.density(x).sum().backward()
        assert x.grad.isfinite().all()
        torch.testing.assert_close(x.grad[:, 0], torch.full((3,), 15.0).exp())


class TestContraction:
    def test_backbone_sees_contracted_positions(self):
        seen = Given(lambda x: x, 3)
        x = points(20) * 10
        torch.testing.assert_close(
            make(backbone=seen, contraction="sphere").features(x), contract(x, "sphere")
        )

    def test_backbone_never_sees_positions_outside_its_domain(self):
        seen = Given(lambda x: x, 3)
        assert make(backbone=seen).features(points(20) * 10).abs().max() <= 1
        assert make(backbone=seen, contraction="sphere").features(points(20) * 1e5).abs().max() <= 1


class TestColour:
    def test_features_come_first_then_the_encoded_direction(self):
        field, x, d = make(), points(7), directions(7)
        features = field.features(x)
        expected = field.colour_head(torch.cat([features, spherical_harmonics(d)], -1)).sigmoid()
        torch.testing.assert_close(field(x, d).rgb, expected)

    def test_bottleneck_has_no_activation(self):
        field, x, d = make(bottleneck=5, bias=True), points(7), directions(7)
        code = torch.cat([field.bottleneck(field.features(x)), spherical_harmonics(d)], -1)
        torch.testing.assert_close(field(x, d).rgb, field.colour_head(code).sigmoid())

    def test_without_direction_the_code_is_zero(self):
        field, x = make(), points(7)
        features = field.features(x)
        expected = field.colour_head(torch.cat([features, torch.zeros(7, 16)], -1)).sigmoid()
        torch.testing.assert_close(field(x).rgb, expected)

    def test_depends_on_the_direction(self):
        field, x, d = make(), points(7), directions(7)
        assert not torch.allclose(field(x, d).rgb, field(x, -d).rgb)

    def test_need_not_depend_on_the_direction(self):
        field, x, d = make(direction=None), points(7), directions(7)
        assert torch.equal(field(x, d).rgb, field(x).rgb)

    def test_density_does_not_depend_on_the_direction(self):
        field, x, d = make(), points(7), directions(7)
        assert torch.equal(field(x, d).sigma, field(x, -d).sigma)

    @pytest.mark.parametrize("padding", [0.0, 0.001])
    def test_padding_widens_the_range_about_one_half(self, padding):
        plain, padded = make(), make(rgb_padding=padding)
        x, d = points(7), directions(7)
        expected = 0.5 + (plain(x, d).rgb - 0.5) * (1 + 2 * padding)
        torch.testing.assert_close(padded(x, d).rgb, expected)

    def test_two_steps_equal_one(self):
        field, x, d = make(), points(4, 5), directions(4, 1)
        sigma, features = field.density_and_features(x)
        out = field(x, d)
        assert torch.equal(sigma, out.sigma) and torch.equal(features, out.features)
        assert torch.equal(field.colour(features, d), out.rgb)

    def test_some_points_may_be_coloured_alone(self):
        field, x, d = make(), points(9), directions(9)
        keep = torch.tensor([1, 4, 8])
        features = field.features(x)
        torch.testing.assert_close(field.colour(features[keep], d[keep]), field(x, d).rgb[keep])


class TestTraining:
    def test_every_parameter_receives_a_gradient(self):
        field = make(density="linear", bottleneck=8, bias=True)
        out = field(points(200), directions(200))
        (out.sigma.sum() + out.rgb.square().sum()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())

    def test_gradients_match_finite_differences(self):
        field = make(density="linear", bottleneck=4).double()
        torch.nn.init.normal_(field.backbone.encoding.table, generator=torch.Generator())
        x = points(3, dtype=torch.float64).requires_grad_()
        d = directions(3, dtype=torch.float64).requires_grad_()

        def outputs(x, d):
            out = field(x, d)
            return out.sigma, out.rgb

        assert torch.autograd.gradcheck(outputs, (x, d), eps=1e-7, atol=1e-4)

    def test_groups_hold_every_parameter_once(self):
        field = make(density="linear", bottleneck=4)
        groups = field.parameter_groups(1e-2)
        held = [id(p) for g in groups for p in g["params"]]
        assert sorted(held) == sorted(id(p) for p in field.parameters())
        assert groups[0]["params"][0] is field.backbone.encoding.table
        torch.optim.Adam(groups)

    def test_regularisation_is_the_backbones(self):
        assert make().regularisation() == {}
        backbone = Given(lambda x: x, 3)
        assert make(backbone=backbone).regularisation()["penalty"] == 3

    def test_state_dict_restores_the_field(self):
        a, b = make(0, density="linear"), make(1, density="linear")
        b.load_state_dict(a.state_dict())
        x, d = points(9), directions(9)
        assert torch.equal(a(x, d).rgb, b(x, d).rgb) and torch.equal(a.density(x), b.density(x))

    def test_a_few_steps_learn_a_ball(self):
        field = make()
        optimiser = torch.optim.Adam(field.parameter_groups(1e-2))
        x = points(2000)
        inside = x.norm(dim=-1) < 0.6
        colour = (x + 1) / 2

        def loss():
            out = field(x)
            opaque = 1 - torch.exp(-out.sigma)
            return (opaque - inside.float()).square().mean() + (out.rgb - colour).square().mean()

        before = loss().item()
        for _ in range(200):
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()
        assert loss().item() < 0.2 * before

    def test_half_precision_products_give_full_precision_outputs(self):
        field, x, d = make(density="linear"), points(50), directions(50)
        expected = field(x, d)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = field(x, d)
        assert out.sigma.dtype == torch.float32
        torch.testing.assert_close(out.sigma, expected.sigma, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(out.rgb.float(), expected.rgb, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"bottleneck": 0}, "bottleneck"),
        ({"hidden": [64, 0]}, "hidden"),
        ({"rgb_padding": -0.1}, "rgb_padding"),
        ({"density_activation": "tanh"}, "density_activation"),
        ({"direction": {"degree": 3}}, "type"),
    ],
)
def test_unusable_settings_get_a_sentence(settings, words):
    with pytest.raises(ConfigError, match=words):
        build("fields", {"type": "radiance", **settings}, backbone=Given(lambda x: x, 3))


def test_every_setting_has_a_help_line():
    from polyfield.config import field_help

    assert set(field_help(RadianceConfig)) == {f.name for f in dataclasses.fields(RadianceConfig)}


class TestHarmonicColour:
    """Colour whose coefficients are features of the backbone (Plenoxels)."""

    def make(self, values, **settings):
        given = Given(lambda x: values.to(x).expand(*x.shape[:-1], len(values)), len(values))
        return make(backbone=given, colour="harmonics", **settings)

    def test_is_relu_of_a_half_and_the_sum_per_channel(self):
        coefficients = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
        field, x, d = (
            self.make(torch.cat([torch.ones(1), coefficients.flatten()])),
            points(6),
            directions(6),
        )
        expected = (spherical_harmonics(d, 3) @ coefficients.T + 0.5).relu()
        torch.testing.assert_close(field(x, d).rgb, expected)
        index = torch.tensor([2, 0, 0, 1])
        _, features = field.density_and_features(x[:4])
        torch.testing.assert_close(field.colour(features, d, index), expected[index])

    def test_without_directions_it_is_the_constant_part(self):
        values = torch.tensor([0.0, 0.3, 9, 9, 9, -0.2, 9, 9, 9, -9.0, 9, 9, 9])
        found = self.make(values, degree=2)(points(2)).rgb
        constant = 0.5 + torch.tensor([0.3, -0.2, -9.0]) * 0.5 / math.pi**0.5
        torch.testing.assert_close(found, constant.relu().expand(2, 3))

    def test_too_few_features_are_refused(self):
        with pytest.raises(ConfigError, match="28 features"):
            self.make(torch.zeros(27))

    def test_gradient_is_linear_in_the_coefficients(self):
        field = self.make(torch.zeros(28))
        assert not list(field.parameters()) and field.colour_head is None


def test_density_scale_is_a_factor():
    x = points(9) * 1.2
    torch.testing.assert_close(make(density_scale=25.0).density(x), 25 * make().density(x))


def test_feature_encoding_comes_before_the_colour_network():
    field = make(feature_encoding={"type": "frequency", "levels": 2, "include_input": True})
    x, d = points(5), directions(5)
    features = field.features(x)
    expected = torch.cat([field.feature_encoding(features), spherical_harmonics(d)], -1)
    torch.testing.assert_close(field(x, d).rgb, field.colour_head(expected).sigmoid())


def test_growing_and_slimming_reach_the_backbone():
    field, seen = make(), []
    field.backbone.grow = lambda progress: seen.append(progress) or True
    field.backbone.slim = seen.append
    moment = Progress(3, 0.5)
    assert field.grow(moment) and field.slim(2) is None
    assert seen == [moment, 2]
