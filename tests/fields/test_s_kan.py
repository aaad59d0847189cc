"""S-KAN: families of activations are selected while the field is fitted."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.fields.backbones.s_kan import SelectableLayer, SKANBackbone, SKANConfig, gates
from polyfield.fields.kan_layers import LayerConfig, make_layer
from polyfield.registry import build

POOL = ("spline", "chebyshev", "rbf", "mexican-hat", "fourier")


def make(in_dim=2, seed=0, **settings):
    return SKANBackbone(SKANConfig(**settings), in_dim, torch.Generator().manual_seed(seed))


def count(module):
    return sum(p.numel() for p in module.parameters())


def uniform(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def at(fraction):
    return Progress(round(1000 * fraction), fraction)


def with_logits(backbone, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for layer in backbone.layers:
        torch.nn.init.normal_(layer.logits, generator=generator)
    return backbone


class TestSizes:
    def test_before_and_after_pruning(self):
        m, n, widths = len(POOL), 6, ((2, 7), (7, 4))
        backbone = make(widths=(7, 4), size=n)
        assert count(backbone) == sum(m * n * a * b + a * b + m * a for a, b in widths)
        assert backbone.grow(at(1.0))
        assert count(backbone) == sum(n * a * b + a * b for a, b in widths)
        assert not backbone.grow(at(1.0))

    def test_one_gate_per_layer(self):
        backbone = make(widths=(7,), granularity="layer")
        assert backbone.layers[0].logits.shape == (len(POOL), 1)
        backbone.grow(at(1.0))
        assert len(set(backbone.selection()[0])) == 1

    def test_the_first_layer_may_have_functions_of_its_own(self):
        first, second = make(widths=(4, 3), size=6, first_size=32).layers
        assert first.coefficients.shape == (5, 32, 2, 4)
        assert second.coefficients.shape == (5, 6, 4, 3)

    def test_pixel_grids_give_the_same_as_scattered_points(self):
        backbone = make(widths=(4, 3)).double()
        axis = torch.linspace(-1, 1, 40, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        few = torch.cat([backbone(part) for part in grid.split(100)])
        torch.testing.assert_close(backbone(grid), few)


class TestLayer:
    def test_a_pool_of_one_is_the_plain_network_bit_for_bit(self):
        backbone, generator = make(widths=(5, 3), pool=("chebyshev",)), torch.Generator()
        generator.manual_seed(0)
        plain = torch.nn.Sequential(
            make_layer("chebyshev", 2, 5, LayerConfig(squash="none", base=True), generator),
            make_layer("chebyshev", 5, 3, LayerConfig(base=True), generator),
        )
        x = uniform(40, 2).float()
        assert torch.equal(backbone(x), plain(x))

    def test_equal_families_with_even_gates_are_one_family(self):
        config = LayerConfig(squash="none")
        double = SelectableLayer(("rbf", "rbf"), 3, 4, config)
        single = SelectableLayer(("rbf",), 3, 4, config)
        with torch.no_grad():
            double.coefficients.copy_(single.coefficients.expand(2, -1, -1, -1))
            double.base_weight.copy_(single.base_weight)
        x = uniform(9, 3).float()
        torch.testing.assert_close(double(x, 1.0, False), single(x, 1.0, False))

    def test_the_order_of_the_pool_does_not_matter(self):
        order = [3, 0, 4, 2, 1]
        a = SelectableLayer(POOL, 2, 3, LayerConfig()).double()
        b = SelectableLayer(tuple(POOL[i] for i in order), 2, 3, LayerConfig()).double()
        torch.nn.init.normal_(a.logits, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            b.coefficients.copy_(a.coefficients[order])
            b.logits.copy_(a.logits[order])
            b.base_weight.copy_(a.base_weight)
        x = uniform(20, 2)
        for hard in (False, True):
            torch.testing.assert_close(a(x, 0.7, hard), b(x, 0.7, hard))


class TestGates:
    def test_hard_gates_pass_the_gradient_of_soft_ones(self):
        logits = uniform(4, 6).requires_grad_()
        weight = uniform(4, 6, seed=2)
        soft = torch.autograd.grad((weight * gates(logits, 0.5, False)).sum(), logits)[0]
        hard = torch.autograd.grad((weight * gates(logits, 0.5, True)).sum(), logits)[0]
        torch.testing.assert_close(hard, soft)
        ones = gates(logits.detach(), 0.5, True)
        assert ((ones > 0.5).sum(0) == 1).all()
        torch.testing.assert_close(ones, ones.round())

    @pytest.mark.parametrize("granularity", ["node", "layer"])
    def test_pruning_leaves_what_hard_gates_computed(self, granularity):
        backbone = with_logits(make(widths=(9, 4), granularity=granularity)).double()
        backbone.hard = True
        x, chosen = uniform(50, 2), backbone.selection()
        before = backbone(x)
        backbone.grow(at(1.0))
        torch.testing.assert_close(backbone(x), before)
        assert backbone.selection() == chosen
        assert len({name for layer in chosen for name in layer}) > 1


class TestSchedule:
    def test_temperature_and_hardness(self):
        backbone = make(full=0.4, selection=0.4, final_temperature=0.1)
        for fraction, temperature, hard in (
            (0.0, 1.0, False),
            (0.4, 1.0, False),
            (0.5, 0.1**0.25, False),
            (0.61, 0.1**0.525, True),
            (0.799, 0.1**0.9975, True),
        ):
            assert not backbone.grow(at(fraction))
            assert backbone.temperature == pytest.approx(temperature)
            assert backbone.hard == hard
        assert backbone.grow(at(0.8)) and backbone.pruned

    def test_entropy_is_asked_for_during_the_selection_only(self):
        backbone = make(widths=(3, 2), entropy=1e-2)
        assert backbone.regularisation() == {}
        backbone.grow(at(0.6))
        found = float(backbone.regularisation()["entropy"].detach())
        # five inputs with even gates; the weight is 1e-4 at the start
        assert found == pytest.approx(1e-4 * 10 * 5 * math.log(len(POOL)), rel=1e-4)
        backbone.grow(at(1.0))
        assert backbone.regularisation() == {}
        silent = make(entropy=0.0)
        silent.grow(at(0.6))
        assert silent.regularisation() == {}

    @pytest.mark.parametrize("fraction", [0.3, 0.55, 0.7, 0.95])
    def test_a_saved_stage_is_restored(self, fraction):
        a, b = with_logits(make(widths=(6, 3))), make(widths=(6, 3), seed=9)
        a.grow(at(fraction))
        b.resize(a.sizes())
        b.load_state_dict(a.state_dict())
        x = uniform(30, 2).float()
        assert torch.equal(a(x), b(x)) and a.sizes() == b.sizes()
        assert a.selection() == b.selection()


def test_the_family_of_the_target_is_selected():
    """sin(4 x) + cos(2 x) is two of Fourier's coefficients and no sum of few bumps."""
    backbone = make(1, widths=(1,), pool=("rbf", "fourier", "mexican-hat")).double()
    x = uniform(300, 1)
    y = (4 * x).sin() + (2 * x).cos()
    optimiser = torch.optim.Adam(backbone.parameters(), 2e-2)
    for step in range(300):
        if backbone.grow(at(step / 300)):
            optimiser = torch.optim.Adam(backbone.parameters(), 2e-2)
        loss = (backbone(x) - y).square().mean() + sum(backbone.regularisation().values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert backbone.selection() == [["fourier"]]
    assert float((backbone(x) - y).square().mean().detach()) < 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": []}, "widths"),
        ({"pool": ["spline", "haar"]}, "basis must be one of"),
        ({"pool": ["rbf", "rbf"]}, "once"),
        ({"size": 3}, "at least 4"),
        ({"first_size": 3}, "at least 4"),
        ({"size": 7}, "even"),
        ({"full": 0.7, "selection": 0.4}, "sum to at most 1"),
        ({"final_temperature": 0.0}, "final_temperature"),
        ({"entropy": -1.0}, "entropy"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build("backbones", {"type": "s-kan", **settings}, in_dim=2)
