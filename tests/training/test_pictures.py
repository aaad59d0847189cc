"""Pictures of results."""

from __future__ import annotations

import imageio.v3 as iio
import torch

from polyfield.training.pictures import (
    colour_map,
    depth_map,
    error_map,
    save_picture,
    side_by_side,
    stacked,
)


def brightness(image):
    return image.sum(-1)


def test_colours_brighten_with_the_value():
    ramp = brightness(colour_map(torch.linspace(0, 1, 50)[None]))[0]
    assert bool((ramp.diff() > 0).all())


def test_no_error_is_dark_and_the_full_scale_is_bright():
    truth = torch.full((2, 2, 3), 0.5)
    none, full = error_map(truth, truth), error_map(truth + 0.25, truth)
    assert float(none.max()) < 0.1
    assert float(full[0, 0].sum()) > 2.2


def test_near_is_bright_far_is_dark_and_nothing_is_black():
    depth = torch.linspace(1, 3, 30).reshape(5, 6)
    opacity = torch.ones(5, 6)
    opacity[0, 0] = 0
    picture = brightness(depth_map(depth, opacity))
    assert picture[0, 1] > picture[4, 5]
    assert picture[0, 0] < picture[4, 5]
    assert float(depth_map(depth, torch.zeros(5, 6)).max()) == 0


def test_rows_and_columns_have_gaps_and_white_padding():
    a, b = torch.zeros(3, 4, 3), torch.zeros(3, 5, 3)
    row = side_by_side([a, b], gap=2)
    assert row.shape == (3, 11, 3)
    assert float(row[:, 4:6].min()) == 1
    both = stacked([a, row], gap=1)
    assert both.shape == (7, 11, 3)
    assert float(both[0, 4:].min()) == 1


def test_saved_pictures_round_to_the_nearest_byte(tmp_path):
    image = torch.tensor([[[0.0, 0.5, 2.0]]])
    save_picture(tmp_path / "new" / "p.png", image)
    assert iio.imread(tmp_path / "new" / "p.png").tolist() == [[[0, 128, 255]]]
