"""Images, audio, video and volumes: values as stored, and files written back."""

from __future__ import annotations

import json
import struct
import sys
import wave

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.data.signal import SignalOptions
from polyfield.data.signals.load import load_signal, output_grid, write_signal
from polyfield.data.signals.volume import resampled_affine
from polyfield.data.signals.wav import encode, wave_header
from polyfield.errors import InputError, MissingDependencyError, TrainingError


def stored_values(signal):
    """All values in the stored array's shape."""
    values = torch.cat([b.values for b in signal.samples.blocks(1000)])
    return values.reshape(*signal.grid.stored_shape, signal.channels)


def write_back(signal, out, size=37):
    """Write the true values, in blocks that fit nothing."""
    json.dumps(signal.meta)
    write_signal((b.values for b in signal.samples.blocks(size)), signal.meta, out)


def pixels(channels, dtype=np.uint8, size=(6, 9)):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)


# Images


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_return_bit_for_bit(tmp_path, channels, dtype, suffix):
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


def test_sixteen_bit_colour_keeps_its_low_bits(tmp_path):
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


def test_photographs_stand_upright(tmp_path):
    image = Image.fromarray(pixels(3))
    exif = Image.Exif()
    for orientation, shape in ((1, (9, 6)), (3, (9, 6)), (6, (6, 9)), (8, (6, 9))):
        exif[0x0112] = orientation
        image.save(tmp_path / "a.jpg", exif=exif)
        signal = load_signal(tmp_path / "a.jpg")
        assert signal.shape == shape
    turned = np.asarray(Image.open(tmp_path / "a.jpg").transpose(Image.Transpose.ROTATE_90))
    np.testing.assert_allclose(stored_values(signal), turned / 255, rtol=1e-6)


def test_palettes_bitmaps_and_inks_become_colours_or_grey(tmp_path):
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
def test_downscale_averages_areas(tmp_path, channels, dtype):
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


def test_formats_that_cannot_hold_it_are_refused_and_nothing_is_left(tmp_path):
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


def test_any_grid_is_written_as_an_array(tmp_path):
    Image.fromarray(pixels(3)).save(tmp_path / "a.png")
    signal = load_signal(tmp_path / "a.png")
    write_back(signal, tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), stored_values(signal))


# Audio


def write_wav(path, values, bits, floating=False, rate=8000):
    head = wave_header(rate, values.shape[1], bits, floating, len(values))
    content = head + encode(values, bits, floating)
    path.write_bytes(content + b"\0" * (len(content) % 2))


DEPTHS = [(8, False), (16, False), (24, False), (32, False), (32, True), (64, True)]


