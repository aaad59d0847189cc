"""Interpolation in regular grids: closed forms, and the compiled one against the reference."""

import doctest
import itertools

import pytest
import torch
from torch.nn.functional import grid_sample

from polyfield import backend
from polyfield.encodings import interpolation
from polyfield.encodings.interpolation import interpolate, interpolate_torch

RESOLUTIONS = [(7,), (5, 4), (3, 4, 6), (3, 2, 4, 5)]


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def points(*shape, dtype=torch.float64, spread=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, dtype=dtype, generator=generator) * 2 - 1) * spread


def naive(x, values):
    """One point, straight from the definition."""
    total = torch.zeros(values.shape[-1], dtype=values.dtype)
    position = [
        min(max((float(v) + 1) / 2 * (n - 1), 0.0), n - 1.0)
        for v, n in zip(x, values.shape[:-1], strict=True)
    ]
    for node in itertools.product(*(range(n) for n in values.shape[:-1])):
        weight = 1.0
        for p, k in zip(position, node, strict=True):
            weight *= max(0.0, 1 - abs(p - k))
        total += weight * values[node]
    return total


@pytest.mark.parametrize("resolution", RESOLUTIONS + [(1, 3), (1,)])
def test_is_the_sum_of_hats(resolution):
    values = random(*resolution, 3)
    x = points(20, len(resolution), spread=1.3)
    expected = torch.stack([naive(p, values) for p in x])
    torch.testing.assert_close(interpolate(x, values), expected)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_nodes_have_their_values_in_the_order_of_the_axes(resolution):
    values = random(*resolution, 2)
    for node in itertools.product(*(range(n) for n in resolution)):
        at = [2 * k / (n - 1) - 1 for k, n in zip(node, resolution, strict=True)]
        x = torch.tensor(at, dtype=torch.float64)
        torch.testing.assert_close(interpolate(x, values), values[node])


@pytest.mark.parametrize("resolution", [(5, 4), (3, 4, 6)])
def test_equals_grid_sample_with_border_padding(resolution):
    values, x = random(*resolution, 3), points(200, len(resolution), spread=1.2)
    ones = [1] * (len(resolution) - 1)
    grid = x.flip(-1).reshape(1, -1, *ones, len(resolution))  # grid_sample's last axis comes first
    expected = grid_sample(values.movedim(-1, 0)[None], grid, "bilinear", "border", True)
    torch.testing.assert_close(interpolate(x, values), expected.reshape(3, 200).T)


def test_reproduces_a_linear_function():
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in (4, 7, 3)]
    a, b, c = torch.meshgrid(*axes, indexing="ij")
    x = points(50, 3)
    got = interpolate(x, (2 * a - 3 * b + 5 * c + 1)[..., None])[:, 0]
    torch.testing.assert_close(got, x @ torch.tensor([2.0, -3.0, 5.0]).double() + 1)


def test_gradient_in_x_is_the_slope_inside_and_zero_outside():
    values = torch.tensor([[0.0], [1.0], [5.0]])
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[-1.5], [-1.0], [-0.5], [0.5], [1.0], [1.5]], dtype=dtype)
        x.requires_grad_()
        interpolate(x, values.to(dtype)).sum().backward()
        assert x.grad[:, 0].tolist() == [0, 1, 1, 4, 0, 0]


def test_gradient_in_values_is_the_weights():
    values = torch.zeros(3, 2, 1, dtype=torch.float64, requires_grad=True)
    interpolate(torch.tensor([0.5, -2.0]).double(), values).sum().backward()
    assert values.grad[..., 0].tolist() == [[0, 0], [0.5, 0], [0.5, 0]]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_first_and_second_derivatives_match_finite_differences(resolution):
    x = points(4, len(resolution)).requires_grad_()
    values = random(*resolution, 2).requires_grad_()
    assert torch.autograd.gradcheck(interpolate_torch, (x, values))
    assert torch.autograd.gradgradcheck(interpolate_torch, (x, values))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (3, 0)])
def test_leading_shape_is_free(shape):
    for dtype in (torch.float32, torch.float64):
        values, x = random(5, 4, 3, dtype=dtype), points(*shape, 2, dtype=dtype)
        got = interpolate(x, values)
        assert got.shape == (*shape, 3) and got.dtype == dtype
        torch.testing.assert_close(got.reshape(-1, 3), interpolate_torch(x.reshape(-1, 2), values))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError):
        interpolate(torch.zeros(4, 3), torch.zeros(5, 5, 2))
    with pytest.raises(AssertionError):
        interpolate(torch.zeros(4, 5), torch.zeros(2, 2, 2, 2, 2, 1))


