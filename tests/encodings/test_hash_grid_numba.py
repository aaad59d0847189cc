"""The compiled lookup against the torch reference, forward and backward."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from polyfield import backend
from polyfield.encodings.grid import hash_encode, hash_encode_torch
from polyfield.encodings.hash_grid import HashGridConfig, hash_grid_layout
from polyfield.encodings.hash_grid_numba import hash_encode_numba

pytest.importorskip("numba")


def layout(in_dim=3, **settings):
    small = {"levels": 5, "log2_entries": 10, "base_resolution": 4, "max_resolution": 70}
    return hash_grid_layout(HashGridConfig(**{**small, **settings}), in_dim)


def inputs(shape, n, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, shape.in_dim, generator=generator) * 2 - 1) * spread
    table = torch.randn(shape.entries, shape.features, generator=generator)
    grad = torch.randn(n, shape.out_dim, generator=generator)
    return x, table, grad


def run(function, shape, x, table, grad):
    x, table = x.clone().requires_grad_(), table.clone().requires_grad_()
    out = function(x, table, shape)
    out.backward(grad)
    return out.detach(), x.grad, table.grad


def assert_parity(shape, x, table, grad):
    fast = run(hash_encode_numba, shape, x, table, grad)
    reference = run(hash_encode_torch, shape, x, table, grad)
    for got, want in zip(fast, reference, strict=True):
        scale = want.abs().max().item()  # sums of many terms round relative to the largest
        torch.testing.assert_close(got, want, atol=2e-6 * scale, rtol=1e-5)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "in_dim, features", [(1, 2), (2, 2), (3, 2), (4, 2), (2, 1), (3, 4), (3, 8)]
)
def test_parity_for_every_size(in_dim, features):
    shape = layout(in_dim, features=features)
    assert_parity(shape, *inputs(shape, 301))


@pytest.mark.parametrize("features", [3, 34])
def test_parity_for_unusual_widths(features):
    shape = layout(features=features)
    assert_parity(shape, *inputs(shape, 50))


@pytest.mark.parametrize("n", [1, 255, 256, 257, 513, 1025])
def test_parity_at_block_edges(n):
    shape = layout()
    assert_parity(shape, *inputs(shape, n))


@pytest.mark.parametrize("options", [{"wrap": True}, {"interpolation": "smoothstep"}])
@pytest.mark.parametrize("in_dim", [2, 3])
def test_parity_of_options(in_dim, options):
    shape = layout(in_dim, **options)
    assert_parity(shape, *inputs(shape, 300))


@pytest.mark.parametrize("wrap", [False, True])
def test_parity_beyond_the_box(wrap):
    shape = layout(wrap=wrap)
    assert_parity(shape, *inputs(shape, 300, spread=3.0))


def test_parity_on_the_border():
    shape = layout()
    x, table, grad = inputs(shape, 27)
    x = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    assert_parity(shape, x, table, grad)


def test_parity_at_the_paper_sizes():
    shape = hash_grid_layout(HashGridConfig(log2_entries=14))
    assert_parity(shape, *inputs(shape, 500))


def test_empty_batch_has_an_empty_result_and_zero_gradient():
    shape = layout()
    out, x_grad, table_grad = run(hash_encode_numba, shape, *inputs(shape, 0))
    assert out.shape == (0, shape.out_dim) and x_grad.shape == (0, 3)
    assert table_grad.shape == (shape.entries, 2) and (table_grad == 0).all()


def test_non_contiguous_tensors_are_read_in_the_right_order():
    shape = layout()
    x, table, grad = inputs(shape, 200)
    x, table, grad = (v.T.contiguous().T for v in (x, table, grad))
    assert not x.is_contiguous()
    assert_parity(shape, x, table, grad)


def test_broadcast_gradient_is_read_in_the_right_order():
    shape = layout()
    x, table, _ = inputs(shape, 20)
    assert_parity(shape, x, table, torch.tensor(0.5).expand(20, shape.out_dim))


def test_gradients_that_nobody_wants_are_not_computed():
    shape = layout()
    x, table, _ = inputs(shape, 5)
    assert not hash_encode_numba(x, table, shape).requires_grad
    table.requires_grad_()
    hash_encode_numba(x, table, shape).sum().backward()
    assert x.grad is None and table.grad is not None


def test_result_does_not_depend_on_the_number_of_threads(threads):
    shape = layout(levels=3)
    data = inputs(shape, 20_000)
    results = []
    for n in (1, 2, 3, 7, 2):
        threads(n)
        results.append(run(hash_encode_numba, shape, *data))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_several_threads_may_call_it_at_once(threads):
    threads(2)
    shape = layout()
    data = [inputs(shape, 3000, seed) for seed in range(6)]
    alone = [run(hash_encode_numba, shape, *d) for d in data]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda d: run(hash_encode_numba, shape, *d), data))
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def second_order(function, shape, data, cotangents):
    """Gradients of both gradients (in x and in the table) in x, table and incoming gradient."""
    leaves = [v.clone().requires_grad_() for v in data]
    out = function(leaves[0], leaves[1], shape)
    first = torch.autograd.grad(out, leaves[:2], leaves[2], create_graph=True)
    options = {"retain_graph": True, "materialize_grads": True}
    of_slope = torch.autograd.grad(first[0], leaves, cotangents[0], **options)
    of_table = torch.autograd.grad(first[1], (leaves[0], leaves[2]), cotangents[1], **options)
    return of_slope + of_table


def assert_second_order_parity(shape, data, seed=9):
    cotangents = [torch.randn(v.shape, generator=torch.Generator().manual_seed(seed)) for v in data]
    fast = second_order(hash_encode_numba, shape, data, cotangents)
    reference = second_order(hash_encode_torch, shape, data, cotangents)
    for got, want in zip(fast, reference, strict=True):
        scale = want.abs().max().item() if want.numel() else 0.0
        torch.testing.assert_close(got, want, atol=5e-6 * scale, rtol=1e-4)


class TestGradientsOfGradients:
    @pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
    @pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
    def test_parity_for_every_size(self, in_dim, interpolation):
        shape = layout(in_dim, interpolation=interpolation)
        assert set(shape.hashed) == ({True, False} if in_dim > 1 else {False})
        assert_second_order_parity(shape, inputs(shape, 301))

    @pytest.mark.parametrize("options", [{"wrap": True}, {"features": 4}])
    def test_parity_of_options(self, options):
        shape = layout(interpolation="smoothstep", **options)
        assert_second_order_parity(shape, inputs(shape, 257, spread=1.5))

    @pytest.mark.parametrize("n", [0, 1, 256, 513])
    def test_parity_at_block_edges(self, n):
        shape = layout(interpolation="smoothstep")
        assert_second_order_parity(shape, inputs(shape, n))

    def test_non_contiguous_tensors_are_read_in_the_right_order(self):
        shape = layout(interpolation="smoothstep")
        data = [v.T.contiguous().T for v in inputs(shape, 100)]
        assert_second_order_parity(shape, data)

    def test_linear_weights_have_mixed_second_derivatives_only(self):
        shape = layout()
        leaf, table, grad = inputs(shape, 50)
        leaf.requires_grad_()
        (first,) = torch.autograd.grad(
            hash_encode_numba(leaf, table, shape), leaf, grad, create_graph=True
        )
        (row,) = torch.autograd.grad(first[:, 0].sum(), leaf)
        assert row[:, 0].abs().max() == 0 and row[:, 1:].abs().min(0).values.min() > 0

    def test_results_do_not_depend_on_the_number_of_threads(self, threads):
        shape = layout(levels=3, interpolation="smoothstep")
        data = inputs(shape, 9000)
        cotangents = [torch.ones_like(v) for v in data]
        results = []
        for n in (1, 2, 5):
            threads(n)
            results.append(second_order(hash_encode_numba, shape, data, cotangents))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    def test_loss_of_the_gradient_trains_what_made_the_points(self):
        shape = layout(levels=2, interpolation="smoothstep")
        x, table, grad = inputs(shape, 40)

        def second(function):
            leaf, entries = x.clone().requires_grad_(), table.clone().requires_grad_()
            out = function(leaf * 0.9, entries, shape)
            (first,) = torch.autograd.grad(out, leaf, grad, create_graph=True)
            return torch.autograd.grad(((first.norm(dim=-1) - 1) ** 2).sum(), (leaf, entries))

        for got, want in zip(second(hash_encode_numba), second(hash_encode_torch), strict=True):
            assert want.abs().max() > 0
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())

    def test_third_derivatives_equal_the_reference(self):
        shape = layout(levels=2, interpolation="smoothstep")
        x, table, grad = inputs(shape, 20)

        def third(function):
            leaf, entries = x.clone().requires_grad_(), table.clone().requires_grad_()
            # entries that depend on x: what they have in common must not be counted twice
            out = function(leaf, entries * leaf.mean(), shape)
            for _ in range(2):
                (out,) = torch.autograd.grad((out**2).sum(), leaf, create_graph=True)
            return torch.autograd.grad((out**2).sum(), (leaf, entries))

        for got, want in zip(third(hash_encode_numba), third(hash_encode_torch), strict=True):
            assert want.abs().max() > 0
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())

    def test_reference_is_not_called(self, monkeypatch):
        def refuse(*_):
            raise AssertionError("the torch reference ran")

        monkeypatch.setattr("polyfield.encodings.hash_grid_numba.hash_encode_torch", refuse)
        shape = layout()
        data = inputs(shape, 10)
        found = second_order(hash_encode_numba, shape, data, [torch.ones_like(v) for v in data])
        assert sum(float(v.abs().sum()) for v in found) > 0
        x = data[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            hash_encode_numba(x, data[1], shape).square().sum(), x, create_graph=True
        )
        with pytest.raises(AssertionError, match="the torch reference ran"):  # third ones do
            torch.autograd.grad(slope.square().sum(), x, create_graph=True)


def test_points_that_are_no_numbers_give_no_numbers_and_touch_nothing_else():
    shape = layout()
    x, table, grad = inputs(shape, 3)
    x[1, 0] = float("nan")
    out, _, _ = run(hash_encode_numba, shape, x, table, grad)
    assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


def test_dispatcher_picks_it_for_float32_and_obeys():
    shape = layout()
    x, table, _ = inputs(shape, 10)
    assert backend.resolve("hash-encode", device="cpu").backend == "numba"
    with backend.using("torch"):
        assert backend.resolve("hash-encode", device="cpu").backend == "torch"
        reference = hash_encode(x, table, shape)
    torch.testing.assert_close(hash_encode(x, table, shape), reference)


def test_code_is_compiled_anew_where_no_cache_can_be_written(monkeypatch):
    from numba.core import caching

    from polyfield.encodings.kernels.jit import jit

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert jit(_double)(2.5) == 5.0


def _double(x):
    return 2 * x


def test_looking_up_encodings_does_not_import_numba():
    code = (
        "import sys; from polyfield.registry import names; names('encodings'); names('backbones');"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
