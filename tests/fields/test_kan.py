"""KAN: parameter counts, the naive network, grids that change, sparsity, pruning, formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import silu

from polyfield import backend
from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.fields.backbones.kan import KANConfig, sparsity, spread_points
from polyfield.fields.kan_layers import BASES
from polyfield.fields.spline_layer import SplineConfig, SplineLayer
from polyfield.fields.splines import inner, spline_basis
from polyfield.fields.symbolic import FUNCTIONS, suggest
from polyfield.registry import build


def make(in_dim=2, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return build("backbones", {"type": "kan", **settings}, in_dim=in_dim, generator=generator)


def layer(in_dim=3, out_dim=4, dtype=torch.float64, **settings):
    made = SplineLayer(in_dim, out_dim, SplineConfig(**settings), torch.Generator().manual_seed(0))
    return made.to(dtype)


def points(n, dims, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, dims, generator=generator, dtype=dtype) * 2 - 1


def target(x):
    """exp(sin pi x + y^2), the paper's first example."""
    return (torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2).exp()


def lbfgs(network, x, y, steps):
    """Full-batch L-BFGS as the paper trains; the root mean squared error at the end."""
    optimiser = torch.optim.LBFGS(
        network.parameters(), max_iter=steps, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=1e-32, tolerance_change=1e-32,
    )  # fmt: skip

    def closure():
        optimiser.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return rmse(network, x, y)


def rmse(network, x, y):
    with torch.no_grad():
        return float((network(x) - y).square().mean().sqrt())


def test_every_edge_has_a_coefficient_per_basis_and_two_factors():
    assert sum(p.numel() for p in layer(2, 64).parameters()) == 128 * (5 + 3 + 2)
    slim = layer(2, 64, base=False, scale=False, intervals=7, order=2)
    assert sum(p.numel() for p in slim.parameters()) == 128 * 9


@pytest.mark.parametrize("squash", ["none", "tanh", "norm"])
def test_a_layer_is_the_sum_of_its_curves(squash):
    made, x = layer(squash=squash), points(50, 3) * 1.5
    with torch.no_grad():
        made.scale.copy_(points(3, 4, 5))
    u = x
    if squash == "norm":
        u = (x - x.mean(-1, keepdim=True)) / (x.var(-1, False, keepdim=True) + 1e-5).sqrt()
    u = u if squash == "none" else u.tanh()
    basis = spline_basis(u, made.knots, 3)
    out = torch.zeros(50, 4, dtype=torch.float64)
    for i in range(3):
        for o in range(4):
            spline = basis[:, i] @ made.coefficients[i, :, o]
            out[:, o] += made.base_weight[i, o] * silu(x[:, i]) + made.scale[i, o] * spline
    torch.testing.assert_close(made(x), out)
    torch.testing.assert_close(made.edges(x).sum(1), out)
    single = made.float()(x.float())
    torch.testing.assert_close(single.double(), out, atol=1e-5, rtol=1e-4)


def test_coordinates_outside_the_box_are_those_of_its_border():
    network = make()
    assert torch.equal(network(torch.tensor([[3.0, -0.5]])), network(torch.tensor([[1.0, -0.5]])))


