"""Families of one-dimensional functions and the layer made of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from polyfield.fields import kan_bases as bases
from polyfield.fields import kan_product
from polyfield.fields.kan_layers import (
    BASES,
    EdgeWavelets,
    LayerConfig,
    check_layer,
    make_layer,
    uniform_linear,
)

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def line(n=101, low=-1.0, high=1.0):
    return torch.linspace(low, high, n, dtype=DOUBLE)


def values(family, u, size, **parameters):
    return bases.polynomials(family, torch.as_tensor(u, dtype=DOUBLE), size, **parameters)


def legendre_nodes(count=200):
    """Gauss-Legendre nodes and weights by the eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, count, dtype=DOUBLE)
    off = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0] ** 2


class TestPolynomials:
    @pytest.mark.parametrize(
        ("family", "expected"),
        [
            ("chebyshev", (1, 0.3, -0.82, -0.792, 0.3448)),
            ("chebyshev2", (1, 0.6, -0.64, -0.984, 0.0496)),
            ("legendre", (1, 0.3, -0.365, -0.3825, 0.0729375)),
            ("laguerre", (1, 0.7, 0.445, 0.2305, 0.0523375)),
            ("bessel", (1, 1.3, 2.17, 4.555, 11.7355)),
            ("fibonacci", (1, 0.3, 1.09, 0.627, 1.2781)),
            ("lucas", (2, 0.3, 2.09, 0.927, 2.3681)),
        ],
    )
    def test_values_at_three_tenths(self, family, expected):
        """Laguerre's L_4 is (u^4 - 16 u^3 + 72 u^2 - 96 u + 24) / 24, for one."""
        found = values(family, 0.3, 5)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE), atol=1e-4, rtol=0)

    def test_special_cases_are_the_families_they_should_be(self):
        u, legendre = line(), values("legendre", line(), 9)
        torch.testing.assert_close(values("jacobi", u, 9, alpha=0, beta=0), legendre)
        torch.testing.assert_close(values("gegenbauer", u, 9, alpha=0.5), legendre)
        torch.testing.assert_close(values("gegenbauer", u, 9, alpha=1), values("chebyshev2", u, 9))

    def test_jacobi_is_mirrored_when_its_parameters_are_swapped(self):
        u, sign = line(), (-1.0) ** torch.arange(7, dtype=DOUBLE)
        swapped = values("jacobi", -u, 7, alpha=2.0, beta=0.5) * sign[:, None]
        torch.testing.assert_close(values("jacobi", u, 7, alpha=0.5, beta=2.0), swapped)

    def test_values_at_one(self):
        assert values("chebyshev", 1.0, 6).tolist() == [1] * 6
        torch.testing.assert_close(values("legendre", 1.0, 6), torch.ones(6, dtype=DOUBLE))
        assert values("fibonacci", 1.0, 5).tolist() == [1, 1, 2, 3, 5]
        assert values("lucas", 1.0, 5).tolist() == [2, 1, 3, 4, 7]

    def test_slope_of_chebyshev_at_the_ends_is_n_squared(self):
        u = torch.tensor([1.0, -1.0], dtype=DOUBLE, requires_grad=True)
        for n in range(8):
            slope = torch.autograd.grad(bases.polynomials("chebyshev", u, 8)[n].sum(), u)[0]
            torch.testing.assert_close(slope, torch.tensor([n**2, -((-1) ** n) * n**2]).double())

    def test_orthogonality(self):
        u, w = legendre_nodes()
        p = values("legendre", u, 8)
        norms = torch.diag(2 / (2 * torch.arange(8, dtype=DOUBLE) + 1))
        torch.testing.assert_close((p * w) @ p.T, norms, atol=1e-12, rtol=0)
        angle = (torch.arange(200, dtype=DOUBLE) + 0.5) * math.pi / 200
        t = values("chebyshev", angle.cos(), 8)
        half = torch.full((8,), math.pi / 2, dtype=DOUBLE)
        half[0] = math.pi
        torch.testing.assert_close(t @ t.T * math.pi / 200, half.diag(), atol=1e-12, rtol=0)

    def test_hermite_is_orthonormal_under_its_weight(self):
        u = torch.linspace(-12, 12, 4001, dtype=DOUBLE)
        h = values("hermite", u, 8)
        weight = (-u.square()).exp() * (u[1] - u[0]) / math.sqrt(math.pi)
        torch.testing.assert_close((h * weight) @ h.T, torch.eye(8, dtype=DOUBLE))

    def test_gram_without_factors_is_monic_legendre(self):
        u, size = line(), 7
        monic = values("legendre", u, size)
        leading = [math.comb(2 * n, n) / 2**n for n in range(size)]
        monic = monic / torch.tensor(leading, dtype=DOUBLE)[:, None]
        found = bases.gram(u, size, torch.ones(size - 2, dtype=DOUBLE))
        torch.testing.assert_close(found, monic)

    def test_high_degrees_keep_their_digits(self):
        x = torch.rand(2000, generator=seeded()) * 2 - 1
        for dtype, size, tolerance in ((torch.float32, 65, 1e-5), (DOUBLE, 257, 1e-9)):
            u = x.to(dtype).tanh()
            k = torch.arange(size, dtype=DOUBLE)[:, None]
            exact = (k * u.double().acos()).cos()
            found = bases.polynomials("chebyshev", u, size).double()
            torch.testing.assert_close(found, exact, atol=tolerance, rtol=0)

    @pytest.mark.parametrize("family", list(bases.POLYNOMIALS))
    def test_first_and_second_derivatives(self, family):
        u = torch.tensor([-1.0, -0.4, 0.0, 0.7, 1.0], dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradcheck(lambda v: bases.polynomials(family, v, 6), (u,))
        assert torch.autograd.gradgradcheck(lambda v: bases.polynomials(family, v, 6), (u,))


class TestBumps:
    def test_bernstein_is_a_partition_of_one_and_not_constant(self):
        b = bases.bernstein(line(), 6)
        torch.testing.assert_close(b.sum(0), torch.ones(101, dtype=DOUBLE))
        assert (b >= 0).all() and b[2].std() > 0.05
        torch.testing.assert_close(b[3, 50], torch.tensor(10 / 32, dtype=DOUBLE))

    def test_spline_values_at_and_between_knots(self):
        between = bases.spline(torch.zeros(1, dtype=DOUBLE), 8)[:, 0] * 48
        expected = torch.tensor([0, 0, 1, 23, 23, 1, 0, 0], dtype=DOUBLE)
        torch.testing.assert_close(between, expected)
        knot = bases.spline(torch.full((1,), 0.2, dtype=DOUBLE), 8)[:, 0] * 6
        torch.testing.assert_close(knot, torch.tensor([0, 0, 0, 1, 4, 1, 0, 0], dtype=DOUBLE))
        torch.testing.assert_close(bases.spline(line(), 8).sum(0), torch.ones(101, dtype=DOUBLE))

    def test_radial_functions_at_centres_and_neighbours(self):
        centres = line(8)
        g = bases.rbf(centres, 8)
        torch.testing.assert_close(g.diag(), torch.ones(8, dtype=DOUBLE))
        torch.testing.assert_close(g.diag(1), torch.full((7,), math.exp(-1), dtype=DOUBLE))
        t = bases.rswaf(centres, 8)
        beside = 1 - math.tanh((4 / 7) / 0.33) ** 2
        assert beside == pytest.approx(0.1178, abs=1e-4)
        torch.testing.assert_close(t.diag(1), torch.full((7,), beside, dtype=DOUBLE))

    def test_relu_bumps_peak_at_one_and_end_smoothly(self):
        start, end = bases.relu_ends(8)

        def own(v):
            """Each bump at its own point v of [0, 1]."""
            return bases.relu_bumps(2 * v - 1, start[:, None], end[:, None]).diag()

        torch.testing.assert_close(own((start + end) / 2), torch.ones(8, dtype=DOUBLE))
        assert own(start - 1e-9).abs().max() == own(end + 1e-9).abs().max() == 0
        # flat at the ends, so the slope is continuous
        assert 0 < own(start + 1e-5).max() < 1e-8

    @pytest.mark.parametrize("kind", ["mexican-hat", "dog"])
    def test_wavelets_have_no_mean(self, kind):
        z = torch.linspace(-12, 12, 4001, dtype=DOUBLE)
        psi = bases.WAVELETS[kind](z)
        assert abs(float(psi.sum() * (z[1] - z[0]))) < 1e-9 < psi.abs().max()

    def test_meyer_ends_at_one_and_shannon_does_not_blow_up(self):
        z = torch.tensor([0.0, 0.25, 0.5, 1.0, 1.5], dtype=DOUBLE)
        meyer = bases.WAVELETS["meyer"](z)
        expected = torch.tensor([0, math.sin(math.pi / 4), 1, 0, 0], dtype=DOUBLE)
        torch.testing.assert_close(meyer, expected)
        shannon = bases.WAVELETS["shannon"](torch.tensor([0.0, math.pi], dtype=DOUBLE))
        torch.testing.assert_close(shannon, torch.tensor([1.0, 0.0], dtype=DOUBLE))

    @pytest.mark.parametrize("size", [1, 2, 7, 8, 12])
    def test_wavelets_cover_the_range_at_ever_finer_scales(self, size):
        shifts, scales = bases.wavelet_frame(size)
        assert len(shifts) == size and shifts.abs().max() < 1
        assert scales[0] <= 1 and (scales.diff() <= 0).all()
        assert torch.unique(torch.stack([shifts, scales]), dim=1).shape[1] == size

    def test_harmonics_and_their_slopes(self):
        u, k = line(50, -3, 3).requires_grad_(), torch.arange(1, 271, dtype=DOUBLE)[:, None]
        found = bases.fourier(u, 540)
        angle = (k * u).detach()
        torch.testing.assert_close(found.detach(), torch.cat([angle.cos(), angle.sin()]))
        single = bases.fourier(u.detach().float(), 540)
        torch.testing.assert_close(single.double(), found.detach(), atol=2e-4, rtol=0)
        weight = torch.randn(540, 1, dtype=DOUBLE, generator=seeded())
        slope = torch.autograd.grad((weight * found).sum(), u)[0]
        exact = (k * (weight[270:] * angle.cos() - weight[:270] * angle.sin())).sum(0)
        torch.testing.assert_close(slope, exact)
        assert torch.autograd.gradgradcheck(lambda v: bases.fourier(v, 6), (u[:4],))


def layer(basis, in_dim=3, out_dim=5, seed=0, **settings):
    return make_layer(basis, in_dim, out_dim, LayerConfig(**settings), seeded(seed))


@pytest.mark.parametrize("basis", BASES)
class TestLayer:
    def test_is_the_sum_over_inputs_and_functions(self, basis):
        one = layer(basis, size=6).double()
        x = torch.rand(7, 3, dtype=DOUBLE, generator=seeded()) * 2 - 1
        table, expected = one.basis(x), torch.zeros(7, 5, dtype=DOUBLE)
        for k, i in itertools.product(range(6), range(3)):
            expected += table[k, i][:, None] * one.coefficients[k, i]
        expected += 0 if one.bias is None else one.bias
        torch.testing.assert_close(one(x), expected)

    def test_a_point_does_not_depend_on_its_batch(self, basis):
        one = layer(basis, base=True, norm=True).double()
        x = torch.randn(40, 3, dtype=DOUBLE, generator=seeded())
        alone = torch.cat([one(p[None]) for p in x])
        torch.testing.assert_close(one(x), alone, rtol=1e-12, atol=1e-12)

    def test_gradients_also_where_tanh_is_saturated(self, basis):
        one = layer(basis, in_dim=2, out_dim=3, size=4, base=True).double()
        x = torch.tensor([[1.0, -1.0], [50.0, -50.0], [0.31, 0.47]], dtype=DOUBLE)
        x.requires_grad_()
        assert torch.autograd.gradcheck(one, (x,))
        own = list(one.parameters())
        names = [n for n, _ in one.named_parameters()]
        inner = x[2:].detach()

        def at(*new):
            return torch.func.functional_call(one, dict(zip(names, new, strict=True)), inner)

        assert torch.autograd.gradcheck(at, [p.detach().requires_grad_() for p in own])

    def test_second_derivatives(self, basis):
        one = layer(basis, in_dim=2, out_dim=2, size=4).double()
        x = torch.tensor([[0.31, -0.47], [0.13, 0.71]], dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradgradcheck(one, (x,))

    def test_unit_coefficients_give_outputs_of_variance_one(self, basis):
        one = layer(basis, 3, 3000, squash="none")
        out = one(torch.rand(1500, 3, generator=seeded(1)) * 2 - 1)
        assert float(out.detach().var()) == pytest.approx(1, abs=0.07)

    def test_blocks_make_no_difference(self, basis, monkeypatch):
        one = layer(basis).double()
        x = torch.randn(600, 3, dtype=DOUBLE, generator=seeded()).requires_grad_()
        wanted = [x, *one.parameters()]
        whole, grads = one(x), torch.autograd.grad(one(x).square().sum(), wanted)
        monkeypatch.setattr(kan_product, "BLOCK", 1)
        torch.testing.assert_close(one(x), whole)
        for a, b in zip(torch.autograd.grad(one(x).square().sum(), wanted), grads, strict=True):
            torch.testing.assert_close(a, b)


COUNTS = {  # of a layer of 4 inputs, 6 outputs, 8 functions, from the papers
    ("chebyshev", ()): 4 * 6 * 8,
    ("legendre", ("base", "norm")): 4 * 6 * 8 + 4 * 6 + 2 * 6,
    # KAGN's two factors that nothing depends on are left out
    ("gram", ("base", "norm")): 4 * 6 * 8 + 4 * 6 + 2 * 6 + 6,
    ("rbf", ("base", "input")): 8 * 4 * 6 + 4 * 6 + 6 + 2 * 4,
    ("rswaf", ("input",)): 8 * 4 * 6 + 2 * 4,
    ("relu", ()): 4 * 6 * 8 + 6 + 2 * 4 * 8,
    ("fourier", ()): 2 * 4 * 6 * 4 + 6,
}


@pytest.mark.parametrize(("basis", "parts"), list(COUNTS))
def test_numbers_of_parameters(basis, parts):
    settings = {part: True for part in parts if part != "input"}
    one = layer(basis, 4, 6, squash="norm" if "input" in parts else "tanh", **settings)
    assert sum(p.numel() for p in one.parameters()) == COUNTS[basis, parts]


class TestRepeatedCoordinates:
    def lattice(self, dims=2):
        axis = torch.linspace(-1, 1, 11, dtype=DOUBLE)
        return axis[torch.randint(11, (3000, dims), generator=seeded())]

    @pytest.mark.parametrize("basis", ["chebyshev", "fourier", "rbf"])
    def test_give_the_same_values_and_gradients(self, basis, monkeypatch):
        one, x = layer(basis, 2, 4, size=12).double(), self.lattice()
        assert kan_product.repeated(x.T.contiguous()) is not None
        fast = one(x)
        weight = torch.randn(fast.shape, dtype=DOUBLE, generator=seeded(2))
        grads = torch.autograd.grad((fast * weight).sum(), one.coefficients)
        monkeypatch.setattr(kan_product, "SAMPLE", 10**9)
        torch.testing.assert_close(one(x), fast)
        plain = torch.autograd.grad((one(x) * weight).sum(), one.coefficients)
        torch.testing.assert_close(plain, grads)

    def test_are_not_looked_for_where_there_are_none(self):
        scattered = torch.rand(2, 3000, generator=seeded())
        assert kan_product.repeated(scattered) is None
        assert kan_product.repeated(self.lattice().T.requires_grad_()) is None
        mixed = torch.stack([self.lattice()[:, 0], scattered[0].double()])
        assert kan_product.repeated(mixed) is None


class TestExpressiveness:
    @pytest.mark.parametrize("basis", [*bases.POLYNOMIALS, "bernstein", "spline"])
    def test_cubics_are_met_exactly(self, basis):
        """Least squares on one layer, for a cubic of every input."""
        x = torch.rand(300, 2, dtype=DOUBLE, generator=seeded()) * 2 - 1
        cubic = torch.randn(4, 2, dtype=DOUBLE, generator=seeded(1))
        y = sum(cubic[k] * x**k for k in range(4)).sum(1, keepdim=True)
        table = layer(basis, 2, 1, squash="none").double().basis(x).flatten(0, 1).T
        found = torch.linalg.lstsq(table, y, driver="gelsd").solution
        assert (table @ found - y).abs().max() < 1e-6

    def test_band_limited_signals_are_met_exactly_by_harmonics(self):
        x = line(200, -math.pi, math.pi)[:-1, None]
        y = 0.3 + (3 * x).sin() - 2 * (7 * x).cos()
        one = layer("fourier", 1, 1, size=16, squash="none").double()
        table = torch.cat([one.basis(x).flatten(0, 1).T, torch.ones_like(x)], 1)
        assert (table @ torch.linalg.lstsq(table, y).solution - y).abs().max() < 1e-10

    def test_bounded_families_learn_what_unbounded_ones_do_not(self):
        """exp(sin(pi x) + y^2), whose deviation is 1.3, by layers [2, 8, 1]."""
        chebyshev, bessel = fit_toy("chebyshev"), fit_toy("bessel")
        assert chebyshev < 0.3 < 20 * chebyshev < bessel


def fit_toy(basis, steps=400):
    """RMSE on fresh points after a short fit."""
    generator = seeded()
    settings = {"size": 7, "init": "variance"}
    net = torch.nn.Sequential(
        make_layer(basis, 2, 8, LayerConfig(squash="none", **settings), generator),
        make_layer(basis, 8, 1, LayerConfig(squash="tanh", **settings), generator),
    )

    def target(p):
        return ((math.pi * p[:, :1]).sin() + p[:, 1:] ** 2).exp()

    x, fresh = (torch.rand(2, 500, 2, generator=generator) * 2 - 1).unbind()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / steps))
    for _ in range(steps):
        optimiser.zero_grad()
        (net(x) - target(x)).square().mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return float((net(fresh) - target(fresh)).square().mean().sqrt())


