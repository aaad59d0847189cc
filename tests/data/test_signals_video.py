"""Video: frames as stored, decoded once, and files written back."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.data.signal import SignalOptions
from polyfield.data.signals.load import load_signal, output_grid, write_signal
from polyfield.errors import InputError


def clip(path, frames=6, size=(32, 48), fps=5, **options):
    """A video whose frames are grey ramps that brighten."""
    ramp = np.linspace(0, 120, size[1])[None, :, None] + np.zeros((*size, 3))
    data = np.stack([ramp + 20 * i for i in range(frames)]).astype(np.uint8)
    iio.imwrite(path, data, fps=fps, macro_block_size=1, **options)
    return data


def test_a_video_is_decoded_once(tmp_path, stored_values):
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


@pytest.mark.parametrize("name", ["b.mp4", "b.gif", "b.mkv", "b.webm", "b.npy"])
@pytest.mark.parametrize("size", [(32, 48), (31, 45)])
def test_videos_are_written_back(tmp_path, name, size, stored_values, write_back):
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


def test_the_bicycles_are_a_clip_of_250_frames(real_data, stored_values):
    path = real_data / "video" / "bikes.mp4"
    if not path.is_file():
        pytest.skip("no bikes.mp4")
    signal = load_signal(path, SignalOptions(downscale=4, stop=1.0))
    assert signal.shape == (160, 68, 25)
    assert 0.2 < float(stored_values(signal).mean()) < 0.7
