"""Polynomial networks."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.registry import build


def make(in_dim=2, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return build("backbones", {"type": "pi-net", **settings}, in_dim=in_dim, generator=generator)


def uniform(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


@torch.no_grad()
def differences(net, order, in_dim=2):
    """Differences of an order of all features along a line through the box."""
    start, end = -0.9 * torch.ones(in_dim).double(), torch.linspace(0.2, 0.9, in_dim).double()
    t = torch.linspace(0, 1, order + 1, dtype=torch.float64)[:, None]
    signs = [(-1) ** i * math.comb(order, i) for i in range(order + 1)]
    return torch.tensor(signs).double() @ net(start + t * (end - start))


def test_parameters_of_the_coupled_form_are_those_of_the_paper():
    net = make(width=64, degree=4, constant=False)
    head = net.make_head(3)
    assert sum(p.numel() for m in (net, head) for p in m.parameters()) == 707


def test_coupled_form_follows_its_recursion():
    net = make(width=5, degree=3, constant=False).double()
    z = uniform(6, 2)
    u = net.blocks[0].weight.split(5)
    x = z @ u[0].T
    for matrix in u[1:]:
        x = (z @ matrix.T) * x + x
    torch.testing.assert_close(net(z), x)


def test_nested_form_follows_its_recursion():
    net = make(width=5, degree=3, form="ncp", constant=False).double()
    block, z = net.blocks[0], uniform(6, 2)
    a = block.factors.weight.split(5)
    x = (z @ a[0].T) * block.first
    for matrix, layer in zip(a[1:], block.shared, strict=True):
        x = (z @ matrix.T) * (x @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(z), x)


@pytest.mark.parametrize("form", ["ccp", "ncp"])
@pytest.mark.parametrize(("degree", "blocks"), [(1, 1), (3, 1), (5, 1), (2, 2), (2, 3)])
def test_degree_is_exact(form, degree, blocks):
    net = make(form=form, degree=degree, blocks=blocks, width=4).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    full = degree**blocks
    size = float(differences(net, full).abs().max())
    assert size > 1e-3
    assert float(differences(net, full + 1).abs().max()) < 1e-9 * size


def test_degree_one_without_constant_is_linear():
    net, z = make(degree=1, width=4, constant=False).double(), uniform(5, 2)
    torch.testing.assert_close(net(2 * z), 2 * net(z))
    assert net(torch.zeros(1, 2).double()).abs().max() == 0


def test_it_is_a_polynomial_of_the_encoding():
    net = make(degree=2, width=4, encoding={"type": "frequency", "levels": 2}).double()
    code = net.encoding(uniform(5, 2))
    torch.testing.assert_close(
        net(uniform(5, 2)), net.blocks[0](torch.cat((torch.ones(5, 1).double(), code), -1))
    )


@pytest.mark.parametrize("setting", ["degree", "width", "blocks"])
def test_sizes_below_one_are_refused(setting):
    with pytest.raises(ConfigError, match=setting):
        make(**{setting: 0})
