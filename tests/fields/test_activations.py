"""Activations and their initial values; SIREN, Gauss, WIRE and FINER as backbones."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.fields.activations import (
    INTERVALS,
    NUMBERS,
    Activation,
    ComplexLinear,
    activate,
    cauchy,
    dense,
    finer,
    gabor,
    gaussian,
    hosc,
    last_layer,
    matrix_product,
    own_parameters,
    sinc,
    with_gain,
)
from polyfield.registry import build, lookup

OMEGA = 30.0


def make(name, in_dim=2, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return build("backbones", {"type": name, **settings}, in_dim=in_dim, generator=generator)


def uniform(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, generator=generator, dtype=dtype) * 2 - 1


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def derivative(function, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(function(z).sum(), z)[0]


class TestFunctions:
    def test_gaussian_is_one_at_zero_and_has_the_deviation_of_its_scale(self):
        z = uniform(50)
        assert gaussian(torch.zeros(1)) == 1
        expected = torch.exp(-z.square() / (2 * 0.0235702260**2))
        torch.testing.assert_close(gaussian(30 * z), expected)

    @pytest.mark.parametrize("detach", [False, True])
    def test_finer_and_its_derivative_with_and_without_the_factor(self, detach):
        z = uniform(50)
        size = z.abs() + 1
        torch.testing.assert_close(finer(OMEGA * z, OMEGA, detach), (OMEGA * size * z).sin())
        wave = (OMEGA * size * z).cos() * OMEGA
        expected = wave * size if detach else wave * (2 * z.abs() + 1)
        slope = derivative(lambda z: finer(OMEGA * z, OMEGA, detach), z)
        torch.testing.assert_close(slope, expected)

    def test_finer_of_small_values_is_a_sine(self):
        u = uniform(50) * 1e-4
        torch.testing.assert_close(finer(u, OMEGA), u.sin(), rtol=1e-5, atol=0)

    def test_gabor_equals_complex_arithmetic(self):
        omega, s = 7.0, 3.0
        z = torch.complex(uniform(5, 4), uniform(5, 4).flip(0) * 0.3)
        wave = torch.exp(1j * omega * z - (s * z).abs().square())
        real = gabor(omega * z.real, omega * z.imag, s / omega)
        torch.testing.assert_close(real, torch.cat((wave.real, wave.imag), -1))

    def test_gabor_without_window_and_imaginary_part_is_cosine_and_sine(self):
        u = uniform(9, 3) * 5
        out = gabor(u, None, 0.0)
        torch.testing.assert_close(out, torch.cat((u.cos(), u.sin()), -1))
        assert gabor(u, None, 2.0).abs().max() <= 1

    @pytest.mark.parametrize("imaginary", [False, True])
    def test_gabors_derivatives_match_finite_differences_twice(self, imaginary):
        parts = [uniform(3, 2).requires_grad_(), uniform(3, 2).mul(0.5).requires_grad_()]

        def function(*u):
            return gabor(u[0], u[1] if imaginary else None, 0.7)

        inputs = tuple(parts if imaginary else parts[:1])
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)

    def test_steep_hosc_is_a_square_wave(self):
        u = uniform(50) * 9
        sign = u.sin().sign()
        away = u.sin().abs() > 0.01
        torch.testing.assert_close(hosc(u, torch.tensor(1e4).double())[away], sign[away])

    def test_sinc_is_one_at_zero(self):
        u = uniform(20) * 9
        torch.testing.assert_close(sinc(u), u.sin() / u)
        assert sinc(torch.zeros(1)) == 1 and derivative(sinc, torch.zeros(1)) == 0

    def test_cauchy_at_zero_and_towards_its_pole(self):
        odd, even, square = torch.tensor([2.0, 3.0, 4.0]).double().unbind()
        assert cauchy(torch.zeros(1).double(), odd, even, square) == 0.75
        z = uniform(20)
        zero = torch.zeros(()).double()
        torch.testing.assert_close(cauchy(z, zero + 1, zero, zero), 1 / z)

    @torch.no_grad()
    def test_cauchy_starts_with_ones_and_its_square_stays_positive(self):
        activation = Activation("cauchy")
        own = own_parameters(activation, 4)
        z = uniform(20, 4, dtype=torch.float32)
        torch.testing.assert_close(activate(activation, z, own=own), (z + 1) / (z.square() + 1))
        own["raw"].fill_(-1e4)
        assert float(activate(activation, torch.zeros(1), own=own)) == pytest.approx(1000)


class TestTrainableMatrix:
    @pytest.mark.parametrize("tridiagonal", [False, True])
    def test_starts_as_relu(self, tridiagonal):
        activation = Activation("trainable-matrix", tridiagonal=tridiagonal)
        z = uniform(4, 50, 6) * 5
        own = own_parameters(activation, 6).double()
        assert torch.equal(activate(activation, z, own=own), z.relu())

    def test_equals_a_matrix_looked_up_entry_by_entry(self):
        width = 5
        table = uniform(3, INTERVALS + 2, width)
        z = uniform(7, width) * 4
        breakpoints = torch.linspace(-2, 2, INTERVALS + 1)
        for row, out in zip(z, matrix_product(z, table), strict=True):
            p = [int((breakpoints <= v).sum()) for v in row]
            matrix = torch.zeros(width, width).double()
            for i in range(width):
                matrix[i, i] = table[0, p[i], i]
                if i + 1 < width:
                    matrix[i + 1, i] = table[1, p[i], i]
                if i > 0:
                    matrix[i - 1, i] = table[2, p[i], i]
            torch.testing.assert_close(out, matrix @ row)

    def test_its_entries_are_trained_and_the_input_sees_their_values(self):
        table = uniform(1, INTERVALS + 2, 3).requires_grad_()
        z = (uniform(6, 3) * 3).requires_grad_()
        assert torch.autograd.gradcheck(matrix_product, (z, table))


class TestInitialValues:
    @torch.no_grad()
    def test_sines_have_the_papers_statistics_in_every_layer(self):
        """Activations deviate by 0.71, and by 1 what weights make of them; mean of four nets."""
        found = torch.zeros(2, 3)
        for seed in range(4):
            first, *hidden = make("siren", seed=seed).layers
            out = (OMEGA * first(uniform(1024, 2, dtype=torch.float32))).sin()
            for i, layer in enumerate(hidden):
                found[:, i] += torch.stack((out.std(), (OMEGA * out @ layer.weight.T).std())) / 4
                out = (OMEGA * layer(out)).sin()
        expected = torch.tensor([[0.5**0.5], [1.0]]).expand(2, 3)
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0)

    def test_weights_and_biases_of_sines_fill_their_ranges(self):
        siren = make("siren")
        bounds = [1 / 2] + [math.sqrt(6 / 256) / OMEGA] * 3
        for layer, bound, inputs in zip(siren.layers, bounds, (2, 256, 256, 256), strict=True):
            assert 0.98 * bound < layer.weight.abs().max() <= bound
            assert 0.9 * inputs**-0.5 < layer.bias.abs().max() <= inputs**-0.5

    def test_last_layers_start_as_the_methods_do(self):
        sines, wave = make("siren").make_head(3), make("wire").make_head(3)
        bound = math.sqrt(6 / 256) / OMEGA
        assert 0.95 * bound < sines.weight.abs().max() <= bound
        assert wave.in_features == 362
        assert 0.95 * 181**-0.5 < wave.weight.abs().max() <= 181**-0.5
        assert last_layer(Activation("relu"), 8, 2).bias.abs().max() == 0

    def test_bias_scale_opens_the_band_of_the_first_layer_only(self):
        net = make("finer", bias_scale=20.0)
        assert 19 < net.layers[0].bias.abs().max() <= 20
        assert net.layers[1].bias.abs().max() <= 1 / 16
        assert make("finer").layers[0].bias.abs().max() <= 0.5**0.5

    def test_gain_is_that_of_the_layers_output(self):
        layer = dense(Activation("siren"), 3, 0, 5).double()
        x = uniform(4, 3)
        weight, bias = with_gain(layer, OMEGA)
        torch.testing.assert_close(x @ weight.T + bias, OMEGA * layer(x))

    def test_complex_layer_equals_complex_arithmetic(self):
        layer = ComplexLinear(2, 3, 4).double()
        plain, z = uniform(6, 2), torch.complex(uniform(6, 3), uniform(6, 3).flip(0))
        weight, bias = torch.complex(*layer.weight), torch.complex(*layer.bias)
        expected = torch.cat((plain + 0j, z), -1) @ weight.T + bias
        matrix, column = layer.real_form()
        out = torch.cat((plain, z.real, z.imag), -1) @ matrix.T + column
        torch.testing.assert_close(out, torch.cat((expected.real, expected.imag), -1))


class TestNetworks:
    def test_parameter_counts_of_the_papers_image_networks(self):
        for name in ("siren", "gauss", "finer"):
            net = make(name)
            assert count(net, net.make_head(3)) == 198_915

    @pytest.mark.parametrize(("depth", "elements"), [(4, 99_915), (3, 66_973)])
    def test_wires_count_is_the_papers_with_two_numbers_per_complex_one(self, depth, elements):
        net = make("wire", depth=depth)
        first, head = net.layers[0], net.make_head(3)
        hidden = (count(net) - count(first)) // 2
        # the imaginary part of the last biases would be thrown away
        assert count(first) + hidden + (count(head) - 3) // 2 + 3 == elements

    def test_wire_equals_its_complex_network(self):
        omega, s = 5.0, 2.0
        net = make("wire", width=6, depth=3, omega=omega, scale=s).double()
        head = net.make_head(2).double()
        x = uniform(20, 2)
        z = net.layers[0](x) + 0j
        out = torch.exp(1j * omega * z - (s * z).abs().square())
        for layer in net.layers[1:]:
            z = out @ torch.complex(*layer.weight).T + torch.complex(*layer.bias)
            out = torch.exp(1j * omega * z - (s * z).abs().square())
        torch.testing.assert_close(net(x), torch.cat((out.real, out.imag), -1))
        last = torch.complex(head.weight[:, :6], -head.weight[:, 6:])
        torch.testing.assert_close(head(net(x)), (out @ last.T).real + head.bias)

    def test_first_frequency_is_that_of_the_first_layer_alone(self):
        net = make("siren", width=8, depth=2, first_omega=100.0).double()
        x, (first, second) = uniform(5, 2), net.layers
        torch.testing.assert_close(net(x), (OMEGA * second((100 * first(x)).sin())).sin())

    def test_many_rows_in_blocks_equal_a_few_at_a_time(self):
        net = make("siren", width=16)
        x = uniform(10_000, 2, dtype=torch.float32)
        net(x).square().sum().backward()
        whole = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        for part in x.split(3000):
            net(part).square().sum().backward()
        torch.testing.assert_close(net(x)[6000:9000], net(x[6000:9000]), rtol=1e-4, atol=1e-5)
        for a, b in zip(whole, net.parameters(), strict=True):
            torch.testing.assert_close(a, b.grad, rtol=1e-3, atol=1e-2)

    @pytest.mark.parametrize("name", list(NUMBERS))
    def test_mlp_takes_every_activation_with_or_without_skips(self, name):
        x = uniform(5, 2, dtype=torch.float32)
        for depth, skips in ((2, None), (7, None), (3, [0, 1])):
            net = make("mlp", activation=name, width=8, depth=depth, skips=skips)
            assert net(x).shape == (5, net.out_dim)
            assert net.out_dim == (16 if name == "wire" else 8)

    @pytest.mark.parametrize("name", ["siren", "gauss", "wire", "finer"])
    def test_mlp_with_an_activation_is_the_network_of_that_name(self, name):
        x = uniform(5, 2, dtype=torch.float32)
        own = make(name, width=8, depth=3)
        mlp = make("mlp", activation=name, width=8, depth=3)
        assert torch.equal(own(x), mlp(x))
        heads = [net.make_head(3, torch.Generator().manual_seed(2)) for net in (own, mlp)]
        assert torch.equal(heads[0].weight, heads[1].weight)

    def test_field_derivatives_of_sines_are_exact_to_second_order(self):
        net = make("siren", width=8, depth=2, omega=3.0).double()
        assert torch.autograd.gradgradcheck(net, (uniform(2, 2).requires_grad_(),))


class TestSettings:
    def test_encoding_and_skips_follow_the_activation(self):
        assert make("mlp").layers[0].in_features == 2 * 21
        assert make("mlp", levels=3).layers[0].in_features == 2 * 7
        assert make("mlp").skips == (4,) and make("mlp", depth=5).skips == ()
        sines = make("mlp", activation="siren")
        assert sines.layers[0].in_features == 2 and sines.skips == ()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"activation": "relu", "omega": 30}, "omega means nothing to 'relu'"),
            ({"activation": "siren", "bias_scale": 1}, "only to finer"),
            ({"activation": "wire", "scale": -1}, "scale must be positive"),
            ({"activation": "sirens"}, "siren"),
            ({"width": 0}, "at least 1"),
        ],
    )
    def test_settings_without_meaning_are_refused(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            make("mlp", **settings)

    @pytest.mark.parametrize("name", ["siren", "gauss", "wire", "finer"])
    def test_bad_sizes_are_refused(self, name):
        with pytest.raises(ConfigError, match="depth"):
            make(name, depth=0)

    def test_rates_are_those_the_papers_need(self):
        rates = {
            name: lookup("backbones", name).presets["signal"]["fit"]["lr"]
            for name in ("siren", "wire", "finer")
        }
        assert 1e-4 <= rates["siren"] <= 1e-3 and rates["wire"] == 5e-3 and rates["finer"] == 5e-4


def picture(n=64):
    """A zone plate, a checkerboard and a Gaussian: pixels' coordinates and three channels."""
    axis = (torch.arange(n) + 0.5) / n * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    square = x.square() + y.square()
    zones = 0.5 + 0.5 * (18 * square).cos()
    board = ((4 * x).floor() + (4 * y).floor()).remainder(2)
    values = torch.stack((zones, board, (-square / 0.18).exp()), -1)
    return torch.stack((x, y), -1).reshape(-1, 2), values.reshape(-1, 3)


def fitted_psnr(steps=250, batch=1024, lr=1e-3, **spec):
    x, target = picture()
    generator = torch.Generator().manual_seed(0)
    net = build("backbones", spec, in_dim=2, generator=generator)
    head = net.make_head(3, generator)
    optimiser = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * 0.1 ** (step / steps)
        rows = torch.randint(len(x), (batch,), generator=generator)
        error = head(net(x[rows])) - (2 * target[rows] - 1)
        optimiser.zero_grad()
        error.square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        return float(-10 * ((head(net(x)) / 2 + 0.5 - target).square().mean()).log10())


def test_finer_fits_better_than_siren_and_both_much_better_than_relu():
    finer_psnr = fitted_psnr(type="finer", width=128, bias_scale=5.0)
    siren_psnr = fitted_psnr(type="siren", width=128)
    relu_psnr = fitted_psnr(100, type="mlp", width=128, depth=4, encoding={"type": "identity"})
    assert finer_psnr > 45
    assert finer_psnr > siren_psnr + 2 and siren_psnr > relu_psnr + 10
