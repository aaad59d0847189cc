"""Audio: values as stored, and files written back."""

from __future__ import annotations

import struct
import wave

import numpy as np
import pytest
import torch

from polyfield.data.signal import SignalOptions
from polyfield.data.signals.load import load_signal, write_signal
from polyfield.data.signals.wav import encode, wave_header
from polyfield.errors import InputError


def write_wav(path, values, bits, floating=False, rate=8000):
    head = wave_header(rate, values.shape[1], bits, floating, len(values))
    content = head + encode(values, bits, floating)
    path.write_bytes(content + b"\0" * (len(content) % 2))


DEPTHS = [(8, False), (16, False), (24, False), (32, False), (32, True), (64, True)]


@pytest.mark.parametrize("bits, floating", DEPTHS)
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_of_every_depth_returns_as_it_was(
    tmp_path, bits, floating, channels, stored_values, write_back
):
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
def test_the_standard_library_agrees_on_the_format(tmp_path, bits, stored_values, write_back):
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


def test_other_chunks_and_extensible_headers_are_read(tmp_path, stored_values):
    values = np.array([0.5, -0.25])
    form = struct.pack("<HHIIHH", 0xFFFE, 1, 8000, 16000, 2, 16)
    form += struct.pack("<HHIH", 22, 16, 4, 1) + b"\0" * 14
    body = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk is padded
    body += b"fmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", 4) + encode(values[:, None], 16, False)
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    assert stored_values(load_signal(tmp_path / "a.wav"))[:, 0].tolist() == [0.5, -0.25]


def test_a_stretch_of_sound_and_another_rate(tmp_path, stored_values):
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
