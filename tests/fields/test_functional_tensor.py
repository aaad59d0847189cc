import math

import pytest
import torch

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.fields.contractions import cp_points, train_points, tucker_points
from polyfield.registry import build

MODES = ["cp", "tt", "tucker"]
NET = {
    "type": "mlp",
    "encoding": {"type": "frequency", "levels": 3, "include_input": False},
    "width": 12,
    "depth": 2,
    "skips": [],
}


def make(in_dim=3, seed=0, **settings):
    spec = {"type": "functional-tensor", "rank": 4, "features": 2, "axis": NET, **settings}
    generator = torch.Generator().manual_seed(seed)
    return build("backbones", spec, in_dim=in_dim, generator=generator).double()


def points(n, in_dim=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, in_dim, generator=generator, dtype=torch.float64) * 2 - 1


def factor(backbone, axis, x):
    """(n, c, R) or (n, c, R, R) from an axis' network and its linear layer."""
    out = backbone.columns[axis](backbone.axes[axis](x[:, None]))
    middle = backbone.config.mode == "tt" and 0 < axis < backbone.in_dim - 1
    rank = backbone.ranks.rank
    return out.reshape(len(x), backbone.out_dim, *[rank] * (2 if middle else 1))


def contract(backbone, factors):
    if backbone.config.mode == "tucker":
        return tucker_points(backbone.core, factors)
    return (cp_points if backbone.config.mode == "cp" else train_points)(factors)


def pixels(n, dims=2):
    """The points of a grid, n to an axis, in its order."""
    axes = [torch.linspace(-1, 1, n + i, dtype=torch.float64) for i in range(dims)]
    return axes, torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


