"""RIFF/WAVE, the part that holds sound: PCM of 8, 16, 24 and 32 bits, and floating point.

The standard library's reader knows no floating point and cannot map the file into memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from polyfield.errors import InputError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Wave:
    """Where the samples of a WAV file lie and how they are stored.

    bits: per sample; floating: whether they are floating point; frames: samples per channel.
    """

    rate: int
    channels: int
    bits: int
    floating: bool
    start: int
    frames: int

    def map(self, path: Path) -> np.ndarray:
        """The samples as stored, mapped: (frames, channels), with 24 bits (frames, channels, 3)."""
        if self.bits == 24:
            dtype, shape = np.dtype("u1"), (self.frames, self.channels, 3)
        else:
            kind = "f" if self.floating else "u" if self.bits == 8 else "i"
            dtype, shape = np.dtype(f"<{kind}{self.bits // 8}"), (self.frames, self.channels)
        return np.memmap(path, dtype, "r", self.start, shape)


def read_wave(path: Path) -> Wave:
    """What a WAV file holds.

    Raises:
        InputError: It is no WAV file, is cut off, empty, compressed, or of an unknown depth.
    """
    try:
        with open(path, "rb") as file:
            return _parse(file, path)
    except OSError as error:
        raise InputError(f"audio {path} cannot be read: {error.strerror or error}") from error
    except struct.error as error:
        raise InputError(f"audio {path} is cut off within its header; copy it again") from error


def _parse(file: BinaryIO, path: Path) -> Wave:
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise InputError(
            f"audio {path} is no WAV file (it starts with {head[:4]!r}); convert it, for example "
            "with ffmpeg -i FILE out.wav"
        )
    size = file.seek(0, 2)
    form: tuple[int, int, int, int] | None = None
    for name, start, length in _chunks(file, size):
        if name == b"fmt ":
            form = _format(file, start, length)
        if name == b"data":
            if form is None:
                raise InputError(f"audio {path} has samples before their format; convert it")
            return _wave(path, form, start, length, size)
    raise InputError(f"audio {path} holds no samples (no 'data' chunk); copy it again")


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        yield name, position + 8, length
        position += 8 + length + length % 2


def _format(file: BinaryIO, start: int, length: int) -> tuple[int, int, int, int]:
    file.seek(start)
    content = file.read(length)
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if code == _EXTENSIBLE:
        code = struct.unpack("<H", content[24:26])[0]
    return code, channels, rate, bits


def _wave(path: Path, form: tuple[int, int, int, int], start: int, length: int, size: int) -> Wave:
    code, channels, rate, bits = form
    depths = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}.get(code)
    if depths is None:
        raise InputError(
            f"audio {path} is compressed (WAVE format {code}), expected PCM or floating point; "
            "convert it with ffmpeg -i FILE -c:a pcm_s16le out.wav"
        )
    if bits not in depths or not channels or not rate:
        raise InputError(
            f"audio {path} has {channels} channels of {bits} bits at {rate} Hz, expected "
            f"{' or '.join(map(str, depths))} bits; convert it"
        )
    if start + length > size:
        raise InputError(
            f"audio {path} is cut off: {size - start} of {length} bytes of samples are there; "
            "copy it again"
        )
    frames = length // (channels * bits // 8)
    if frames == 0:
        raise InputError(f"audio {path} is empty: it holds no samples")
    return Wave(rate, channels, bits, code == _FLOAT, start, frames)


def wave_header(rate: int, channels: int, bits: int, floating: bool, frames: int) -> bytes:
    """The bytes before the samples of a WAV file.

    Raises:
        InputError: The samples take more than the 4 GB that the format can count.
    """
    frame = channels * bits // 8
    length = frames * frame
    if length + 36 >= 1 << 32:
        raise InputError(f"{length / 1e9:.1f} GB of samples do not fit a WAV file; write .npy")
    code = _FLOAT if floating else _PCM
    form = struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", 36 + length + length % 2, b"WAVE", b"fmt ", 16)
        + form
        + struct.pack("<4sI", b"data", length)
    )


def encode(values: np.ndarray, bits: int, floating: bool) -> bytes:
    """Values in [-1, 1] (n, channels) as the bytes of samples; what lies outside is clipped
    unless `floating`."""
    if floating:
        return values.astype(f"<f{bits // 8}").tobytes()
    half = float(1 << (bits - 1))
    whole = np.clip(np.rint(values.astype(np.float64) * half), -half, half - 1).astype(np.int64)
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    wide = np.ascontiguousarray(whole.astype("<i4"))
    if bits == 24:
        return wide.view(np.uint8).reshape(*wide.shape, 4)[..., :3].tobytes()
    return wide.astype(f"<i{bits // 8}").tobytes()
