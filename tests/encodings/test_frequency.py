import math

import pytest
import torch

from polyfield.encodings.frequency import frequency_encoding
from polyfield.encodings.random_fourier import RandomFourierConfig, RandomFourierEncoding
from polyfield.registry import build


@pytest.mark.parametrize("levels, width", [(10, 63), (4, 27)])
def test_nerf_widths(levels, width):
    encoding = build("encodings", {"type": "frequency", "levels": levels}, in_dim=3)
    assert encoding.out_dim == width
    assert encoding(torch.zeros(2, 3)).shape == (2, width)


def test_width_without_input():
    spec = {"type": "frequency", "levels": 10, "include_input": False}
    assert build("encodings", spec, in_dim=2).out_dim == 40


def test_layout_is_input_then_blocks_of_sine_and_cosine():
    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    expected = torch.cat(
        [x, *(f(2.0**k * x) for k in range(3) for f in (torch.sin, torch.cos))], -1
    )
    torch.testing.assert_close(frequency_encoding(x, 3), expected)


def test_pi_scales_every_frequency_but_not_the_input():
    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    with_pi = frequency_encoding(x, 3, pi=True)
    torch.testing.assert_close(with_pi[..., 2:], frequency_encoding(x * math.pi, 3)[..., 2:])
    torch.testing.assert_close(with_pi[..., :2], x)


def test_first_octave_may_lie_below_one():
    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    expected = frequency_encoding(x / 16, 9, include_input=False)
    spec = {"type": "frequency", "levels": 9, "include_input": False, "first": -4}
    torch.testing.assert_close(build("encodings", spec, in_dim=2)(x), expected)


def test_origin_has_sines_zero_and_cosines_one():
    blocks = frequency_encoding(torch.zeros(3), 10, include_input=False).reshape(10, 2, 3)
    assert (blocks[:, 0] == 0).all() and (blocks[:, 1] == 1).all()


def test_gradient_of_the_last_sine_at_the_origin_is_512():
    x = torch.zeros(3, requires_grad=True)
    frequency_encoding(x, 10, include_input=False)[54].backward()
    torch.testing.assert_close(x.grad, torch.tensor([512.0, 0, 0]))


def fourier(**settings):
    generator = torch.Generator().manual_seed(0)
    return RandomFourierEncoding(RandomFourierConfig(**settings), in_dim=2, generator=generator)


def test_random_frequencies_have_the_asked_deviation():
    matrix = fourier(frequencies=4000, scale=5.0).matrix
    assert matrix.std().item() == pytest.approx(5.0, rel=0.05)
    assert abs(matrix.mean().item()) < 0.2


def test_random_features_are_sine_and_cosine_of_full_turns():
    encoding = fourier(frequencies=3)
    x = torch.tensor([[0.25, -0.5]])
    angles = 2 * math.pi * (encoding.matrix @ x[0])
    torch.testing.assert_close(encoding(x)[0], torch.cat([angles.sin(), angles.cos()]))


def test_random_frequencies_are_saved_but_not_trained():
    encoding = fourier(frequencies=3)
    assert list(encoding.state_dict()) == ["matrix"]
    assert not list(encoding.parameters())


def test_random_features_may_keep_the_input():
    encoding = fourier(frequencies=3, include_input=True)
    x = torch.tensor([[0.25, -0.5]])
    assert encoding.out_dim == 8
    torch.testing.assert_close(encoding(x)[:, :2], x)