class TestValues:
    def test_an_axis_of_the_paper_has_235136_parameters(self):
        generator = torch.Generator().manual_seed(0)
        backbone = build("backbones", {"type": "functional-tensor"}, in_dim=2, generator=generator)
        inputs, rank, channels = 18, 128, 3
        count = inputs * 256 + 256 + 2 * (256**2 + 256) + 257 * channels * rank
        assert count == 235_136
        assert sum(p.numel() for p in backbone.parameters()) == 2 * count
        x = torch.tensor([[0.7]])
        angles = 0.7 * 2.0 ** torch.arange(-4, 5)
        code = torch.stack((angles.sin(), angles.cos()), -1).flatten()
        torch.testing.assert_close(backbone.axes[0].encoding(x)[0], code)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("in_dim", [2, 3, 4])
    def test_equals_the_explicit_tensor_of_its_factors(self, mode, in_dim):
        backbone = make(in_dim, mode=mode)
        axes, x = pixels(3, in_dim)
        parts = [factor(backbone, i, a) for i, a in enumerate(axes)]
        a, z = "abcd"[:in_dim], "rstu"[:in_dim]
        if mode == "cp":
            sums = ",".join(f"{i}kr" for i in a) + f"->{a}k"
        elif mode == "tucker":
            sums = f"k{z}," + ",".join(f"{i}k{r}" for i, r in zip(a, z, strict=True)) + f"->{a}k"
            parts = [backbone.core, *parts]
        else:
            ranks = [z[0], *(z[i : i + 2] for i in range(in_dim - 2)), z[in_dim - 2]]
            sums = ",".join(f"{i}k{r}" for i, r in zip(a, ranks, strict=True)) + f"->{a}k"
        explicit = torch.einsum(sums, *parts)
        torch.testing.assert_close(backbone(x), explicit)
        torch.testing.assert_close(backbone.grid(axes), explicit)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("nodes", [None, 7])
    @pytest.mark.parametrize("in_dim", range(1, 7))
    def test_grid_and_points_agree_in_single_precision(self, mode, nodes, in_dim):
        backbone = make(in_dim, mode=mode, nodes=nodes, rank=2).float()
        axes, x = pixels(2, in_dim)
        grid = backbone.grid([a.float() for a in axes])
        assert grid.shape == (*x.shape[:-1], 2)
        torch.testing.assert_close(grid, backbone(x.float()), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("mode", MODES)
    def test_one_axis_is_its_network(self, mode):
        backbone, x = make(1, mode=mode), points(9, 1)
        assert backbone.core is None and backbone.ranks.full == 1
        torch.testing.assert_close(backbone(x), backbone.columns[0](backbone.axes[0](x)))

    def test_a_train_of_two_axes_is_the_cp_form(self):
        cp, train, x = make(2, mode="cp"), make(2, mode="tt", seed=1), points(20, 2)
        train.load_state_dict(cp.state_dict())
        assert torch.equal(cp(x), train(x))

    def test_tucker_with_a_diagonal_core_is_the_cp_form(self):
        cp, tucker, x = make(mode="cp"), make(mode="tucker"), points(20)
        start = tucker.core.detach().clone()
        tucker.load_state_dict({**cp.state_dict(), "core": start.round()})
        torch.testing.assert_close(tucker(x), cp(x))
        # where it starts: near there, but not there
        assert 0 < (start - start.round()).abs().max() < 0.06

    def test_a_train_of_diagonal_matrices_is_the_cp_form(self):
        cp, train, x = make(mode="cp"), make(mode="tt"), points(20)
        state = cp.state_dict()
        for name in ("weight", "bias"):
            rows = state[f"columns.1.{name}"].unflatten(0, (2, 4))
            diagonal = rows.new_zeros(2, 4, 4, *rows.shape[2:])
            diagonal[:, range(4), range(4)] = rows
            state[f"columns.1.{name}"] = diagonal.flatten(0, 2)
        train.load_state_dict(state)
        torch.testing.assert_close(train(x), cp(x))

    def test_many_points_are_taken_block_by_block(self, monkeypatch):
        backbone, x = make(mode="tt"), points(700)
        whole = backbone(x)
        monkeypatch.setattr("polyfield.fields.backbones.functional_tensor.BLOCK", 1)
        torch.testing.assert_close(backbone(x), whole)

    def test_biases_start_as_drawn(self):
        assert all(layer.bias.abs().sum() == 0 for layer in make().columns)
        drawn = make(rank=500, bias=0.3).columns[0].bias.detach()
        assert drawn.std() == pytest.approx(0.3, rel=0.1)

    def test_a_feature_per_value_needs_no_head(self):
        assert list(make().make_head(2).parameters()) == []
        assert make().make_head(5)(torch.zeros(1, 2)).shape == (1, 5)

    def test_an_axis_ends_as_its_own_method_does(self):
        backbone = make(axis={"type": "functional-tensor", "axis": NET, "features": 8})
        # that method's head may be no layer at all; it then gets a linear one
        assert all(isinstance(layer, torch.nn.Linear) for layer in backbone.columns)
        assert backbone(points(3)).shape == (3, 2)


class TestRecurringCoordinates:
    """In two dimensions all pixels of an image, in any order; in three a part of a grid."""

    @staticmethod
    def drawn(dims):
        x = pixels(70 if dims == 2 else 40, dims)[1].reshape(-1, dims)
        return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:5000]]

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("dims", [2, 3])
    def test_networks_see_each_coordinate_once(self, mode, dims):
        backbone, x = make(dims, mode=mode), self.drawn(dims)
        rows = []
        for net in backbone.axes:
            net.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
        values = backbone(x)
        assert rows == ([70, 71] if dims == 2 else [40, 41, 42])
        # derivatives in x are wanted: every point by itself, the same values
        torch.testing.assert_close(backbone(x.clone().requires_grad_()), values)
        assert max(rows) == len(x)

    @pytest.mark.parametrize("dims", [2, 3])
    def test_gradients_are_those_of_every_point_by_itself(self, dims):
        backbone, x = make(dims), self.drawn(dims)
        found = []
        for points_ in (x, x.clone().requires_grad_()):
            backbone.zero_grad()
            backbone(points_).square().sum().backward()
            found.append([p.grad.clone() for p in backbone.parameters()])
        torch.testing.assert_close(*found)

    def test_whole_grids_are_contracted_as_such(self, monkeypatch):
        backbone, asked = make(2), []
        grid = backbone.grid
        monkeypatch.setattr(backbone, "grid", lambda axes: asked.append(len(axes[0])) or grid(axes))
        backbone(self.drawn(2))
        assert asked == [70]

    def test_scattered_points_are_not_sorted(self, monkeypatch):
        called = []
        unique = torch.unique
        monkeypatch.setattr(torch, "unique", lambda x, **k: called.append(len(x)) or unique(x, **k))
        make(2)(points(5000, 2))
        assert max(called) < 2048


