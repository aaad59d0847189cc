"""TensoRF's CP decomposition."""

from __future__ import annotations

import pytest
import torch

from polyfield.encodings.base import Progress
from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.registry import build

SMALL = {
    "density": 4, "appearance": 8, "features": 5, "resolution": 6, "final_resolution": 9,
    "grow_at": [0.5], "shrink_at": None,
}  # fmt: skip


def make(seed=0, in_dim=3, **settings):
    generator = torch.Generator().manual_seed(seed)
    spec = {"type": "cp", **SMALL, **settings}
    return build("backbones", spec, in_dim=in_dim, generator=generator)


def points(n=60, in_dim=3):
    return torch.rand(n, in_dim, generator=torch.Generator().manual_seed(1)) * 2 - 1


class TestCP:
    def test_paper_sizes(self):
        backbone = build("backbones", {"type": "cp", "resolution": 500}, in_dim=3)
        assert sum(p.numel() for p in backbone.grids.values()) == 576_000
        assert backbone.basis.numel() == 7_776 and backbone.out_dim == 28

    @pytest.mark.parametrize(
        ("resolution", "outer"),
        [((9,), "ar->ar"), ((5, 7), "ar,br->abr"), ((5, 6, 7), "ar,br,cr->abcr"),
         ((3, 4, 5, 6), "ar,br,cr,dr->abcdr")],
    )  # fmt: skip
    def test_is_the_dense_grid_it_stands_for(self, resolution, outer):
        n = len(resolution)
        backbone, x = make(in_dim=n), points(in_dim=n)
        sizes = {**backbone.sizes(), "resolution": list(resolution)}
        backbone.resize(sizes)
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.7, generator=torch.Generator().manual_seed(2))
        out = backbone(x)
        dense = torch.einsum(outer, *[backbone.grids[f"density_{d}"] for d in range(n)])
        density = interpolate(x, dense.sum(-1, keepdim=True))
        torch.testing.assert_close(out[:, :1], density, atol=1e-6, rtol=1e-5)
        dense = torch.einsum(outer, *[backbone.grids[f"appearance_{d}"] for d in range(n)])
        appearance = interpolate(x, dense) @ backbone.basis.T
        torch.testing.assert_close(out[:, 1:], appearance, atol=5e-6, rtol=1e-4)

    def test_starts_as_the_paper_does(self):
        line = make(resolution=500, final_resolution=500).grids["density_0"].detach()
        assert 0.19 < float(line.std()) < 0.21

    def test_penalties_are_those_of_the_paper(self):
        backbone = make(l1=2.0, tv=3.0)
        for name, grid in backbone.grids.items():
            torch.nn.init.constant_(grid, -2.0 if name.startswith("density") else 0.5)
        with torch.no_grad():
            backbone.grids["appearance_2"].copy_(torch.arange(6.0)[:, None].expand(6, 8))
        terms = backbone.regularisation()
        assert terms["l1"].item() == pytest.approx(2.0 * 3 * 2.0)
        assert terms["tv"].item() == pytest.approx(3.0 * 1e-3 * 2)
        assert make(l1=0.0).regularisation() == {}

    def test_a_cut_field_is_the_one_built_at_that_rank(self):
        full, x = make(), points()
        small = make(1, density=2, appearance=4)
        for name, grid in full.grids.items():
            small.grids[name].data.copy_(grid[..., : small.grids[name].shape[-1]])
        small.basis.data.copy_(full.basis[:, :4])
        full.slim(2)
        torch.testing.assert_close(full(x), small(x), rtol=0, atol=1e-6)

    def test_a_cut_field_is_the_masked_one(self):
        backbone, x = make(rank_schedule="fixed"), points()
        backbone.grow(Progress(1, 0.2))
        assert backbone.ranks.active == 2
        masked = backbone(x)
        backbone.slim(2)
        torch.testing.assert_close(backbone(x), masked, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"density": 0}, "at least 1"),
            ({"tv": -1.0}, "tv must not be negative"),
            ({"rate": -1.0}, "rate must be positive"),
            ({"grow_at": [0.5, 0.2]}, "must increase"),
            ({"rank_gap": -1}, "rank_gap must"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, wrong, words):
        with pytest.raises(ConfigError, match=words):
            make(**wrong)