def test_initial_values_are_the_paper_s():
    made = make(4, hidden=(200,), out_features=100).layers[1]
    assert float(made.coefficients.detach().std()) == pytest.approx(0.1, rel=0.01)
    assert bool((made.scale == 1).all())
    bound = math.sqrt(6 / 300)
    assert bound * 0.99 < float(made.base_weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("finer", [6, 10, 37])
@pytest.mark.parametrize("name", ["torch", "numba"])
def test_finer_grids_keep_the_function(finer, name):
    network = make(3, hidden=(8, 8), squash="norm", init=1.0)
    x = points(500, 3, dtype=torch.float32)
    with backend.using(name):
        before = network(x)
        network.refine(finer)
        assert network.layers[0].intervals == finer
        assert (network(x) - before).abs().max() < 1e-5 * before.abs().max()


@pytest.mark.parametrize("squash", ["none", "tanh"])
def test_grids_that_follow_samples_keep_the_function_almost(squash):
    network = make(2, hidden=(6,), squash=squash).double()
    x = points(2000, 2)
    before, old = network(x), [made.knots.clone() for made in network.layers]
    network.update_grids(x)
    assert not torch.equal(network.layers[1].knots, old[1])
    assert (network(x) - before).norm() < 0.05 * before.norm()
    ends = inner(network.layers[1].knots, 3)[:, [0, -1]]
    if squash == "tanh":
        assert torch.equal(ends, torch.tensor([-1.0, 1.0]).double().expand(6, 2))
    else:
        seen = network.activations(x)[1]
        torch.testing.assert_close(ends, torch.stack([seen.amin(0), seen.amax(0)], 1))


def test_grids_change_on_schedule_and_a_run_in_mid_schedule_is_restored():
    settings = {"extensions": [[0.5, 10], [0.75, 12]], "updates": [0.1, 0.3], "hidden": [4]}
    network, x = make(**settings), points(20, 2, dtype=torch.float32)
    seen = []
    for share in (0.0, 0.1, 0.3, 0.5, 0.6):
        replaced = network.grow(Progress(0, share))
        seen.append((replaced, network.layers[1].intervals, network.sizes()["updates"]))
    assert seen == [(False, 5, 0), (False, 5, 1), (False, 5, 2), (True, 10, 2), (False, 10, 2)]
    other = make(seed=7, **settings)
    other.resize(network.sizes())
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x)) and not other.grow(Progress(0, 0.7))
    assert other.grow(Progress(0, 1.0)) and other.sizes()["intervals"] == [12, 12]


def test_a_late_start_takes_the_last_grid_at_once():
    network = make(extensions=[[0.2, 10], [0.4, 20]])
    assert network.grow(Progress(0, 0.9)) and network.layers[0].intervals == 20


def test_the_coordinates_grid_keeps_its_proportion():
    network = make(hidden=(4,), first_intervals=16, intervals=4, extensions=[[0.5, 6]])
    assert network.sizes()["intervals"] == [16, 4]
    assert network.grow(Progress(0, 0.5)) and network.sizes()["intervals"] == [24, 6]
    assert not network.grow(Progress(0, 0.6))
    network = make(hidden=(4,), first_intervals=2, intervals=8, extensions=[[0.5, 9]])
    assert network.grow(Progress(0, 0.5)) and network.sizes()["intervals"] == [2, 9]
    assert not network.grow(Progress(0, 0.6))


def test_finer_grids_lower_the_error_of_the_paper_s_example():
    x, test = points(1000, 2), points(1000, 2, seed=2)
    network = make(hidden=(1,), out_features=1, intervals=3).double()
    for _ in range(5):
        lbfgs(network, x, target(x), 10)
        network.update_grids(x, first=False)
    found = []
    for intervals in (3, 10, 20):
        network.refine(intervals)
        for _ in range(2):
            lbfgs(network, x, target(x), 60)
            network.update_grids(x, first=False)
        lbfgs(network, x, target(x), 60)
        found.append(rmse(network, test, target(test)))
    # the paper's code: 1.5e-2, 3.3e-4 and 4.0e-5 after twenty times as many iterations
    assert found[0] < 3e-2 and found[1] < found[0] / 5 and found[2] < found[1] / 5


def test_sparsity_has_its_closed_forms():
    one, many = torch.zeros(3, 4), torch.full((3, 4), 0.5)
    one[1, 2] = 7.0
    assert [float(v) for v in sparsity(one)] == [7.0, 0.0]
    total, entropy = sparsity(many)
    assert float(total) == 6.0 and float(entropy) == pytest.approx(math.log(12))
    assert [float(v) for v in sparsity(torch.zeros(3, 4))] == [0.0, 0.0]


def test_the_penalty_is_the_weighted_sum_over_layers():
    network = make(hidden=(3,), out_features=2, penalty=0.01, entropy=2.0)
    x = spread_points(256, torch.zeros(()), 2)
    expected = 0.0
    for made, seen in zip(network.layers, network.activations(x), strict=True):
        norm, entropy = sparsity(made.edges(seen).abs().mean(0))
        expected += 0.01 * (norm + 2 * entropy)
    torch.testing.assert_close(network.regularisation()["sparsity"], expected)
    assert make().regularisation() == {}


