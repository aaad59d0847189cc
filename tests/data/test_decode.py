"""Any image mode becomes straight 8-bit colour; shrinking averages areas before compositing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from polyfield.data.decode import (
    area_average,
    decode,
    decode_depth,
    decode_mask,
    read_header,
)
from polyfield.errors import InputError


def save(path, array, mode=None, **options):
    Image.fromarray(np.asarray(array)).convert(mode).save(path, **options) if mode else (
        Image.fromarray(np.asarray(array)).save(path, **options)
    )
    return path


def test_grey_is_replicated(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    out = decode(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(out, np.repeat(grey[..., None], 3, 2))


def test_sixteen_bits_become_eight(tmp_path):
    wide = np.array([[0, 257, 65535, 32896]], np.uint16)
    out = decode(save(tmp_path / "a.png", wide))
    np.testing.assert_array_equal(out[0, :, 0], [0, 1, 255, 128])


def test_grey_with_alpha_keeps_its_alpha(tmp_path):
    pixels = np.array([[[200, 10], [50, 255]]], np.uint8)
    path = save(tmp_path / "a.png", pixels)
    assert read_header(path).alpha
    np.testing.assert_array_equal(decode(path), [[[200, 200, 200, 10], [50, 50, 50, 255]]])


def test_palette_with_a_transparent_entry_has_alpha(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=1)
    assert read_header(tmp_path / "a.png").alpha
    out = decode(tmp_path / "a.png")
    assert out[0, 0].tolist() == [255, 0, 0, 255] and out[0, 1, 3] == 0


def test_cmyk_becomes_colour(tmp_path):
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = decode(tmp_path / "a.jpg")[0, 0]
    assert red > 200 and green < 60 and blue < 60


def test_a_black_and_white_bitmap_is_full_range(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255]


def test_truncated_and_foreign_files_are_refused_by_name(tmp_path, toys):
    whole = tmp_path / "whole.png"
    toys.picture(whole, (64, 64))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.png cannot be read"):
        decode(cut)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"text\.png.*not an image"):
        read_header(tmp_path / "text.png")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match="floating-point"):
        decode(tmp_path / "f.tif")


def test_area_average_is_the_block_mean():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    naive = image.reshape(3, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(area_average(image, (4, 3)).astype(float), naive, atol=0.5001)


def test_area_average_over_fractions_of_pixels():
    row = np.array([[[0], [60], [240]]], np.uint8).repeat(3, axis=2)
    # two outputs of 1.5 pixels each: (0 + 60/2) / 1.5 and (60/2 + 240) / 1.5
    np.testing.assert_array_equal(area_average(row, (2, 1))[0, :, 0], [20, 180])


def test_shrinking_and_compositing_commute():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 4), np.uint8)
    small = area_average(image, (4, 4)).astype(float) / 255
    over_white = small[..., :3] * small[..., 3:] + 1 - small[..., 3:]
    full = image.astype(float) / 255
    expected = (
        (full[..., :3] * full[..., 3:] + 1 - full[..., 3:]).reshape(4, 2, 4, 2, 3).mean((1, 3))
    )
    np.testing.assert_allclose(over_white, expected, atol=1.5 / 255)
    # the mean of straight colour would be wrong: opaque red next to transparent green is red
    pair = np.array([[[255, 0, 0, 255], [0, 255, 0, 0]]], np.uint8)
    assert area_average(pair, (1, 1))[0, 0].tolist() == [255, 0, 0, 128]


def test_both_mask_polarities_and_any_channel(tmp_path):
    mask = np.zeros((1, 4, 3), np.uint8)
    mask[0, 1, 2], mask[0, 2] = 200, 100
    path = save(tmp_path / "m.png", mask)
    assert decode_mask(path, (4, 1), zero_ignores=True)[0].tolist() == [False, True, False, False]
    assert decode_mask(path, (4, 1), zero_ignores=False)[0].tolist() == [True, False, True, True]
    ones = save(tmp_path / "ones.png", np.array([[0, 1]], np.uint8))
    assert decode_mask(ones, (2, 1), zero_ignores=True)[0].tolist() == [False, True]


def test_masks_and_depths_are_resized_to_the_nearest_pixel(tmp_path):
    depth = np.array([[1000, 2000], [0, 65535]], np.uint16)
    path = save(tmp_path / "d.png", depth)
    out = decode_depth(path, (4, 4), 1e-3)
    expected = np.kron([[1.0, 2.0], [0.0, 65.535]], np.ones((2, 2)))
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    np.save(tmp_path / "d.npy", np.array([[0.5, np.nan], [-1, np.inf]], np.float32))
    np.testing.assert_array_equal(
        decode_depth(tmp_path / "d.npy", (2, 2), 2.0), np.array([[1, 0], [0, 0]], np.float32)
    )


def test_depth_that_is_no_single_channel_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="one channel"):
        decode_depth(tmp_path / "d.npy", (2, 2), 1.0)
    (tmp_path / "e.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"e\.npy cannot be read"):
        decode_depth(tmp_path / "e.npy", (2, 2), 1.0)
