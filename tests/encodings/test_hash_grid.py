import dataclasses

import pytest
import torch
from torch.nn.functional import grid_sample

from polyfield import backend
from polyfield.encodings.dense_grid import DenseGridConfig, DenseGridEncoding
from polyfield.encodings.grid import (
    GridLayout,
    corners,
    hash_encode,
    hash_encode_torch,
    spatial_hash,
)
from polyfield.encodings.hash_grid import (
    HashGridConfig,
    HashGridEncoding,
    hash_grid_layout,
)

PAPER = hash_grid_layout(HashGridConfig())
REPOSITORY = hash_grid_layout(HashGridConfig(levels=8, features=4))


def uniform(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layout(in_dim=3, **settings):
    return hash_grid_layout(HashGridConfig(**settings), in_dim)


class TestGeometry:
    def test_paper_levels(self):
        assert PAPER.resolutions == (
            16, 23, 31, 43, 59, 81, 112, 154, 213, 295, 407, 562, 777, 1073, 1483, 2048,
        )  # fmt: skip
        assert PAPER.hashed == (False,) * 5 + (True,) * 11
        assert PAPER.entries == 6_098_120
        assert PAPER.entries * PAPER.features == 12_196_240

    def test_second_level_is_rounded_up_to_a_multiple_of_eight(self):
        assert PAPER.sizes[:2] == (4096, 12_168)
        assert PAPER.offsets[:3] == (0, 4096, 4096 + 12_168)

    def test_repository_levels(self):
        assert REPOSITORY.resolutions == (16, 32, 64, 128, 256, 512, 1024, 2048)
        assert REPOSITORY.hashed == (False,) * 3 + (True,) * 5
        assert REPOSITORY.entries == 2_920_448

    @pytest.mark.parametrize("levels", range(2, 25))
    @pytest.mark.parametrize("finest", [64, 100, 512, 2048, 5000])
    def test_finest_level_has_the_asked_resolution(self, levels, finest):
        assert layout(levels=levels, max_resolution=finest).resolutions[-1] == finest

    def test_one_level_is_the_base(self):
        assert layout(levels=1, base_resolution=7).resolutions == (7,)

    def test_scales_are_float32_numbers(self):
        for scale in PAPER.scales:
            assert float(torch.tensor(scale, dtype=torch.float32)) == scale

    def test_table_has_the_entries_of_all_levels(self):
        encoding = HashGridEncoding(HashGridConfig(log2_entries=10), in_dim=2)
        assert encoding.table.shape == (encoding.layout.entries, 2)
        assert encoding.table.numel() == sum(p.numel() for p in encoding.parameters())


class TestHash:
    @pytest.mark.parametrize(
        "coords, bits, expected",
        [
            ((1, 2, 3), 32, 2892625372),
            ((1, 2, 3), 19, 128476),
            ((1, 2, 3), 14, 13788),
            ((0, 1, 0), 32, 2654435761),
            ((0, 1, 0), 19, 489905),
            ((0, 1, 0), 14, 14769),
            ((100, 200, 300), 32, 3655970992),
            ((100, 200, 300), 19, 110768),
        ],
    )
    def test_published_values(self, coords, bits, expected):
        assert spatial_hash(torch.tensor(coords)).item() % 2**bits == expected

    def test_negative_coordinates_wrap_as_unsigned_numbers(self):
        assert spatial_hash(torch.tensor([-1, 0, 0])).item() == 2**32 - 1


class TestInitialValues:
    def test_features_are_within_the_bound_and_fill_it(self):
        table = HashGridEncoding(HashGridConfig(log2_entries=12)).table
        assert table.abs().max() <= 1e-4
        assert table.min() < -0.99e-4 and table.max() > 0.99e-4
        assert abs(table.mean()) < 2e-6

    def test_initial_features_are_tiny(self):
        encoding = HashGridEncoding(HashGridConfig(log2_entries=10))
        assert encoding(torch.rand(100, 3) * 2 - 1).abs().max() <= 1.0001e-4


def naive(x, table, shape, level):
    """One level, one point, straight from the definition."""
    total = torch.zeros(shape.features, dtype=table.dtype)
    position = [(float(v) + 1) / 2 * shape.scales[level] + shape.shift for v in x]
    for corner in range(2**shape.in_dim):
        weight, node = 1.0, []
        for d, p in enumerate(position):
            upper = corner >> d & 1
            cell = int(p // 1)
            f = p - cell
            f = f * f * (3 - 2 * f) if shape.smooth else f
            weight *= f if upper else 1 - f
            node.append(cell + upper)
        size, resolution = shape.sizes[level], shape.resolutions[level]
        if shape.hashed[level]:
            index = 0
            for c, prime in zip(node, (1, 2654435761, 805459861, 3674653429), strict=False):
                index ^= c * prime % 2**32
            index %= size
        elif shape.wrap:
            index = sum(c * resolution**d for d, c in enumerate(node)) % 2**32 % size
        else:
            node = [min(max(c, 0), resolution - 1) for c in node]
            index = sum(c * resolution**d for d, c in enumerate(node))
        total += weight * table[shape.offsets[level] + index]
    return total


@pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"wrap": True}, {"interpolation": "smoothstep"}])
def test_every_level_is_the_naive_definition(in_dim, options):
    shape = layout(in_dim, levels=4, features=3, log2_entries=7, max_resolution=50,
                   base_resolution=3, **options)  # fmt: skip
    assert set(shape.hashed) == ({True, False} if in_dim > 1 else {False})
    table, x = uniform(shape.entries, 3), uniform(7, in_dim, seed=1) * 2 - 1
    x[0], x[1] = -1, 1
    got = hash_encode(x, table, shape)
    expected = torch.stack(
        [torch.cat([naive(p, table, shape, level) for level in range(4)]) for p in x]
    )
    torch.testing.assert_close(got, expected)


