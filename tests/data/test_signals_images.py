"""Images: values as stored, and files written back."""

from __future__ import annotations

import json
import struct

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.data.signal import SignalOptions
from polyfield.data.signals.load import load_signal, output_grid, write_signal
from polyfield.errors import InputError, TrainingError


def pixels(channels, dtype=np.uint8, size=(6, 9)):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_return_bit_for_bit(tmp_path, channels, dtype, suffix, stored_values, write_back):
    from polyfield.data.signals.image import write_image

    data = pixels(channels, dtype)
    write_image(data, tmp_path / f"a{suffix}")
    signal = load_signal(tmp_path / f"a{suffix}")
    assert (signal.modality, signal.shape, signal.channels) == ("image", (9, 6), channels)
    top = np.iinfo(dtype).max
    np.testing.assert_allclose(stored_values(signal), data / top, rtol=1e-6)
    assert signal.samples._data.dtype == dtype
    write_back(signal, tmp_path / f"b{suffix}")
    again = load_signal(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(stored_values(again), stored_values(signal))


def test_sixteen_bit_colour_keeps_its_low_bits(tmp_path, stored_values):
    """pillow alone cuts such files to 8 bits. This one was packed by hand."""
    import zlib

    rows = np.array([[[1, 2, 3], [65535, 256, 257]]], ">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
              (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]  # fmt: skip
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        check = struct.pack(">I", zlib.crc32(name + content))
        out += struct.pack(">I", len(content)) + name + content + check
    (tmp_path / "a.png").write_bytes(out)
    values = stored_values(load_signal(tmp_path / "a.png"))
    np.testing.assert_array_equal(np.rint(values.numpy() * 65535), rows)


def test_photographs_stand_upright(tmp_path, stored_values):
    image = Image.fromarray(pixels(3))
    exif = Image.Exif()
    for orientation, shape in ((1, (9, 6)), (3, (9, 6)), (6, (6, 9)), (8, (6, 9))):
        exif[0x0112] = orientation
        image.save(tmp_path / "a.jpg", exif=exif)
        signal = load_signal(tmp_path / "a.jpg")
        assert signal.shape == shape
    turned = np.asarray(Image.open(tmp_path / "a.jpg").transpose(Image.Transpose.ROTATE_90))
    np.testing.assert_allclose(stored_values(signal), turned / 255, rtol=1e-6)


def test_palettes_bitmaps_and_inks_become_colours_or_grey(tmp_path, stored_values):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png")
    Image.new("1", (2, 1), 1).save(tmp_path / "b.png")
    Image.new("CMYK", (2, 1)).save(tmp_path / "c.jpg")
    assert stored_values(load_signal(tmp_path / "p.png"))[0].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert stored_values(load_signal(tmp_path / "b.png")).flatten().tolist() == [1, 1]
    assert load_signal(tmp_path / "c.jpg").channels == 3


@pytest.mark.parametrize("channels, dtype", [(3, np.uint8), (1, np.uint16), (2, np.uint8)])
def test_downscale_averages_areas(tmp_path, channels, dtype, stored_values):
    from polyfield.data.signals.image import write_image

    data = pixels(channels, dtype, (8, 12))
    data[..., -1] = np.iinfo(dtype).max if channels == 2 else data[..., -1]
    write_image(data, tmp_path / "a.png")
    signal = load_signal(tmp_path / "a.png", SignalOptions(downscale=2))
    means = data.reshape(4, 2, 6, 2, channels).mean((1, 3)) / np.iinfo(dtype).max
    np.testing.assert_allclose(stored_values(signal), means, atol=0.51 / np.iinfo(dtype).max)
    with pytest.raises(InputError, match="nothing is left"):
        load_signal(tmp_path / "a.png", SignalOptions(downscale=9))


def test_an_image_is_written_at_any_size_without_its_original(tmp_path):
    Image.fromarray(pixels(3)).save(tmp_path / "a.png")
    meta = json.loads(json.dumps(load_signal(tmp_path / "a.png").meta))
    (tmp_path / "a.png").unlink()
    grid = output_grid(meta, (20, 10))
    blocks = [((x[:, :1] + 1) / 2).expand(-1, 3) for _, x in grid.blocks(7)]
    write_signal(blocks, meta, tmp_path / "b.png", (20, 10))
    out = iio.imread(tmp_path / "b.png")
    assert out.shape == (10, 20, 3)
    np.testing.assert_array_equal(out[3, :, 1], np.rint((np.arange(20) + 0.5) / 20 * 255))


def test_values_beyond_the_range_are_clipped(tmp_path):
    meta = {"modality": "image", "shape": [2, 1], "channels": 1, "bits": 8}
    write_signal([torch.tensor([[-0.5], [1.5]])], meta, tmp_path / "b.png")
    assert iio.imread(tmp_path / "b.png").tolist() == [[0, 255]]


def test_pictures_that_cannot_be_used_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "i.tif")
    Image.fromarray(pixels(3, size=(64, 64))).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    pages = [Image.new("L", (4, 4)), Image.new("L", (4, 4))]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    for name, words in (
        ("f.tif", "floating-point"), ("i.tif", "32-bit"), ("cut.png", "cannot be read"),
        ("text.png", "not an image"), ("pages.tif", "2 pages"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words) as caught:
            load_signal(tmp_path / name)
        assert name in str(caught.value)


def test_a_cut_wide_picture_is_refused(tmp_path):
    from polyfield.data.signals.image import write_image

    write_image(pixels(3, np.uint16, (64, 64)), tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InputError, match=r"cut\.png"):
        load_signal(tmp_path / "cut.png")


def test_formats_that_cannot_hold_it_are_refused_and_nothing_is_left(tmp_path, write_back):
    Image.fromarray(pixels(4)).save(tmp_path / "a.png")
    signal = load_signal(tmp_path / "a.png")
    for name, words in (("b.jpg", "no alpha"), ("b.xyz", "choose one of")):
        with pytest.raises(InputError, match=words):
            write_back(signal, tmp_path / name)
    bad = [torch.full((54, 4), float("nan"))]
    with pytest.raises(TrainingError, match="not numbers"):
        write_signal(bad, signal.meta, tmp_path / "b.png")
    with pytest.raises(InputError, match="cannot write"):
        write_back(signal, tmp_path / "absent" / "b.png")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.png"]


def test_any_grid_is_written_as_an_array(tmp_path, stored_values, write_back):
    Image.fromarray(pixels(3)).save(tmp_path / "a.png")
    signal = load_signal(tmp_path / "a.png")
    write_back(signal, tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), stored_values(signal))


def test_a_rendered_view_has_alpha(real_data):
    views = sorted((real_data / "lego" / "test").glob("*.png"))
    if not views:
        pytest.skip("no lego views")
    signal = load_signal(views[0])
    assert (signal.shape, signal.channels) == ((800, 800), 4)
