"""What holds for every registered encoding."""

import doctest
import importlib

import pytest
import torch

from polyfield.errors import ConfigError, UnknownNameError
from polyfield.registry import build, entries, names

SMALL = {
    "hash-grid": {"levels": 3, "log2_entries": 8, "max_resolution": 32},
    "dense-grid": {"resolution": 5, "features": 3},
    "random-fourier": {"frequencies": 7},
    "planes": {"resolution": 5, "features": 3},
    "lines": {"resolution": 5, "features": 3},
}
NAMES = names("encodings")


def make(name, seed=0, in_dim=3):
    generator = torch.Generator().manual_seed(seed)
    return build(
        "encodings", {"type": name, **SMALL.get(name, {})}, in_dim=in_dim, generator=generator
    )


def points(*shape, dtype=torch.float32):
    x = torch.randn(*shape, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1).to(dtype)


@pytest.mark.parametrize("name", NAMES)
class TestEveryEncoding:
    def test_output_has_the_declared_width(self, name):
        encoding = make(name)
        assert encoding(points(4)).shape == (4, encoding.out_dim)

    @pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 4)])
    def test_leading_shape_is_free(self, name, shape):
        encoding, x = make(name), points(*shape)
        flat = encoding(x.reshape(-1, 3)).reshape(*shape, encoding.out_dim)
        torch.testing.assert_close(encoding(x), flat)

    @pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
    def test_empty_batch_gives_empty_features(self, name, shape):
        encoding = make(name)
        assert encoding(torch.zeros(*shape, 3)).shape == (*shape, encoding.out_dim)

    def test_float64_agrees_with_float32(self, name):
        encoding, x = make(name), points(50)
        single = encoding(x)
        double = encoding.double()(x.double())
        assert double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, atol=2e-6, rtol=1e-4)

    def test_non_contiguous_input_is_the_same_points(self, name):
        encoding, x = make(name), points(6, 2)
        torch.testing.assert_close(encoding(x.transpose(0, 1)), encoding(x).transpose(0, 1))

    def test_gradient_in_x_matches_finite_differences(self, name):
        encoding = make(name).double()
        x = points(4, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(encoding, (x,), eps=1e-7, atol=1e-5)

    def test_same_seed_same_values_another_seed_others(self, name):
        a, b, c = make(name, 0), make(name, 0), make(name, 1)
        assert all(
            torch.equal(p, q)
            for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        )
        drawn = list(a.state_dict())
        assert not drawn or not torch.equal(a.state_dict()[drawn[0]], c.state_dict()[drawn[0]])

    def test_constructor_leaves_the_global_generator_alone(self, name):
        before = torch.get_rng_state()
        make(name)
        assert torch.equal(before, torch.get_rng_state())

    def test_state_dict_restores_the_encoding(self, name):
        a, b = make(name, 0), make(name, 1)
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(points(9)), b(points(9)))

    def test_groups_hold_every_parameter_once(self, name):
        encoding = make(name)
        held = [id(p) for g in encoding.parameter_groups(1e-2) for p in g["params"]]
        assert sorted(held) == sorted(id(p) for p in encoding.parameters())

    def test_every_setting_has_a_help_line(self, name):
        import dataclasses

        from polyfield.config import field_help

        config = {e.name: e.config for e in entries("encodings")}[name]
        assert set(field_help(config)) == {f.name for f in dataclasses.fields(config)}


def test_the_encodings_of_the_house_are_found():
    assert {
        "identity", "frequency", "random-fourier", "integrated", "spherical-harmonics",
        "dense-grid", "hash-grid", "planes", "lines",
    } <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize(
    "spec, words",
    [
        ({"type": "frequency", "levels": -1}, "levels"),
        ({"type": "frequency", "levels": 0, "include_input": False}, "no features"),
        ({"type": "random-fourier", "frequencies": 0}, "frequencies"),
        ({"type": "random-fourier", "scale": 0.0}, "scale"),
        ({"type": "integrated", "levels": 0}, "levels"),
        ({"type": "spherical-harmonics", "degree": 9}, "1..8"),
        ({"type": "dense-grid", "resolution": 1}, "resolution"),
        ({"type": "dense-grid", "features": 0}, "features"),
        ({"type": "hash-grid", "levels": 0}, "levels"),
        ({"type": "hash-grid", "log2_entries": 40}, "log2_entries"),
        ({"type": "hash-grid", "max_resolution": 8}, "max_resolution"),
        ({"levels": 3}, "type"),
    ],
)
def test_unusable_settings_get_a_sentence(spec, words):
    with pytest.raises(ConfigError, match=words):
        build("encodings", spec, in_dim=3)


@pytest.mark.parametrize("name", ["hash-grid", "dense-grid"])
@pytest.mark.parametrize("in_dim", [0, 5])
def test_grids_take_one_to_four_coordinates(name, in_dim):
    with pytest.raises(ConfigError, match="1 to 4"):
        build("encodings", {"type": name}, in_dim=in_dim)


def test_harmonics_take_three_coordinates():
    with pytest.raises(ConfigError, match="3 coordinates"):
        build("encodings", {"type": "spherical-harmonics"}, in_dim=2)


def test_misspelt_encoding_gets_the_nearest_name():
    with pytest.raises(UnknownNameError, match="hash-grid"):
        build("encodings", {"type": "hashgrid"}, in_dim=3)


@pytest.mark.parametrize("module", ["contraction", "frequency", "spherical_harmonics"])
def test_examples_in_docstrings_hold(module):
    found = doctest.testmod(importlib.import_module(f"polyfield.encodings.{module}"))
    assert found.attempted > 0 and found.failed == 0
