"""Audio: WAV files, mapped into memory as they are stored.

The coordinate is t. Values are in [-1, 1], one per channel; floating-point files may exceed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from polyfield.data.signal import Grid, Signal, SignalOptions, SignalReport
from polyfield.data.signals.blocks import numbered, refuse_suffix, write_npy
from polyfield.data.signals.cache import content_hash
from polyfield.data.signals.holdout import parse_holdout
from polyfield.data.signals.samples import GridSamples, Scaling
from polyfield.data.signals.wav import Wave, encode, read_wave, wave_header
from polyfield.errors import InputError
from polyfield.files import replacing
from polyfield.registry import register

_OTHERS = (".mp3", ".flac", ".ogg", ".m4a", ".aac", ".opus", ".aif", ".aiff")
_BLOCK = 1 << 20


@register("audio", kind="signals", order=30)
class AudioFile:
    """Sound in a WAV file: 8, 16, 24, 32 bits or floating point, any number of channels."""

    looks_for = "sound as .wav"

    @staticmethod
    def detect(path: Path) -> str | None:
        """By suffix, else by the first bytes; other sound formats are told to be converted."""
        suffix = path.suffix.lower()
        if suffix in (".wav", ".wave", *_OTHERS):
            return f"{suffix} is sound"
        try:
            with open(path, "rb") as file:
                head = file.read(12)
        except OSError:
            return None
        return "it holds a WAVE header" if head[:4] + head[8:] == b"RIFFWAVE" else None

    @staticmethod
    def load(path: Path, options: SignalOptions) -> Signal:
        """Map the samples.

        Raises:
            InputError: It cannot be read, is cut off, compressed, or holds values that are not
                numbers; nothing lies between start and stop.
        """
        wave = read_wave(path)
        low, high = _span(wave, options, path)
        stored = wave.map(path)[low:high]
        largest = _largest(stored, path) if wave.floating else 1.0
        warnings = []
        if largest > 1:
            warnings.append(f"the largest sample is {largest:.3g}, beyond full scale")
        grid = Grid.of("audio", (high - low,))
        samples = GridSamples(grid, stored, _scaling(wave), parse_holdout(options, grid))
        meta = {
            "shape": [high - low], "channels": wave.channels, "rate": wave.rate,
            "bits": wave.bits, "floating": wave.floating,
        }  # fmt: skip
        notes = {"rate": wave.rate, "bits": wave.bits, "seconds": (high - low) / wave.rate}
        return Signal(
            name=path.stem, path=path, modality="audio",
            content_hash=content_hash(path, "audio", low, high), dims=1, channels=wave.channels,
            shape=grid.shape, samples=samples, holdout=samples.holdout,
            report=SignalReport("audio", "", tuple(warnings), notes), meta=meta,
        )  # fmt: skip

    @staticmethod
    def write(blocks: Iterable[Tensor], meta: dict[str, Any], grid: Grid, out: Path) -> None:
        """As WAV of the original's depth and length in seconds, whatever the number of samples.

        Raises:
            InputError: The format is unknown or the file cannot be written.
        """
        channels = meta["channels"]
        if out.suffix.lower() == ".npy":
            write_npy(blocks, grid, channels, out)
            return
        if out.suffix.lower() not in (".wav", ".wave"):
            raise refuse_suffix(out, (".wav", ".npy"), "sound")
        rate = max(1, round(meta["rate"] * grid.entries / meta["shape"][0]))
        kind = (meta["bits"], meta["floating"])
        with replacing(out) as temporary, open(temporary, "wb") as file:
            file.write(wave_header(rate, channels, *kind, grid.entries))
            for _, values in numbered(blocks, grid, channels):
                file.write(encode(values, *kind))
            if file.tell() % 2:
                file.write(b"\0")


def _span(wave: Wave, options: SignalOptions, path: Path) -> tuple[int, int]:
    low = round((options.start or 0.0) * wave.rate)
    high = wave.frames
    if options.stop is not None:
        high = min(high, round(options.stop * wave.rate))
    if low >= high:
        raise InputError(
            f"audio {path} lasts {wave.frames / wave.rate:.3g} s: nothing lies between "
            f"data.start={options.start or 0} and data.stop={options.stop}"
        )
    return low, high


def _scaling(wave: Wave) -> Scaling:
    if wave.floating:
        return Scaling()
    zero = 128.0 if wave.bits == 8 else 0.0
    return Scaling(0.5 ** (wave.bits - 1), zero, packed=wave.bits == 24)


def _largest(stored: np.ndarray, path: Path) -> float:
    """The largest magnitude, block by block."""
    largest = 0.0
    for low in range(0, len(stored), _BLOCK):
        block = np.abs(stored[low : low + _BLOCK])
        if not np.isfinite(block).all():
            at = low + int(np.argwhere(~np.isfinite(block))[0, 0])
            raise InputError(f"audio {path}: sample {at} is not a number; write the file again")
        largest = max(largest, float(block.max(initial=0)))
    return largest