@pytest.mark.parametrize("bits, floating", DEPTHS)
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_of_every_depth_returns_as_it_was(tmp_path, bits, floating, channels):
    values = np.random.default_rng(0).uniform(-1, 1, (501, channels))
    write_wav(tmp_path / "a.wav", values, bits, floating)
    signal = load_signal(tmp_path / "a.wav")
    assert (signal.modality, signal.shape, signal.channels) == ("audio", (501,), channels)
    step = 1e-7 if floating else 0.5 ** (bits - 1)
    np.testing.assert_allclose(stored_values(signal), values, atol=1.01 * max(step, 1e-7))
    write_back(signal, tmp_path / "b.wav")
    if bits <= 24:
        assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()
    np.testing.assert_array_equal(stored_values(load_signal(tmp_path / "b.wav")),
                                  stored_values(signal))  # fmt: skip


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_the_standard_library_agrees_on_the_format(tmp_path, bits):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(bits // 8)
        file.setframerate(11025)
        raw = {8: [128, 255, 0], 16: [0, 32767, -32768], 32: [0, 2**31 - 1, -(2**31)]}[bits]
        file.writeframes(np.array(raw).astype({8: "u1", 16: "<i2", 32: "<i4"}[bits]).tobytes())
    signal = load_signal(tmp_path / "a.wav")
    assert signal.meta["rate"] == 11025
    top = 1 - 0.5 ** (bits - 1)
    np.testing.assert_allclose(stored_values(signal)[:, 0], [0, top, -1], atol=1e-7)
    write_back(signal, tmp_path / "b.wav")
    with wave.open(str(tmp_path / "b.wav")) as again:
        assert (again.getnframes(), again.getsampwidth()) == (3, bits // 8)


def test_other_chunks_and_extensible_headers_are_read(tmp_path):
    values = np.array([0.5, -0.25])
    form = struct.pack("<HHIIHH", 0xFFFE, 1, 8000, 16000, 2, 16)
    form += struct.pack("<HHIH", 22, 16, 4, 1) + b"\0" * 14
    body = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk is padded
    body += b"fmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", 4) + encode(values[:, None], 16, False)
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    assert stored_values(load_signal(tmp_path / "a.wav"))[:, 0].tolist() == [0.5, -0.25]


def test_a_stretch_of_sound_and_another_rate(tmp_path):
    values = np.linspace(-0.9, 0.9, 8000)[:, None]
    write_wav(tmp_path / "a.wav", values, 16)
    signal = load_signal(tmp_path / "a.wav", SignalOptions(start=0.25, stop=0.5))
    assert signal.shape == (2000,)
    np.testing.assert_allclose(stored_values(signal), values[2000:4000], atol=1e-4)
    write_signal([torch.zeros(4000, 1)], signal.meta, tmp_path / "b.wav", (4000,))
    again = load_signal(tmp_path / "b.wav")
    assert (again.meta["rate"], again.shape) == (16000, (4000,))
    with pytest.raises(InputError, match=r"lasts 1 s"):
        load_signal(tmp_path / "a.wav", SignalOptions(start=2.0))


def test_the_hash_follows_content_and_options(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros((100, 1)), 16)
    one = load_signal(tmp_path / "a.wav").content_hash
    assert one == load_signal(tmp_path / "a.wav").content_hash
    assert one != load_signal(tmp_path / "a.wav", SignalOptions(start=0.001)).content_hash
    write_wav(tmp_path / "a.wav", np.full((100, 1), 0.5), 16)
    assert one != load_signal(tmp_path / "a.wav").content_hash


def test_sound_that_cannot_be_used_is_refused(tmp_path):
    write_wav(tmp_path / "whole.wav", np.zeros((100, 1)), 16)
    whole = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:100])
    (tmp_path / "head.wav").write_bytes(whole[:30])
    (tmp_path / "law.wav").write_bytes(whole[:20] + struct.pack("<H", 7) + whole[22:])
    (tmp_path / "deep.wav").write_bytes(whole[:34] + struct.pack("<H", 12) + whole[36:])
    (tmp_path / "a.mp3").write_bytes(b"ID3" + b"\0" * 40)
    write_wav(tmp_path / "none.wav", np.zeros((0, 1)), 16)
    write_wav(tmp_path / "nan.wav", np.array([[0.0], [np.nan]]), 32, True)
    for name, words in (
        ("cut.wav", "cut off: 56 of 200"), ("head.wav", "cut off within its header|no samples"),
        ("law.wav", "compressed"), ("deep.wav", "12 bits"), ("a.mp3", "convert it"),
        ("none.wav", "holds no samples"), ("nan.wav", "sample 1 is not a number"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            load_signal(tmp_path / name)


# Video


def clip(path, frames=6, size=(32, 48), fps=5, **options):
    """A video whose frames are grey ramps that brighten."""
    ramp = np.linspace(0, 120, size[1])[None, :, None] + np.zeros((*size, 3))
    data = np.stack([ramp + 20 * i for i in range(frames)]).astype(np.uint8)
    iio.imwrite(path, data, fps=fps, macro_block_size=1, **options)
    return data


def test_a_video_is_decoded_once(tmp_path):
    data = clip(tmp_path / "a.mp4")
    signal = load_signal(tmp_path / "a.mp4")
    assert (signal.shape, signal.channels, signal.meta["fps"]) == ((48, 32, 6), 3, 5.0)
    assert abs(stored_values(signal).numpy() * 255 - data).mean() < 3
    kept = sorted((tmp_path / "cache").iterdir())
    stamps = [p.stat().st_mtime_ns for p in kept]
    again = load_signal(tmp_path / "a.mp4")
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "cache").iterdir())] == stamps
    assert torch.equal(stored_values(again), stored_values(signal))
    base = again.samples._data
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert again.samples._data.dtype == np.uint8


def test_a_stretch_of_video_smaller(tmp_path):
    clip(tmp_path / "a.mp4", frames=10)
    signal = load_signal(tmp_path / "a.mp4", SignalOptions(start=0.4, stop=1.2, downscale=2))
    assert signal.shape == (24, 16, 4)
    with pytest.raises(InputError, match="no frames between"):
        load_signal(tmp_path / "a.mp4", SignalOptions(start=90.0))


