"""Coordinate-aware modulation: what it is at the start, what it costs, and what it does."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import layer_norm

from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.fields.backbones.cam import CAMConfig, Modulation, modulate, modulating
from polyfield.registry import build, lookup

SMALL = {"encoding": {"type": "frequency", "levels": 3}, "width": 12, "depth": 2, "resolution": 5}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(in_dim=3, **settings):
    spec = {"type": "cam", **SMALL, **settings}
    return build("backbones", spec, in_dim=in_dim, generator=seeded())


def points(*shape, in_dim=3):
    return torch.rand(*shape, in_dim, generator=seeded(1)) * 2 - 1


def count(module):
    return sum(p.numel() for p in module.parameters())


class TestModulate:
    def test_normalises_scales_and_shifts(self):
        z = points(9, in_dim=12)
        scale, shift = points(9, in_dim=1), points(9, in_dim=1)
        expected = scale * layer_norm(z, (12,)) + shift
        torch.testing.assert_close(modulate(z, scale, shift), expected)
        torch.testing.assert_close(modulate(z, scale, shift, norm=False), scale * z + shift)

    def test_groups_are_every_third_channel(self):
        z, scale, shift = points(9, in_dim=12), points(9, in_dim=3), points(9, in_dim=3)
        out = modulate(z, scale, shift, norm=False)
        torch.testing.assert_close(out[:, 1::3], scale[:, 1:2] * z[:, 1::3] + shift[:, 1:2])

    def test_the_scale_of_a_layer_does_not_matter(self):
        backbone, x = make(), points(9)
        before = backbone(x)
        with torch.no_grad():
            for parameter in backbone.layers.parameters():
                parameter *= 3
        torch.testing.assert_close(backbone(x), before, atol=1e-3, rtol=1e-3)


class TestModulation:
    def test_starts_as_ones_and_zeros(self):
        for layout in ("grid", "planes"):
            modulation = Modulation(CAMConfig(groups=4, resolution=3, layout=layout), 3)
            scales, shifts = modulation(points(7))
            assert scales.shape == shifts.shape == (3, 7, 4)
            assert torch.equal(scales, torch.ones_like(scales)) and not shifts.any()

    def test_takes_the_values_of_its_nodes_and_stays_beyond_them(self):
        modulation = Modulation(CAMConfig(resolution=5, depth=2, coordinates=(1,)), 2)
        table = modulation.tables[0]
        torch.nn.init.normal_(table, generator=seeded())
        at = torch.stack((points(5, in_dim=1)[:, 0], torch.linspace(-1, 1, 5)), -1)
        torch.testing.assert_close(modulation(at).permute(2, 0, 1, 3).flatten(1), table)
        beyond = modulation(torch.tensor([[0.0, 1.5]]))
        torch.testing.assert_close(beyond.flatten(), table[-1])

    def test_planes_are_multiplied(self):
        modulation = Modulation(CAMConfig(resolution=4, depth=1, layout="planes"), 3)
        for table in modulation.tables:
            torch.nn.init.normal_(table, generator=seeded())
        x, parts = points(6), []
        for (i, j), table in zip(((0, 1), (0, 2), (1, 2)), modulation.tables, strict=True):
            parts.append(interpolate(x[:, [i, j]].contiguous(), table))
        expected = parts[0] * parts[1] * parts[2]
        torch.testing.assert_close(modulation(x).flatten(1).squeeze().mT.reshape(6, 2), expected)

    @pytest.mark.parametrize("layout", ["grid", "planes"])
    def test_every_node_around_a_point_learns_in_the_first_step(self, layout):
        backbone = make(layout=layout)
        backbone(points(1)).sum().backward()
        first = backbone.modulation.tables[0].grad.abs() > 0
        corners = first.flatten(0, -2)
        # of each layer's scale and shift, the nodes around the point: all or (a dead layer) none
        assert set(corners.sum(0).tolist()) == {8 if layout == "grid" else 4}

    def test_which_coordinates_modulate(self):
        assert modulating(CAMConfig(), 2) == (0, 1)
        assert modulating(CAMConfig(), 3) == (0, 1, 2)
        assert modulating(CAMConfig(), 4) == (3,)
        assert modulating(CAMConfig(coordinates=(2, 0)), 4) == (2, 0)


class TestCAM:
    def test_paper_sizes_of_images(self):
        backbone = build("backbones", {"type": "cam"}, in_dim=2)
        head = backbone.make_head(3)
        assert count(backbone.layers) + count(head) == 263_683
        assert count(backbone.modulation) == 6_144

    def test_is_the_normalised_network_at_the_start(self):
        backbone, x = make(), points(9)
        out = backbone.encoding(x)
        for layer in backbone.layers:
            out = layer_norm(layer(out), (12,)).relu()
        torch.testing.assert_close(backbone(x), out)

    def test_is_the_plain_network_at_the_start_without_norm(self):
        backbone, x = make(norm="none"), points(9)
        out = backbone.encoding(x)
        for layer in backbone.layers:
            out = layer(out).relu()
        torch.testing.assert_close(backbone(x), out)

    def test_time_alone_modulates_where_there_are_four_coordinates(self):
        backbone = make(4)
        assert backbone.modulation.tables[0].shape == (5, 2 * 2)

    def test_grids_have_a_rate_of_their_own(self):
        layers, grids = make(grid_rate=10.0).parameter_groups(0.1)
        assert layers["lr"] == 0.1 and grids["lr"] == pytest.approx(1.0) and grids["sparse"]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"width": 0}, "width"),
            ({"groups": 5}, "divide"),
            ({"resolution": 1}, "resolution"),
            ({"grid_rate": 0.0}, "grid_rate"),
            ({"coordinates": [0, 0]}, "different"),
            ({"coordinates": [3]}, "only 3"),
            ({"coordinates": [0], "layout": "planes"}, "2 or more"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            make(**settings)

    def test_grids_over_many_coordinates_are_refused(self):
        with pytest.raises(ConfigError, match="up to 4"):
            make(6, coordinates=[0, 1, 2, 3, 4])

    def test_signal_presets_compute(self):
        presets = lookup("backbones", "cam").presets
        for name, in_dim in (("signal", 3), ("image", 2), ("audio", 1)):
            backbone = build("backbones", {"type": "cam", **presets[name]["backbone"]},
                             in_dim=in_dim, generator=seeded())  # fmt: skip
            assert backbone(points(4, in_dim=in_dim)).isfinite().all()


def fit(modulated, steps=250):
    """Error of the paper's one-dimensional experiment: ten sines, layers without activation."""
    k = torch.arange(1, 11)
    phase = torch.rand(10, generator=seeded(3)) * 2 * math.pi
    x = torch.linspace(0, 1, 200)[:, None]
    target = torch.sin(2 * math.pi * 5 * k * x + phase).sum(-1, keepdim=True)
    widths = [1, 64, 64, 64, 64]
    backbone = make(1, encoding={"type": "identity"}, width=64, depth=4, resolution=64)
    assert [layer.in_features for layer in backbone.layers] == widths[:-1]
    head = backbone.make_head(1, seeded(1))
    u = 2 * x - 1

    def forward():
        out, (scales, shifts) = u, backbone.modulation(u)
        for i, layer in enumerate(backbone.layers):
            out = layer(out)
            if modulated:
                out = modulate(out, scales[i], shifts[i])
        return head(out)

    parameters = [*backbone.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, 1e-2)
    for _ in range(steps):
        loss = (forward() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def test_modulation_makes_a_linear_network_follow_a_curve():
    plain, modulated = fit(False), fit(True)
    assert plain > 3 and modulated < 0.2 * plain, (plain, modulated)
