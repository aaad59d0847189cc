"""Adam: the reference against torch's, the kernel against the reference."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from polyfield import backend
from polyfield.encodings.dense_grid import DenseGridConfig, DenseGridEncoding
from polyfield.encodings.hash_grid import HashGridConfig, HashGridEncoding
from polyfield.errors import ConfigError
from polyfield.training.optimisers import Adam

SHAPES = [(7,), (33, 4), (1000, 2), (), (0, 4), (9001, 5)]
OPTIONS = {"lr": 0.03, "betas": (0.9, 0.99), "eps": 1e-9}
BACKENDS = ["torch", "numba"]


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [torch.nn.Parameter(value.to(dtype)) for value in drawn]


def gradients(step: int, share: float = 1.0) -> list[torch.Tensor]:
    """Gradients of a step; rows outside `share` are zero, some of them -0."""
    generator = torch.Generator().manual_seed(100 + step)
    found = []
    for shape in SHAPES:
        rows = torch.rand(shape[:-1] + (1,) * bool(shape), generator=generator) < share
        found.append(torch.randn(shape, generator=generator) * rows)
    return found


def take(optimiser, values, steps=5, share=1.0, first=0):
    for step in range(first, first + steps):
        for value, gradient in zip(values, gradients(step, share), strict=True):
            value.grad = gradient.to(value.dtype)
        optimiser.step()
    return optimiser


def trained(name="auto", steps=5, share=1.0, dtype=torch.float32, **options):
    values = parameters(dtype)
    with backend.using(name):
        optimiser = take(Adam(values, **{**OPTIONS, **options}), values, steps, share)
    moments = [optimiser.state[v][key] for v in values for key in ("exp_avg", "exp_avg_sq")]
    return [v.detach() for v in values], moments


def assert_close(got, want, rtol=1e-5):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-6 if rtol > 1e-9 else 1e-13)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", BACKENDS)
def test_dense_steps_are_those_of_torch(name, weight_decay):
    values = parameters()
    take(torch.optim.Adam(values, weight_decay=weight_decay, **OPTIONS), values)
    assert_close(trained(name, weight_decay=weight_decay)[0], [v.detach() for v in values])


def test_the_reference_is_torchs_in_double_precision():
    values = parameters(torch.float64)
    take(torch.optim.Adam(values, weight_decay=0.1, **OPTIONS), values)
    ours, _ = trained("torch", weight_decay=0.1, dtype=torch.float64)
    assert_close(ours, [v.detach() for v in values], rtol=1e-12)


def naive_sparse(weight_decay: float, share: float, steps: int = 5):
    """Value by value, in double precision: the formula of Kingma and Ba where g is not zero."""
    values = [v.detach().double() for v in parameters()]
    m, v = [torch.zeros_like(p) for p in values], [torch.zeros_like(p) for p in values]
    (beta1, beta2), lr, eps = OPTIONS["betas"], OPTIONS["lr"], OPTIONS["eps"]
    for step in range(steps):
        for i, gradient in enumerate(gradients(step, share)):
            on = gradient != 0
            slope = gradient.double()[on] + weight_decay * values[i][on]
            m[i][on] = beta1 * m[i][on] + (1 - beta1) * slope
            v[i][on] = beta2 * v[i][on] + (1 - beta2) * slope**2
            first = m[i][on] / (1 - beta1 ** (step + 1))
            second = v[i][on] / (1 - beta2 ** (step + 1))
            values[i][on] -= lr * first / (second.sqrt() + eps)
    return [p.float() for p in values]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.0, 0.004, 0.3, 1.0])
@pytest.mark.parametrize("name", BACKENDS)
def test_sparse_steps_equal_a_naive_loop(name, share, weight_decay):
    got, _ = trained(name, share=share, sparse=True, weight_decay=weight_decay)
    assert_close(got, naive_sparse(weight_decay, share), rtol=1e-4)


@pytest.mark.parametrize("name", BACKENDS)
def test_without_gradient_a_sparse_value_and_its_moments_stay_bit_for_bit(name):
    values = parameters()
    with backend.using(name):
        optimiser = take(Adam(values, sparse=True, weight_decay=0.1, **OPTIONS), values, share=1.0)
        before = [v.detach().clone() for v in values]
        moments = [optimiser.state[v]["exp_avg"].clone() for v in values]
        take(optimiser, values, steps=1, share=0.3, first=50)
    for value, old, moment in zip(values, before, moments, strict=True):
        untouched = value.grad == 0
        assert torch.equal(value.detach()[untouched], old[untouched])
        assert torch.equal(optimiser.state[value]["exp_avg"][untouched], moment[untouched])
        assert not torch.equal(value.detach(), old) or bool(untouched.all())


def test_a_dense_value_without_gradient_drifts_on_its_momentum():
    values = parameters()
    optimiser = take(Adam(values, **OPTIONS), values)
    before = [v.detach().clone() for v in values]
    take(optimiser, values, steps=1, share=0.0, first=50)
    assert not torch.equal(values[1].detach(), before[1])


@pytest.mark.parametrize("name", BACKENDS)
def test_a_value_touched_late_first_moves_by_the_rate(name):
    value = torch.nn.Parameter(torch.zeros(64, 4))
    value.grad = torch.zeros(64, 4)
    optimiser = Adam([value], lr=0.01, betas=(0.9, 0.99), eps=1e-15, sparse=True)
    with backend.using(name):
        for _ in range(2000):
            optimiser.step()
        value.grad[5] = -3.0
        optimiser.step()
    assert torch.allclose(value[5], torch.tensor(0.01), rtol=1e-3)
    assert math.isclose(value.detach().sum().item(), 0.04, rel_tol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
def test_kernel_and_reference_agree_on_values_and_moments(sparse):
    options = {"sparse": sparse, "share": 0.3, "weight_decay": 1e-3}
    for got, want in zip(trained("numba", **options), trained("torch", **options), strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("sparse", [False, True])
def test_kernel_is_the_same_for_any_number_of_threads(sparse):
    before = torch.get_num_threads()
    shape, found = (70_001, 3), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            generator = torch.Generator().manual_seed(0)
            value = torch.nn.Parameter(torch.randn(shape, generator=generator))
            optimiser = Adam([value], sparse=sparse, **OPTIONS)
            for _ in range(3):
                rows = torch.rand(shape[0], 1, generator=generator) < 0.1
                value.grad = torch.randn(shape, generator=generator) * rows
                with backend.using("numba"):
                    optimiser.step()
            found.append(value.detach())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_and_parameters_need_not_be_contiguous(sparse):
    plain = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    turned = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4).T.contiguous().T)
    gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).T
    for value in (plain, turned):
        value.grad = gradient if value is plain else gradient.contiguous()
        optimiser = Adam([value], sparse=sparse, **OPTIONS)
        for _ in range(3):
            optimiser.step()
    assert not turned.is_contiguous()
    torch.testing.assert_close(plain.detach(), turned.detach().contiguous())
    assert not torch.equal(plain.detach(), torch.arange(12.0).reshape(3, 4))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_gradient_that_is_no_number_stays_visible(name, sparse):
    value = torch.nn.Parameter(torch.ones(2, 4))
    value.grad = torch.tensor([[0.0, math.nan, 0, 0], [0, 0, 0, 0]])
    with backend.using(name):
        Adam([value], sparse=sparse, **OPTIONS).step()
    assert torch.isnan(value).tolist() == [[False, True, False, False], [False] * 4]


@pytest.mark.parametrize("name", BACKENDS)
def test_eps_zero_leaves_untouched_values_alone(name):
    value = torch.nn.Parameter(torch.ones(2, 4))
    value.grad = torch.zeros(2, 4)
    value.grad[0] = 1.0
    with backend.using(name):
        Adam([value], lr=0.5, eps=0.0, sparse=True).step()
    assert torch.allclose(value[0], torch.tensor(0.5))
    assert torch.equal(value[1].detach(), torch.ones(4))


def test_parameters_that_had_no_gradient_for_a_while_count_their_own_steps():
    results = []
    for make in (Adam, torch.optim.Adam):
        values = parameters()[:2]
        optimiser = make(values, **OPTIONS)
        for step in range(4):
            drawn = gradients(step)
            values[0].grad = drawn[0]
            values[1].grad = None if step < 2 else drawn[1]
            optimiser.step()
        results.append([v.detach() for v in values])
    assert_close(*results)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_graph_over_an_old_value_is_refused(name):
    value = torch.nn.Parameter(torch.ones(3))
    squared = (value * value).sum()
    value.grad = torch.ones(3)
    with backend.using(name):
        Adam([value]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward()


def test_going_on_from_a_saved_state_equals_never_having_stopped():
    values = parameters()
    optimiser = take(Adam(values, sparse=True, **OPTIONS), values, steps=3, share=0.3)
    twins = [torch.nn.Parameter(v.detach().clone()) for v in values]
    resumed = Adam(twins, sparse=True, **OPTIONS)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    take(optimiser, values, steps=3, share=0.3, first=3)
    take(resumed, twins, steps=3, share=0.3, first=3)
    for value, twin in zip(values, twins, strict=True):
        assert torch.equal(value, twin)


def test_a_state_of_torchs_adam_goes_on():
    values = parameters()
    old = take(torch.optim.Adam(values, fused=True, **OPTIONS), values, steps=3)
    twins = [torch.nn.Parameter(v.detach().clone()) for v in values]
    new = Adam(twins, **OPTIONS)
    for value, twin in zip(values, twins, strict=True):
        new.state[twin] = {k: v.clone() for k, v in old.state[value].items()}
    take(old, values, steps=3, first=3)
    take(new, twins, steps=3, first=3)
    assert_close([t.detach() for t in twins], [v.detach() for v in values])
    assert {k: v.dtype for k, v in new.state[twins[0]].items()} == {
        k: v.dtype for k, v in old.state[values[0]].items()
    }


def test_a_closure_is_called_with_gradients_and_its_value_returned():
    value = torch.nn.Parameter(torch.tensor([2.0]))

    def closure():
        loss = value.square().sum()
        loss.backward()
        return loss

    assert Adam([value]).step(closure).item() == 4.0
    assert value.item() < 2


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": math.nan}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError, match="Adam's"):
        Adam(parameters(), **bad)


@pytest.mark.parametrize(
    "encoding",
    [
        HashGridEncoding(HashGridConfig(levels=2, log2_entries=6, max_resolution=32)),
        DenseGridEncoding(DenseGridConfig(resolution=8)),
    ],
    ids=["hash-grid", "dense-grid"],
)
def test_grid_entries_that_no_sample_touches_stay(encoding):
    optimiser = Adam(encoding.parameter_groups(0.1))
    before = encoding.table.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        optimiser.zero_grad()
        encoding(torch.rand(1, 3, generator=generator) * 0.1).sum().backward()
        touched = encoding.table.grad.ne(0).any(-1)
        optimiser.step()
    moved = (encoding.table.detach() != before).any(-1)
    assert bool(moved[touched].all())
    assert 0 < int(moved.sum()) < len(before) // 4
