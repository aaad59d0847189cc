"""mi-MLP: inputs to every layer, and a network of its own for the density."""

from __future__ import annotations

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.registry import build, lookup

FREQUENCIES = {"type": "frequency", "levels": 2}


def make(in_dim=3, **settings):
    generator = torch.Generator().manual_seed(0)
    spec = {"type": "mi-mlp", "width": 16, "depth": 3, "density_depth": 2, **settings}
    return build("backbones", spec, in_dim=in_dim, generator=generator)


def points(*shape):
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_stack_of_the_papers_size_has_its_parameter_count():
    net = make(width=256, depth=8)
    assert sum(p.numel() for p in net.appearance.layers.parameters()) == 589_824


def test_follows_its_recursion_and_hands_on_the_encoding():
    net = make(density_depth=0)
    code = net.appearance.encoding(points(6))
    first, *others = net.appearance.layers
    out = first(code).relu()
    for layer in others:
        out = layer(torch.cat((code, out), -1)).relu()
    torch.testing.assert_close(net(points(6)), torch.cat((out, code), -1))


def test_a_single_layer_sees_the_encoding_only():
    net = make(depth=1, density_depth=0)
    code = net.appearance.encoding(points(6))
    expected = torch.cat((net.appearance.layers[0](code).relu(), code), -1)
    torch.testing.assert_close(net(points(6)), expected)


@torch.no_grad()
def test_without_ways_between_hidden_layers_the_inputs_still_arrive():
    net = make(density_depth=0)
    last, code = net.appearance.layers[-1], net.appearance.encoding.out_dim
    for layer in net.appearance.layers[1:]:
        layer.weight[:, code:] = 0
    encoded = net.appearance.encoding(points(6))
    direct = (encoded @ last.weight[:, :code].T + last.bias).relu()
    torch.testing.assert_close(net(points(6))[:, :16], direct)


@torch.no_grad()
def test_without_ways_from_the_inputs_it_is_a_plain_network():
    net = make(density_depth=0)
    code = net.appearance.encoding.out_dim
    for layer in net.appearance.layers[1:]:
        layer.weight[:, :code] = 0
    mlp = build("backbones", {"type": "mlp", "width": 16, "depth": 3, "skips": []}, in_dim=3)
    for a, b in zip(mlp.layers, net.appearance.layers, strict=True):
        a.weight.copy_(b.weight[:, -a.in_features :])
        a.bias.copy_(b.bias)
    torch.testing.assert_close(net(points(6))[:, :16], mlp(points(6)), rtol=0, atol=1e-6)


def untouched(gradients):
    return all(g is None or not g.any() for g in gradients)


def test_branches_share_nothing():
    net = make()
    density, appearance = net(points(40)).split([1, net.out_dim - 1], -1)
    own = {name: p for name, p in net.named_parameters() if name.startswith("density")}
    others = [p for name, p in net.named_parameters() if name not in own]
    assert untouched(torch.autograd.grad(density.sum(), others, retain_graph=True))
    assert untouched(torch.autograd.grad(appearance.sum(), list(own.values())))


@pytest.mark.parametrize("preset", ["paper", "cpu"])
def test_density_of_a_field_is_that_of_its_own_network(preset):
    presets = lookup("backbones", "mi-mlp").presets[preset]
    generator = torch.Generator().manual_seed(0)
    spec = {"type": "mi-mlp", **presets["backbone"], "width": 16}
    backbone = build("backbones", spec, in_dim=3, generator=generator)
    field = build("fields", presets["field"], backbone=backbone, generator=generator)
    field.density(points(40)).sum().backward()
    assert untouched(p.grad for p in backbone.appearance.parameters())
    assert not untouched(p.grad for p in backbone.density.parameters())


def test_density_sees_fewer_octaves():
    net = make()
    assert net.density.encoding.out_dim < net.appearance.encoding.out_dim


@pytest.mark.parametrize("settings", [{"width": 0}, {"depth": 0}, {"density_depth": -1}])
def test_bad_sizes_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        make(**settings)
