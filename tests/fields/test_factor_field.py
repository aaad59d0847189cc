"""Factor fields: maps of coordinates, factors, their product, and what they are equal to."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.config import merge, to_plain
from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.fields.factors import FactorConfig, FactorMap, cosine_atoms, nearest
from polyfield.fields.mappings import MAPPINGS, identity, sawtooth, sinc, triangle
from polyfield.registry import build, lookup

PRESETS = lookup("backbones", "factor-field").presets
SMALL = {
    "coefficients": {"kind": "grid", "resolution": [3]},
    "basis": {"kind": "grid", "mapping": "sawtooth", "channels": [3, 2], "resolution": [4, 5],
              "frequency": [2.0, 3.0], "init": "normal"},
    "hidden": [8],
    "out_features": 6,
}  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(in_dim=3, **settings):
    spec = {"type": "factor-field", **settings}
    return build("backbones", spec, in_dim=in_dim, generator=seeded())


def factor(in_dim=3, **settings):
    return FactorMap(FactorConfig(**settings), in_dim, seeded())


def points(*shape, in_dim=3, dtype=torch.float64):
    return torch.rand(*shape, in_dim, generator=seeded(1), dtype=dtype) * 2 - 1


def count(module):
    return sum(p.numel() for p in module.parameters())


class TestMappings:
    @pytest.mark.parametrize("name", ["sawtooth", "triangle", "sinc"])
    def test_stay_in_the_box_and_keep_the_shape(self, name):
        y = MAPPINGS[name](points(50), 3.7)
        assert y.shape == (50, 3) and y.abs().max() <= 1

    @pytest.mark.parametrize(
        ("name", "tiles"), [("sawtooth", 1), ("triangle", 2), ("sinc", 2), ("trigonometric", 1)]
    )
    def test_repeat_after_their_period(self, name, tiles):
        frequency = 8.0
        x = (points(50) + 1) / 4 - 1  # stays inside when moved by a period
        moved = MAPPINGS[name](x + tiles * 2 / frequency, frequency)
        torch.testing.assert_close(moved, MAPPINGS[name](x, frequency))

    def test_identity_and_sawtooth_at_frequency_one_are_the_box_itself(self):
        x = torch.tensor([-1.0, -0.3, 0.0, 1.0])
        torch.testing.assert_close(identity(x), x)
        torch.testing.assert_close(sawtooth(x), x)

    def test_a_triangle_is_continuous_where_a_sawtooth_jumps(self):
        borders = torch.arange(1, 5, dtype=torch.float64) * 0.4 - 1  # of five tiles
        for mapping, jump in ((triangle, 0.0), (sinc, 0.0), (sawtooth, 2.0)):
            step = (mapping(borders + 1e-9, 5.0) - mapping(borders - 1e-9, 5.0)).abs()
            torch.testing.assert_close(step, torch.full_like(step, jump), atol=1e-7, rtol=0)

    def test_the_far_side_of_the_box_belongs_to_the_last_tile(self):
        one = torch.ones(1)
        assert sawtooth(one, 4.0) == 1
        torch.testing.assert_close(sawtooth(one, 1.5), torch.zeros(1))
        assert triangle(one, 2.0) == -1

    def test_every_map_has_the_gradient_of_its_tile(self):
        x = points(20).requires_grad_()
        for mapping in (identity, sawtooth, triangle, sinc):
            assert torch.autograd.gradcheck(lambda y, f=mapping: f(y, 2.3), (x,))


class TestCosineAtoms:
    @pytest.mark.parametrize(("resolution", "dims", "atoms"), [(25, 3, 4), (32, 2, 32), (16, 1, 3)])
    def test_have_unit_norm_and_begin_with_a_constant(self, resolution, dims, atoms):
        grid = cosine_atoms(resolution, dims, atoms)
        assert grid.shape == (resolution,) * dims + (atoms,)
        norms = grid.flatten(0, -2).norm(dim=0)
        torch.testing.assert_close(norms, torch.ones(atoms), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            grid[..., 0], torch.full((resolution,) * dims, resolution ** (-dims / 2))
        )

    def test_are_the_closed_form_in_one_dimension(self):
        grid, n = cosine_atoms(7, 1, 2), torch.arange(7.0)
        wave = torch.cos(n * math.pi / 3)  # two channels: p = 3
        wave -= wave.mean()
        torch.testing.assert_close(grid[:, 1], wave / wave.norm(), atol=1e-6, rtol=1e-5)

    def test_are_different_from_each_other(self):
        atoms = cosine_atoms(12, 3, 8).flatten(0, -2)
        assert torch.linalg.matrix_rank(atoms) == 8


class TestFactors:
    def test_border_nodes_lie_half_a_cell_inside_without_aligned_corners(self):
        f = factor(1, channels=(1,), resolution=(4,), align_corners=False, init="normal")
        table = f.values.table0
        nodes = (torch.arange(4) + 0.5)[:, None] / 2 - 1
        torch.testing.assert_close(f(nodes), table)
        torch.testing.assert_close(f(torch.tensor([[-1.0]])), table[:1])  # the border continues

    def test_nearest_takes_the_value_of_the_closest_node(self):
        values = torch.arange(12.0).reshape(3, 4, 1)
        x = torch.tensor([[-0.51, 0.3], [-0.49, 0.34], [1.0, 1.0]])
        assert nearest(x, values).flatten().tolist() == [2, 6, 11]

    def test_a_pixel_of_a_tile_has_a_node_of_its_own(self):
        # 1024 pixels, tiles of 32 and 51: the paper's images
        x = ((torch.arange(1024) + 0.5) / 512 - 1)[:, None]
        for r in (32, 51):
            values = torch.arange(float(r))[:, None]
            found = nearest(sawtooth(x, 1024 / r), values).flatten()
            assert torch.equal(found, torch.arange(1024.0) % r)

    def test_gradients_touch_the_cells_around_a_point_and_no_others(self):
        f = factor(channels=(3, 2), resolution=(6, 7), frequency=(2.0, 3.0), mapping="sawtooth")
        f(points(1, dtype=torch.float32)).sum().backward()
        for table in (f.values.table0, f.values.table1):
            assert 1 <= int(table.grad.abs().sum(-1).count_nonzero()) <= 8

    def test_a_tile_learns_from_all_its_copies(self):
        f = factor(1, channels=(1,), resolution=(5,), frequency=(4.0,), mapping="sawtooth")
        copies = torch.tensor([[-0.8], [-0.3], [0.2], [0.7]])  # the same place of four tiles
        f(copies).sum().backward()
        gradient = f.values.table0.grad.flatten()
        torch.testing.assert_close(gradient.sum(), torch.tensor(4.0))
        assert gradient.count_nonzero() <= 2

    def test_fixed_grids_are_no_parameters(self):
        f = factor(kind="fixed-grid", channels=(4,), resolution=(5,))
        assert count(f) == 0 and f.values.table0.shape == (5, 5, 5, 4)

    def test_a_hash_grid_is_the_encoding(self):
        f = factor(kind="hash", channels=(2, 2, 2), resolution=(4, 16), log2_entries=8)
        x = points(10, dtype=torch.float32)
        torch.testing.assert_close(f(x), f.values.encoding(x))

    def test_coordinates_as_a_factor_are_sines_at_the_frequencies(self):
        f = factor(1, kind="x", mapping="trigonometric", frequency=(1.0, 2.0))
        x = points(6, in_dim=1)
        angle = math.pi * (x + 1)
        expected = torch.cat([g(k * angle) for k in (1, 2) for g in (torch.sin, torch.cos)], -1)
        torch.testing.assert_close(f(x), expected)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"channels": (0,)}, "channels"),
            ({"channels": (2, 2), "resolution": (2, 3, 4)}, "resolution"),
            ({"frequency": (0.0,)}, "frequency"),
            ({"mapping": "trigonometric"}, "trigonometric"),
            ({"kind": "hash", "channels": (2, 3)}, "equal channels"),
            ({"octaves": -1}, "octaves"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, settings, message):
        with pytest.raises(ValueError, match=message):
            FactorConfig(**settings)


class TestEquivalences:
    def test_ones_times_an_unrepeated_basis_are_a_multi_level_grid(self):
        basis = merge(SMALL["basis"], {"frequency": [1.0]})
        backbone = make(coefficients=None, basis=basis, out_features=None).double()
        x = points(20)
        tables = [p for p in backbone.factors[0].parameters()]
        expected = torch.cat([interpolate(x, t) for t in tables], -1)
        torch.testing.assert_close(backbone(x), expected)

    def test_constant_coefficients_scale_the_basis(self):
        with_ones, without = (
            make(coefficients=c, basis=SMALL["basis"], out_features=None).double()
            for c in ({"kind": "grid", "resolution": [3], "scale": 2.0}, None)
        )
        x = points(20)
        torch.testing.assert_close(with_ones(x), 2 * without(x))

    def test_a_line_times_the_product_of_the_others_is_cp(self):
        line = {"kind": "vec", "resolution": [6], "init": "normal"}
        others = {"kind": "cp", "channels": [5], "resolution": [6], "init": "normal"}
        backbone = make(coefficients=line, basis=others, out_features=None).double()
        (z,), (x, y) = (list(f.parameters()) for f in backbone.factors)
        at = points(20)
        dense = torch.einsum("ir,jr,kr->ijk", x, y, z)[..., None]
        torch.testing.assert_close(backbone(at).sum(-1), interpolate(at, dense)[:, 0])

    def test_lines_times_planes_are_vm(self):
        lines = {"kind": "vm-lines", "resolution": [6], "init": "normal"}
        planes = {"kind": "vm-planes", "channels": [2, 3], "resolution": [6], "init": "normal"}
        backbone = make(coefficients=lines, basis=planes, out_features=None).double()
        line = [p for p in backbone.factors[0].parameters()]
        plane = [p for p in backbone.factors[1].parameters()]
        at, dense = points(20), 0
        for axis, letters in enumerate(("i,jk", "j,ik", "k,ij")):
            first, second = letters.split(",")
            across = torch.cat(plane[2 * axis : 2 * axis + 2], -1)
            dense = dense + torch.einsum(f"{first}r,{second}r->ijk", line[axis], across)
        torch.testing.assert_close(backbone(at).sum(-1), interpolate(at, dense[..., None])[:, 0])

    @pytest.mark.parametrize("name", ["grid", "mlp", "vec", "hash", "vm-planes", "x"])
    def test_the_product_is_that_of_the_factors(self, name):
        kind = {"kind": name, "channels": [4], "resolution": [4], "init": "normal"}
        if name == "x":
            kind = {"kind": "x", "frequency": [1.0, 2.0]}
        other = {"kind": "grid", "resolution": [3], "init": "normal"}
        backbone = make(coefficients=other, basis=kind, further=[other], out_features=None)
        x = points(9, dtype=torch.float32)
        a, b, c = (f(x) for f in backbone.factors)
        torch.testing.assert_close(backbone(x), a * b * c)


class TestFactorField:
    def test_paper_sizes_for_radiance_fields(self):
        backbone = build("backbones", {"type": "factor-field"}, in_dim=3)
        assert [count(f) for f in backbone.factors] == [589_824, 4_712_656]
        assert count(backbone.projector) == 3_264 and backbone.out_dim == 32
        assert backbone.projector.layers[-1].bias is None

    @pytest.mark.parametrize(
        ("preset", "hidden", "in_dim", "values", "total"),
        [("image", [64], 2, 4, 1_429_376), ("shape", [], 3, 1, 5_342_274)],
    )
    def test_paper_sizes_of_signals(self, preset, hidden, in_dim, values, total):
        spec = {"type": "factor-field", **PRESETS[preset]["backbone"], "hidden": hidden}
        backbone = build("backbones", spec, in_dim=in_dim)
        assert count(backbone) + count(backbone.make_head(values)) == total

    def test_is_the_projection_of_the_product(self):
        backbone, x = make(**SMALL), points(5, dtype=torch.float32)
        first, last = backbone.projector.layers
        torch.testing.assert_close(backbone(x), last(first(backbone.product(x)).relu()))

    def test_tables_have_a_rate_of_their_own(self):
        tables, networks = make(**SMALL, table_rate=5.0).parameter_groups(0.1)
        assert tables["lr"] == 0.5 and networks["lr"] == 0.1 and tables["sparse"]
        assert len(tables["params"]) == 3 and len(networks["params"]) == 3

    def test_coefficients_have_as_many_channels_as_the_basis(self):
        planes = {"kind": "vm-planes", "channels": [4, 2]}
        lines = {"kind": "vm-lines", "resolution": [4], "channels": []}
        backbone = make(**SMALL | {"coefficients": lines, "basis": planes})
        assert backbone.factors[0].out_dim == 3 * 6

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"coefficients": None, "basis": None}, "nothing to project"),
            ({"coefficients": {"kind": "grid", "channels": [3]}}, "one width"),
            ({"basis": {"kind": "grid"}}, "no channels"),
            ({"coefficients": {"kind": "vm-lines"}, "basis": {"channels": [4]}}, "split"),
            ({"hidden": [0]}, "hidden"),
            ({"out_features": 0}, "out_features"),
            ({"table_rate": 0.0}, "table_rate"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            build("backbones", {"type": "factor-field", **settings}, in_dim=3)

    @pytest.mark.parametrize("kind", ["cp", "vm-planes"])
    def test_products_over_other_axes_need_other_axes(self, kind):
        with pytest.raises(ConfigError, match="2 or more"):
            make(in_dim=1, coefficients=None, basis={"kind": kind, "channels": [2]})

    @pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"unbounded"}))
    def test_every_preset_computes(self, preset):
        small = {"coefficients": {"resolution": [3]}, "basis": {"resolution": [4]}}
        spec = to_plain(PRESETS[preset]["backbone"])
        for name, cut in small.items():
            if spec.get(name) and spec[name].get("kind") not in ("x", "hash"):
                spec[name] = {**spec[name], **cut}
        backbone = build("backbones", {"type": "factor-field", **spec}, in_dim=3)
        assert backbone(points(4, dtype=torch.float32)).isfinite().all()


def repeated_picture(side=128, tile=16):
    """A smooth envelope times a random tile that repeats."""
    pattern = torch.rand(tile, tile, generator=seeded(2)).repeat(side // tile, side // tile)
    axis = (torch.arange(side) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    picture = (0.6 + 0.4 * torch.sin(2 * x + 1) * torch.cos(1.5 * y)) * pattern
    return torch.stack((y, x), -1).reshape(-1, 2), picture.reshape(-1, 1)


def psnr_of_fit(spec, steps, lr):
    backbone = build("backbones", {"type": "factor-field", **spec}, in_dim=2, generator=seeded())
    head = backbone.make_head(1, seeded(1))
    groups = [*backbone.parameter_groups(lr), {"params": list(head.parameters()), "lr": lr}]
    optimiser = torch.optim.Adam([{k: g[k] for k in ("params", "lr")} for g in groups])
    x, target = repeated_picture()
    for _ in range(steps):
        loss = (head(backbone(x)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return -10 * math.log10(float(loss.detach())), count(backbone) + count(head)


def test_a_dictionary_beats_a_dense_grid_of_its_size_by_20_db_on_repeated_content():
    common = {"hidden": [], "out_features": None, "table_rate": 1.0}
    dictionary = {
        "coefficients": {"kind": "grid", "resolution": [8], "align_corners": False},
        "basis": {"kind": "grid", "mapping": "sawtooth", "channels": [4, 4],
                  "resolution": [16, 23], "frequency": [8.0, 128 / 23], "init": "cosine",
                  "interpolation": "nearest"},
    }  # fmt: skip
    dense = {"coefficients": None, "basis": {"kind": "grid", "channels": [1], "resolution": [61]}}
    ours, ours_size = psnr_of_fit({**common, **dictionary}, steps=250, lr=3e-2)
    theirs, theirs_size = psnr_of_fit({**common, **dense}, steps=100, lr=5e-2)
    assert abs(ours_size - theirs_size) < 0.02 * theirs_size
    assert ours > theirs + 20, (ours, theirs)
