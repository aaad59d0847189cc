import math

import pytest
import torch

from polyfield.fields.heads import DENSITY_ACTIVATIONS, SmallMLP, linear, truncated_exp


def gradient(function, value):
    raw = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    function(raw).backward()
    return raw.grad.item()


@pytest.mark.parametrize("value", [-20.0, -3.0, 0.0, 10.0, 20.0])
def test_truncated_exp_is_exp(value):
    raw = torch.tensor([value], dtype=torch.float64)
    torch.testing.assert_close(truncated_exp(raw), raw.exp())


@pytest.mark.parametrize(
    "value, expected",
    [(0.0, 1.0), (14.0, math.exp(14)), (20.0, math.exp(15)), (-20.0, math.exp(-15))],
)
def test_truncated_exp_has_its_gradient_held_beyond_fifteen(value, expected):
    assert gradient(truncated_exp, value) == pytest.approx(expected)


def test_opaque_density_stays_finite_and_is_not_driven_on():
    raw = torch.tensor([16.0, 500.0], requires_grad=True)
    density = truncated_exp(raw)
    assert density.square().isfinite().all()
    (up,) = torch.autograd.grad(density.sum(), raw, retain_graph=True)
    (down,) = torch.autograd.grad(-density.sum(), raw)
    assert (up == math.exp(15)).all() and (down == 0).all()


def test_truncated_exp_can_be_differentiated_twice():
    raw = torch.linspace(-3, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(truncated_exp, (raw,))


@pytest.mark.parametrize("name", sorted(DENSITY_ACTIVATIONS))
def test_densities_are_never_negative(name):
    assert (DENSITY_ACTIVATIONS[name](torch.linspace(-50, 50, 101)) >= 0).all()


def test_linear_weights_are_glorot_uniform_and_biases_zero():
    layer = linear(300, 100, generator=torch.Generator().manual_seed(0))
    bound = math.sqrt(6 / 400)
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert (layer.bias == 0).all()


def test_linear_draws_from_its_generator_alone():
    before = torch.get_rng_state()
    linear(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_small_mlp_is_its_matrices_with_relu_between():
    mlp = SmallMLP(3, (5, 4), 2, bias=True, generator=torch.Generator().manual_seed(0))
    x = torch.randn(7, 3)
    first, second, third = mlp.layers
    expected = third(second(first(x).clamp_min(0)).clamp_min(0))
    torch.testing.assert_close(mlp(x), expected)
    assert expected.min() < 0  # nothing behind the last layer


@pytest.mark.parametrize("bias, count", [(False, 32 * 64 + 64 * 16), (True, 33 * 64 + 65 * 16)])
def test_small_mlp_parameter_count(bias, count):
    mlp = SmallMLP(32, (64,), 16, bias)
    assert sum(p.numel() for p in mlp.parameters()) == count


def test_small_mlp_without_hidden_layers_is_linear():
    mlp = SmallMLP(3, (), 2, bias=False)
    x = torch.randn(4, 3)
    torch.testing.assert_close(mlp(x), x @ mlp.layers[0].weight.T)
