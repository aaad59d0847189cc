"""Tucker decomposition."""

from __future__ import annotations

import itertools

import pytest
import torch

from polyfield.encodings.base import Progress
from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.registry import build

SMALL = {
    "ranks": 3, "features": 4, "resolution": 6, "final_resolution": 9, "grow_at": [0.5],
    "shrink_at": None,
}  # fmt: skip


def make(seed=0, in_dim=3, **settings):
    generator = torch.Generator().manual_seed(seed)
    spec = {"type": "tucker", **SMALL, **settings}
    return build("backbones", spec, in_dim=in_dim, generator=generator)


def points(n=20, in_dim=3):
    return torch.rand(n, in_dim, generator=torch.Generator().manual_seed(1)) * 2 - 1


class TestTucker:
    def test_sizes(self):
        backbone = make(ranks=[2, 3, 5], resolution=8)
        assert sum(p.numel() for p in backbone.parameters()) == 2 * 3 * 5 * 4 + 8 * (2 + 3 + 5)
        assert backbone.core.shape == (2, 3, 5, 4) and backbone.out_dim == 4

    @pytest.mark.parametrize("ranks", [(2, 3), (2, 3, 4), (2, 1, 3, 2), (1, 2, 1, 2, 3)])
    def test_is_the_sum_over_all_entries_of_the_core(self, ranks):
        n = len(ranks)
        backbone, x = make(in_dim=n, ranks=list(ranks)).double(), points(in_dim=n).double()
        lines = [interpolate(x[:, d : d + 1], backbone.grids[str(d)]) for d in range(n)]
        expected = torch.zeros(len(x), 4, dtype=torch.float64)
        for index in itertools.product(*[range(r) for r in ranks]):
            weight = torch.stack([lines[d][:, i] for d, i in enumerate(index)]).prod(0)
            expected += weight[:, None] * backbone.core[index]
        torch.testing.assert_close(backbone(x), expected)
        torch.testing.assert_close(backbone.first_feature(x), expected[:, 0])

    def test_a_core_that_is_zero_off_its_diagonal_is_a_cp_decomposition(self):
        backbone, x = make(), points()
        cp = build(
            "backbones",
            {"type": "cp", "density": 3, "appearance": 1, "features": 1, "resolution": 6,
             "final_resolution": 6, "grow_at": [], "shrink_at": None},
            in_dim=3,
        )  # fmt: skip
        torch.nn.init.zeros_(backbone.core)
        for i in range(3):
            backbone.core.data[i, i, i, 0] = 1
            backbone.grids[str(i)].data.copy_(cp.grids[f"density_{i}"])
        torch.testing.assert_close(backbone.first_feature(x), cp.first_feature(x))

    def test_starts_with_features_of_the_size_it_says(self):
        out = make(ranks=16, features=16)(points(500)).detach()
        assert 0.03 < float(out.std()) < 0.12

    @pytest.mark.parametrize("ranks", [3, (2, 3, 1)])
    def test_a_cut_field_is_the_corner_of_the_core(self, ranks):
        full, x = make(ranks=ranks), points()
        kept = (2, 2, 2) if ranks == 3 else (2, 2, 1)
        small = make(1, ranks=kept)
        small.core.data.copy_(full.core[: kept[0], : kept[1], : kept[2]])
        for name, grid in small.grids.items():
            grid.data.copy_(full.grids[name][:, : grid.shape[1]])
        full.slim(2)
        torch.testing.assert_close(full(x), small(x), rtol=0, atol=1e-6)

    def test_a_cut_field_is_the_masked_one_and_is_restored(self):
        backbone, x = make(rank_schedule="fixed"), points()
        backbone.grow(Progress(1, 0.2))
        assert backbone.ranks.active == 2
        masked = backbone(x)
        backbone.slim(2)
        torch.testing.assert_close(backbone(x), masked, rtol=0, atol=1e-5)
        other = make(1, rank_schedule="fixed")
        other.resize(backbone.sizes())
        other.load_state_dict(backbone.state_dict())
        assert torch.equal(other(x), backbone(x))

    def test_penalties(self):
        backbone = make(l1=2.0, tv=3.0)
        torch.nn.init.constant_(backbone.core, -0.5)
        for grid in backbone.grids.values():
            torch.nn.init.ones_(grid)
        backbone.grids["1"].data.copy_(torch.arange(6.0)[:, None].expand(6, 3))
        terms = backbone.regularisation()
        assert terms["l1"].item() == 1.0 and terms["tv"].item() == 3.0 * 2

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"ranks": 0}, "at least 1"),
            ({"ranks": [2, 3]}, "2 axes for 3 coordinates"),
            ({"tv": -1.0}, "tv must not be negative"),
            ({"rate": 0.0}, "rate must be positive"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, wrong, words):
        with pytest.raises(ConfigError, match=words):
            make(**wrong)
