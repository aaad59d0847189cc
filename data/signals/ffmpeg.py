"""Pictures through the ffmpeg program that imageio-ffmpeg brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyfield.errors import InputError

# channels -> ffmpeg's name of interleaved 16-bit pixels, without the byte order
_WIDE = {1: "gray16", 2: "ya16", 3: "rgb48", 4: "rgba64"}
_CODECS = {".png": ("png", "be"), ".tif": ("tiff", "le"), ".tiff": ("tiff", "le")}


def read_frames(
    path: Path, channels: int = 3, bits: int = 8, seek: Sequence[str] = ()
) -> tuple[dict[str, Any], Iterator[np.ndarray]]:
    """What a file says of itself (``size``, ``fps``, ``duration``...), and its frames.

    Args:
        channels: 3 for 8 bits; 1 to 4 for 16.
        seek: ffmpeg's options before the input.

    Returns:
        The facts, and frames (height, width, channels) one at a time, as the file has them.

    Raises:
        InputError: ffmpeg cannot read the file.
    """
    import imageio_ffmpeg

    pixels = "rgb24" if bits == 8 else _WIDE[channels] + "le"
    frames = _telling(
        path,
        imageio_ffmpeg.read_frames(
            str(path), pixels, bits_per_pixel=channels * bits, input_params=list(seek),
            output_params=["-fps_mode", "passthrough"],
        ),
    )  # fmt: skip
    facts = next(frames, None)
    if not isinstance(facts, dict) or not all(facts.get("size", (0, 0))):
        raise InputError(f"{path} holds no pictures that ffmpeg can read; convert it")
    width, height = facts["size"]
    dtype = np.dtype("u1" if bits == 8 else "<u2")
    return facts, (np.frombuffer(f, dtype).reshape(height, width, channels) for f in frames)


def _telling(path: Path, frames: Iterator[Any]) -> Iterator[Any]:
    """Answer ffmpeg's failures with one sentence."""
    try:
        yield from frames
    except (OSError, RuntimeError, ValueError, IndexError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        raise InputError(
            f"{path} cannot be read by ffmpeg ({reason}); check that it is whole, or convert it"
        ) from error


def count_frames(path: Path) -> int:
    """Frames that a video says it has, without decoding it; 0 if it cannot be read."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except RuntimeError:
        return 0


def wide_channels(path: Path) -> int | None:
    """Channels of a picture that ffmpeg sees as having 16 bits each; None for all others."""
    try:
        facts, _ = read_frames(path)
    except InputError:
        return None
    found = [n for n, name in _WIDE.items() if str(facts.get("pix_fmt", "")).startswith(name)]
    return found[0] if found else None


def write_wide_image(pixels: np.ndarray, out: Path) -> None:
    """Write a 16-bit image (height, width, channels up to 4) as PNG or TIFF.

    Raises:
        OSError: It could not be written.
    """
    import imageio_ffmpeg

    height, width, channels = pixels.shape
    codec, order = _CODECS[out.suffix.lower()]
    writer = imageio_ffmpeg.write_frames(
        str(out), (width, height), _WIDE[channels] + "le", _WIDE[channels] + order,
        codec=codec, macro_block_size=1, output_params=["-update", "1", "-f", "image2"],
    )  # fmt: skip
    writer.send(None)
    try:
        writer.send(np.ascontiguousarray(pixels, "<u2"))
    finally:
        writer.close()
    if not out.is_file() or not out.stat().st_size:
        raise OSError("ffmpeg wrote nothing")
