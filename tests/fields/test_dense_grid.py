"""Voxels as a backbone."""

from __future__ import annotations

import pytest
import torch

from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.fields.backbones.dense_grid import PRESETS
from polyfield.registry import build

SMALL = {"features": 3, "resolution": 2, "final_resolution": 4, "grow_at": [0.5]}


def make(in_dim=3, **settings):
    generator = torch.Generator().manual_seed(0)
    spec = {"type": "dense-grid", **SMALL, **settings}
    return build("backbones", spec, in_dim=in_dim, generator=generator)


class TestDenseGrid:
    def test_paper_sizes(self):
        spec = {"type": "dense-grid", **PRESETS["paper"]["backbone"]}
        backbone = build("backbones", {**spec, "resolution": 160}, in_dim=3)
        assert sum(p.numel() for p in backbone.parameters()) == 160**3 * 13
        default = build("backbones", spec, in_dim=1)
        assert default.growth.first**3 == pytest.approx(160**3 / 16, rel=0.03)

    @pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
    def test_is_the_interpolated_grid(self, in_dim):
        backbone = make(in_dim, resolution=4)
        torch.nn.init.normal_(backbone.grids["density"], generator=torch.Generator().manual_seed(1))
        x = torch.rand(30, in_dim, generator=torch.Generator().manual_seed(2)) * 2 - 1
        whole = torch.cat(list(backbone.grids.values()), -1)
        torch.testing.assert_close(backbone(x), interpolate(x, whole))

    def test_one_voxel_holds_a_sharp_edge(self):
        """DirectVoxGO's check of post-activation: raw densities are interpolated."""
        backbone = make(1)
        backbone.grids["density"].data.copy_(torch.tensor([[-50.0], [50.0]]))
        heads = {"type": "radiance", "density_activation": "softplus", "density_shift": -13.8}
        field = build("fields", heads, backbone=backbone)
        raw = backbone.first_feature(torch.linspace(-1, 1, 5)[:, None])
        opacity = -torch.expm1(-field._density(raw, raw[:, None], True))
        torch.testing.assert_close(opacity, torch.tensor([0.0, 0, 0, 1, 1]), atol=2e-5, rtol=0)

    def test_colour_by_harmonics_takes_its_features(self):
        field = build("fields", PRESETS["harmonics"]["field"], backbone=make(features=27, init=0.1))
        x, d = torch.zeros(4, 3), torch.nn.functional.normalize(torch.randn(4, 3), dim=-1)
        sample = field(x, d)
        torch.testing.assert_close(sample.rgb, torch.full((4, 3), 0.5), atol=1e-3, rtol=0)
        assert (sample.sigma > 0).all()

    def test_only_nodes_around_samples_move(self):
        (group,) = make(rate=10.0).parameter_groups(0.1)
        assert group["sparse"] and group["lr"] == pytest.approx(1.0)

    def test_penalties(self):
        backbone = make(tv_density=2.0, tv_features=3.0)
        ramp = torch.arange(2.0)[:, None, None, None]
        backbone.grids["density"].data.copy_(ramp.expand(2, 2, 2, 1))
        backbone.grids["features"].data.copy_(2 * ramp.expand(2, 2, 2, 3))
        terms = backbone.regularisation()
        assert terms["tv_density"].item() == 2.0 * 2 and terms["tv_features"].item() == 3.0 * 8
        assert make().regularisation() == {}

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"features": 0}, "features must be at least 1"),
            ({"std": -1.0}, "std must not be negative"),
            ({"rate": 0.0}, "rate must be positive"),
            ({"final_resolution": 1}, "at most final_resolution"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, wrong, words):
        with pytest.raises(ConfigError, match=words):
            make(**wrong)
