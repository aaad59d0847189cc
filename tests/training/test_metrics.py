"""Metrics against closed forms and a naive window loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyfield.errors import InputError, MissingDependencyError
from polyfield.training.metrics import (
    Lpips,
    _fill_slices,
    gaussian_window,
    psnr,
    round_to_8_bits,
    ssim,
)


def test_a_uniform_error_of_a_tenth_is_twenty_decibels():
    assert psnr(torch.full((4, 5, 3), 0.3), torch.full((4, 5, 3), 0.4)) == pytest.approx(
        20.0, abs=1e-5
    )


def test_identical_images_have_infinite_psnr_and_unit_ssim(generator):
    image = torch.rand(20, 24, 3, generator=generator)
    assert math.isinf(psnr(image, image))
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-12)


def naive_ssim(x: np.ndarray, y: np.ndarray) -> float:
    window = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / np.outer(window, window).sum()
    scores = []
    for c in range(x.shape[2]):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
                ma, mb = (window * a).sum(), (window * b).sum()
                va = (window * (a - ma) ** 2).sum()
                vb = (window * (b - mb) ** 2).sum()
                cov = (window * (a - ma) * (b - mb)).sum()
                scores.append(
                    (2 * ma * mb + 1e-4)
                    * (2 * cov + 9e-4)
                    / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
                )
    return float(np.mean(scores))


def test_ssim_equals_a_loop_over_windows(generator):
    x = torch.rand(14, 17, 2, generator=generator, dtype=torch.float64)
    y = (x + 0.2 * torch.randn(14, 17, 2, generator=generator, dtype=torch.float64)).clamp(0, 1)
    assert ssim(x, y) == pytest.approx(naive_ssim(x.numpy(), y.numpy()), abs=1e-10)


def test_ssim_window_is_normalised_symmetric_and_peaked():
    window = gaussian_window()
    assert window.sum() == pytest.approx(1.0)
    assert torch.equal(window, window.flip(0))
    assert int(window.argmax()) == 5


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(InputError, match="at least 11x11"):
        ssim(torch.zeros(10, 30, 3), torch.zeros(10, 30, 3))


def test_rounding_gives_the_256_values_of_a_file():
    values = round_to_8_bits(torch.tensor([-1.0, 0.0, 0.5 / 255 + 1e-4, 0.999, 2.0]))
    assert torch.allclose(values * 255, torch.tensor([0.0, 0.0, 1.0, 255.0, 255.0]))


def test_lpips_without_weights_says_what_is_missing(tmp_path):
    with pytest.raises(MissingDependencyError, match="lpips|vgg16"):
        Lpips(tmp_path)


def test_weights_of_the_perceptual_network_reach_their_slices():
    """A stand-in: two layers cut into slices as lpips cuts VGG; the real weights are not here."""
    net = torch.nn.Module()
    net.slice1, net.slice2 = torch.nn.Sequential(), torch.nn.Sequential()
    net.slice1.add_module("0", torch.nn.Linear(2, 3))
    net.slice2.add_module("4", torch.nn.Linear(3, 1))
    source = {
        f"features.{i}.{k}": torch.randn(s)
        for i, k, s in (
            (0, "weight", (3, 2)),
            (0, "bias", (3,)),
            (4, "weight", (1, 3)),
            (4, "bias", (1,)),
        )
    }
    _fill_slices(net, source)
    assert torch.equal(net.slice1[0].weight, source["features.0.weight"])
    assert torch.equal(net.slice2[0].bias, source["features.4.bias"])
