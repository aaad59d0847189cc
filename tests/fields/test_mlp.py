"""NeRF's MLP."""

from __future__ import annotations

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.registry import build

SMALL = {
    "width": 16,
    "depth": 3,
    "skips": [1],
    "encoding": {"type": "frequency", "levels": 3},
}


def make(**settings):
    generator = torch.Generator().manual_seed(0)
    spec = {"type": "mlp", **SMALL, **settings}
    return build("backbones", spec, in_dim=settings.pop("in_dim", 3), generator=generator)


def points(*shape):
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


class TestMLP:
    def test_trunk_has_the_papers_parameter_count(self):
        backbone = build("backbones", {"type": "mlp"}, in_dim=3)
        assert sum(p.numel() for p in backbone.parameters()) == 493_056
        assert [layer.in_features for layer in backbone.layers] == [63] + [256] * 4 + [319] + [
            256
        ] * 2

    def test_encoding_is_put_in_front_of_the_activations(self):
        mlp = make(depth=3, skips=[0])
        x = points(6)
        code = mlp.encoding(x)
        first, second, third = mlp.layers
        out = second(torch.cat([code, first(code).relu()], -1)).relu()
        torch.testing.assert_close(mlp(x), third(out).relu())

    def test_without_skips_it_is_a_plain_chain(self):
        mlp = make(depth=2, skips=[])
        first, second = mlp.layers
        x = points(6)
        torch.testing.assert_close(mlp(x), second(first(mlp.encoding(x)).relu()).relu())

    @pytest.mark.parametrize("skips", [[2], [-1], [7]])
    def test_skips_that_lead_nowhere_are_refused(self, skips):
        with pytest.raises(ConfigError, match="skips"):
            make(depth=3, skips=skips)

    @pytest.mark.parametrize("encoding", ["identity", "hash-grid", "random-fourier", "integrated"])
    def test_any_encoding_nests(self, encoding):
        mlp = make(encoding={"type": encoding})
        assert mlp(points(4)).shape == (4, 16)

    def test_trainable_encoding_keeps_its_own_group(self):
        mlp = make(encoding={"type": "hash-grid", "levels": 2, "log2_entries": 5})
        table = mlp.parameter_groups(1e-2)[0]
        assert table["params"][0] is mlp.encoding.table and table["eps"] == 1e-15

    def test_encoding_without_a_type_is_named(self):
        with pytest.raises(ConfigError, match="encoding needs a 'type'"):
            make(encoding={"levels": 3})
