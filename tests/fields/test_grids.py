"""What explicit grids share: resolutions, boxes, penalties."""

from __future__ import annotations

import itertools

import pytest
import torch

from polyfield.encodings.base import Cells, Progress
from polyfield.fields.grids import (
    OUTSIDE,
    Growth,
    box_resolution,
    resample,
    total_variation,
    upsample,
)
from polyfield.registry import build, lookup

GRIDS = ("vm", "cp", "tucker", "dense-grid", "tri-plane")
PAPER = Growth(128, 300, at=(0.1, 0.2, 0.3, 0.4, 0.5))


def make(name, **settings):
    """The smallest one, of values that are not tiny."""
    tiny = lookup("backbones", name).presets["tiny"]["backbone"]
    spec = {**tiny, "type": name, **settings}
    backbone = build("backbones", spec, in_dim=3, generator=torch.Generator().manual_seed(0))
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
    return backbone


def nodes(resolution):
    axes = [torch.linspace(-1, 1, n) for n in resolution]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def points(n=200):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1


def found(low, high):
    """A fit that found something between two corners."""
    corners = torch.tensor(list(itertools.product(*zip(low, high, strict=True))))
    inner = torch.tensor(low).add(torch.tensor(high)) / 2
    cells = inner + (corners - inner) * (1 - 0.1 / (torch.tensor(high) - inner))
    return Progress(100, 0.35, 0.1, lambda: Cells(cells, 0.1))


class TestResolutions:
    def test_numbers_of_nodes_are_those_of_the_paper(self):
        # whose code computes them in single precision
        paper = [3_496_048, 5_828_059, 9_715_621, 16_196_350, 27_000_000]
        counts = [PAPER.nodes(stage, 3) for stage in range(1, 6)]
        assert counts == pytest.approx(paper, rel=2e-6)

    def test_edges_of_a_cube_are_those_of_the_paper(self):
        cube = torch.tensor([[-1.5] * 3, [1.5] * 3])
        edges = [box_resolution(cube, PAPER.nodes(stage, 3)) for stage in range(6)]
        assert edges == [(n,) * 3 for n in (128, 151, 179, 213, 253, 300)]

    def test_cells_are_cubes_and_as_many_in_a_smaller_box(self):
        box = torch.tensor([[-0.5, -1.0, 0.0], [0.5, 1.0, 0.25]])
        counts = box_resolution(box, 64.0**3)
        sides = (box[1] - box[0]) / torch.tensor(counts)
        assert float(sides.max() / sides.min()) < 1.04
        assert 0.95 < torch.tensor(counts).prod() / 64**3 <= 1

    def test_stages_follow_the_budget(self):
        assert [PAPER.stage(f) for f in (0.0, 0.1, 0.35, 1.0)] == [0, 1, 3, 5]

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"first": 1}, "at least 2"),
            ({"first": 40}, "at most final_resolution"),
            ({"at": (0.3, 1.2)}, r"shares of the budget in \[0, 1\]"),
            ({"at": (0.3, 0.3)}, "must increase"),
            ({"at": ()}, "never reached"),
            ({"shrink_at": -0.1}, "shrink_at must"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, wrong, words):
        with pytest.raises(ValueError, match=words):
            Growth(**{"first": 8, "final": 32, "at": (0.3,), **wrong})


class TestResampling:
    def test_a_straight_line_stays_one(self):
        line = torch.linspace(2, 5, 7)[:, None]
        torch.testing.assert_close(resample(line, 0, 12)[:, 0], torch.linspace(2, 5, 12))

    @pytest.mark.parametrize("finer", [(5, 7), (9, 10), (13, 4)])
    def test_old_nodes_keep_their_values_exactly(self, finer):
        grid = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
        new = upsample(grid, finer)
        assert new.shape == (*finer, 3)
        if finer == (9, 10):
            assert torch.equal(new[::2, ::3], grid)
        assert torch.equal(new[0, 0], grid[0, 0]) and torch.equal(new[-1, -1], grid[-1, -1])

    def test_is_the_interpolation_of_torch(self):
        grid = torch.randn(4, 5, 6, 2, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            upsample(grid, (7, 11, 9)),
            torch.nn.functional.interpolate(
                grid.movedim(-1, 0)[None], (7, 11, 9), mode="trilinear", align_corners=True
            )[0].movedim(0, -1),
        )


