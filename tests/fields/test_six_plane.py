"""Six planes: interpolation, pairs, and what the decoder is needed for."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.registry import build

PAIRS = list(combinations(range(4), 2))


def make(seed=0, **settings):
    spec = {"type": "six-plane", "resolutions": [5], "features": 3, "width": 8, **settings}
    return build("backbones", spec, in_dim=4, generator=torch.Generator().manual_seed(seed))


def rays(n=40, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 4, generator=generator, dtype=dtype) * 2 - 1


def test_features_are_six_planes_per_level_side_by_side():
    backbone = make(resolutions=[4, 7], features=3)
    assert backbone.features(rays()).shape == (40, 2 * 6 * 3)
    assert [level.pairs for level in backbone.levels] == [PAIRS, PAIRS]


def test_bilinear_functions_are_reproduced_exactly():
    backbone = make(features=1).double()
    x = rays(dtype=torch.float64)
    nodes = torch.linspace(-1, 1, 5, dtype=torch.float64)
    a, b = torch.meshgrid(nodes, nodes, indexing="ij")
    with torch.no_grad():
        for k, plane in enumerate(backbone.levels[0].planes):
            plane[..., 0] = (k + 1) * a * b - a + 0.5 * b
        found = backbone.features(x)
    for k, (i, j) in enumerate(PAIRS):
        expected = (k + 1) * x[:, i] * x[:, j] - x[:, i] + 0.5 * x[:, j]
        torch.testing.assert_close(found[:, k], expected)


def test_a_constant_plane_gives_its_constant_whatever_the_other_coordinates():
    backbone = make()
    with torch.no_grad():
        for plane in backbone.levels[0].planes:
            plane.zero_()
        backbone.levels[0].planes[0].fill_(0.7)
    features = backbone.features(rays())
    torch.testing.assert_close(features[:, :3], torch.full((40, 3), 0.7))
    assert not features[:, 3:].any()


def test_a_ray_moves_at_most_four_nodes_of_every_plane():
    backbone = make(resolutions=[6, 11], features=2)
    backbone.features(rays(1)).sum().backward()
    for level in backbone.levels:
        for plane in level.planes:
            assert 1 <= int((plane.grad.abs().sum(-1) > 0).sum()) <= 4


@pytest.mark.parametrize("decoder", ["linear", "network"])
def test_a_product_over_two_planes_needs_the_decoder(decoder):
    """Sums of planes hold f(x, y) + g(u, v), not their product."""
    torch.manual_seed(0)
    backbone = make(resolutions=[8], features=6, width=48, blocks=2, init=0.1)
    last = torch.nn.Linear(backbone.features(rays(1)).shape[1], 1)
    head = torch.nn.Linear(backbone.out_dim, 1)
    parameters = [*backbone.parameters(), *last.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=5e-3)
    generator = torch.Generator().manual_seed(3)

    def error(n=512):
        x = torch.rand(n, 4, generator=generator) * 2 - 1
        truth = (
            (3 * x[:, 0]).sin() * (2 * x[:, 1]).cos() * (3 * x[:, 2]).sin() * (2 * x[:, 3]).cos()
        )
        made = last(backbone.features(x)) if decoder == "linear" else head(backbone(x))
        return (made[:, 0] - truth).square().mean() / truth.square().mean()

    for _ in range(100 if decoder == "linear" else 250):
        optimiser.zero_grad()
        error().backward()
        optimiser.step()
    with torch.no_grad():
        left = float(error(4096))
    assert left > 0.5 if decoder == "linear" else left < 0.05


def test_the_planes_learn_faster_than_the_decoder_and_only_where_rays_are():
    planes, decoder = make(rate=7.0).parameter_groups(1e-3)
    assert planes["lr"] == pytest.approx(7e-3) and planes["sparse"] and decoder["lr"] == 1e-3


def test_the_penalty_is_zero_for_flat_planes_only():
    backbone = make(tv=0.5)
    assert float(backbone.regularisation()["tv"].detach()) > 0
    with torch.no_grad():
        for plane in backbone.levels.parameters():
            plane.fill_(0.3)
    assert float(backbone.regularisation()["tv"].detach()) == 0
    assert make().regularisation() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": []}, "resolutions"),
        ({"resolutions": [1]}, "resolutions"),
        ({"features": 0}, "features must be at least 1"),
        ({"blocks": -1}, "blocks must not be negative"),
        ({"rate": 0.0}, "rate must be positive"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_three_dimensions_are_refused():
    with pytest.raises(ConfigError, match="4 dimensions, got 3"):
        build("backbones", {"type": "six-plane"}, in_dim=3)
