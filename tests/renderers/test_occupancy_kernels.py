"""Upkeep of an occupancy grid: naive references, and compiled kernels against torch."""

import copy

import pytest
import torch

from polyfield import backend
from polyfield.renderers.occupancy import (
    Derived,
    mean_seen,
    occupied_cells,
    points_in_cells,
    remember,
)

RESOLUTIONS = [1, 2, 5, 16, 33]


@pytest.fixture(params=["torch", "numba"])
def either_backend(request):
    with backend.using(request.param):
        yield request.param


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def a_grid(r):
    values = torch.rand((r,) * 3, generator=generator(r))
    return torch.where(torch.rand((r,) * 3, generator=generator(1)) < 0.1, -1.0, values)


@pytest.mark.parametrize("r", RESOLUTIONS)
def test_the_mean_is_over_cells_in_view(either_backend, r):
    values = a_grid(r)
    seen = values[values >= 0]
    want = seen.mean() if len(seen) else torch.tensor(0.0)
    assert torch.allclose(mean_seen(values), want) and mean_seen(values).shape == ()
    assert mean_seen(torch.full((2, 2, 2), -1.0)) == 0


@pytest.mark.parametrize("dilate", [False, True])
@pytest.mark.parametrize("r", RESOLUTIONS)
def test_cells_above_the_limit_and_their_neighbours(either_backend, r, dilate):
    values = a_grid(r)
    want = torch.zeros((r,) * 3, dtype=torch.bool)
    for x, y, z in (values >= 0.97).nonzero().tolist():
        a, b = (1, 2) if dilate else (0, 1)
        want[max(x - a, 0) : x + b, max(y - a, 0) : y + b, max(z - a, 0) : z + b] = True
    got = occupied_cells(values, 0.97, dilate)
    assert torch.equal(got, want & (values >= 0))


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_looked_at_cells_fade_once_and_keep_the_largest(either_backend, count):
    old = a_grid(6).flatten()
    seen = (old >= 0).nonzero()[:, 0]
    cells = seen[torch.randint(len(seen), (count,), generator=generator())]
    values = torch.rand(count, generator=generator(3))
    before = old.clone()
    got = remember(old, cells, values, 0.5)
    want = old.clone()
    for cell in set(cells.tolist()):
        want[cell] = max(float(old[cell]) * 0.5, float(values[cells == cell].max()))
    assert torch.allclose(got, want) and torch.equal(old, before)


@pytest.mark.parametrize("r", RESOLUTIONS)
def test_points_lie_in_their_cells(either_backend, r):
    cells = torch.randint(r**3, (500,), generator=generator())
    place = torch.rand(500, 3, generator=generator(2))
    x = (points_in_cells(place, cells, r) + 1) * r / 2
    corner = torch.stack([cells // r**2, (cells // r) % r, cells % r], -1)
    assert torch.allclose(x - corner, place, atol=1e-4)
    assert points_in_cells(place[:0], cells[:0], r).shape == (0, 3)


@pytest.mark.parametrize("r", [3, 20, 64])
def test_backends_agree_bit_for_bit_with_any_number_of_threads(r):
    values, before, found = a_grid(r), torch.get_num_threads(), []
    cells = torch.arange(r**3)
    place = torch.rand(r**3, 3, generator=generator())
    try:
        for name, threads in (("torch", 1), ("numba", 1), ("numba", 2)):
            torch.set_num_threads(threads)
            with backend.using(name):
                found.append(
                    (
                        occupied_cells(values, 0.9, True),
                        occupied_cells(values, 0.9, False),
                        remember(values.flatten(), cells, place[:, 0].contiguous(), 0.95),
                        points_in_cells(place, cells, r),
                    )
                )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_derived_value_is_computed_again_after_every_write():
    calls = []

    def double(tensor):
        calls.append(1)
        return tensor * 2

    derived, tensor = Derived(double), torch.ones(2)
    assert derived(tensor).tolist() == [2, 2] and derived(tensor).tolist() == [2, 2]
    assert len(calls) == 1
    tensor[0] = 3
    assert derived(tensor).tolist() == [6, 2] and len(calls) == 2
    other = torch.zeros(2)
    assert derived(other).tolist() == [0, 0] and derived(tensor).tolist() == [6, 2]


def test_a_copy_of_a_derived_value_knows_nothing():
    tensor = torch.ones(2)
    tensor.mul_(1).mul_(1).mul_(1)
    derived = Derived(lambda t: t * 2)
    derived(tensor)
    fresh, of_copy = copy.deepcopy((tensor, derived))
    assert fresh._version < tensor._version  # or the test says nothing
    while fresh._version < tensor._version:
        fresh.fill_(5.0)
    assert of_copy(fresh).tolist() == [10, 10] and derived(tensor).tolist() == [2, 2]
