"""Instant-NGP's hash grid with its small network."""

from __future__ import annotations

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.registry import build

SMALL = {"levels": 3, "log2_entries": 8, "max_resolution": 32}


def make(**settings):
    generator = torch.Generator().manual_seed(0)
    spec = {"type": "hash-grid", **SMALL, **settings}
    return build("backbones", spec, in_dim=settings.pop("in_dim", 3), generator=generator)


def points(*shape):
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


class TestHashGrid:
    def test_paper_sizes(self):
        backbone = build("backbones", {"type": "hash-grid"}, in_dim=3)
        assert backbone.encoding.table.numel() == 12_196_240
        assert sum(p.numel() for p in backbone.mlp.parameters()) == 64 * 32 + 16 * 64
        assert backbone.out_dim == 16
        assert all(layer.bias is None for layer in backbone.mlp.layers)

    def test_is_the_mlp_of_the_encoding(self):
        backbone, x = make(), points(5)
        first, last = backbone.mlp.layers
        torch.testing.assert_close(backbone(x), last(first(backbone.encoding(x)).relu()))

    def test_only_matrices_decay_and_only_the_table_has_the_tiny_epsilon(self):
        backbone = make()
        table, mlp = backbone.parameter_groups(1e-2)
        assert (table["eps"], table["weight_decay"]) == (1e-15, 0.0)
        assert mlp["weight_decay"] == 1e-6 and "eps" not in mlp
        assert [p.ndim for p in mlp["params"]] == [2, 2]

    @pytest.mark.parametrize("settings", [{"width": 0}, {"layers": -1}, {"levels": 0}])
    def test_unusable_settings_get_a_sentence(self, settings):
        with pytest.raises(ConfigError, match="must|at least"):
            make(**settings)

    def test_encoding_settings_reach_the_encoding(self):
        backbone = make(interpolation="smoothstep", features=4)
        assert backbone.encoding.layout.smooth and backbone.encoding.layout.features == 4
