import pytest
import torch

from polyfield.encodings.contraction import contract, uncontract
from polyfield.errors import UnknownNameError


def far_points(n=300):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return x * torch.exp(2 * torch.randn(n, 1, generator=generator, dtype=torch.float64))


def on_axis(radius):
    return torch.tensor([0.0, radius, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "radius, expected", [(0.5, 0.25), (1.0, 0.5), (2.0, 0.75), (1e6, 0.9999995)]
)
def test_radius_is_half_of_two_minus_its_inverse(radius, expected):
    torch.testing.assert_close(contract(on_axis(radius), "sphere"), on_axis(expected))


def test_result_lies_in_the_unit_ball():
    y = contract(far_points(), "sphere")
    assert y.norm(dim=-1).max() < 1
    assert far_points().norm(dim=-1).max() > 10


def test_direction_is_kept():
    x = far_points()
    cosine = torch.cosine_similarity(x, contract(x, "sphere"), dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_map_is_continuous_at_the_unit_sphere():
    inside, outside = (contract(on_axis(1 + e), "sphere") for e in (-1e-9, 1e-9))
    torch.testing.assert_close(inside, outside, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", ["none", "sphere"])
def test_inverse_leads_back(kind):
    x = far_points()
    torch.testing.assert_close(uncontract(contract(x, kind), kind), x, rtol=1e-9, atol=1e-9)


def test_none_is_the_identity():
    x = far_points()
    assert contract(x, "none") is x


@pytest.mark.parametrize("function", [contract, uncontract])
def test_unknown_kind_is_named(function):
    # past the annotation, as a settings file would come
    bare = getattr(function, "__wrapped__", function)
    with pytest.raises((UnknownNameError, TypeError), match="sphere|contraction|kind"):
        bare(torch.zeros(1, 3), "spher")


@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_gradient_matches_finite_differences(radius):
    x = torch.nn.functional.normalize(far_points(5), dim=-1).mul(radius).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: contract(v, "sphere"), (x,))
    y = contract(x, "sphere").detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: uncontract(v, "sphere"), (y,))


def test_gradient_at_the_centre_is_finite():
    x = torch.zeros(2, 3, requires_grad=True)
    contract(x, "sphere").sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 3), 0.5))


def test_empty_batch():
    assert contract(torch.zeros(0, 3), "sphere").shape == (0, 3)