def as_volume(table, resolution, features):
    """(1, F, z, y, x) for grid_sample from a dense level."""
    return table.reshape(resolution, resolution, resolution, features).permute(3, 0, 1, 2)[None]


def test_unhashed_levels_equal_grid_sample_with_staggered_nodes():
    shape = layout(levels=4, features=2, log2_entries=19, max_resolution=48)
    assert not any(shape.hashed)
    table, x = uniform(shape.entries, 2), uniform(500, 3, seed=1) * 2 - 1
    got = hash_encode(x, table, shape).reshape(500, 4, 2)
    for level, (scale, n) in enumerate(zip(shape.scales, shape.resolutions, strict=True)):
        part = table[shape.offsets[level] :][: n**3]
        node = (x + 1) / 2 * scale + 0.5
        grid = (node / (n - 1) * 2 - 1)[None, :, None, None]
        expected = grid_sample(as_volume(part, n, 2), grid, "bilinear", "border", True)
        torch.testing.assert_close(got[:, level], expected[0, :, :, 0, 0].T, atol=1e-6, rtol=0)


def test_feature_at_a_node_is_the_stored_entry():
    shape = layout(levels=1, base_resolution=16, features=2)
    table = uniform(shape.entries, 2)
    k = torch.tensor([3, 7, 11], dtype=torch.float64)
    x = (k - 0.5) / shape.scales[0] * 2 - 1
    entry = table[3 + 7 * 16 + 11 * 256]
    torch.testing.assert_close(hash_encode(x, table, shape), entry)


@pytest.mark.parametrize("smooth", [False, True])
def test_weights_sum_to_one(smooth):
    shape = dataclasses.replace(PAPER, smooth=smooth)
    for level in (0, 8, 15):
        weight = corners(uniform(200, 3), shape, level)[1]
        assert weight.min() >= 0
        torch.testing.assert_close(weight.sum(-1), torch.ones(200, dtype=torch.float64))


def test_table_gradient_is_the_weights_and_colliding_corners_add_up():
    shape = layout(levels=1, base_resolution=64, max_resolution=64, log2_entries=3, features=1)
    assert shape.hashed == (True,)
    x = uniform(1, 3) * 2 - 1
    table = uniform(8, 1).requires_grad_()
    hash_encode(x, table, shape).sum().backward()
    index, weight = corners((x + 1) / 2, shape, 0)
    expected = torch.zeros(8, dtype=torch.float64).index_add_(0, index[0], weight[0])
    assert len(index[0].unique()) < 8
    torch.testing.assert_close(table.grad[:, 0], expected)


def test_far_corner_is_clamped_or_wraps_into_the_next_row():
    clamped = layout(2, levels=1, base_resolution=4, features=1)
    table = torch.arange(16.0, dtype=torch.float64)[:, None]
    x = torch.tensor([1.0, -1.0], dtype=torch.float64)  # p = (3.5, 0.5)
    assert hash_encode(x, table, clamped).item() == pytest.approx((3 + 3 + 7 + 7) / 4)
    wrapped = dataclasses.replace(clamped, wrap=True)
    assert hash_encode(x, table, wrapped).item() == pytest.approx((3 + 4 + 7 + 8) / 4)


