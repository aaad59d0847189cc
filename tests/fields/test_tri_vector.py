"""Strivec's tri-vectors: counts of the paper, placement and growth over a fit, what it is for."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.encodings.base import Cells, Progress
from polyfield.errors import ConfigError
from polyfield.fields.grids import OUTSIDE
from polyfield.fields.local_tensors import Boxes, centres, local_tensors
from polyfield.registry import build, lookup

SMALL = {
    "pitch": [1.0, 0.5],
    "intervals": [[2, 4], [2, 3]],
    "grow_at": [0.5],
    "place_at": [0.2],
    "density_ranks": [2, 2],
    "appearance_ranks": [4, 3],
    "features": 3,
}
CORNER = Cells(torch.tensor([[-0.8, -0.8, -0.8]]), 0.1)


def make(in_dim=3, **settings):
    generator = torch.Generator().manual_seed(0)
    spec = {"type": "tri-vector", **SMALL, **settings}
    return build("backbones", spec, in_dim=in_dim, generator=generator)


def points(n, dims=3):
    return 2 * torch.rand(n, dims, generator=torch.Generator().manual_seed(1)) - 1


def moment(fraction, cells=None):
    return Progress(0, fraction, occupied=None if cells is None else lambda: cells)


def optimise(parameters, loss, steps, rate=0.02):
    adam = torch.optim.Adam(parameters, lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
    return float(value.detach())


class TestCounts:
    def test_floats_per_tensor_at_the_final_size(self):
        config = lookup("backbones", "tri-vector").config()
        tensors = zip(config.intervals, config.density_ranks, config.appearance_ranks, strict=True)
        assert [3 * (counts[-1] + 1) * (r + c) for counts, r, c in tensors] == [
            29_280, 13_392, 6_144]  # fmt: skip

    def test_parameters_have_those_sizes(self):
        backbone = make(pitch=[2.0, 1.5], overlap=1.0, grow_at=[], place_at=[0.0],
                        intervals=[[121], [61]], density_ranks=[32, 24],
                        appearance_ranks=[24, 24], features=27)  # fmt: skip
        backbone.grow(moment(0.0))
        floats = [v.numel() // len(v) for v in backbone.vectors]
        assert floats == [20_496, 8_928]
        assert [len(v) for v in backbone.vectors] == [1, 8]
        assert sum(p.numel() for p in backbone.bases.parameters()) == 2 * 24 * 27

    def test_bases_of_the_paper(self):
        config = lookup("backbones", "tri-vector").config()
        assert sum(config.appearance_ranks) * config.features == 3888


class TestForward:
    def test_is_the_sum_of_the_scales_with_a_linear_layer_each(self):
        backbone, x = make(place_at=[0.0]), points(50)
        backbone.grow(moment(0.0))
        expected = 0
        for scale, (vectors, basis) in enumerate(
            zip(backbone.vectors, backbone.bases, strict=True)
        ):
            boxes = backbone.config.boxes(scale)
            values, covered = local_tensors(x, vectors, backbone.index(scale), boxes)
            assert bool(covered.all()) and basis.bias is None
            expected = expected + torch.cat((values[:, :1], basis(values[:, 1:])), 1)
        torch.testing.assert_close(backbone(x), expected)
        torch.testing.assert_close(backbone.first_feature(x), expected[:, 0])

    def test_constant_tensors_give_the_number_of_scales_or_their_mean(self):
        for reduce, expected in (("sum", 4.0), ("mean", 2.0)):
            backbone = make(place_at=[0.0], scale_reduce=reduce)
            backbone.grow(moment(0.0))
            for vectors in backbone.vectors:
                torch.nn.init.ones_(vectors)
            torch.testing.assert_close(
                backbone.first_feature(points(50)), torch.full((50,), expected)
            )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("cover", ["all", "any"])
    def test_points_without_tensors_are_empty_and_give_no_gradient(self, cover, dtype):
        backbone = make(cover=cover).to(dtype)
        backbone.grow(moment(0.3, CORNER))  # the coarse box there reaches farther than the fine
        x = torch.tensor([[0.9, 0.9, 0.9], [-0.1, -0.1, -0.1], [-0.8, -0.8, -0.8]], dtype=dtype)
        out = backbone(x)
        empty = [True, cover == "all", False]
        assert out[:, 0].eq(OUTSIDE).tolist() == empty
        assert out[:, 1:].eq(0).all(1).tolist() == empty
        assert backbone.first_feature(x).eq(OUTSIDE).tolist() == empty
        out[empty].square().sum().backward()
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in backbone.parameters())

    def test_empty_is_no_density_behind_the_papers_activation(self):
        raw = torch.tensor(OUTSIDE - 10)
        assert 25 * float(torch.nn.functional.softplus(raw)) < 1e-20
        zero = float(torch.nn.functional.softplus(torch.tensor(-10.0)))
        assert zero == pytest.approx(4.54e-5, rel=1e-3)


class TestGrowth:
    def test_begins_with_the_coarsest_scale_all_over_the_box(self):
        backbone = make()
        assert backbone.sizes() == {"placed": 0, "stage": 0, "tensors": [8]}
        assert not backbone.grow(moment(0.1, CORNER))

    def test_tensors_are_placed_where_something_was_found(self):
        backbone = make()
        coarse = backbone.vectors[0].detach().clone()
        assert backbone.grow(moment(0.2, CORNER))
        assert backbone.sizes()["tensors"] == [1, 1]
        assert torch.equal(backbone.vectors[0][0], coarse[0])  # what it has learnt is kept
        stand = [centres(backbone.index(s), backbone.config.pitch[s]).tolist() for s in (0, 1)]
        assert stand == [[[-0.5] * 3], [[-0.75] * 3]]
        assert not backbone.grow(moment(0.3, CORNER))

    def test_without_anybody_who_knows_they_cover_the_box(self):
        nothing = Cells(torch.zeros(0, 3), 0.1)
        for now in (moment(0.2), moment(0.2, nothing), Progress(0, 0.2, occupied=lambda: None)):
            backbone = make()
            assert backbone.grow(now) and backbone.sizes()["tensors"] == [8, 64]
            assert bool((backbone(points(100))[:, 0] != OUTSIDE).all())

    def test_a_second_placement_keeps_tensors_that_stay(self):
        backbone = make(place_at=[0.2, 0.4])
        both = Cells(torch.tensor([[-0.8, -0.8, -0.8], [0.8, 0.8, 0.8]]), 0.1)
        backbone.grow(moment(0.2, both))
        kept = backbone.vectors[1][1].detach().clone()
        assert backbone.grow(moment(0.4, Cells(both.centres[1:], 0.1)))
        assert backbone.sizes()["tensors"] == [1, 1]
        assert torch.equal(backbone.vectors[1][0], kept)

    def test_nobody_knowing_later_changes_nothing(self):
        backbone = make(place_at=[0.2, 0.4])
        backbone.grow(moment(0.2, CORNER))
        assert not backbone.grow(moment(0.4)) and backbone.sizes()["tensors"] == [1, 1]

    def test_vectors_get_finer_on_schedule_and_keep_the_function(self):
        backbone, x = make(intervals=[[2, 4], [2, 6]]), points(200)
        backbone.grow(moment(0.2))
        before = backbone(x)
        assert backbone.grow(moment(0.5)) and not backbone.grow(moment(0.6))
        assert [v.shape[2] for v in backbone.vectors] == [5, 7]
        torch.testing.assert_close(backbone(x), before)

    def test_values_that_are_drawn_later_follow_from_the_seed(self):
        drawn = []
        for seed in (0, 0, 1):
            backbone = build("backbones", {"type": "tri-vector", **SMALL}, in_dim=3,
                             generator=torch.Generator().manual_seed(seed))  # fmt: skip
            state = torch.get_rng_state()
            backbone.grow(moment(0.2))
            assert torch.equal(state, torch.get_rng_state())
            drawn.append((backbone.vectors[1], backbone.bases[1].weight))
        assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))

    @pytest.mark.parametrize("until", [0.1, 0.3, 0.7])
    def test_a_saved_backbone_is_restored_in_mid_schedule_and_goes_on(self, until):
        backbone, other, x = make(), make(), points(100)
        for i in range(1 + round(until * 10)):
            backbone.grow(moment(i / 10, CORNER))
        for vectors in backbone.vectors:
            torch.nn.init.normal_(vectors, generator=torch.Generator().manual_seed(5))
        state = torch.get_rng_state()
        other.resize(backbone.sizes())
        assert torch.equal(state, torch.get_rng_state())
        other.load_state_dict(backbone.state_dict())
        assert torch.equal(other(x), backbone(x))
        for b in (backbone, other):
            b.grow(moment(1.0, CORNER))
        assert torch.equal(other(x), backbone(x)) and other.sizes() == backbone.sizes()

    def test_sizes_of_other_settings_are_refused(self):
        with pytest.raises(ConfigError, match="3 scales"):
            make().resize({"placed": 1, "stage": 0, "tensors": [1, 1, 1]})


class TestTraining:
    def test_only_what_points_touch_moves(self):
        backbone = make(place_at=[0.0])
        backbone.grow(moment(0.0))
        (vectors, bases) = backbone.parameter_groups(1e-3)
        assert vectors["sparse"] and vectors["lr"] == pytest.approx(0.02) and bases["lr"] == 1e-3
        backbone(torch.full((5, 3), -0.9)).square().sum().backward()
        touched = backbone.vectors[1].grad.abs().amax((1, 2, 3)) > 0
        assert touched.nonzero().flatten().tolist() == [int(backbone.index(1)[0, 0, 0])]

    def test_penalty_is_the_mean_magnitude_of_density_vectors_per_axis(self):
        backbone = make(l1=0.5)
        torch.nn.init.constant_(backbone.vectors[0], -2.0)
        with torch.no_grad():
            backbone.vectors[0][..., 2:] = 100.0  # the appearance
        assert backbone.regularisation()["l1"].item() == pytest.approx(0.5 * 3 * 2.0)
        assert make(l1=0.0).regularisation() == {}

    def test_settings_that_cannot_work_get_a_sentence(self):
        for settings, words in (
            ({"pitch": [0.5]}, "each of the 1 scales"),
            ({"pitch": [3.0, 0.5]}, "pitch must lie"),
            ({"intervals": [[2], [2]]}, "2 values"),
            ({"grow_at": [1.2]}, "grow_at must ascend"),
            ({"place_at": [0.5, 0.2]}, "place_at must ascend"),
            ({"overlap": 0.9}, "at least 1"),
            ({"neighbours": 0}, "neighbours must"),
            ({"density_ranks": [0, 1]}, "density_ranks must"),
            ({"rate": 0.0}, "rate must be positive"),
            ({"l1": -1.0}, "l1 must not"),
            ({"pitch": [1.0, 0.001]}, "places"),
        ):
            with pytest.raises(ConfigError, match=words):
                make(**settings)

    def test_local_tensors_hardly_mind_a_rotation_that_ruins_a_global_one(self):
        axis = torch.linspace(-0.98, 0.98, 40)
        x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)

        def quality(pitch, half, ranks, nodes, angle):
            c, s = math.cos(angle), math.sin(angle)
            u = x @ torch.tensor([[c, -s], [s, c]])
            bar = ((0.15 - u[:, 0].abs()) * 20).sigmoid() * ((0.7 - u[:, 1].abs()) * 20).sigmoid()
            count = round(2 / pitch)
            index = torch.arange(count**2, dtype=torch.int32).view(count, count)
            vectors = torch.randn(count**2, 2, nodes, ranks,
                                  generator=torch.Generator().manual_seed(0)) * 0.5  # fmt: skip
            vectors.requires_grad_()
            boxes = Boxes(pitch, half, 4, ranks, density_only=True)

            def loss():
                return (local_tensors(x, vectors, index, boxes)[0][:, 0] - bar).square().mean()

            return -10 * math.log10(optimise([vectors], loss, 200)), vectors.numel()

        local = [quality(0.25, 0.1875, 1, 4, angle) for angle in (0.0, 0.6)]
        whole = [quality(2.0, 1.0, 4, 64, angle) for angle in (0.0, 0.6)]
        assert local[0][1] == whole[0][1] == 512  # floats, the same for both
        drops = [a[0] - b[0] for a, b in (local, whole)]
        assert local[1][0] > 30 and abs(drops[0]) < 8 < 14 < drops[1]
