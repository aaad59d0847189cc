"""The light field: colours per ray, parts of a code, mixing, what it does not know."""

from __future__ import annotations

import pytest
import torch

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.fields.light import LightField
from polyfield.registry import build, configure


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def rays(n=200, seed=0):
    g = numbers(seed)
    o = torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=-1) * 3
    d = torch.nn.functional.normalize(torch.rand(n, 3, generator=g) - 0.5 - o, dim=-1)
    return o, d, torch.full((n,), 1.0), torch.full((n,), 5.0)


def make(code, backbone=None, **settings):
    spec = {"type": "light", "code": code, **settings}
    g = numbers(2)
    sizes = LightField.coordinates(configure("fields", spec))
    part = backbone or {"type": "mlp", "width": 16, "depth": 2, "levels": 2}
    parts = [build("backbones", part, in_dim=n, generator=g) for n in sizes]
    field = build("fields", spec, backbone=parts, contraction="none", generator=g)
    field.adapt(*rays(2000, 5), numbers(1))
    return field


CODES = [{"type": "plucker"}, {"type": "points", "points": 4}, {"type": "slab", "clusters": 3},
         {"type": "sphere-pair", "form": "charts"}]  # fmt: skip


@pytest.mark.parametrize("code", CODES, ids=lambda c: c["type"])
class TestEveryCode:
    def test_colours_lie_in_range_and_empty_batches_work(self, code):
        field = make(code)
        for n in (0, 1, 50):
            sample = field(*rays(n))
            assert sample.rgb.shape == (n, 3)
            assert bool(((sample.rgb >= 0) & (sample.rgb <= 1)).all())
            assert sample.depth is None and sample.opacity is None

    def test_every_parameter_receives_a_gradient(self, code):
        field = make(code, opacity=True, depth=True)
        sample = field(*rays(2000), numbers())
        (sample.rgb.sum() + sample.depth.sum() + sample.opacity.sum()).backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in field.parameters())

    def test_groups_hold_every_parameter_once(self, code):
        field = make(code)
        held = [id(p) for group in field.parameter_groups(1.0) for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in field.parameters())


def test_opacity_and_depth_are_given_where_asked_for():
    o, d, near, far = rays()
    sample = make({"type": "plucker"}, opacity=True, depth=True)(o, d, near, far)
    assert bool(((sample.opacity > 0) & (sample.opacity < 1)).all())
    assert bool(((sample.depth > near) & (sample.depth < far)).all())


def test_rays_are_asked_of_the_part_they_belong_to():
    field = make({"type": "slab", "clusters": 3, "fade": 0.0})
    given = rays(60)
    codes, sample = field.code(*given), field(*given)
    for i in range(60):
        k = int(codes.cluster[i])
        alone = field.heads[k](field.backbone[k](codes.values[i : i + 1])).sigmoid()
        torch.testing.assert_close(sample.rgb[i : i + 1], alone)


def test_rays_between_parts_are_mixed_by_their_share():
    field = make({"type": "slab", "clusters": 3, "fade": 40.0})
    given = rays(150)
    codes, sample = field.code(*given), field(*given)
    assert int((codes.share < 1).sum()) > 10

    def alone(part, i):
        k = int(part.cluster[i])
        return field.heads[k](field.backbone[k](part.values[i])).sigmoid()

    for i in range(150):
        share = codes.share[i]
        expected = alone(codes, i) * share + alone(codes.other, i) * (1 - share)
        torch.testing.assert_close(sample.rgb[i], expected)


def test_colours_do_not_jump_between_parts():
    field = make({"type": "slab", "clusters": 4, "fade": 15.0})
    turn = torch.linspace(0, 6.28, 4001)
    d = torch.stack((turn.cos(), turn.sin(), torch.full_like(turn, -0.3)), -1)
    d = torch.nn.functional.normalize(d, dim=-1)
    n = len(d)
    assert len(set(field.code(-3 * d, d, turn, turn).cluster.tolist())) > 1
    rgb = field(-3 * d, d, torch.ones(n), torch.full((n,), 5.0)).rgb.detach()
    assert float(rgb.diff(dim=0).abs().max()) < 0.02


def test_a_network_behind_the_backbone_replaces_its_last_layer():
    plain, more = make({"type": "plucker"}), make({"type": "plucker"}, hidden=[8])
    count = sum(p.numel() for p in plain.heads.parameters())
    assert count == 16 * 3 + 3
    assert sum(p.numel() for p in more.heads.parameters()) == (16 * 8 + 8) + (8 * 3 + 3)


def test_linear_output_is_centred_on_grey():
    field = make({"type": "plucker"}, output="linear")
    for parameter in field.heads.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(field(*rays(5)).rgb, torch.full((5, 3), 0.5))


def test_parts_show_what_they_learned_and_grow_together():
    tiny = {"type": "hash-grid", "levels": 2, "log2_entries": 4, "width": 8, "max_resolution": 32}
    field = make({"type": "slab", "clusters": 2}, tiny)
    shown = [insight.name for insight in field.backbone.insights()]
    assert len(shown) == 4 and shown[0].startswith("part 1, ") and shown[-1].startswith("part 2, ")
    assert field.grow(Progress(0, 0.0)) is False
    with pytest.raises(ConfigError, match="rank"):
        field.slim(2)


def test_wrong_settings_are_refused():
    for settings, message in (
        ({"hidden": [0]}, "hidden widths"),
        ({"output": "tanh"}, "output"),
    ):
        with pytest.raises(ConfigError, match=message):
            make({"type": "plucker"}, **settings)