def test_points_of_the_box_fill_it_evenly():
    x = spread_points(1024, torch.zeros(()), 2)
    counts = torch.histogramdd(x, [4, 4], range=[-1.0, 1.0, -1.0, 1.0]).hist
    assert counts.min() >= 60 and counts.max() <= 68
    assert torch.equal(x, spread_points(1024, torch.zeros(()), 2))


def test_what_outputs_do_not_depend_on_is_pruned_and_the_rest_unchanged():
    network = make(hidden=(5,), out_features=1).double()
    x = points(400, 2)
    with torch.no_grad():
        for made in network.layers:
            made.mask.zero_()
        network.layers[0].mask[0, 1] = network.layers[0].mask[1, 3] = 1
        network.layers[1].mask[[1, 3], 0] = 1
    pruned = network.prune(1e-6, 1e-6)
    assert pruned.sizes()["hidden"] == [2] and network.sizes()["hidden"] == [5]
    assert torch.equal(pruned.layers[0].mask, torch.eye(2).double())
    torch.testing.assert_close(pruned(x), network(x))
    other = make(hidden=(5,), out_features=1).double()
    other.resize(pruned.sizes())
    other.load_state_dict(pruned.state_dict())
    assert torch.equal(other(x), pruned(x))


def test_attribution_gives_each_output_one_unit_and_follows_the_edges():
    network = make(hidden=(3,), out_features=1).double()
    with torch.no_grad():
        network.layers[1].mask.zero_()
        network.layers[1].mask[2, 0] = 1
    scores = network.attribution(points(500, 2))
    assert scores[1].nodes.tolist()[:2] == [0, 0]
    assert float(scores[1].nodes[2]) == pytest.approx(1, abs=1e-2)
    torch.testing.assert_close(scores[0].edges.sum(1), scores[0].nodes)


def test_formulas_of_known_curves_are_found():
    x = points(300, 1)[:, 0]
    for name, y in {
        "sin": 2 * torch.sin(3 * x + 0.5) - 1,
        "exp": 0.5 * torch.exp(1.5 * x) + 2,
        "x": 3 * x - 1,
        "x^2": (2 * x - 0.6) ** 2,
    }.items():
        best = suggest(x, y)[0]
        assert best.name == name and best.r2 > 0.9999
        got = best.c * FUNCTIONS[name][0](best.a * x + best.b) + best.d
        torch.testing.assert_close(got, y, atol=0.02, rtol=0)


def test_formulas_refuse_what_they_cannot_use():
    with pytest.raises(ConfigError, match="no function 'cosh'"):
        suggest(torch.zeros(3), torch.zeros(3), ["cosh"])
    with pytest.raises(ConfigError, match="none"):
        suggest(torch.zeros(0), torch.zeros(0))


def test_a_curve_of_a_network_is_recognised():
    network = make(1, hidden=(), out_features=1).double()
    x = points(300, 1)
    lbfgs(network, x, torch.sin(math.pi * x), 60)
    best = network.suggest_symbolic(0, 0, 0, x)[0]
    assert best.name == "sin" and best.r2 > 0.999


@pytest.mark.parametrize("basis", [b for b in BASES if b != "spline"])
def test_other_bases_take_the_place_of_splines(basis):
    network = make(3, basis=basis, hidden=(6,), out_features=4, penalty=0.1)
    assert network(points(7, 3, dtype=torch.float32)).shape == (7, 4)
    assert network.sizes() == {} and not network.grow(Progress(0, 1.0))
    assert network.regularisation()["sparsity"].requires_grad
    with pytest.raises(ConfigError, match="only splines"):
        network.refine(10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"basis": "bspline"}, "basis"),
        ({"hidden": (0,)}, "widths"),
        ({"intervals": 0}, "intervals"),
        ({"first_intervals": 0}, "intervals"),
        ({"init": 0.0}, "init"),
        ({"penalty": -1.0}, "negative"),
        ({"extensions": ((0.5, 5),)}, "more intervals"),
        ({"extensions": ((0.5, 10), (0.2, 20))}, "later shares"),
        ({"updates": (2.0,)}, "0, 1"),
        ({"updates": (0.2, 0.1)}, "in order"),
        ({"basis": "legendre", "updates": (0.1,)}, "belong to splines"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        KANConfig(**settings)
