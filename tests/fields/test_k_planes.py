"""K-Planes."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.registry import build

SMALL = {"resolution": 4, "scales": [1, 2], "features": 3, "width": 8, "out_features": 5}


def make(in_dim=3, **settings):
    generator = torch.Generator().manual_seed(0)
    spec = {"type": "k-planes", **SMALL, **settings}
    return build("backbones", spec, in_dim=in_dim, generator=generator)


def points(n=30, in_dim=3):
    return torch.rand(n, in_dim, generator=torch.Generator().manual_seed(1)) * 2 - 1


class TestKPlanes:
    def test_sizes(self):
        backbone = make(4, resolution=[4, 5, 6, 3], time=True)
        counts = [p.shape[:2] for p in backbone.scales[1].planes]
        assert counts == [(8, 10), (8, 12), (8, 3), (10, 12), (10, 3), (12, 3)]
        decoder = sum(p.numel() for p in backbone.decoder.parameters())
        assert decoder == 6 * 8 + 8 * 5

    @pytest.mark.parametrize("in_dim", [2, 3, 4, 6])
    def test_is_the_product_over_all_pairs_of_axes(self, in_dim):
        backbone, x = make(in_dim), points(in_dim=in_dim)
        codes = []
        for planes in backbone.scales:
            code = torch.ones(len(x), 3)
            for (i, j), plane in zip(combinations(range(in_dim), 2), planes.planes, strict=True):
                code = code * interpolate(x[:, [i, j]], plane)
            codes.append(code)
        torch.testing.assert_close(backbone(x), backbone.decoder(torch.cat(codes, -1)))

    def test_planes_with_time_start_static(self):
        backbone, x = make(4, time=True), points(in_dim=4)
        moved = torch.cat((x[:, :3], -x[:, 3:]), -1)
        torch.testing.assert_close(backbone(x), backbone(moved))
        space = backbone.scales[0].planes[0].detach()
        assert 0.1 <= float(space.min()) < float(space.max()) <= 0.5

    def test_variation_counts_in_space_only(self):
        backbone = make(3, time=True, tv=2.0, scales=[1])
        xy, xt, yt = backbone.scales[0].planes
        for plane in (xy, xt, yt):
            torch.nn.init.zeros_(plane)
        yt.data.copy_(torch.arange(4.0)[None, :, None].expand(4, 4, 3))
        assert backbone.regularisation()["tv"].item() == 0
        xt.data.copy_(torch.arange(4.0)[:, None, None].expand(4, 4, 3))
        assert backbone.regularisation()["tv"].item() == 2.0 * 2

    def test_penalties_of_time(self):
        backbone = make(3, time=True, smoothness=2.0, transience=3.0, scales=[1], tv=0.0)
        _, xt, yt = backbone.scales[0].planes
        terms = backbone.regularisation()
        assert terms["smoothness"].item() == 0 and terms["transience"].item() == 0
        time = torch.arange(4.0)[None, :, None]
        xt.data.copy_((1 + time).expand(4, 4, 3))
        terms = backbone.regularisation()
        assert terms["smoothness"].item() == 0
        assert terms["transience"].item() == pytest.approx(3.0 * 1.5)
        yt.data.copy_(time.square().expand(4, 4, 3))
        assert backbone.regularisation()["smoothness"].item() == 2.0 * 4
        assert set(make(3, tv=0.0).regularisation()) == set()

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"resolution": 0}, "resolution must be at least 1"),
            ({"resolution": [4, 4]}, "2 axes for 3 coordinates"),
            ({"scales": []}, "scales lists factors"),
            ({"tv": -1.0}, "tv must not be negative"),
            ({"width": 0}, "at least 1"),
            ({"rate": 0.0}, "rate must be positive"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, wrong, words):
        with pytest.raises(ConfigError, match=words):
            make(**wrong)
