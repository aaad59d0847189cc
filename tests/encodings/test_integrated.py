import pytest
import torch

from polyfield.encodings.frequency import frequency_encoding
from polyfield.encodings.integrated import (
    cone_moments,
    cone_to_gaussian,
    cylinder_moments,
    integrated_encoding,
)
from polyfield.registry import build


def scalars(*values):
    return tuple(torch.tensor(v, dtype=torch.float64) for v in values)


def test_moments_of_the_published_cone():
    mean, along, across = cone_moments(*scalars(2.0, 4.0, 0.01))
    assert mean.item() == pytest.approx(3.214286, abs=1e-6)
    assert along.item() == pytest.approx(0.296939, abs=1e-6)
    assert across.item() == pytest.approx(2.65714e-4, abs=1e-9)


def test_moments_agree_with_sampling_the_frustum():
    generator = torch.Generator().manual_seed(0)
    n, t0, t1, r = 400_000, 1.0, 3.0, 0.2
    u = torch.rand(3, n, generator=generator, dtype=torch.float64)
    t = (t0**3 + u[0] * (t1**3 - t0**3)) ** (1 / 3)  # area grows with t squared
    across = r * t * u[1].sqrt() * torch.cos(2 * torch.pi * u[2])
    expected = t.mean(), t.var(), across.var()
    for got, want in zip(cone_moments(*scalars(t0, t1, r)), expected, strict=True):
        assert got.item() == pytest.approx(want.item(), rel=1e-2)


def test_thin_interval_is_a_disc_at_the_middle():
    mean, along, across = cone_moments(*scalars(3.0, 3.0 + 1e-9, 0.1))
    assert mean.item() == pytest.approx(3.0)
    assert along.item() == pytest.approx(0.0, abs=1e-15)
    assert across.item() == pytest.approx(0.1**2 * 9 / 4)


def test_moments_of_a_cylinder():
    mean, along, across = cylinder_moments(*scalars(2.0, 5.0, 0.2))
    assert mean.item() == 3.5
    assert along.item() == pytest.approx(9 / 12)
    assert across.item() == pytest.approx(0.04 / 4)


@pytest.mark.parametrize("shape", ["cone", "cylinder"])
def test_gaussian_of_an_axis_ray_spreads_along_and_across(shape):
    t0, t1, r = scalars(2.0, 4.0, 0.01)
    origin = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    ray = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    mean, var = cone_to_gaussian(t0, t1, r, origin, ray, shape)
    moments = {"cone": cone_moments, "cylinder": cylinder_moments}[shape]
    t_mean, along, across = moments(t0, t1, r)
    torch.testing.assert_close(mean, torch.stack([origin[0], origin[1], 3 - t_mean]))
    torch.testing.assert_close(var, torch.stack([across, across, along]))


def test_longer_direction_scales_the_spread_along_only():
    t0, t1, r = scalars(2.0, 4.0, 0.01)
    origin, ray = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[0]
    _, var = cone_to_gaussian(t0, t1, r, origin, ray)
    _, longer = cone_to_gaussian(t0, t1, r, origin, 2 * ray)
    torch.testing.assert_close(longer, var * torch.tensor([4.0, 1, 1], dtype=torch.float64))


def test_mip_nerf_width_is_96():
    assert build("encodings", {"type": "integrated"}, in_dim=3).out_dim == 96


def test_zero_variance_is_the_plain_encoding_in_another_order():
    mean = torch.rand(5, 3, dtype=torch.float64)
    got = integrated_encoding(mean, torch.zeros_like(mean), levels=6).reshape(5, 2, 6, 3)
    plain = frequency_encoding(mean, 6, include_input=False).reshape(5, 6, 2, 3)
    torch.testing.assert_close(got, plain.transpose(1, 2))


def test_large_variance_fades_to_nothing():
    mean = torch.rand(5, 3)
    assert integrated_encoding(mean, torch.full_like(mean, 1e6)).abs().max() == 0


def test_encoding_is_the_expectation_under_the_gaussian():
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)
    var = torch.tensor([0.04, 0.2], dtype=torch.float64)
    noise = torch.randn(400_000, 2, generator=generator, dtype=torch.float64)
    sampled = frequency_encoding(mean + noise * var.sqrt(), 3, include_input=False).mean(0)
    got = integrated_encoding(mean, var, levels=3).reshape(2, 3, 2).transpose(0, 1).flatten()
    torch.testing.assert_close(got, sampled, atol=5e-3, rtol=0)


def test_first_octave_shifts_the_frequencies():
    mean, var = torch.rand(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    shifted = integrated_encoding(mean, var, levels=2, first=1).reshape(5, 2, 2, 3)
    whole = integrated_encoding(mean, var, levels=3).reshape(5, 2, 3, 3)
    torch.testing.assert_close(shifted, whole[:, :, 1:])


def test_gradients_match_finite_differences():
    mean, var = (torch.rand(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda m, v: integrated_encoding(m, v, 3), (mean, var))