@pytest.mark.parametrize("name", ["b.mp4", "b.gif", "b.mkv", "b.npy"])
@pytest.mark.parametrize("size", [(32, 48), (31, 45)])
def test_videos_are_written_back(tmp_path, name, size):
    data = clip(tmp_path / "a.mp4", size=size, pixelformat="yuv444p")
    signal = load_signal(tmp_path / "a.mp4")
    write_back(signal, tmp_path / name, size=1000)
    if name.endswith("npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name), stored_values(signal))
        return
    again = load_signal(tmp_path / name)
    assert again.shape == signal.shape
    assert again.meta["fps"] == pytest.approx(5, abs=0.1)
    assert abs(stored_values(again).numpy() * 255 - data).mean() < 6


def test_more_frames_last_as_long(tmp_path):
    clip(tmp_path / "a.mp4")
    meta = load_signal(tmp_path / "a.mp4").meta
    grid = output_grid(meta, (16, 16, 12))
    write_signal([torch.rand(grid.entries, 3)], meta, tmp_path / "b.mp4", (16, 16, 12))
    again = load_signal(tmp_path / "b.mp4")
    assert (again.shape, again.meta["fps"]) == ((16, 16, 12), 10.0)


def test_a_picture_that_moves_is_a_video(tmp_path):
    frames = [Image.new("L", (8, 8), 60 * i) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[0].save(tmp_path / "still.gif")
    assert load_signal(tmp_path / "a.gif").shape == (8, 8, 4)
    assert load_signal(tmp_path / "still.gif").modality == "image"


def test_videos_that_cannot_be_used_are_refused(tmp_path):
    clip(tmp_path / "whole.mp4", frames=30)
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("not a film at all " * 20)
    for name in ("cut.mp4", "text.mp4"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_signal(tmp_path / name)
    assert not list(tmp_path.glob("cache/*"))


def test_a_film_that_ends_early_is_refused(tmp_path):
    """The index of frames is at the front, so that only the end is missing."""
    clip(tmp_path / "a.mp4", frames=60, output_params=["-movflags", "+faststart"])
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="ends after"):
        load_signal(tmp_path / "cut.mp4")


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    clip(tmp_path / "a.mp4")
    (tmp_path / "file").touch()
    monkeypatch.setenv("POLYFIELD_CACHE", str(tmp_path / "file" / "sub"))
    signal = load_signal(tmp_path / "a.mp4")
    assert signal.shape == (48, 32, 6)
    assert "POLYFIELD_CACHE" in signal.report.warnings[0]


def test_a_disk_that_fills_up_while_decoding_loses_no_frame(tmp_path, monkeypatch):
    from polyfield.data.signals import cache

    clip(tmp_path / "a.mp4")
    fill, calls = cache._fill, []

    def full_at_first(file, about, make):
        calls.append(file)
        if len(calls) == 1:
            next(iter(make({})))
            raise OSError(28, "No space left on device")
        return fill(file, about, make)

    monkeypatch.setattr(cache, "_fill", full_at_first)
    signal = load_signal(tmp_path / "a.mp4")
    assert signal.shape == (48, 32, 6) and len(calls) == 2
    assert "No space left" in signal.report.warnings[0]
    assert not list((tmp_path / "cache").iterdir())


# Volumes


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "bool"])
def test_volumes_are_normalised_and_return_in_their_units(tmp_path, dtype):
    data = np.random.default_rng(0).normal(size=(4, 5, 6)) * 40
    data = data > 0 if dtype == "bool" else data.astype(dtype)
    np.save(tmp_path / "a.npy", data)
    signal = load_signal(tmp_path / "a.npy")
    values = stored_values(signal)[..., 0].numpy()
    assert (signal.shape, signal.dims, signal.channels) == ((4, 5, 6), 3, 1)
    assert values.min() == 0 and values.max() == 1
    low, high = float(data.min()), float(data.max())
    np.testing.assert_allclose(values, (data.astype(float) - low) / (high - low), atol=1e-6)
    write_back(signal, tmp_path / "b.npy")
    again = np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(again, data.astype(float), atol=1e-4)


