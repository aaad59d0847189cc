"""R2L's network: its parameters, its feature order, its skips."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import relu

from polyfield.errors import ConfigError
from polyfield.fields.backbones.residual_mlp import scalar_octaves
from polyfield.registry import build
from polyfield.training.model import Model
from polyfield.training.settings import resolve

X = torch.linspace(-1, 1, 7 * 48).reshape(7, 48)


def make(in_dim=48, **settings):
    spec = {"type": "residual-mlp", **settings}
    return build("backbones", spec, in_dim=in_dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("depth", "expected"), [(88, 5_917_187), (8, 653_827)])
def test_the_parameters_are_those_of_the_paper(depth, expected):
    user = {"renderer": {"type": "light-field"}, "backbone": {"type": "residual-mlp"}}
    settings = resolve(user, preset="paper")
    settings["backbone"]["depth"] = depth
    model = Model(settings, "none", torch.Generator().manual_seed(0))
    assert model.parameter_count == expected
    assert model.field.backbone[0].body.in_dim == 1008


def test_features_of_zero_are_ten_zeros_ten_ones_and_zero():
    assert scalar_octaves(torch.zeros(1), 10).tolist() == [0.0] * 10 + [1.0] * 10 + [0.0]


def test_features_go_coordinate_by_coordinate_without_pi():
    x = torch.tensor([0.3, -0.7], dtype=torch.float64)
    expected = [
        value
        for c in x
        for value in [
            *((2**k * c).sin() for k in range(3)),
            *((2**k * c).cos() for k in range(3)),
            c,
        ]
    ]
    torch.testing.assert_close(scalar_octaves(x, 3), torch.stack(expected))


def test_blocks_without_second_layers_do_nothing_and_the_skip_doubles():
    network = make(depth=8, width=32)
    for block in network.body.blocks:
        for parameter in block.second.parameters():
            torch.nn.init.zeros_(parameter)
    first = relu(network.body.head(scalar_octaves(X, 10)))
    torch.testing.assert_close(network(X), 2 * first)
    plain = make(depth=8, width=32, skip=False)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(plain(X), first)


def test_a_block_is_a_naive_loop():
    network = make(depth=6, width=16)
    h = start = relu(network.body.head(scalar_octaves(X, 10)))
    for block in network.body.blocks:
        inner = relu(h @ block.first.weight.T + block.first.bias)
        h = h + inner @ block.second.weight.T + block.second.bias
    torch.testing.assert_close(network(X), h + start)


def test_initial_values_are_torchs():
    weight = make(depth=4, width=256).body.blocks[0].first.weight
    assert float(weight.detach().abs().max()) == pytest.approx(256**-0.5, rel=1e-3)
    assert float(weight.detach().std()) == pytest.approx((3 * 256) ** -0.5, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 7}, "even number"),
        ({"depth": 0}, "even number"),
        ({"width": 0}, "width at least 1"),
        ({"levels": -1}, "levels must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)
