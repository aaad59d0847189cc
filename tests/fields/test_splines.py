"""B-splines: closed forms, the naive recursion, refits; compiled kernels against torch."""

from __future__ import annotations

import pytest
import torch

from polyfield import backend
from polyfield.fields import splines
from polyfield.fields.splines import (
    adaptive_knots,
    curves,
    fit_coefficients,
    inner,
    inserted,
    local_basis,
    pieces,
    refined_knots,
    spline_basis,
    spline_sum,
    spline_sum_torch,
    transfer,
    uniform_knots,
)
from polyfield.fields.splines_numba import PART, spline_sum_numba


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uneven(features, intervals, order, dtype=torch.float64, seed=0):
    """Knots that differ from feature to feature."""
    x = random(200, features, seed=seed).tanh()
    return adaptive_knots(x, intervals, order, 0.2, (-1.0, 1.0)).to(dtype)


def test_cubic_bases_on_five_intervals_have_the_known_values():
    knots = uniform_knots(5, 3).double()[None]
    torch.testing.assert_close(
        knots[0], torch.linspace(-2.2, 2.2, 12, dtype=torch.float64), atol=1e-6, rtol=0
    )
    middle = spline_basis(torch.zeros(1, dtype=torch.float64), knots, 3)[0]
    known = torch.tensor([0, 0, 1, 23, 23, 1, 0, 0], dtype=torch.float64) / 48
    torch.testing.assert_close(middle, known, atol=1e-6, rtol=0)
    at_knot = spline_basis(knots[0, 5:6], knots, 3)[0]
    assert [round(float(v), 5) for v in at_knot[2:5]] == [0.16667, 0.66667, 0.16667]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_bases_sum_to_one_on_the_grid_ends_included(order):
    x = torch.linspace(-1, 1, 257, dtype=torch.float64)[:, None]
    for knots in (uniform_knots(5, order).double()[None], uneven(1, 7, order)):
        torch.testing.assert_close(spline_basis(x, knots, order).sum(-1), torch.ones_like(x))


def test_bases_fade_beyond_the_grid():
    knots = uniform_knots(5, 3).double()[None]
    x = torch.tensor([[-1.5], [1.5], [2.3], [-2.3]], dtype=torch.float64)
    total = spline_basis(x, knots, 3).sum(-1)[:, 0]
    assert total[:2].tolist() == pytest.approx([0.682, 0.682], abs=1e-3)
    assert total[2:].tolist() == [0, 0]


def test_coincident_knots_count_as_nothing():
    knots = torch.tensor([[-2.0, -1.0, 0.0, 0.0, 1.0, 2.0]])
    values = spline_basis(torch.tensor([[0.5], [0.0]]), knots, 1)
    assert values.isfinite().all() and values.sum(-1).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_local_bases_are_the_dense_ones(order):
    knots = uneven(3, 6, order)
    x = random(300, 3, seed=1)
    values, first = local_basis(x, knots, order)
    dense = spline_basis(x, knots, order)
    number = first[..., None] + torch.arange(order + 1)
    exists = (number >= 0) & (number < dense.shape[-1])
    laid_out = torch.zeros_like(dense).scatter_add(
        -1, number.clamp(0, dense.shape[-1] - 1), values * exists
    )
    torch.testing.assert_close(laid_out, dense)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_pieces_are_the_bases_as_polynomials(order):
    knots = uneven(2, 5, order)
    table = pieces(knots, order)
    for cell in range(knots.shape[1] - 1):
        v = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
        x = knots[:, cell] + v[:, None] * (knots[:, cell + 1] - knots[:, cell])
        powers = v[:, None] ** torch.arange(order + 1)
        dense = torch.nn.functional.pad(spline_basis(x, knots, order), (order, order))
        got = torch.einsum("fmp,np->nfm", table[:, cell], powers)
        torch.testing.assert_close(got, dense[..., cell : cell + order + 1])


def test_the_slope_of_a_cubic_is_continuous_and_slopes_of_bases_sum_to_zero():
    knots = uneven(1, 5, 3)
    at = inner(knots, 3)[0, 1:-1]
    for side in (-1e-9, 1e-9):
        x = (at + side)[:, None].requires_grad_()
        values = spline_basis(x, knots, 3)
        (slope,) = torch.autograd.grad(values.sum(), x, retain_graph=True)
        assert slope.abs().max() < 1e-6
        (one,) = torch.autograd.grad(values[:, 0, 3].sum(), x)
        left = one if side < 0 else left  # noqa: F821, F841
    torch.testing.assert_close(left, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_coefficients_are_found_again_from_samples(dtype, within):
    knots = uniform_knots(5, 3).repeat(2, 1).to(dtype)
    c = random(2, 8, 3, dtype=dtype)
    x = torch.linspace(-1, 1, 101, dtype=dtype)[:, None].repeat(1, 2)
    found = fit_coefficients(x, curves(x, knots, c), knots, 3)
    assert (found - c).abs().max() < within


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 16, 19])
@pytest.mark.parametrize("rows", [0, 1, 63, 65, PART + 3])
def test_kernels_and_reference_agree_with_the_sum_over_all_bases(rows, width, order):
    knots, c = uneven(3, 6, order, torch.float32), random(3, 6 + order, width, dtype=torch.float32)
    x = random(rows, 3, seed=2, dtype=torch.float32)
    towards = random(rows, width, seed=3, dtype=torch.float32)

    def outcome(function):
        a, b = x.clone().requires_grad_(), c.clone().requires_grad_()
        out = function(a, knots, b)
        return [out, *torch.autograd.grad(out, [a, b], towards)]

    def naive(a, knots, b):
        return curves(a, knots, b).sum(1)

    expected = outcome(naive)
    for function in (spline_sum_torch, spline_sum_numba):
        for got, wanted in zip(outcome(function), expected, strict=True):
            size = float(wanted.detach().abs().amax()) if wanted.numel() else 1.0
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5 * max(1.0, size))


