"""Lens models against their published formulas and against their own inverses."""

import math

import pytest
import torch

from polyfield.renderers.distortion import (
    EQUIDISTANT,
    MODELS,
    distort,
    flatten,
    lift,
    pixel_steps,
    undistort,
)

PARAMETERS = {
    "pinhole": [],
    "opencv": [0.0578, -0.0805, 0.01, -0.002, -0.00098, 0.00016],
    "opencv-fisheye": [0.03, -0.01, 0.004, -0.001],
    "full-opencv": [0.2, -0.1, 0.001, -0.0005, 0.02, 0.25, -0.08, 0.01],
    "fov": [0.9],
    "thin-prism-fisheye": [0.03, -0.01, 0.001, -0.002, 0.004, -0.001, 0.002, -0.003],
    "equirectangular": [],
}


def params(model, n, dtype=torch.float64):
    values = PARAMETERS[model] + [0.0] * (12 - len(PARAMETERS[model]))
    return torch.tensor(values, dtype=dtype).expand(n, 12)


def grid(limit, dtype=torch.float64):
    s = torch.linspace(-limit, limit, 17, dtype=dtype)
    return torch.cartesian_prod(s, s)


def test_every_model_has_an_example_here():
    assert PARAMETERS.keys() == MODELS.keys()
    assert all(len(PARAMETERS[m]) == len(MODELS[m]) for m in MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_undistort_inverts_distort(model):
    n = grid(0.8)
    k = params(model, len(n))
    assert (undistort(model, k, distort(model, k, n)) - n).abs().max() < 1e-9


@pytest.mark.parametrize("model", MODELS)
def test_undistort_inverts_distort_in_single_precision(model):
    n = grid(0.8, torch.float32)
    k = params(model, len(n), torch.float32)
    assert (undistort(model, k, distort(model, k, n)) - n).abs().max() < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_distort_inverts_undistort(model):
    m = grid(0.7)
    k = params(model, len(m))
    assert (distort(model, k, undistort(model, k, m)) - m).abs().max() < 1e-9


@pytest.mark.parametrize("model", MODELS)
def test_flatten_inverts_lift(model):
    n = grid(1.0)
    assert (flatten(model, lift(model, n) * 3.7) - n).abs().max() < 1e-12


@pytest.mark.parametrize("model", sorted(set(MODELS) - {"pinhole", "equirectangular"}))
def test_pixel_steps_agree_with_finite_differences(model):
    n = grid(0.7)
    k, focal = params(model, len(n)), torch.tensor([1e5, 2e5], dtype=torch.float64)
    m = distort(model, k, n)
    steps = pixel_steps(model, k, n, focal.expand(len(n), 2))
    for axis in (0, 1):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[axis] = 1 / focal[axis]
        moved = undistort(model, k, m + shift) - n
        assert torch.allclose(steps[:, axis], moved, rtol=1e-3, atol=1e-10)


def test_opencv_matches_the_manual():
    k1, k2, k3, k4, p1, p2 = PARAMETERS["opencv"]
    x, y = 0.4, -0.3
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    got = distort("opencv", params("opencv", 1), torch.tensor([[x, y]], dtype=torch.float64))
    assert got[0].tolist() == pytest.approx([u, v], abs=1e-12)


def test_full_opencv_is_rational():
    k1, k2, p1, p2, k3, k4, k5, k6 = PARAMETERS["full-opencv"]
    x, y = 0.4, -0.3
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    got = distort(
        "full-opencv", params("full-opencv", 1), torch.tensor([[x, y]], dtype=torch.float64)
    )
    assert got[0].tolist() == pytest.approx([u, v], abs=1e-12)


def test_fisheye_is_a_polynomial_of_the_angle():
    k1, k2, k3, k4 = PARAMETERS["opencv-fisheye"]
    theta, azimuth = 1.2, 0.7
    d = torch.tensor(
        [
            [
                math.sin(theta) * math.cos(azimuth),
                math.sin(theta) * math.sin(azimuth),
                math.cos(theta),
            ]
        ],
        dtype=torch.float64,
    )
    bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
    got = distort("opencv-fisheye", params("opencv-fisheye", 1), flatten("opencv-fisheye", d))
    want = [bent * math.cos(azimuth), bent * math.sin(azimuth)]
    assert got[0].tolist() == pytest.approx(want, abs=1e-12)


def test_fov_follows_the_arctangent():
    omega, r = PARAMETERS["fov"][0], 0.5
    got = distort("fov", params("fov", 1), torch.tensor([[r, 0.0]], dtype=torch.float64))
    want = math.atan(2 * r * math.tan(omega / 2)) / omega
    assert got[0].tolist() == pytest.approx([want, 0.0], abs=1e-12)


def test_thin_prism_adds_to_the_equidistant_plane():
    k1, k2, p1, p2, k3, k4, sx, sy = PARAMETERS["thin-prism-fisheye"]
    x, y = 0.4, -0.3
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + sx * r2
    v = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + sy * r2
    got = distort(
        "thin-prism-fisheye",
        params("thin-prism-fisheye", 1),
        torch.tensor([[x, y]], dtype=torch.float64),
    )
    assert got[0].tolist() == pytest.approx([u, v], abs=1e-12)


@pytest.mark.parametrize("model", sorted(EQUIDISTANT | {"equirectangular"}))
def test_wide_models_see_behind_the_image_plane(model):
    n = torch.tensor([[2.0, 0.3]], dtype=torch.float64)
    d = lift(model, n)
    assert d[0, 2] < 0
    assert d.norm() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(flatten(model, d), n)


@pytest.mark.parametrize("model", MODELS)
def test_the_optical_axis_is_finite_and_fixed(model):
    zero = torch.zeros(1, 2, dtype=torch.float64)
    k = params(model, 1)
    assert torch.equal(distort(model, k, zero), zero)
    assert undistort(model, k, zero).abs().max() < 1e-12
    assert torch.allclose(flatten(model, torch.tensor([[0.0, 0, 2]], dtype=torch.float64)), zero)


@pytest.mark.parametrize("model", MODELS)
def test_no_points_are_no_trouble(model):
    empty = torch.zeros(0, 2)
    assert undistort(model, params(model, 0), distort(model, params(model, 0), empty)).shape == (
        0,
        2,
    )


def test_points_beyond_the_fold_stay_finite():
    k = torch.zeros(1, 12)
    k[0, 0] = -0.5  # folds over at r = sqrt(2/3)
    assert undistort("opencv", k, torch.tensor([[3.0, 2.0]])).isfinite().all()
