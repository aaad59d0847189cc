"""The operation "small-mlp": compiled kernels against the torch reference and closed forms."""

from __future__ import annotations

import pytest
import torch

from polyfield import backend
from polyfield.errors import ConfigError
from polyfield.fields.heads import SmallMLP
from polyfield.fields.small_mlp import WIDEST, small_mlp, small_mlp_torch
from polyfield.fields.small_mlp_numba import PART, small_mlp_numba

SHAPES = [(1, 1), (3, 5), (32, 64, 16), (7, 33, 9, 2), (16, 128, 64, 3)]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def network(widths, bias, seed=0):
    g = torch.Generator().manual_seed(seed)
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    weights = [(torch.randn(b, a, generator=g) / a**0.5).requires_grad_() for a, b in pairs]
    biases = [torch.randn(b, generator=g).requires_grad_() if bias else None for _, b in pairs]
    return weights, biases


def outcome(function, x, weights, biases, *more):
    """Outputs and all gradients under a gradient that differs from row to row."""
    x = x.clone().requires_grad_()
    out = function(x, weights, biases, *more)
    towards = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    wanted = [x, *weights, *[b for b in biases if b is not None]]
    return [out, *torch.autograd.grad(out, wanted, towards)]


def assert_close(got, expected):
    for a, b in zip(got, expected, strict=True):
        size = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", SHAPES)
@pytest.mark.parametrize("rows", [1, 255, 256, 257, PART + 3])
def test_kernels_agree_with_the_reference(threads, rows, widths, bias):
    x = torch.randn(rows, widths[0], generator=torch.Generator().manual_seed(1))
    parameters = network(widths, bias)
    got = outcome(small_mlp_numba, x, *parameters)
    assert_close(got, outcome(small_mlp_torch, x, *parameters))


def test_sums_do_not_depend_on_the_number_of_threads():
    x = torch.randn(3 * PART + 77, 32, generator=torch.Generator().manual_seed(1))
    parameters = network((32, 64, 16), True)
    results = []
    before = torch.get_num_threads()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        results.append(outcome(small_mlp_numba, x, *parameters))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_extra_inputs_are_appended_by_row(threads):
    g = torch.Generator().manual_seed(2)
    x, extra = torch.randn(700, 5, generator=g), torch.randn(9, 6, generator=g)
    index = torch.randint(9, (700,), generator=g)
    parameters = network((11, 32, 3), True)
    got = outcome(small_mlp_numba, x, *parameters, extra, index)
    assert_close(got, outcome(small_mlp_torch, x, *parameters, extra, index))
    whole = small_mlp_torch(torch.cat((x, extra[index]), 1), *parameters)
    torch.testing.assert_close(got[0], whole, rtol=1e-4, atol=1e-5)


