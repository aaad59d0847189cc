"""FKAN: Fourier series per edge in the first layer, steep layers behind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from polyfield.errors import ConfigError
from polyfield.fields.backbones.fkan import FKANBackbone, FKANConfig, steep
from polyfield.fields.heads import SmallMLP
from polyfield.registry import build


def make(in_dim=2, seed=0, **settings):
    return FKANBackbone(FKANConfig(**settings), in_dim, torch.Generator().manual_seed(seed))


def count(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TestSizes:
    def test_image_network_of_the_paper(self):
        """436,367 less 12 scalars that the released code has and does not use."""
        backbone = make()
        assert count(backbone, backbone.make_head(3)) == 436_367 - 12

    def test_first_layer(self):
        assert count(make(3, harmonics=17, first_width=5).first) == 2 * 3 * 5 * 17 + 5 + 2 * 5
        plain = make(3, harmonics=17, first_width=5, layer_norm=False)
        assert count(plain.first) == 2 * 3 * 5 * 17 + 5

    def test_without_layers_behind_the_series_are_the_features(self):
        backbone = make(harmonics=3, first_width=7, widths=())
        assert backbone.out_dim == 7
        assert torch.equal(backbone(uniform(9, 2)), backbone.first(uniform(9, 2)))


class TestFirstLayer:
    def test_variance_is_one_at_every_point(self):
        first = make(first_width=4000, widths=(), layer_norm=False).first
        points = torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.3, 0.9]])
        variance = first(points).detach().var(1)
        torch.testing.assert_close(variance, torch.ones(3), atol=0.06, rtol=0)

    def test_is_the_double_sum(self):
        first = make(harmonics=5, first_width=4, widths=(), layer_norm=False).first.double()
        cosines, sines = first.coefficients.detach().split(5)
        x = uniform(6, 2).double()
        with torch.no_grad():
            first.bias.copy_(torch.arange(4))
        expected = first.bias.detach().repeat(6, 1)
        for j in range(2):
            for k in range(1, 6):
                expected += (k * x[:, j : j + 1]).cos() * cosines[k - 1, j]
                expected += (k * x[:, j : j + 1]).sin() * sines[k - 1, j]
        torch.testing.assert_close(first(x), expected, atol=1e-12, rtol=0)

    def test_one_coefficient_is_one_cosine(self):
        first = make(harmonics=9, first_width=2, widths=(), layer_norm=False).first
        nn.init.zeros_(first.coefficients)
        first.coefficients.data[6, 0, 1] = 1.0
        x = uniform(20, 2)
        torch.testing.assert_close(first(x)[:, 1], (7 * x[:, 0]).cos())
        assert first(x)[:, 0].abs().max() == 0

    def test_repeats_after_two_pi(self):
        backbone, x = make(harmonics=20), uniform(30, 2)
        shifted = x + torch.tensor([2 * math.pi, -4 * math.pi])
        torch.testing.assert_close(backbone.first(shifted), backbone.first(x), atol=1e-4, rtol=0)


class TestActivation:
    def test_gated(self):
        u = torch.tensor([0.0, 40.0, -40.0], dtype=torch.float64, requires_grad=True)
        value = steep(u)
        expected = torch.tensor([0.0, 41.0, 0.0], dtype=torch.float64)
        torch.testing.assert_close(value.detach(), expected)
        slope = torch.autograd.grad(value.sum(), u)[0]
        assert slope[0] == pytest.approx((1 + 30) / 2)

    def test_ungated_is_the_paper_s(self):
        u = uniform(50)
        torch.testing.assert_close(steep(u, 12.0, False), (12 * u).tanh())


class TestInitialWeights:
    def test_bounds(self):
        for layer, fan in zip(make(widths=(300, 50)).layers, (128, 300), strict=True):
            bound = math.sqrt(6 / fan) / 30
            assert 0.98 * bound < float(layer.weight.detach().abs().max()) <= bound
            assert float(layer.bias.detach().abs().max()) <= 1 / math.sqrt(fan)

    def test_head_uses_its_true_fan_in(self):
        head = make(widths=(512,)).make_head(3, torch.Generator().manual_seed(0))
        bound = math.sqrt(6 / 512) / 30
        assert 0.98 * bound < float(head.weight.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"harmonics": 0}, "harmonics and first_width"),
        ({"widths": [8, 0]}, "widths must"),
        ({"omega": 0.0}, "omega must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build("backbones", {"type": "fkan", **settings}, in_dim=2)


def toy():
    """64 x 64 pixels: a zone plate, a checkerboard and a bump."""
    axis = torch.linspace(-1, 1, 64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    square = x**2 + y**2
    zone = 0.5 + 0.5 * (18 * square).cos()
    checks = ((4 * x).floor() + (4 * y).floor()) % 2
    return torch.stack([x, y], -1).reshape(-1, 2), torch.stack(
        [zone, checks, (-4 * square).exp()], -1
    ).reshape(-1, 3)


def fitted_psnr(backbone, head, lr, steps=120):
    points, colours = toy()
    generator = torch.Generator().manual_seed(0)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / steps))
    for _ in range(steps):
        batch = torch.randint(len(points), (1024,), generator=generator)
        optimiser.zero_grad()
        (head(backbone(points[batch])) - colours[batch]).square().mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return -10 * math.log10(float((head(backbone(points)) - colours).square().mean()))


def test_learns_a_picture_that_a_plain_network_does_not_and_better_with_more_harmonics():
    found = {}
    for harmonics in (8, 64):
        backbone = make(harmonics=harmonics, widths=(128, 128))
        found[harmonics] = fitted_psnr(backbone, backbone.make_head(3), 2e-3)
    generator = torch.Generator().manual_seed(0)
    plain = SmallMLP(2, (128, 128, 128), 3, generator=generator)
    relu = fitted_psnr(plain, nn.Identity(), 2e-3)
    assert relu < 12 < found[8] < found[64] - 6, (relu, found)
    assert found[64] > 22, found
