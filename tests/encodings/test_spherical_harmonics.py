import math

import numpy as np
import pytest
import torch

from polyfield.encodings.spherical_harmonics import spherical_harmonics


def directions(n=200):
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(x, dim=-1)


def polynomials(d):
    """The published polynomials of the first four bands."""
    x, y, z = d.unbind(-1)
    return torch.stack([
        torch.full_like(x, 0.28209479),
        -0.48860251 * y, 0.48860251 * z, -0.48860251 * x,
        1.09254843 * x * y, -1.09254843 * y * z, 0.94617470 * z**2 - 0.31539157,
        -1.09254843 * x * z, 0.54627422 * (x**2 - y**2),
        0.59004359 * y * (-3 * x**2 + y**2), 2.89061144 * x * y * z,
        0.45704580 * y * (1 - 5 * z**2), 0.37317633 * z * (5 * z**2 - 3),
        0.45704580 * x * (1 - 5 * z**2), 1.44530572 * z * (x**2 - y**2),
        0.59004359 * x * (-(x**2) + 3 * y**2),
    ], -1)  # fmt: skip


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_first_bands_are_the_published_polynomials(degree):
    d = directions()
    expected = polynomials(d)[:, : degree**2]
    torch.testing.assert_close(spherical_harmonics(d, degree), expected, atol=1e-7, rtol=0)


def test_values_along_the_pole():
    got = spherical_harmonics(torch.tensor([0.0, 0.0, 1.0]))
    expected = torch.zeros(16)
    expected[[0, 2, 6, 12]] = torch.tensor([0.282095, 0.488603, 0.630783, 0.746353])
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_values_of_a_tilted_direction():
    got = spherical_harmonics(torch.tensor([1.0, 2.0, 3.0]) / math.sqrt(14))
    expected = [
        0.282095, -0.261169, 0.391754, -0.130585, 0.156078, -0.468235, 0.292864, -0.234118,
        -0.117059, 0.022528, 0.331092, -0.540953, 0.064116, -0.270476, -0.248319, 0.123904,
    ]  # fmt: skip
    torch.testing.assert_close(got, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("degree", range(1, 9))
def test_squares_add_up_to_the_addition_theorem(degree):
    total = (spherical_harmonics(directions(), degree) ** 2).sum(-1)
    torch.testing.assert_close(total, torch.full_like(total, degree**2 / (4 * math.pi)))


def test_functions_are_orthonormal_on_the_sphere():
    nodes, weights = np.polynomial.legendre.leggauss(12)
    phi = np.arange(24) * (2 * np.pi / 24)
    z, angle = np.meshgrid(nodes, phi, indexing="ij")
    r = np.sqrt(1 - z**2)
    d = torch.from_numpy(np.stack([r * np.cos(angle), r * np.sin(angle), z], -1)).reshape(-1, 3)
    area = torch.from_numpy(np.repeat(weights, 24) * (2 * np.pi / 24))
    y = spherical_harmonics(d, 8)
    gram = (y * area[:, None]).T @ y
    torch.testing.assert_close(gram, torch.eye(64, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("band", range(8))
def test_parity_of_a_band_is_its_degree(band):
    d = directions()
    part = slice(band**2, (band + 1) ** 2)
    torch.testing.assert_close(
        spherical_harmonics(-d, 8)[:, part], (-1) ** band * spherical_harmonics(d, 8)[:, part]
    )


@pytest.mark.parametrize("band", range(1, 8))
def test_highest_orders_keep_the_sign_rule_of_the_lower_bands(band):
    d = directions()
    y = spherical_harmonics(d, 8)
    azimuth = torch.complex(d[:, 0], d[:, 1]) ** band
    for index, part in ((band**2, azimuth.imag), (band**2 + 2 * band, azimuth.real)):
        ratio = y[:, index] / part
        assert (ratio.sign() == (-1) ** band).all()
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_zonal_values_at_the_pole_are_positive():
    pole = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    y = spherical_harmonics(pole, 8)
    for band in range(8):
        assert y[band**2 + band].item() == pytest.approx(math.sqrt((2 * band + 1) / (4 * math.pi)))


def test_gradient_matches_finite_differences():
    d = directions(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(v, 6), (d,))