def test_features_of_dense_levels_continue_beyond_the_box():
    shape = layout(levels=2, max_resolution=20)
    table = uniform(shape.entries, 2)
    outside = torch.tensor([[3.0, 0.1, -5.0]], dtype=torch.float64)
    farther = torch.tensor([[30.0, 0.1, -50.0]], dtype=torch.float64)
    torch.testing.assert_close(
        hash_encode(outside, table, shape), hash_encode(farther, table, shape)
    )


class TestGradients:
    @pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
    @pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
    def test_first_and_second_order_match_finite_differences(self, interpolation, in_dim):
        shape = layout(in_dim, levels=2, features=2, log2_entries=4, base_resolution=3,
                       max_resolution=5, interpolation=interpolation)  # fmt: skip
        x = (uniform(3, in_dim, seed=2) * 2 - 1).requires_grad_()
        table = uniform(shape.entries, 2).requires_grad_()
        function = lambda x, table: hash_encode_torch(x, table, shape)  # noqa: E731
        assert torch.autograd.gradcheck(function, (x, table))
        assert torch.autograd.gradgradcheck(function, (x, table))

    def test_smoothstep_is_flat_at_nodes(self):
        shape = layout(1, levels=1, interpolation="smoothstep")
        x = torch.tensor([(5 - 0.5) / shape.scales[0] * 2 - 1], dtype=torch.float64)
        x.requires_grad_()
        table = uniform(shape.entries, 2)
        hash_encode(x, table, shape).sum().backward()
        assert x.grad.abs().item() < 1e-9

    def test_linear_gradient_is_constant_inside_a_cell(self):
        shape = layout(1, levels=1)
        node = (torch.tensor([[5.2], [5.7]], dtype=torch.float64) - 0.5) / shape.scales[0]
        x = (node * 2 - 1).requires_grad_()
        table = uniform(shape.entries, 2)
        hash_encode(x, table, shape).sum().backward()
        assert x.grad.abs().min() > 0
        torch.testing.assert_close(x.grad[0], x.grad[1])


class TestDenseGrid:
    def make(self, in_dim=3, resolution=6, features=2):
        config = DenseGridConfig(resolution=resolution, features=features)
        grid = DenseGridEncoding(config, in_dim, torch.Generator().manual_seed(0)).double()
        torch.nn.init.uniform_(grid.table, generator=torch.Generator().manual_seed(0))
        return grid

    @pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
    def test_outer_nodes_lie_on_the_border(self, in_dim):
        grid = self.make(in_dim)
        corner = torch.full((in_dim,), -1.0, dtype=torch.float64)
        torch.testing.assert_close(grid(corner), grid.table[0])
        torch.testing.assert_close(grid(-corner), grid.table[-1])

    def test_coordinate_zero_is_fastest(self):
        grid = self.make()
        node = torch.tensor([2, 4, 1])
        x = (node / 5 * 2 - 1).double()
        torch.testing.assert_close(grid(x), grid.table[2 + 4 * 6 + 1 * 36])

    def test_equals_grid_sample_with_aligned_corners(self):
        grid, x = self.make(), uniform(100, 3) * 2 - 1
        volume = as_volume(grid.table, 6, 2)
        expected = grid_sample(volume, x[None, :, None, None], align_corners=True)
        torch.testing.assert_close(grid(x), expected[0, :, :, 0, 0].T)

    def test_reproduces_a_linear_function(self):
        grid = self.make(in_dim=2, features=1)
        axis = torch.linspace(-1, 1, 6, dtype=torch.float64)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        with torch.no_grad():
            grid.table[:, 0] = (2 * x - 3 * y + 1).flatten()
        at = uniform(50, 2) * 2 - 1
        torch.testing.assert_close(grid(at)[:, 0], 2 * at[:, 0] - 3 * at[:, 1] + 1)


def test_float64_runs_on_torch():
    assert backend.resolve("hash-encode", device="cpu", dtype="float64").backend == "torch"


def test_table_that_does_not_fit_the_layout_is_refused():
    with pytest.raises(AssertionError):
        hash_encode(torch.zeros(1, 3), torch.zeros(5, 2), PAPER)


def test_layout_is_hashable_plain_data():
    assert hash(PAPER) == hash(hash_grid_layout(HashGridConfig()))
    assert isinstance(PAPER, GridLayout)