def test_extra_inputs_get_gradients_too():
    extra = torch.randn(4, 2, requires_grad=True)
    index = torch.tensor([0, 0, 3, 1, 3])
    x, (weights, biases) = torch.randn(5, 3), network((5, 8, 1), False)
    found = [
        torch.autograd.grad(f(x, weights, biases, extra, index).square().sum(), extra)[0]
        for f in (small_mlp_numba, small_mlp_torch)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert found[0][2].abs().max() == 0 and found[0][3].abs().max() > 0


def test_one_hidden_unit_in_closed_form():
    x = torch.tensor([[2.0], [-2.0]], requires_grad=True)
    weights = [torch.tensor([[3.0]]), torch.tensor([[5.0]])]
    biases = [torch.tensor([1.0]), torch.tensor([-4.0])]
    out = small_mlp_numba(x, weights, biases)
    assert out[:, 0].tolist() == [5 * 7 - 4, -4]
    assert torch.autograd.grad(out.sum(), x)[0][:, 0].tolist() == [15, 0]


def test_no_rows():
    weights, biases = network((4, 8, 2), True)
    got = outcome(small_mlp_numba, torch.zeros(0, 4), weights, biases)
    assert got[0].shape == (0, 2) and got[1].shape == (0, 4)
    assert all(float(g.abs().sum()) == 0 for g in got[2:])


def test_inputs_that_are_not_contiguous():
    wide = torch.randn(300, 20, generator=torch.Generator().manual_seed(3))
    parameters = network((10, 16, 4), True)
    got = outcome(small_mlp_numba, wide[:, ::2], *parameters)
    assert_close(got, outcome(small_mlp_torch, wide[:, ::2].contiguous(), *parameters))
    turned = small_mlp_numba(wide.T[:10].T, *parameters)
    torch.testing.assert_close(turned, small_mlp_torch(wide[:, :10], *parameters), rtol=1e-4,
                               atol=1e-5)  # fmt: skip


def test_what_is_not_a_number_stays_visible():
    x = torch.zeros(3, 4)
    x[1, 2] = float("nan")
    weights, biases = network((4, 8, 8, 2), True)
    out = small_mlp_numba(x, weights, biases)
    assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


def test_second_derivatives_equal_the_reference():
    weights, biases = network((3, 16, 16, 1), True)
    found = []
    for function in (small_mlp_numba, small_mlp_torch):
        x = torch.linspace(-1, 1, 30).reshape(10, 3).requires_grad_()
        out = function(x, weights, biases)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), weights))
    assert_close(*found)
    assert float(found[0][0].abs().max()) > 0


def test_the_dispatcher_takes_kernels_for_small_float32_networks_only():
    chosen = []
    for widths, dtype in [((3, 8, 1), torch.float32), ((3, 8, 1), torch.float64)]:
        weights, biases = network(widths, False)
        small_mlp(torch.zeros(2, 3, dtype=dtype), [w.to(dtype) for w in weights], biases)
        chosen.append(backend.choices()["small-mlp"]["backend"])
    assert chosen == ["numba", "torch"]


def test_wide_networks_are_computed_all_the_same():
    weights, biases = network((3, WIDEST + 1, 2), True)
    x = torch.randn(2, 5, 3)
    out = small_mlp(x, weights, biases)
    assert out.shape == (2, 5, 2)
    expected = small_mlp_torch(x.reshape(10, 3), weights, biases).reshape(2, 5, 2)
    torch.testing.assert_close(out, expected)


def test_autocast_computes_in_the_lower_precision():
    mlp = SmallMLP(8, (16,), 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert mlp(torch.randn(5, 8)).dtype == torch.bfloat16


def test_a_matrix_used_twice_counts_twice_and_no_more():
    found = []
    for function in (small_mlp_numba, small_mlp_torch):
        weights = [torch.linspace(-1, 1, 16).reshape(4, 4).requires_grad_()]
        x = torch.linspace(-1, 2, 12).reshape(3, 4).requires_grad_()
        out = function(function(x, weights, [None]), weights, [None])
        given = (x, weights[0])
        slope, first = torch.autograd.grad(out.square().sum(), given, create_graph=True)
        found.append((first.detach(), torch.autograd.grad(slope.square().sum(), weights[0])[0]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [2, 5, 500])
def test_inputs_of_another_width_are_refused(width):
    with pytest.raises(ConfigError, match=f"takes 3 inputs, got {width}"):
        SmallMLP(3, (8,), 2)(torch.rand(10, width))


def test_extra_inputs_that_do_not_fit_are_refused():
    mlp, x, extra = SmallMLP(5, (8,), 2), torch.rand(4, 3), torch.rand(3, 2)
    with pytest.raises(ConfigError, match="each of 4 rows, got 2"):
        mlp(x, extra, torch.zeros(2, dtype=torch.int64))
    for wrong in (-1, 3):
        with pytest.raises(IndexError, match="but there are 3 rows"):
            mlp(x, extra, torch.tensor([0, wrong, 1, 2]))