class TestNodes:
    def test_values_are_those_of_the_networks_at_nodes_and_linear_between(self):
        exact, between = make(2), make(2, nodes=5)
        nodes = torch.linspace(-1, 1, 5, dtype=torch.float64)
        torch.testing.assert_close(between.grid([nodes, nodes]), exact.grid([nodes, nodes]))
        middle, ends = points(1, 2)[0, :1], torch.tensor([-0.5, -0.1, 0.0], dtype=torch.float64)
        a, b, c = between.grid([middle, ends])[0]
        torch.testing.assert_close(b, 0.2 * a + 0.8 * c)

    def test_more_nodes_come_closer_to_the_networks(self):
        x = points(200)
        errors = [(make(nodes=n)(x) - make()(x)).abs().max() for n in (16, 64, 256)]
        assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0


class TestDerivatives:
    @pytest.mark.parametrize("mode", MODES)
    def test_they_are_contractions_with_derivatives_of_factors(self, mode):
        backbone = make(mode=mode)
        x = points(6)
        value = [factor(backbone, i, x[:, i]) for i in range(3)]
        slope, bend = [], []
        for i in range(3):
            flat = x[:, i].clone().requires_grad_()
            parts = factor(backbone, i, flat).flatten(1)
            first = [
                torch.autograd.grad(p.sum(), flat, create_graph=True)[0] for p in parts.unbind(1)
            ]
            second = [torch.autograd.grad(p.sum(), flat, retain_graph=True)[0] for p in first]
            slope.append(torch.stack(first, 1).reshape(value[i].shape).detach())
            bend.append(torch.stack(second, 1).reshape(value[i].shape))
        inputs = x.clone().requires_grad_()
        out = backbone(inputs)[:, 1].sum()
        (gradient,) = torch.autograd.grad(out, inputs, create_graph=True)
        expected = contract(backbone, [slope[0], *value[1:]])[:, 1]
        torch.testing.assert_close(gradient[:, 0], expected, rtol=1e-5, atol=1e-9)
        (hessian,) = torch.autograd.grad(gradient[:, 0].sum(), inputs)
        mixed = contract(backbone, [slope[0], slope[1], value[2]])[:, 1]
        torch.testing.assert_close(hessian[:, 1], mixed, rtol=1e-5, atol=1e-9)
        pure = contract(backbone, [bend[0], *value[1:]])[:, 1]
        torch.testing.assert_close(hessian[:, 0], pure, rtol=1e-5, atol=1e-9)


