"""Running sums and products: published numbers, naive loops, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.renderers.scans import (
    exclusive_prod,
    exclusive_sum,
    inclusive_prod,
    inclusive_sum,
    last_of_ray,
    pack_info,
)

COUNTS = (2, 3, 4)
SCANS = {
    inclusive_sum: [1, 3, 3, 7, 12, 6, 13, 21, 30],
    exclusive_sum: [0, 1, 0, 3, 7, 0, 6, 13, 21],
    inclusive_prod: [1, 2, 3, 12, 60, 6, 42, 336, 3024],
    exclusive_prod: [1, 1, 1, 3, 12, 1, 6, 42, 336],
}


def indices(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def naive(scan, values, counts):
    out, start = [], 0
    for count in counts:
        run = 0.0 if "sum" in scan.__name__ else 1.0
        for v in values[start : start + count].tolist():
            after = run + v if "sum" in scan.__name__ else run * v
            out.append(after if "inclusive" in scan.__name__ else run)
            run = after
        start += count
    return torch.tensor(out, dtype=values.dtype)


@pytest.mark.parametrize("scan", SCANS)
def test_one_to_nine(scan):
    got = scan(torch.arange(1.0, 10), indices(COUNTS))
    assert torch.allclose(got, torch.tensor(SCANS[scan], dtype=torch.float32))


@pytest.mark.parametrize("scan", SCANS)
@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 5), max_size=6), seed=st.integers(0, 99))
def test_packed_scans_equal_loops(scan, counts, seed):
    counts = [*counts, 0]
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(counts), generator=g, dtype=torch.float64)
    values = torch.where(torch.rand(len(values), generator=g) < 0.2, 0.0, values)
    got = scan(values, indices(counts))
    assert torch.allclose(got, naive(scan, values, counts), atol=1e-12)


@pytest.mark.parametrize("scan", SCANS)
def test_packed_equals_dense_with_gradients(scan):
    g = torch.Generator().manual_seed(0)
    dense = torch.rand(5, 7, generator=g, dtype=torch.float64)
    dense[1, 2] = dense[2, 0] = dense[2, 5] = dense[3, 6] = 0.0
    packed = dense.flatten().clone().requires_grad_()
    dense.requires_grad_()
    weights = torch.randn(35, generator=g, dtype=torch.float64)
    a, b = scan(dense).flatten(), scan(packed, indices([7] * 5))
    assert torch.allclose(a, b)
    (a @ weights).backward()
    (b @ weights).backward()
    assert torch.allclose(dense.grad.flatten(), packed.grad)


@pytest.mark.parametrize("scan", SCANS)
def test_gradients_with_empty_rays_zeros_and_signs(scan):
    values = torch.tensor([0.5, 0.0, -1.5, 0.7, 0.0, 0.3, 0.0, 2.0], dtype=torch.float64)
    index = torch.tensor([0, 0, 0, 2, 2, 2, 2, 5])
    assert torch.autograd.gradcheck(lambda v: scan(v, index), values.requires_grad_())


@pytest.mark.parametrize("scan", SCANS)
def test_nothing_scans_to_nothing(scan):
    values = torch.zeros(0, requires_grad=True)
    out = scan(values, torch.zeros(0, dtype=torch.int64))
    out.sum().backward()
    assert out.shape == (0,) and values.grad.shape == (0,)
    assert scan(torch.zeros(3, 0)).shape == (3, 0)


def test_a_million_values_keep_single_precision():
    n, each = 20_000, 60
    values = torch.full((n * each,), 0.1)
    got = inclusive_sum(values, indices([each] * n)).reshape(n, each)
    want = torch.arange(1, each + 1) * 0.1
    assert (got - want).abs().max() < 1e-6


def test_pack_info_counts_rays_without_values():
    starts, counts = pack_info(torch.tensor([0, 0, 2, 4, 4, 4]), 6)
    assert starts.tolist() == [0, 2, 2, 3, 3, 6] and counts.tolist() == [2, 0, 1, 0, 3, 0]


def test_last_of_ray():
    assert last_of_ray(torch.tensor([0, 0, 2, 4, 4])).tolist() == [False, True, True, False, True]
    assert last_of_ray(torch.zeros(0, dtype=torch.int64)).shape == (0,)