class TestEdgeWavelets:
    @pytest.mark.parametrize("kind", list(bases.WAVELETS))
    def test_sum_of_one_wavelet_per_edge(self, kind):
        one = EdgeWavelets(kind, 3, 4, norm=False, generator=seeded()).double()
        with torch.no_grad():
            one.shift.normal_(generator=seeded(1))
            one.scale.uniform_(0.5, 2, generator=seeded(2))
        x = torch.randn(5, 3, dtype=DOUBLE, generator=seeded(3))
        expected = torch.nn.functional.silu(x) @ one.base_weight.T
        for o, i in itertools.product(range(4), range(3)):
            z = (x[:, i] - one.shift[o, i]) / one.scale[o, i]
            expected[:, o] += one.weight[o, i] * bases.WAVELETS[kind](z)
        torch.testing.assert_close(one(x), expected)

    def test_number_of_parameters(self):
        one = EdgeWavelets("morlet", 3, 4, generator=seeded())
        assert sum(p.numel() for p in one.parameters()) == 4 * 3 * 4 + 2 * 4
        assert one(torch.zeros(2, 0, 3)).shape == (2, 0, 4)

    def test_unknown_wavelets_are_refused(self):
        with pytest.raises(ValueError, match="mexican-hat"):
            EdgeWavelets("haar", 1, 1)