class TestRanks:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("in_dim", [2, 3])
    def test_slim_is_a_smaller_model_with_the_first_columns(self, mode, in_dim):
        full, x = make(in_dim, mode=mode, bias=0.2), points(20, in_dim)
        full.slim(3)
        small = make(in_dim, mode=mode, rank=3, seed=1)
        assert [p.shape for p in full.parameters()] == [p.shape for p in small.parameters()]
        small.load_state_dict(full.state_dict())
        assert torch.equal(full(x), small(x))
        before = make(in_dim, mode=mode, bias=0.2)
        parts = []
        for i in range(in_dim):
            part = factor(before, i, x[:, i])[:, :, :3]
            parts.append(part[..., :3])
        if mode == "tucker":
            expected = tucker_points(before.core[(slice(None), *[slice(3)] * in_dim)], parts)
        else:
            expected = contract(before, parts)
        torch.testing.assert_close(full(x), expected)

    @pytest.mark.parametrize("mode", MODES)
    def test_what_is_not_active_is_not_seen_and_hardly_moves(self, mode):
        backbone, cut, x = make(mode=mode, rank_schedule="fixed"), make(mode=mode), points(20)
        backbone.grow(Progress(1, 0.2))
        assert backbone.ranks.active == 2
        cut.slim(2)
        torch.testing.assert_close(backbone(x), cut(x), rtol=0, atol=1e-9)
        backbone(x).square().sum().backward()
        rows = backbone.columns[1].weight.grad.abs().unflatten(0, (2, 4, -1))
        # between the ends of a train a row belongs to two ranks
        active = rows[:, :2, :2] if mode == "tt" else rows[:, :2]
        assert 0 < rows[:, 2:].max() < 1e-9 < active.min()

    def test_all_are_active_in_the_end(self):
        backbone, plain, x = make(rank_schedule="fixed"), make(), points(20)
        assert not backbone.grow(Progress(1, 0.6))
        assert torch.equal(backbone(x), plain(x))

    @pytest.mark.parametrize("mode", MODES)
    def test_a_cut_model_is_restored_from_its_sizes(self, mode):
        a, b, x = make(mode=mode), make(mode=mode, seed=1), points(9)
        a.slim(2)
        b.resize(a.sizes())
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(x), b(x))

    def test_one_axis_has_one_rank(self):
        with pytest.raises(ConfigError, match="rank"):
            make(1).slim(2)


class TestFits:
    @staticmethod
    def psnr(backbone, axes, target, steps=300):
        optimiser = torch.optim.Adam(backbone.parameters(), lr=1e-2)
        for i in range(steps):
            optimiser.param_groups[0]["lr"] = 1e-2 * 0.03 ** (i / steps)
            optimiser.zero_grad()
            loss = (backbone.grid(axes)[..., 0] - target).square().mean()
            loss.backward()
            optimiser.step()
        error = (backbone.grid(axes)[..., 0] - target).square().mean().item()
        return -10 * math.log10(error)

    @staticmethod
    def make(rank):
        net = {**NET, "encoding": {"type": "frequency", "levels": 6}, "width": 24}
        return make(2, rank=rank, features=1, axis=net).float()

    def test_no_image_is_fitted_better_than_by_its_singular_vectors(self):
        """Eckart and Young: and a small rank comes close to that."""
        axes = [torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 40)]
        y, x = torch.meshgrid(*axes, indexing="ij")
        target = 0.5 + 0.2 * torch.sin(3 * x * y + y) + 0.2 * torch.exp(-8 * (x - y).square())
        values = torch.linalg.svdvals(target.double())
        cap = -10 * math.log10(float(values[2:].square().sum()) / target.numel())
        assert cap - 1 < self.psnr(self.make(2), axes, target) <= cap + 1e-3

    def test_a_product_of_functions_has_rank_one_and_a_slanted_edge_has_not(self):
        axes = [torch.linspace(-1, 1, 40)] * 2
        a, b = axes
        product = (0.5 + 0.4 * torch.sin(4 * a))[:, None] * (0.6 + 0.3 * torch.cos(5 * b))
        assert self.psnr(self.make(1), axes, product) > 40
        edge = (a[:, None] > b).float()
        assert self.psnr(self.make(1), axes, edge, steps=100) < 15


class TestSettings:
    @pytest.mark.parametrize(
        "settings, words",
        [
            ({"rank": 0}, "rank must be at least 1, got 0"),
            ({"features": 0}, "features must be at least 1"),
            ({"nodes": 1}, "nodes must be at least 2"),
            ({"bias": -0.1}, "bias"),
            ({"mode": "ring"}, "mode"),
            ({"rank_share": 0.0}, "rank_share"),
            ({"axis": {"type": "nothing"}}, "nothing"),
            ({"mode": "tucker", "rank": 2000}, "Tucker core of rank 2000 over 3 axes"),
        ],
    )
    def test_what_cannot_be_is_refused_with_a_sentence(self, settings, words):
        with pytest.raises(ConfigError, match=words):
            make(**settings)
