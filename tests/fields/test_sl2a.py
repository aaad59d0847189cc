"""SL2A-INR: a Chebyshev layer whose outputs modulate a low-rank ReLU network."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.fields.backbones.sl2a import LowRankLinear, SL2ABackbone, SL2AConfig
from polyfield.registry import build


def make(in_dim=2, seed=0, **settings):
    return SL2ABackbone(SL2AConfig(**settings), in_dim, torch.Generator().manual_seed(seed))


def count(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TestSizes:
    def test_image_network_of_the_paper(self):
        backbone = make()
        assert count(backbone, backbone.make_head(3)) == 330_243

    def test_formula(self):
        d, width, degree, layers, rank = 3, 20, 9, 4, 5
        backbone = make(d, width=width, degree=degree, layers=layers, rank=rank)
        fusion = layers * (2 * width * rank + width)
        assert count(backbone) == d * width * (degree + 1) + 2 * width + fusion


class TestFirstLayer:
    def test_single_degrees(self):
        backbone = make(degree=4, width=2)
        first = backbone.first
        torch.nn.init.zeros_(first.coefficients)
        first.coefficients.data[1, 0, 0] = 1.0
        first.coefficients.data[2, 1, 1] = 1.0
        x = uniform(30, 2)
        found = first.expand(first.squash(x)).detach()
        torch.testing.assert_close(found[:, 0], x[:, 0].tanh())
        torch.testing.assert_close(found[:, 1], 2 * x[:, 1].tanh() ** 2 - 1)

    def test_outputs_are_normalised(self):
        z = make(width=64).first(uniform(50, 2)).detach()
        torch.testing.assert_close(z.mean(1), torch.zeros(50), atol=1e-5, rtol=0)
        torch.testing.assert_close(z.square().mean(1), torch.ones(50), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("squash", ["tanh", "none"])
    def test_gradients_at_the_edge_of_the_box_and_far_outside(self, squash):
        backbone = make(degree=256, width=8, squash=squash).double()
        x = torch.tensor([[1.0, -1.0], [0.99, 0.2]], dtype=torch.float64)
        if squash == "tanh":
            x = torch.cat([x, 50 * x])
        x.requires_grad_()
        slope = torch.autograd.grad(backbone(x).sum(), x)[0]
        assert slope.isfinite().all() and slope[:2].abs().min() > 0


class TestInitialValues:
    def test_bounds(self):
        backbone = make()
        coefficients = float(backbone.first.coefficients.detach().abs().max())
        assert 0.0095 < coefficients <= 0.0095127
        layer, head = backbone.fusion[0], backbone.make_head(3)
        for tensor, fan in ((layer.u, 128), (layer.v, 256), (layer.bias, 128), (head.weight, 256)):
            bound = 1 / math.sqrt(fan)
            assert 0.9 * bound < float(tensor.detach().abs().max()) <= bound


class TestFusion:
    @pytest.mark.parametrize("rank", [3, 20])
    def test_low_rank_layer_is_the_product(self, rank):
        """In one product for high ranks, in two for low ones."""
        layer = LowRankLinear(20, 20, rank, torch.Generator().manual_seed(0)).double()
        x = uniform(7, 20).double()
        plain = torch.nn.functional.linear(x, (layer.u @ layer.v).T, layer.bias)
        torch.testing.assert_close(layer(x), plain)
        grads = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
        again = torch.autograd.grad(plain.square().sum(), list(layer.parameters()))
        for a, b in zip(grads, again, strict=True):
            torch.testing.assert_close(a, b)

    def test_identity_weights_give_powers(self):
        """U V = 1, no bias, no ReLU: features z^(layers + 2)."""
        backbone = make(width=6, rank=6, layers=3, degree=5, nonlinearity=False).double()
        for layer in backbone.fusion:
            torch.nn.init.eye_(layer.u)
            torch.nn.init.eye_(layer.v)
            torch.nn.init.zeros_(layer.bias)
        x = uniform(9, 2).double()
        torch.testing.assert_close(backbone(x), backbone.first(x) ** 5)

    def test_relu_follows_every_fusion_layer(self):
        backbone = make(width=6, rank=3, layers=2, degree=5).double()
        x = uniform(9, 2).double()
        z = y = backbone.first(x)
        for layer in backbone.fusion:
            y = ((z * y) @ layer.u @ layer.v + layer.bias).clamp(min=0)
        torch.testing.assert_close(backbone(x), z * y)

    def test_without_fusion_layers_the_features_are_squares(self):
        backbone, x = make(layers=0, width=4), uniform(5, 2)
        torch.testing.assert_close(backbone(x), backbone.first(x).square())


@pytest.mark.parametrize("settings", [{"degree": 0}, {"rank": 0}, {"width": -1}, {"layers": -1}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match="at least 1"):
        build("backbones", {"type": "sl2a", **settings}, in_dim=2)


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


def fitted_psnr(degree, steps=150):
    backbone = make(degree=degree, width=128, layers=2, rank=32)
    head = backbone.make_head(3, torch.Generator().manual_seed(1))
    points, colours = toy()
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 2e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / steps))
    for _ in range(steps):
        batch = torch.randint(len(points), (1024,), generator=generator)
        optimiser.zero_grad()
        (head(backbone(points[batch])) - colours[batch]).square().mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return -10 * math.log10(float((head(backbone(points)) - colours).square().mean()))


def test_higher_degrees_resolve_finer_detail():
    found = {degree: fitted_psnr(degree) for degree in (8, 24, 64)}
    assert found[8] < found[24] - 4 < found[64] - 8, found
    assert found[8] > 11 and found[64] > 24, found