def test_example_in_the_docstring_holds():
    found = doctest.testmod(interpolation)
    assert found.attempted > 0 and found.failed == 0


def derivatives(function, x, values, grad, cotangents):
    """The features, both gradients, and the gradients of both gradients."""
    leaves = [v.clone().requires_grad_() for v in (x, values, grad)]
    out = function(*leaves[:2])
    options = {"create_graph": True, "materialize_grads": True}
    first = torch.autograd.grad(out, leaves[:2], leaves[2], **options)
    of_slope = torch.autograd.grad(first[0], leaves, cotangents[0], **options)
    of_values = torch.autograd.grad(first[1], (leaves[0], leaves[2]), cotangents[1], **options)
    return [v.detach() for v in (out, *first, *of_slope, *of_values)]


def data(n, resolution, features, spread=1.2):
    kind = {"dtype": torch.float32}
    x = points(n, len(resolution), spread=spread, **kind)
    values, grad = random(*resolution, features, **kind), random(n, features, seed=2, **kind)
    return x, values, grad, [random(*v.shape, seed=3, **kind) for v in (x, values)]


def assert_parity(*arguments):
    pytest.importorskip("numba")
    from polyfield.encodings.interpolation_numba import interpolate_numba

    fast = derivatives(interpolate_numba, *arguments)
    reference = derivatives(interpolate_torch, *arguments)
    for got, want in zip(fast, reference, strict=True):
        scale = want.abs().max().item() if want.numel() else 0.0
        torch.testing.assert_close(got, want, atol=5e-6 * scale, rtol=1e-4)


class TestCompiled:
    @pytest.mark.parametrize("resolution", RESOLUTIONS + [(300, 200), (1, 3)])
    def test_parity_for_every_dimension(self, resolution):
        assert_parity(*data(301, resolution, 2))

    @pytest.mark.parametrize("features", [1, 16, 17, 48, 96])
    def test_parity_for_every_width(self, features):
        assert_parity(*data(100, (20, 30), features))

    @pytest.mark.parametrize("n", [0, 1, 255, 256, 513])
    def test_parity_at_block_edges(self, n):
        assert_parity(*data(n, (9, 8), 2))

    def test_parity_of_non_contiguous_tensors(self):
        x, values, grad, cotangents = data(90, (9, 8), 2)
        swapped = values.transpose(0, 1).contiguous().transpose(0, 1)
        assert not swapped.is_contiguous()
        assert_parity(x.T.contiguous().T, swapped, grad.T.contiguous().T, cotangents)
        assert_parity(x, values, torch.tensor(0.5).expand(90, 2), cotangents)

    @pytest.mark.parametrize("features", [2, 48])
    def test_results_do_not_depend_on_the_number_of_threads(self, features):
        from polyfield.encodings.interpolation_numba import interpolate_numba

        arguments, before, results = data(5000, (20, 30), features), torch.get_num_threads(), []
        try:
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                results.append(derivatives(interpolate_numba, *arguments))
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    def test_third_derivatives_equal_the_reference(self):
        from polyfield.encodings.interpolation_numba import interpolate_numba

        def third(function):
            x, values = points(20, 2).float().requires_grad_(), random(5, 4, 2).float()
            out = function(x, values)
            for _ in range(3):
                (out,) = torch.autograd.grad((out**2).sum(), x, create_graph=True)
            return out.detach()

        torch.testing.assert_close(third(interpolate_numba), third(interpolate_torch))

    def test_points_that_are_no_numbers_give_no_numbers(self):
        for function in ("torch", "numba"):
            with backend.using(function):
                x = torch.tensor([[float("nan"), 0.0], [0.0, 0.0]])
                out = interpolate(x, torch.ones(4, 3, 2))
            assert out[0].isnan().all() and (out[1] == 1).all()

    def test_is_what_the_dispatcher_picks(self):
        assert backend.resolve("interpolate", device="cpu", second_order=True).backend == "numba"
        assert backend.resolve("interpolate", device="cpu", dtype="float64").backend == "torch"
