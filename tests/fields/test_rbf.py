"""NeuRBF's adaptive radial basis functions, and the geometry of scattered centres."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from polyfield.encodings.base import Cells, Progress
from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.fields.backbones.rbf import AdaptiveRBF, RBFConfig, log_spaced
from polyfield.fields.scattered import (
    cell_centres,
    cell_numbers,
    kernel_shapes,
    kernel_values,
    limited,
    nearest,
    packed,
    quadratic_form,
    second_moments,
    spread_points,
    weighted_kmeans,
    weighted_means,
)
from polyfield.registry import build

SMALL = {"kernels": 30, "neighbours": 4, "features": 6, "kernel": "inverse-quadratic",
         "cells": 512, "place_at": [0.5], "place_points": 300, "levels": 2, "grid_features": 2,
         "log2_entries": 6, "max_resolution": 24, "width": 8, "out_features": 5}  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(in_dim=3, **settings):
    spec = {"type": "rbf", **SMALL, **settings}
    return build("backbones", spec, in_dim=in_dim, generator=seeded())


def rbf(in_dim=3, **settings):
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in {**SMALL, **settings}.items()}
    return AdaptiveRBF(RBFConfig(**values), in_dim, seeded())


def points(count, in_dim=3, seed=1):
    return torch.rand(count, in_dim, generator=seeded(seed)) * 2 - 1


def random_covariances(count, dims):
    half = (
        torch.randn(count, dims, dims, generator=seeded(2))
        * torch.logspace(-5, 1, count)[:, None, None]
    )
    return half @ half.mT


class TestNearest:
    @pytest.mark.parametrize(("count", "dims", "k"), [(3000, 3, 8), (700, 2, 1), (40, 1, 5)])
    def test_is_the_exhaustive_search(self, count, dims, k):
        x, centres = points(count, dims), points(90, dims, seed=2)
        distance = torch.cdist(x.double(), centres.double())
        expected = distance.topk(k, largest=False).indices
        assert torch.equal(nearest(x, centres, k), expected)

    def test_holds_where_centres_crowd_and_points_repeat(self):
        centres = torch.cat((points(200) * 1e-2, points(5)))
        x = points(600).repeat(2, 1)
        found = nearest(x, centres, 1)[:, 0]
        best = torch.cdist(x.double(), centres.double()).amin(1)
        reached = (x.double() - centres.double()[found]).norm(dim=1)
        torch.testing.assert_close(reached, best, atol=1e-6, rtol=1e-6)

    def test_no_points_have_no_neighbours(self):
        assert nearest(torch.zeros(0, 2), points(4, 2), 3).shape == (0, 3)


class TestPlacing:
    @pytest.mark.parametrize("dims", [1, 2, 3, 4])
    def test_spread_points_are_further_apart_than_random_ones(self, dims):
        even, odd = spread_points(200, dims, seeded()), points(200, dims)
        assert even.abs().max() <= 1

        def least(x):
            return (torch.cdist(x, x) + 9 * torch.eye(200)).amin()

        assert least(even) > 3 * least(odd)

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_a_cell_holds_its_centre(self, dims):
        centres = cell_centres(4, dims)
        assert torch.equal(cell_numbers(centres, 4), torch.arange(4**dims))
        assert cell_numbers(torch.ones(1, dims), 4) == 4**dims - 1

    def test_kmeans_never_increases_the_weighted_distance(self):
        x, weights = points(800, 2), torch.rand(800, generator=seeded(3))
        centres, costs = x[:12], []
        for _ in range(6):
            labels = nearest(x, centres, 1)[:, 0]
            costs.append(float((weights * (x - centres[labels]).square().sum(1)).sum()))
            centres = weighted_kmeans(x, weights, centres, 1)
        assert all(b <= a for a, b in itertools.pairwise(costs)) and costs[-1] < 0.8 * costs[0]

    def test_empty_clusters_stay(self):
        x, far = points(50, 2), torch.tensor([[9.0, 9.0]])
        centres = weighted_kmeans(x, torch.ones(50), torch.cat((x[:3], far)), 3)
        assert torch.equal(centres[3:], far)
        moments = second_moments(x, torch.ones(50), centres)
        torch.testing.assert_close(moments[3], 1e-10 * torch.eye(2))

    def test_weighted_means_are_those_of_each_label(self):
        values, labels = torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([0, 0, 2])
        found = weighted_means(values, torch.tensor([1.0, 3.0, 2.0]), labels, torch.zeros(3, 1))
        assert found.flatten().tolist() == [2.5, 0.0, 9.0]

    def test_second_moments_are_those_of_the_cluster(self):
        centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0]])
        x = centres.repeat_interleave(400, 0) + points(800, 2)
        weights = torch.rand(800, generator=seeded(3))
        offset = x[:400] - centres[0]
        expected = (weights[:400, None] * offset).T @ offset / weights[:400].sum()
        torch.testing.assert_close(second_moments(x, weights, centres)[0], expected)

    @pytest.mark.parametrize("dims", [1, 2, 3, 4])
    def test_limited_covariances_are_positive_definite_with_widths_within_limits(self, dims):
        cut = limited(random_covariances(40, dims))
        assert torch.linalg.eigvalsh(cut.double()).amin() > 0
        widths = cut.diagonal(dim1=1, dim2=2).sqrt()
        assert widths.amin() > 0.999e-3 and widths.amax() < 0.2001


class TestKernels:
    def test_are_one_at_the_centre_and_a_half_at_the_width(self):
        matrix = limited(random_covariances(5, 3))
        shape = packed(torch.linalg.inv(matrix))
        centre = torch.zeros(5, 3)
        assert torch.equal(kernel_values(centre, shape, "inverse-quadratic"), torch.ones(5))
        edge = torch.linalg.cholesky(matrix)[:, :, 0]  # d^T S d = 1 there
        half = kernel_values(edge, shape, "inverse-quadratic")
        torch.testing.assert_close(half, torch.full((5,), 0.5), atol=1e-3, rtol=0)

    def test_packed_matrices_give_the_quadratic_form(self):
        matrix, d = random_covariances(6, 3), points(6)
        expected = torch.einsum("ni,nij,nj->n", d, matrix, d)
        torch.testing.assert_close(quadratic_form(d, packed(matrix)), expected)

    def test_a_tent_is_a_half_at_the_width_of_its_cluster(self):
        covariance = torch.diag_embed(torch.full((1, 1), 0.03**2))
        shape = kernel_shapes(covariance, "tent", narrowing=1.0)
        value = kernel_values(torch.full((1, 1), 0.03), shape, "tent")
        torch.testing.assert_close(value, torch.tensor([0.5]))

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_tents_on_a_lattice_with_the_corners_as_neighbours_interpolate(self, dims):
        n, x = 5, points(200, dims)
        values = torch.randn(*(n,) * dims, 3, generator=seeded(4))
        cell = ((x + 1) / 2 * (n - 1)).floor().clamp(max=n - 2)
        bits = torch.tensor(list(itertools.product((0, 1), repeat=dims)))
        corner = cell[:, None] + bits
        offset = x[:, None] - (corner * 2 / (n - 1) - 1)
        shape = torch.full((*offset.shape[:-1], 1), (n - 1) / 2)
        phi = kernel_values(offset, shape, "tent")
        torch.testing.assert_close(phi.sum(1), torch.ones(200))
        index = sum(corner[..., d].long() * n ** (dims - 1 - d) for d in range(dims))
        found = (phi[..., None] * values.reshape(-1, 3)[index]).sum(1)
        torch.testing.assert_close(found, interpolate(x, values), atol=1e-5, rtol=1e-4)


class TestAdaptiveRBF:
    @pytest.mark.parametrize("kernel", ["inverse-quadratic", "tent"])
    @pytest.mark.parametrize("composition", [None, (0.5, 8.0)])
    def test_is_the_sum_over_the_neighbours_of_a_cell(self, kernel, composition):
        field = rbf(kernel=kernel, composition=composition)
        for x in points(10):
            cell = cell_centres(8, 3)[cell_numbers(x[None], 8)]
            index = torch.cdist(cell, field.centres)[0].topk(4, largest=False).indices
            phi = kernel_values(x - field.centres[index], field.shapes[index], kernel)
            weights = phi / (phi.sum() + 1e-8)
            expected = 0
            for w, i in zip(weights, index, strict=True):
                m = log_spaced(composition, 6) if composition else None
                wave = w if m is None else (w * m).sin()
                expected = expected + wave * field.coefficients[i]
            torch.testing.assert_close(field(x[None])[0], expected)

    def test_weights_sum_to_one_unless_they_are_not_normalised(self):
        torch.testing.assert_close(rbf().values(points(50))[1].sum(-1), torch.ones(50))
        assert rbf(normalise=False).values(points(50))[1].sum(-1).amin() > 1

    def test_a_point_moves_the_features_of_its_neighbours_only(self):
        field = rbf()
        field(points(1)).sum().backward()
        assert int(field.coefficients.grad.abs().sum(-1).count_nonzero()) == 4
        assert not field.centres.requires_grad and not field.shapes.requires_grad

    def test_centres_go_to_the_edge(self):
        field = rbf(2, kernels=20, cells=4096)
        x = points(20_000, 2)
        weights = torch.exp(-((x[:, 0] - 0.3) / 0.01).square())
        field.place(x, weights, seeded())
        near = (field.centres[:, 0] - 0.3).abs() < 0.06
        assert near.float().mean() > 0.8
        # and they are narrow across the edge, wide along it
        across, _, along = field.shapes[near].median(0).values
        assert across > 4 * along

    def test_multipliers_are_evenly_spaced_octaves(self):
        torch.testing.assert_close(log_spaced((1.0, 8.0), 4), torch.tensor([1.0, 2, 4, 8]))


class TestRBF:
    @pytest.mark.parametrize(
        ("settings", "in_dim", "values", "kernel_size", "total"),
        [
            (  # 1024 x 1024 pictures: as many parameters as the Instant-NGP of the paper
                {"kernels": 24_275, "neighbours": 4, "features": 32, "levels": 2,
                 "kernel": "inverse-quadratic", "grid_features": 2, "log2_entries": 24,
                 "max_resolution": 512, "cells": 64, "out_features": None},
                2, 3, 5, 1_429_763,
            ),
            ({"out_features": None, "cells": 64}, 3, 1, 4, 950_417),
        ],
    )  # fmt: skip
    def test_paper_sizes(self, settings, in_dim, values, kernel_size, total):
        generator = seeded()
        backbone = build(
            "backbones", {"type": "rbf", **settings}, in_dim=in_dim, generator=generator
        )
        head = backbone.make_head(values)
        trained = sum(p.numel() for module in (backbone, head) for p in module.parameters())
        frozen = backbone.rbf.centres.numel() + backbone.rbf.shapes.numel()
        assert frozen == kernel_size * backbone.config.kernels
        assert abs(trained + frozen - total) < 1e-3 * total

    def test_without_kernel_features_it_is_the_grid_and_its_network(self):
        backbone, x = make(first_layer=None), points(9)
        torch.nn.init.zeros_(backbone.rbf.coefficients)
        code = torch.cat((backbone.hash_grid(x), torch.zeros(9, 6)), -1) + backbone.shift
        first, second, last = backbone.layers
        expected = last(second(first(code).relu()).relu())
        torch.testing.assert_close(backbone(x), expected)

    def test_first_activation_adds_a_sine(self):
        backbone, x = make(out_features=None, levels=0), points(9)
        hidden = backbone.layers[0](backbone.rbf(x) + backbone.shift)
        hidden = hidden + (hidden * torch.logspace(0, 1, 8) * 30).sin()
        torch.testing.assert_close(backbone(x), backbone.layers[1](hidden).relu())

    def test_kernels_are_placed_once_where_features_change(self):
        backbone = make(2, kernels=40, place_points=4000, cells=4096, log2_entries=8)
        with torch.no_grad():
            wall = (cell_centres(16, 2)[:, 0] > 0.3).float()
            table = backbone.hash_grid.table[:256]  # the coarse level, coordinate 0 fastest
            table.copy_(wall.reshape(16, 16).T.reshape(-1, 1).expand(-1, 2))
        early, late = (Progress(0, share, None, None) for share in (0.49, 0.5))
        before, coefficients = backbone.rbf.centres.clone(), backbone.rbf.coefficients
        assert not backbone.grow(early) and torch.equal(backbone.rbf.centres, before)
        assert backbone.grow(late) and backbone.rbf.coefficients is not coefficients
        near = (backbone.rbf.centres[:, 0] - 0.3).abs() < 0.2
        assert near.float().mean() > 0.7
        placed = backbone.rbf.centres.clone()
        assert not backbone.grow(late) and torch.equal(backbone.rbf.centres, placed)

    def test_kernels_stay_in_occupied_cells(self):
        backbone = make()
        cells = Cells(torch.tensor([[0.5, 0.5, 0.5], [0.75, 0.5, 0.5]]), 0.125)
        backbone.grow(Progress(5, 0.6, None, lambda: cells))
        low, high = cells.box
        assert (backbone.rbf.centres >= low).all() and (backbone.rbf.centres <= high).all()

    def test_a_run_goes_on_from_any_moment_as_it_would_have(self):
        a, b, x = make(), make(), points(20)
        a.grow(Progress(5, 0.6))
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(x), b(x))
        assert not b.grow(Progress(6, 0.7))

    def test_features_have_a_rate_of_their_own(self):
        features, rest = make(feature_rate=0.5).parameter_groups(0.1)
        assert features["lr"] == 0.05 and rest["lr"] == 0.1
        assert len(features["params"]) == 2 and features["sparse"]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"kernels": 0}, "kernels"),
            ({"neighbours": 31}, "neighbours"),
            ({"place_points": 20}, "place_points"),
            ({"place_at": [0.0]}, "place_at"),
            ({"composition": [2.0, 1.0]}, "composition"),
            ({"first_layer": [0.0, 1.0]}, "first_layer"),
            ({"narrowing": 0.0}, "narrowing"),
            ({"levels": -1}, "levels"),
            ({"log2_entries": 1}, "log2_entries"),
            ({"out_features": 0}, "out_features"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            make(**settings)


def fit(place, composition, steps=150):
    """PSNR of a picture with an edge and a texture, by kernels alone."""
    axis = (torch.arange(64) + 0.5) / 32 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    at = torch.stack((x, y), -1).reshape(-1, 2)
    inside = (at.norm(dim=1) < 0.6).float()
    target = (inside * (0.5 + 0.4 * torch.sin(25 * at[:, 0])))[:, None]
    field = rbf(2, kernels=150, features=8, cells=4096, composition=composition)
    if place:
        change = inside + 3 * torch.exp(-((at.norm(dim=1) - 0.6) / 0.05).square()) + 1e-2
        field.place(at, change, seeded())
    last = torch.nn.Linear(8, 1)
    torch.nn.init.constant_(last.weight, 0.3), torch.nn.init.zeros_(last.bias)
    optimiser = torch.optim.Adam([*field.parameters(), *last.parameters()], 5e-2)
    for _ in range(steps):
        loss = (last(field(at)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return -10 * math.log10(float(loss.detach()))


def test_placement_and_composition_both_help():
    plain, composed = fit(False, None), fit(False, (0.25, 32.0))
    placed, both = fit(True, None), fit(True, (0.25, 32.0))
    assert composed > plain + 1 and placed > plain + 1 and both > placed + 1, (
        plain, composed, placed, both)  # fmt: skip
