import itertools

import pytest
import torch

from polyfield.fields.contractions import (
    cp_grid,
    cp_points,
    diagonal_core,
    train_grid,
    train_points,
    tucker_grid,
    tucker_points,
)

COUNTS = (3, 2, 4, 1, 2, 3)
C, R = 2, 3
AXES = range(1, 7)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def vectors(d):
    return [draw(n, C, R, seed=i) for i, n in enumerate(COUNTS[:d])]


def train(d):
    middle = range(1, d - 1)
    return [
        draw(n, C, R, R, seed=i) if i in middle else draw(n, C, R, seed=i)
        for i, n in enumerate(COUNTS[:d])
    ]


def core(d, ranks=None):
    return draw(C, *(ranks or [R] * d), seed=99)


def cells(d):
    """All indices of the grid, in its order."""
    return torch.tensor(list(itertools.product(*map(range, COUNTS[:d]))))


def at_cells(factors):
    index = cells(len(factors))
    return [f[index[:, i]] for i, f in enumerate(factors)]


def explicit(form, d):
    """The definitions, one value after the other, and the factors they are of."""
    factors = train(d) if form == "train" else vectors(d)
    values = torch.zeros(*COUNTS[:d], C, dtype=torch.float64)
    for index in cells(d).tolist():
        for k in range(C):
            rows = [f[i, k] for f, i in zip(factors, index, strict=True)]
            if form == "cp":
                value = sum(torch.stack([row[r] for row in rows]).prod() for r in range(R))
            elif form == "tucker":
                ranks = itertools.product(range(R), repeat=d)
                value = sum(
                    core(d)[(k, *r)]
                    * torch.stack([a[i] for a, i in zip(rows, r, strict=True)]).prod()
                    for r in ranks
                )
            elif d == 1:
                value = rows[0].sum()
            else:
                row = rows[0]
                for matrix in rows[1:-1]:
                    row = row @ matrix
                value = row @ rows[-1]
            values[(*index, k)] = value
    return factors, values


def both(form, factors):
    """The tensor on the grid, and at the grid's points."""
    d = len(factors)
    if form == "tucker":
        return tucker_grid(core(d), factors), tucker_points(core(d), at_cells(factors))
    grid, points = {"cp": (cp_grid, cp_points), "train": (train_grid, train_points)}[form]
    return grid(factors), points(at_cells(factors))


@pytest.mark.parametrize("form", ["cp", "train", "tucker"])
@pytest.mark.parametrize("d", AXES[:4])
def test_forms_equal_the_explicit_tensor(form, d):
    factors, values = explicit(form, d)
    grid, points = both(form, factors)
    assert grid.shape == (*COUNTS[:d], C)
    torch.testing.assert_close(grid, values)
    torch.testing.assert_close(points.reshape(values.shape), values)


@pytest.mark.parametrize("form", ["cp", "train", "tucker"])
@pytest.mark.parametrize("d", AXES)
def test_grids_equal_their_points(form, d):
    grid, points = both(form, train(d) if form == "train" else vectors(d))
    torch.testing.assert_close(grid.reshape(-1, C), points)


@pytest.mark.parametrize("d", AXES)
def test_cp_is_tucker_with_a_diagonal_core_and_train_with_diagonal_matrices(d):
    factors = vectors(d)
    matrices = [f.diag_embed() if 0 < i < d - 1 else f for i, f in enumerate(factors)]
    diagonal = diagonal_core(C, R, d, like=factors[0])
    torch.testing.assert_close(tucker_grid(diagonal, factors), cp_grid(factors))
    torch.testing.assert_close(train_grid(matrices), cp_grid(factors))


def test_cp_of_two_axes_is_a_product_of_matrices():
    a, b = vectors(2)
    torch.testing.assert_close(cp_grid([a, b])[..., 0], a[:, 0] @ b[:, 0].T)


def test_tucker_ranks_may_differ_from_axis_to_axis():
    ranks = (2, 1, 3)
    middle = core(3, ranks)
    factors = [draw(n, C, r, seed=n) for n, r in zip((4, 3, 2), ranks, strict=True)]
    expected = torch.einsum("kabc,xka,ykb,zkc->xyzk", middle, *factors)
    torch.testing.assert_close(tucker_grid(middle, factors), expected)
    index = torch.cartesian_prod(*map(torch.arange, (4, 3, 2)))
    points = tucker_points(middle, [f[index[:, i]] for i, f in enumerate(factors)])
    torch.testing.assert_close(points.reshape(4, 3, 2, C), expected)


@pytest.mark.parametrize("d", AXES)
def test_no_points_give_no_values(d):
    empty, chain = [f[:0] for f in vectors(d)], [f[:0] for f in train(d)]
    found = [cp_points(empty), train_points(chain), tucker_points(core(d), empty)]
    assert all(f.shape == (0, C) for f in found)
    found = [cp_grid(empty), train_grid(chain), tucker_grid(core(d), empty)]
    assert all(f.shape == (*[0] * d, C) for f in found)


def test_an_axis_without_coordinates_leaves_an_empty_grid():
    factors = vectors(3)
    factors[1] = factors[1][:0]
    assert cp_grid(factors).shape == tucker_grid(core(3), factors).shape == (3, 0, 4, C)


@pytest.mark.parametrize("points", [cp_points, train_points, lambda f: tucker_points(core(3), f)])
def test_contractions_are_differentiable_twice(points):
    middle = (4, C, R, R) if points is train_points else (4, C, R)
    factors = [draw(*shape, seed=5).requires_grad_() for shape in ((4, C, R), middle, (4, C, R))]

    def values(*parts):
        return points(list(parts))

    assert torch.autograd.gradcheck(values, factors)
    assert torch.autograd.gradgradcheck(values, factors)


def test_diagonal_core_has_ones_where_all_ranks_agree():
    diagonal = diagonal_core(2, 3, 3)
    assert diagonal.sum() == 6 and all(diagonal[k, r, r, r] == 1 for k in (0, 1) for r in range(3))
