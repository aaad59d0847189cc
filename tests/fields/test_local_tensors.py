"""The operation "local-tensors": closed forms, naive loops, and kernels against the reference."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from polyfield import backend
from polyfield.encodings.base import Cells
from polyfield.encodings.interpolation import interpolate_torch
from polyfield.errors import ConfigError
from polyfield.fields import local_tensors as module
from polyfield.fields.local_tensors import (
    Boxes,
    centres,
    cover_pairs,
    local_tensors,
    local_tensors_torch,
    number_voxels,
    occupied_voxels,
    upsample,
    voxels_per_axis,
)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def points(n, dims=3, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(n, dims, dtype=dtype, generator=generator) - 1


def placement(pitch, dims=3, share=0.7, seed=2):
    """Tensors in a random share of the voxels."""
    generator = torch.Generator().manual_seed(seed)
    count = voxels_per_axis(pitch, dims)
    return number_voxels(torch.rand((count,) * dims, generator=generator) < share)


def scale(pitch=0.5, dims=3, ranks=(4, 8), nodes=5, dtype=torch.float64, share=0.7, **settings):
    """Vectors, placement and boxes of one scale."""
    index = placement(pitch, dims, share)
    settings = {"half": 0.75 * pitch, "neighbours": 4, **settings}
    boxes = Boxes(pitch=pitch, density_ranks=ranks[0], **settings)
    return random(int(index.max()) + 1, dims, nodes, sum(ranks), dtype=dtype), index, boxes


def naive(x, vectors, index, boxes):
    """One point by loops over all tensors, straight from the definition."""
    near = []
    for m, centre in enumerate(centres(index, boxes.pitch).to(x)):
        away = x - centre
        if float(away.abs().max()) <= boxes.half:
            near.append((float(away.norm()), m, away / boxes.half))
    values, weights = [], []
    for distance, m, u in sorted(near, key=lambda entry: entry[:2])[: boxes.neighbours]:
        product = torch.ones(vectors.shape[3], dtype=x.dtype)
        for axis, where in enumerate(u):
            q = (float(where) + 1) / 2 * (vectors.shape[2] - 1)
            i = min(int(q), vectors.shape[2] - 2)
            line = vectors[m, axis]
            product = product * ((1 - (q - i)) * line[i] + (q - i) * line[i + 1])
        values.append(torch.cat((product[: boxes.density_ranks].sum()[None],
                                 product[boxes.density_ranks :])))  # fmt: skip
        window = math.prod(1 - float(v) ** 2 for v in u) + 1e-6 if boxes.window else 1.0
        weights.append(window / (distance + 1e-6))
    total = sum(w * v for w, v in zip(weights, values, strict=True))
    width = 1 + vectors.shape[3] - boxes.density_ranks
    return total / sum(weights) if near else torch.zeros(width, dtype=x.dtype)


class TestPlacement:
    def test_voxels_begin_at_the_corner_of_the_box_and_are_numbered_in_order(self):
        index = number_voxels(torch.tensor([[True, False], [False, True]]))
        assert index.tolist() == [[0, -1], [-1, 1]]
        assert centres(index, 1.0).tolist() == [[-0.5, -0.5], [0.5, 0.5]]

    def test_the_last_voxel_may_reach_beyond_the_box(self):
        assert [voxels_per_axis(p, 3) for p in (2.0, 0.8, 0.4, 0.4 / 1.5, 0.2 / 1.5)] == [
            1, 3, 5, 8, 15]  # fmt: skip

    def test_too_many_voxels_get_a_sentence(self):
        with pytest.raises(ConfigError, match=r"20\*\*6 places.*pitch of 0.13 or more"):
            voxels_per_axis(0.1, 6)

    def test_voxels_are_those_that_cells_reach_into(self):
        cells = Cells(torch.tensor([[0.1, 0.1], [-0.9, 0.9]]), 0.1)
        found = occupied_voxels(cells, 0.5)  # one cell inside a voxel, one that ends at its border
        assert found.nonzero().tolist() == [[0, 3], [2, 2]]
        assert occupied_voxels(Cells(cells.centres, 0.15), 0.5).sum() == 1 + 4

    def test_a_cell_larger_than_voxels_takes_all_of_them(self):
        cells = Cells(torch.zeros(1, 3), 0.5)
        found = occupied_voxels(cells, 0.25)
        assert int(found.sum()) == 4**3 and bool(found[2:6, 2:6, 2:6].all())

    def test_every_occupied_point_is_covered(self):
        cells = Cells(points(30, 2), 0.04)
        for pitch in (0.3, 0.11, 0.05):
            index = number_voxels(occupied_voxels(cells, pitch))
            corners = torch.tensor(list(itertools.product((-1, 1), repeat=2))) * cells.half
            x = (cells.centres[:, None] + 0.999 * corners).flatten(0, 1).clamp(-1, 1)
            boxes = Boxes(pitch, pitch / 2, 1, 1)
            vectors = torch.ones(int(index.max()) + 1, 2, 2, 2, dtype=x.dtype)
            assert bool(local_tensors(x, vectors, index, boxes)[1].all())


class TestReference:
    @pytest.mark.parametrize("dims", [1, 2, 3])
    @pytest.mark.parametrize("settings", [{}, {"neighbours": 1}, {"window": True}])
    def test_is_the_definition(self, dims, settings):
        arguments = scale(dims=dims, share=0.5, **settings)
        x = points(40, dims)
        expected = torch.stack([naive(p, *arguments) for p in x])
        torch.testing.assert_close(local_tensors(x, *arguments)[0], expected)

    def test_one_tensor_is_the_dense_grid_of_its_outer_product(self):
        vectors, index, boxes = scale(pitch=2.0, nodes=6, half=1.0, neighbours=1, share=1.0)
        dense = torch.einsum("xr,yr,zr->xyzr", *vectors[0])
        x, r = points(200), boxes.density_ranks
        expected = interpolate_torch(x, dense)
        out, covered = local_tensors(x, vectors, index, boxes)
        torch.testing.assert_close(out[:, 0], expected[:, :r].sum(1), rtol=0, atol=1e-6)
        torch.testing.assert_close(out[:, 1:], expected[:, r:], rtol=0, atol=1e-6)
        assert bool(covered.all())

    def test_averages_of_a_constant_are_that_constant(self):
        # boxes wider than 1, where a mean by max(1, sum of weights) falls short
        for boxes in (Boxes(0.9, 1.3, 8, 1), Boxes(0.9, 1.3, 3, 1, window=True)):
            index = placement(0.9, 3, share=1.0)
            vectors = torch.ones(index.numel(), 3, 4, 3, dtype=torch.float64)
            vectors[:, 0, :, 1] = 7.0
            out, _ = local_tensors(points(100), vectors, index, boxes)
            expected = torch.tensor([1.0, 7.0, 1.0]).double().expand(100, 3)
            torch.testing.assert_close(out, expected)

    def test_where_no_tensor_is_features_and_gradients_are_exactly_zero(self):
        index = torch.full((4, 4), -1, dtype=torch.int32)
        index[0, 0] = 0
        for dtype in (torch.float32, torch.float64):
            vectors = random(1, 2, 4, 6, dtype=dtype).requires_grad_()
            x = torch.tensor([[0.2, 0.3], [-0.8, -0.8]], dtype=dtype)
            out, covered = local_tensors(x, vectors, index, Boxes(0.5, 0.375, 4, 2))
            assert covered.tolist() == [False, True]
            assert out[0].tolist() == [0] * 5 and out[1].abs().min() > 0
            out[0].sum().backward()
            assert vectors.grad.abs().max() == 0

    def test_the_nearest_are_taken_of_those_that_cover(self):
        index = number_voxels(torch.ones(8, dtype=torch.bool))  # centres -0.875, -0.625, ...
        point, tensor, away = cover_pairs(
            torch.tensor([[-0.6], [-0.8]]), index, Boxes(0.25, 0.4, 2, 1)
        )
        assert point.tolist() == [0, 0, 1, 1] and tensor.tolist() == [1, 2, 0, 1]
        expected = torch.tensor([[0.025], [-0.225], [0.075], [-0.175]])
        torch.testing.assert_close(away, expected)

    def test_order_of_tensors_and_size_of_batches_do_not_matter(self):
        vectors, index, boxes = scale(pitch=0.3)
        x = points(300)
        order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(3))
        shuffled = torch.where(index >= 0, order.argsort().int()[index.long()], index)
        expected = local_tensors(x, vectors, index, boxes)[0]
        torch.testing.assert_close(local_tensors(x, vectors[order], shuffled, boxes)[0], expected)
        parts = [local_tensors(part, vectors, index, boxes)[0] for part in x.split(37)]
        torch.testing.assert_close(torch.cat(parts), expected)

    def test_a_window_leaves_no_seam_where_a_box_begins(self):
        x = torch.linspace(-1, 1, 4001, dtype=torch.float64)[:, None]
        jumps = {}
        for window in (False, True):
            vectors, index, boxes = scale(pitch=0.4, dims=1, share=1.0, nodes=2, window=window)
            out = local_tensors(x, vectors, index, boxes)[0]
            jumps[window] = float(out.diff(dim=0).abs().max())
        assert jumps[True] < 0.02 < 0.2 < jumps[False]

    def test_upsampling_keeps_the_function_at_multiples_and_old_nodes(self):
        vectors, index, boxes = scale(pitch=0.5, nodes=4)
        x = points(100)
        finer = upsample(vectors, 6)
        assert finer.shape == (len(vectors), 3, 7, vectors.shape[3])
        expected = local_tensors(x, vectors, index, boxes)[0]
        torch.testing.assert_close(local_tensors(x, finer, index, boxes)[0], expected)
        torch.testing.assert_close(upsample(vectors, 9)[:, :, ::3], vectors)

    @pytest.mark.parametrize("window", [False, True])
    def test_first_and_second_derivatives_match_finite_differences(self, window):
        vectors, index, boxes = scale(pitch=1.0, dims=2, ranks=(1, 2), nodes=3, window=window)
        x = points(3, 2).requires_grad_()

        def features(x, vectors):
            return local_tensors_torch(x, vectors, index, boxes)[0]

        inputs = (x, vectors.requires_grad_())
        assert torch.autograd.gradcheck(features, inputs)
        assert torch.autograd.gradgradcheck(features, inputs)

    def test_the_density_alone_is_the_first_feature(self):
        vectors, index, boxes = scale()
        alone = Boxes(boxes.pitch, boxes.half, boxes.neighbours, boxes.density_ranks,
                      density_only=True)  # fmt: skip
        for dtype in (torch.float32, torch.float64):
            x, v = points(50, dtype=dtype), vectors.to(dtype)
            out, covered = local_tensors(x, v, index, alone)
            whole, everywhere = local_tensors(x, v, index, boxes)
            assert out.shape == (50, 1) and torch.equal(covered, everywhere)
            torch.testing.assert_close(out[:, 0], whole[:, 0])


class TestCompiled:
    @pytest.fixture(params=[1, 2])
    def threads(self, request):
        before = torch.get_num_threads()
        torch.set_num_threads(request.param)
        yield request.param
        torch.set_num_threads(before)

    @staticmethod
    def outcome(function, x, vectors, index, boxes):
        """Features, cover and the gradient in the vectors."""
        leaf = vectors.clone().requires_grad_()
        out, covered = function(x, leaf, index, boxes)
        towards = random(*out.shape, dtype=out.dtype, seed=4)
        return out.detach(), covered, torch.autograd.grad(out, leaf, towards)[0]

    def assert_parity(self, x, *arguments):
        from polyfield.fields.local_tensors_numba import local_tensors_numba

        got = self.outcome(local_tensors_numba, x, *arguments)
        expected = self.outcome(local_tensors_torch, x, *arguments)
        assert torch.equal(got[1], expected[1])
        for a, b in ((got[0], expected[0]), (got[2], expected[2])):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))

    @pytest.mark.parametrize("dims", [1, 2, 3, 4])
    def test_parity_in_every_number_of_dimensions(self, threads, dims):
        self.assert_parity(points(700, dims, torch.float32), *scale(dims=dims, dtype=torch.float32))

    @pytest.mark.parametrize("ranks", [(1, 1), (5, 7), (16, 48)])
    def test_parity_for_ranks(self, ranks):
        self.assert_parity(points(300, 3, torch.float32), *scale(ranks=ranks, dtype=torch.float32))

    @pytest.mark.parametrize(
        "settings",
        [
            {"neighbours": 1},
            {"neighbours": 8},
            {"window": True},
            {"half": 0.25},
            {"half": 0.9, "neighbours": 6},
            {"nodes": 2},
            {"density_only": True},
        ],
    )
    def test_parity_for_settings(self, settings):
        self.assert_parity(
            points(900, 3, torch.float32) * 1.2, *scale(dtype=torch.float32, **settings)
        )

    def test_sums_do_not_depend_on_the_number_of_threads(self):
        arguments = (points(5000, 3, torch.float32), *scale(dtype=torch.float32))
        before, results = torch.get_num_threads(), []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(self.outcome(local_tensors, *arguments))
        torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    def test_no_points(self):
        out, covered, grad = self.outcome(
            local_tensors, torch.zeros(0, 3), *scale(dtype=torch.float32)
        )
        assert out.shape == (0, 9) and covered.shape == (0,) and grad.abs().max() == 0

    def test_points_have_gradients_too_and_second_ones(self):
        vectors, index, boxes = scale(dtype=torch.float32, pitch=1.0)
        for name in ("auto", "torch"):
            with backend.using(name):
                x = points(20, 3, torch.float32).requires_grad_()
                leaf = vectors.clone().requires_grad_()
                out = local_tensors(x, leaf, index, boxes)[0]
                (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
                found = (slope.detach(), *torch.autograd.grad(slope.square().sum(), (x, leaf)))
            expected = found if name == "auto" else expected
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))

    def test_inputs_that_are_not_contiguous(self):
        vectors, index, boxes = scale(dtype=torch.float32)
        wide = points(100, 6, torch.float32)
        turned = vectors.transpose(1, 2).contiguous().transpose(1, 2)
        got = self.outcome(local_tensors, wide[:, ::2], turned, index, boxes)
        expected = self.outcome(local_tensors, wide[:, ::2].contiguous(), vectors, index, boxes)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))

    def test_what_is_not_a_number_stays_visible_and_is_no_crash(self):
        vectors, index, boxes = scale(dtype=torch.float32, share=1.0)
        x = points(4, 3, torch.float32)
        x[1, 0], x[2, 1] = math.nan, math.inf
        out, covered = local_tensors(x, vectors, index, boxes)
        assert covered.tolist() == [True, False, False, True] and bool(out[1:3].eq(0).all())
        vectors[index[0, 0, 0]] = math.nan
        assert bool(local_tensors(x[:1] * 0 - 0.9, vectors, index, boxes)[0].isnan().all())

    def test_more_axes_than_the_kernels_know_run_on_the_reference(self):
        assert module.MOST_AXES == 4
        arguments = scale(dims=5, pitch=1.0, dtype=torch.float32)
        x = points(20, 5, torch.float32)
        out, covered = local_tensors(x, *arguments)
        expected = local_tensors_torch(x, *arguments)
        assert torch.equal(out, expected[0]) and torch.equal(covered, expected[1])
