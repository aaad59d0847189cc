"""Tri-plane."""

from __future__ import annotations

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.registry import build

SMALL = {
    "features": 4, "resolution": 5, "final_resolution": 5, "width": 8, "layers": 1,
    "out_features": 4,
}  # fmt: skip


def make(**settings):
    generator = torch.Generator().manual_seed(0)
    return build("backbones", {"type": "tri-plane", **SMALL, **settings}, generator=generator)


def points(n=30):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


def plain(**settings):
    """A decoder that hands features on."""
    backbone = make(layers=0, **settings)
    torch.nn.init.eye_(backbone.decoder.layers[0].weight)
    return backbone


def sampled(plane, pair):
    """torch's own bilinear lookup; it counts axes from the last."""
    image = plane.movedim(-1, 0)[None]
    out = torch.nn.functional.grid_sample(image, pair.flip(-1)[None, None], align_corners=True)
    return out[0, :, 0].T


class TestTriPlane:
    def test_sizes(self):
        backbone = make(features=16, resolution=32, final_resolution=32)
        assert sum(p.numel() for p in backbone.grids.values()) == 49_152
        assert [n for n in backbone.grids] == ["xy", "xz", "yz"]

    @pytest.mark.parametrize("combine", ["sum", "product", "concat"])
    def test_is_what_torch_finds_on_the_planes(self, combine):
        out = 12 if combine == "concat" else 4
        backbone, x = plain(combine=combine, out_features=out), points()
        pairs = ((0, 1), (0, 2), (1, 2))
        parts = [
            sampled(plane, x[:, list(pair)])
            for plane, pair in zip(backbone.grids.values(), pairs, strict=True)
        ]
        together = torch.stack(parts)
        expected = {
            "sum": together.sum(0), "product": together.prod(0), "concat": torch.cat(parts, -1)
        }[combine]  # fmt: skip
        torch.testing.assert_close(backbone(x), expected)

    def test_a_plane_of_a_coordinate_returns_it(self):
        backbone, x = plain(), points()
        for plane in backbone.grids.values():
            torch.nn.init.zeros_(plane)
        ramp = torch.linspace(-1, 1, 5)[None, :, None].expand(5, 5, 4)
        backbone.grids["xz"].data.copy_(ramp)
        torch.testing.assert_close(backbone(x), x[:, 2:].expand(-1, 4))

    def test_mirrored_planes_make_a_mirrored_field(self):
        backbone, x = make(), points()
        expected = backbone(x * torch.tensor([-1.0, 1, 1]))
        for name in ("xy", "xz"):
            backbone.grids[name].data.copy_(backbone.grids[name].flip(0))
        torch.testing.assert_close(backbone(x), expected)

    def test_products_start_away_from_zero(self):
        planes = torch.cat([p.detach().flatten() for p in make(combine="product").grids.values()])
        assert 0.1 <= float(planes.min()) and float(planes.max()) <= 0.5

    def test_the_penalty_is_the_variation_of_all_planes(self):
        backbone = make(tv=3.0)
        for plane in backbone.grids.values():
            plane.data.copy_(torch.arange(5.0)[:, None, None].expand(5, 5, 4))
        assert backbone.regularisation()["tv"].item() == 3.0 * 3 * 2
        assert make().regularisation() == {}

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"width": 0}, "at least 1"),
            ({"tv": -1.0}, "tv must not be negative"),
            ({"rate": 0.0}, "rate must be positive"),
            ({"combine": "mean"}, "combine"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, wrong, words):
        with pytest.raises(ConfigError, match=words):
            make(**wrong)
