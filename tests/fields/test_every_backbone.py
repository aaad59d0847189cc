"""What holds for every registered backbone, and for the two that came first."""

import dataclasses

import pytest
import torch

from polyfield.config import field_help, from_plain, merge, to_plain
from polyfield.errors import ConfigError
from polyfield.registry import build, configure, entries, lookup, names

SMALL = {
    "mlp": {"width": 16, "depth": 3, "skips": [1], "encoding": {"type": "frequency", "levels": 3}},
    "hash-grid": {"levels": 3, "log2_entries": 8, "max_resolution": 32},
}
NAMES = [name for name in names("backbones") if name in SMALL]


def make(name, seed=0, in_dim=3, **settings):
    spec = {"type": name, **SMALL.get(name, {}), **settings}
    generator = torch.Generator().manual_seed(seed)
    return build("backbones", spec, in_dim=in_dim, generator=generator)


def points(*shape, in_dim=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, in_dim, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


@pytest.mark.parametrize("name", NAMES)
class TestEveryBackbone:
    @pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (3, 0)])
    def test_leading_shape_is_free(self, name, shape):
        backbone, x = make(name), points(*shape)
        out = backbone(x)
        assert out.shape == (*shape, backbone.out_dim)
        torch.testing.assert_close(out.reshape(-1, backbone.out_dim), backbone(x.reshape(-1, 3)))

    @pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
    def test_takes_one_to_four_coordinates(self, name, in_dim):
        backbone = make(name, in_dim=in_dim)
        assert backbone(points(5, in_dim=in_dim)).shape == (5, backbone.out_dim)

    def test_gradients_match_finite_differences(self, name):
        backbone = make(name).double()
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
        x = points(3, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(backbone, (x,), eps=1e-7, atol=1e-4)

    def test_every_parameter_receives_a_gradient(self, name):
        backbone = make(name)
        backbone(points(200)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())

    def test_same_seed_same_values(self, name):
        a, b, c = make(name, 0), make(name, 0), make(name, 1)
        x = points(20)
        assert torch.equal(a(x), b(x)) and not torch.equal(a(x), c(x))

    def test_constructor_leaves_the_global_generator_alone(self, name):
        before = torch.get_rng_state()
        make(name)
        assert torch.equal(before, torch.get_rng_state())

    def test_state_dict_restores_the_backbone(self, name):
        a, b = make(name, 0), make(name, 1)
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(points(9)), b(points(9)))

    def test_groups_hold_every_parameter_once_and_scale_with_the_rate(self, name):
        backbone = make(name)
        one, two = backbone.parameter_groups(1.0), backbone.parameter_groups(2.0)
        held = [id(p) for g in one for p in g["params"]]
        assert sorted(held) == sorted(id(p) for p in backbone.parameters())
        assert [g["lr"] * 2 for g in one] == [g["lr"] for g in two]

    def test_presets_are_plain_data_that_builds(self, name):
        presets = lookup("backbones", name).presets
        assert {"paper", "cpu"} <= set(presets)
        for preset in presets.values():
            assert to_plain(preset) == preset
            configure("backbones", {"type": name, **preset.get("backbone", {})})
            configure("fields", preset.get("field", {"type": "radiance"}))

    def test_every_setting_has_a_help_line(self, name):
        config = lookup("backbones", name).config
        assert set(field_help(config)) == {f.name for f in dataclasses.fields(config)}

    def test_config_survives_plain_data(self, name):
        config = configure("backbones", {"type": name, **SMALL[name]})
        assert from_plain(type(config), to_plain(config)) == config


def test_the_backbones_of_the_house_are_found():
    assert {"mlp", "hash-grid"} <= {e.name for e in entries("backbones")}


class TestMLP:
    def test_trunk_has_the_papers_parameter_count(self):
        backbone = build("backbones", {"type": "mlp"}, in_dim=3)
        assert sum(p.numel() for p in backbone.parameters()) == 493_056
        assert [layer.in_features for layer in backbone.layers] == [63] + [256] * 4 + [319] + [
            256
        ] * 2

    def test_encoding_is_put_in_front_of_the_activations(self):
        mlp = make("mlp", depth=3, skips=[0])
        x = points(6)
        code = mlp.encoding(x)
        first, second, third = mlp.layers
        out = second(torch.cat([code, first(code).relu()], -1)).relu()
        torch.testing.assert_close(mlp(x), third(out).relu())

    def test_without_skips_it_is_a_plain_chain(self):
        mlp = make("mlp", depth=2, skips=[])
        first, second = mlp.layers
        x = points(6)
        torch.testing.assert_close(mlp(x), second(first(mlp.encoding(x)).relu()).relu())

    @pytest.mark.parametrize("skips", [[2], [-1], [7]])
    def test_skips_that_lead_nowhere_are_refused(self, skips):
        with pytest.raises(ConfigError, match="skips"):
            make("mlp", depth=3, skips=skips)

    @pytest.mark.parametrize("encoding", ["identity", "hash-grid", "random-fourier", "integrated"])
    def test_any_encoding_nests(self, encoding):
        mlp = make("mlp", encoding={"type": encoding})
        assert mlp(points(4)).shape == (4, 16)

    def test_trainable_encoding_keeps_its_own_group(self):
        mlp = make("mlp", encoding={"type": "hash-grid", "levels": 2, "log2_entries": 5})
        table = mlp.parameter_groups(1e-2)[0]
        assert table["params"][0] is mlp.encoding.table and table["eps"] == 1e-15

    def test_encoding_without_a_type_is_named(self):
        with pytest.raises(ConfigError, match="encoding needs a 'type'"):
            make("mlp", encoding={"levels": 3})


class TestHashGrid:
    def test_paper_sizes(self):
        backbone = build("backbones", {"type": "hash-grid"}, in_dim=3)
        assert backbone.encoding.table.numel() == 12_196_240
        assert sum(p.numel() for p in backbone.mlp.parameters()) == 64 * 32 + 16 * 64
        assert backbone.out_dim == 16
        assert all(layer.bias is None for layer in backbone.mlp.layers)

    def test_is_the_mlp_of_the_encoding(self):
        backbone, x = make("hash-grid"), points(5)
        first, last = backbone.mlp.layers
        torch.testing.assert_close(backbone(x), last(first(backbone.encoding(x)).relu()))

    def test_only_matrices_decay_and_only_the_table_has_the_tiny_epsilon(self):
        backbone = make("hash-grid")
        table, mlp = backbone.parameter_groups(1e-2)
        assert (table["eps"], table["weight_decay"]) == (1e-15, 0.0)
        assert mlp["weight_decay"] == 1e-6 and "eps" not in mlp
        assert [p.ndim for p in mlp["params"]] == [2, 2]

    @pytest.mark.parametrize("settings", [{"width": 0}, {"layers": -1}, {"levels": 0}])
    def test_unusable_settings_get_a_sentence(self, settings):
        with pytest.raises(ConfigError, match="must|at least"):
            make("hash-grid", **settings)

    def test_encoding_settings_reach_the_encoding(self):
        backbone = make("hash-grid", interpolation="smoothstep", features=4)
        assert backbone.encoding.layout.smooth and backbone.encoding.layout.features == 4


def test_preset_lists_may_be_overridden_by_the_user():
    preset = lookup("backbones", "mlp").presets["paper"]["backbone"]
    spec = merge({"type": "mlp"}, preset, {"encoding": {"levels": 6}})
    assert configure("backbones", spec).encoding == {"type": "frequency", "levels": 6}