class TestSettings:
    @pytest.mark.parametrize(
        ("basis", "settings", "message"),
        [
            ("haar", {}, "basis must be one of"),
            ("fourier", {"size": 7}, "even"),
            ("spline", {"size": 3}, "at least 4"),
            ("chebyshev", {"size": 0}, "at least 1"),
            ("legendre", {"squash": "norm"}, "tanh"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, basis, settings, message):
        with pytest.raises(ValueError, match=message):
            check_layer(basis, LayerConfig(**settings))
        with pytest.raises(ValueError, match=message):
            make_layer(basis, 2, 2, LayerConfig(**settings))

    def test_initial_coefficients(self):
        for init, std in (("variance", 1 / math.sqrt(400)), ("reference", 1 / 400)):
            one = layer("legendre", 50, 200, init=init)
            assert float(one.coefficients.std()) == pytest.approx(std, rel=0.02)
        bound = math.sqrt(6 / (250 * 8))
        found = float(layer("legendre", 50, 200, init="xavier").coefficients.abs().max())
        assert 0.999 * bound < found <= bound

    def test_a_single_input_is_not_normalised_away(self):
        one = layer("rbf", 1, 4, squash="norm")
        assert one(torch.tensor([[0.3]])).sub(one(torch.tensor([[0.6]]))).abs().max() > 0

    def test_bounds_of_linear_layers(self):
        one = uniform_linear(100, 50, 0.3, seeded())
        assert 0.29 < float(one.weight.abs().max()) <= 0.3
        assert 0.08 < float(one.bias.abs().max()) <= 0.1