class TestTotalVariation:
    def test_example_of_the_paper_code(self):
        assert float(total_variation(torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]]))) == 10

    def test_constant_grids_have_none_and_single_nodes_neither(self):
        assert float(total_variation(torch.full((4, 5, 3), 2.0))) == 0
        assert float(total_variation(torch.randn(1, 3))) == 0


@pytest.mark.parametrize("name", GRIDS)
class TestGrowing:
    def test_finer_grids_say_the_same_at_old_nodes(self, name):
        backbone = make(name, resolution=4, final_resolution=10, grow_at=[0.5], shrink_at=None)
        x = nodes((4, 4, 4))
        before = backbone(x)
        assert backbone.grow(Progress(1, 0.5)) and backbone.resolution == (10, 10, 10)
        torch.testing.assert_close(backbone(x), before, rtol=1e-5, atol=1e-6)

    def test_shrinking_to_the_whole_box_changes_nothing(self, name):
        backbone, x = make(name, shrink_at=0.0, grow_at=[0.9]), points()
        before = [id(p) for p in backbone.parameters()]
        expected = backbone(x)
        assert not backbone.grow(found((-1.0,) * 3, (1.0,) * 3))
        assert [id(p) for p in backbone.parameters()] == before
        torch.testing.assert_close(backbone(x), expected)

    def test_shrinking_leaves_the_inside_as_it_was_and_empties_the_rest(self, name):
        low, high = (-0.6, -0.3, 0.0), (0.2, 0.6, 0.8)
        backbone = make(name, resolution=11, final_resolution=12, shrink_at=0.3, grow_at=[0.9])
        x = points()
        before = backbone(x)
        assert backbone.grow(found(low, high))
        # outwards to nodes (0.2 apart), with a margin that crosses none but that at 0.2
        expected = torch.tensor([[-0.8, -0.4, -0.2], [0.4, 0.8, 1.0]])
        torch.testing.assert_close(backbone.box, expected)
        assert backbone.resolution == (7, 7, 7)
        inside = ((x > backbone.box[0]) & (x < backbone.box[1])).all(-1)
        assert 20 < inside.sum() < 100
        after = backbone(x)
        torch.testing.assert_close(after[inside], before[inside], rtol=1e-4, atol=1e-5)
        assert (after[~inside, 0] == OUTSIDE).all()
        # only once
        assert not backbone.grow(found((-0.1,) * 3, (0.1,) * 3))

    def test_it_waits_until_somebody_knows_what_is_occupied(self, name):
        backbone = make(name, shrink_at=0.0, grow_at=[0.9])
        for nobody in (None, lambda: None, lambda: Cells(torch.zeros(0, 3), 0.1)):
            assert not backbone.grow(Progress(1, 0.5, None, nobody)) and not backbone.shrunk

    def test_nothing_is_left_of_the_density_outside(self, name):
        backbone = make(name, shrink_at=0.3, grow_at=[0.9], resolution=6)
        backbone.grow(found((-0.4,) * 3, (0.4,) * 3))
        for activation in ("exp", "softplus", "relu"):
            spec = {"type": "radiance", "density_activation": activation, "density_scale": 25.0}
            field = build("fields", spec, backbone=backbone, generator=torch.Generator())
            assert field.density(torch.full((1, 3), 0.95)).item() < 1e-18

    @pytest.mark.parametrize("until", [0.0, 0.35])
    def test_the_density_alone_is_feature_0(self, name, until):
        backbone, x = make(name), points()
        if until:
            backbone.grow(found((-0.4,) * 3, (0.4,) * 3))
        alone = backbone.first_feature(x.reshape(2, -1, 3))
        torch.testing.assert_close(alone, backbone(x)[:, 0].reshape(2, -1))
        field = build("fields", {"type": "radiance"}, backbone=backbone)
        x = torch.cat((x, x * 1.5))
        torch.testing.assert_close(field.density(x), field.density_and_features(x)[0])