def test_the_order_in_memory_does_not_matter(tmp_path):
    data = np.random.default_rng(0).normal(size=(4, 5, 6))
    np.save(tmp_path / "c.npy", data)
    np.save(tmp_path / "f.npy", np.asfortranarray(data))
    c, f = (stored_values(load_signal(tmp_path / name)) for name in ("c.npy", "f.npy"))
    assert torch.equal(c, f)


@pytest.mark.parametrize(
    "shape, dims, channels",
    [((4, 5, 6, 2), 3, 2), ((4, 5, 6, 7), 4, 1), ((3, 4, 5, 6, 7, 5), 6, 1)],
)
def test_more_axes_and_channels(tmp_path, shape, dims, channels):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=shape))
    signal = load_signal(tmp_path / "a.npy")
    assert (signal.dims, signal.channels) == (dims, channels)
    write_back(signal, tmp_path / "b.npy")
    assert np.load(tmp_path / "b.npy").shape == shape


def test_volumes_that_cannot_be_used_are_refused(tmp_path):
    good = np.random.default_rng(0).normal(size=(4, 4, 5))
    bad = good.copy()
    bad[2, 1, 3] = np.nan
    for name, data, words in (
        ("nan", bad, r"1 values that are not finite.*\(2, 1, 3\)"),
        ("flat", np.full((4, 4, 5), 3.0), "3 everywhere"),
        ("plane", good[0], "shape"),
        ("seven", np.zeros((2,) * 6 + (5,)), "shape"),
        ("none", good[:0], "shape"),
        ("complex", good + 1j, "complex128"),
        ("text", np.full((4, 4, 5), "a"), "real numbers"),
    ):
        np.save(tmp_path / f"{name}.npy", data)
        with pytest.raises(InputError, match=words):
            load_signal(tmp_path / f"{name}.npy")
    np.save(tmp_path / "objects.npy", np.array([[[{}]]], object))
    np.save(tmp_path / "whole.npy", good)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:200])
    for name in ("objects", "cut"):
        with pytest.raises(InputError, match="cannot be read"):
            load_signal(tmp_path / f"{name}.npy")


def test_without_nibabel_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    (tmp_path / "a.nii").write_bytes(b"x")
    with pytest.raises(MissingDependencyError, match=r"polyfield\[nifti\]"):
        load_signal(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_keeps_units_and_place(tmp_path, suffix):
    nibabel = pytest.importorskip("nibabel", reason="pip install 'polyfield[nifti]'")
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-10, 5, 1]
    data = np.random.default_rng(0).integers(-300, 900, (4, 5, 6)).astype(np.int16)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_slope_inter(2.0, 7.0)
    nibabel.save(image, tmp_path / f"a{suffix}")
    expected = np.asarray(nibabel.load(tmp_path / f"a{suffix}").dataobj)
    signal = load_signal(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(signal.meta["range"], [expected.min(), expected.max()], rtol=1e-6)
    write_back(signal, tmp_path / f"b{suffix}")
    again = nibabel.load(tmp_path / f"b{suffix}")
    np.testing.assert_allclose(np.asarray(again.dataobj), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(again.affine, affine)
    (tmp_path / f"cut{suffix}").write_bytes((tmp_path / f"a{suffix}").read_bytes()[:90])
    with pytest.raises(InputError, match="cannot be read"):
        load_signal(tmp_path / f"cut{suffix}")


def test_voxels_of_another_size_fill_the_same_place():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-10, 5, 1]
    fine = resampled_affine({"affine": affine.tolist(), "shape": [4, 5, 6]}, (8, 10, 3))
    for corner_old, corner_new in (((-0.5,) * 3, (-0.5,) * 3), ((3.5, 4.5, 5.5), (7.5, 9.5, 2.5))):
        np.testing.assert_allclose(fine @ [*corner_new, 1], affine @ [*corner_old, 1])


# Real files


def test_the_bicycles_are_a_clip_of_250_frames(real_data):
    path = real_data / "video" / "bikes.mp4"
    if not path.is_file():
        pytest.skip("no bikes.mp4")
    signal = load_signal(path, SignalOptions(downscale=4, stop=1.0))
    assert signal.shape == (160, 68, 25)
    assert 0.2 < float(stored_values(signal).mean()) < 0.7


def test_a_rendered_view_has_alpha(real_data):
    views = sorted((real_data / "lego" / "test").glob("*.png"))
    if not views:
        pytest.skip("no lego views")
    signal = load_signal(views[0])
    assert (signal.shape, signal.channels) == ((800, 800), 4)