def test_sums_do_not_depend_on_the_number_of_threads():
    knots, c = uneven(4, 5, 3, torch.float32), random(4, 8, 5, dtype=torch.float32)
    x, before, found = random(3 * PART + 7, 4, dtype=torch.float32), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        a, b = x.clone().requires_grad_(), c.clone().requires_grad_()
        out = spline_sum_numba(a, knots, b)
        found.append([out, *torch.autograd.grad(out.square().sum(), [a, b])])
    torch.set_num_threads(before)
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


def test_second_derivatives_of_the_kernels_are_the_reference_s():
    knots, c = uneven(2, 5, 3, torch.float32), random(2, 8, 3, dtype=torch.float32)
    found = []
    for function in (spline_sum_torch, spline_sum_numba):
        x = random(20, 2, dtype=torch.float32).requires_grad_()
        (slope,) = torch.autograd.grad(function(x, knots, c).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_what_is_not_a_number_stays_visible(name):
    knots, c = uniform_knots(5, 3).repeat(2, 1), random(2, 8, 3, dtype=torch.float32)
    with backend.using(name):
        out = spline_sum(torch.tensor([[0.0, float("nan")], [0.0, 0.0]]), knots, c)
    assert out[0].isnan().all() and out[1].isfinite().all()


def test_adaptive_knots_are_quantiles_and_even_ones_mixed():
    x = random(1001, 2)
    at = torch.linspace(0, 1, 5, dtype=torch.float64)
    quantiles = torch.quantile(x, at, dim=0).t()
    low, high = x.amin(0)[:, None], x.amax(0)[:, None]
    even = low + (high - low) * at
    for share, expected in ((0.0, quantiles), (1.0, even), (0.25, 0.25 * even + 0.75 * quantiles)):
        torch.testing.assert_close(inner(adaptive_knots(x, 4, 3, share), 3), expected)


def test_a_feature_that_never_changes_still_gets_a_grid():
    knots = adaptive_knots(torch.full((50, 1), 0.3), 5, 3)
    assert (knots.diff() > 0).all() and inner(knots, 3).mean() == pytest.approx(0.3)


@pytest.mark.parametrize("finer", [5, 7, 10, 13, 50])
def test_refinement_keeps_curves_for_any_number_of_intervals(finer):
    x = torch.linspace(-1, 1, 301, dtype=torch.float64)[:, None].repeat(1, 2)
    c = random(2, 8, 3)
    for knots in (uniform_knots(5, 3).double().repeat(2, 1), uneven(2, 5, 3)):
        new = refined_knots(knots, 3, finer)
        assert new.shape[1] == finer + 7 and (new.diff() > 0).all()
        for c_new in (inserted(c, knots, new), transfer(c, knots, new)):
            assert (curves(x, new, c_new) - curves(x, knots, c)).abs().max() < 1e-9


@pytest.mark.parametrize("order", [1, 2, 4, 5])
def test_refinement_keeps_curves_of_any_order(order):
    x = torch.linspace(-1, 1, 301, dtype=torch.float64)[:, None]
    knots, c = uneven(1, 5, order), random(1, 5 + order, 2)
    new = refined_knots(knots, order, 13)
    after = curves(x, new, inserted(c, knots, new))
    torch.testing.assert_close(after, curves(x, knots, c))


def test_twice_the_intervals_of_an_even_grid_are_an_even_grid():
    new = refined_knots(uniform_knots(5, 3)[None].double(), 3, 10)
    torch.testing.assert_close(new[0], uniform_knots(10, 3).double(), atol=1e-6, rtol=0)


def test_a_grid_cannot_be_refined_to_fewer_intervals():
    with pytest.raises(ValueError, match="5 intervals"):
        refined_knots(uniform_knots(5, 3)[None], 3, 4)


def test_the_operation_is_registered_with_both_forms():
    found = {i.backend for i in backend.operations()["spline-sum"]}
    assert found == {"torch", "numba"} and splines.DENSE > 3
