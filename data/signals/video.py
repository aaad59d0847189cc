"""Video: frames decoded once into the image cache, 8-bit RGB.

Coordinates are (x, y, t): columns, rows downwards, frames. Frames count as equally spaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as iio
import numpy as np
from torch import Tensor

from polyfield.data.decode import area_average
from polyfield.data.signal import Grid, Signal, SignalOptions, SignalReport
from polyfield.data.signals.blocks import in_rows, quantise, refuse_suffix, write_npy
from polyfield.data.signals.cache import cached_rows, content_hash
from polyfield.data.signals.ffmpeg import count_frames, read_frames
from polyfield.data.signals.holdout import parse_holdout
from polyfield.data.signals.image import frame_count
from polyfield.data.signals.samples import GridSamples, Scaling
from polyfield.errors import InputError
from polyfield.files import replacing
from polyfield.registry import register

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".gif")
WRITES = (".mp4", ".mov", ".mkv", ".webm", ".gif")
_COMPLETE = 0.95  # share of the promised frames below which a file counts as cut off


@register("video", kind="signals", order=10)
class VideoFile:
    """A video or moving picture that ffmpeg reads, as 8-bit RGB frames."""

    looks_for = "a video such as .mp4, .mov, .webm, or a moving .gif"

    @staticmethod
    def detect(path: Path) -> str | None:
        """By suffix; pictures only if they move."""
        suffix = path.suffix.lower()
        if suffix in SUFFIXES and suffix != ".gif":
            return f"{suffix} is a video"
        frames = frame_count(path)
        return f"it holds {frames} frames" if frames > 1 else None

    @staticmethod
    def load(path: Path, options: SignalOptions) -> Signal:
        """Decode the video unless it is cached.

        Raises:
            InputError: It cannot be read, is cut off, or nothing lies between start and stop.
        """
        span = (options.start, options.stop)
        key = content_hash(path, "video", options.downscale, *span)
        facts, _ = read_frames(path, seek=_seek(options))
        width, height = (side // options.downscale for side in facts["size"])
        if min(width, height) < 1:
            raise InputError(f"{path}: nothing is left of it at downscale {options.downscale}")

        def make(figures: dict[str, Any]) -> Iterator[np.ndarray]:
            count = 0
            for frame in read_frames(path, seek=_seek(options))[1]:
                count += 1
                yield area_average(frame, (width, height))[None]
            figures["frames"] = count
            _check_whole(path, facts, count, span)

        rows, figures, warning = cached_rows(key, (height, width, 3), np.uint8, make)
        grid = Grid.of("video", (width, height, figures["frames"]))
        samples = GridSamples(grid, rows, Scaling(1 / 255), parse_holdout(options, grid))
        warnings = [warning] if warning else []
        fps = float(facts.get("fps") or 0)
        if not fps > 0:
            fps = 25.0
            warnings.append("the file names no frame rate; 25 frames per second are assumed")
        notes = {"codec": facts.get("codec"), "fps": fps, "pixels": facts.get("pix_fmt")}
        return Signal(
            name=path.stem, path=path, modality="video", content_hash=key, dims=3, channels=3,
            shape=grid.shape, samples=samples, holdout=samples.holdout,
            report=SignalReport("video", "", tuple(warnings), notes),
            meta={"shape": list(grid.shape), "channels": 3, "bits": 8, "fps": fps},
        )  # fmt: skip

    @staticmethod
    def write(blocks: Iterable[Tensor], meta: dict[str, Any], grid: Grid, out: Path) -> None:
        """As a video of the same length in seconds, whatever its number of frames.

        Raises:
            InputError: The format is unknown or the file cannot be written.
        """
        suffix = out.suffix.lower()
        if suffix == ".npy":
            write_npy(blocks, grid, meta["channels"], out)
            return
        if suffix not in WRITES:
            raise refuse_suffix(out, (*WRITES, ".npy"), "a video")
        fps = meta["fps"] * grid.shape[2] / meta["shape"][2]
        frames = (quantise(frame, 255) for frame in in_rows(blocks, grid, meta["channels"]))
        with replacing(out) as temporary:
            try:
                _encode(frames, temporary, fps, odd=any(side % 2 for side in grid.shape[:2]))
            except (RuntimeError, ValueError) as error:
                reason = str(error).strip().splitlines()[-1:] or ["ffmpeg failed"]
                raise InputError(f"cannot write the video {out}: {reason[0]}") from error


def _seek(options: SignalOptions) -> list[str]:
    seek = [] if options.start is None else ["-ss", str(options.start)]
    if options.stop is not None:
        seek += ["-t", str(options.stop - (options.start or 0.0))]
    return seek


def _check_whole(
    path: Path, facts: dict[str, Any], count: int, span: tuple[float | None, float | None]
) -> None:
    """Refuse files without frames and those that end before they say."""
    if count == 0:
        raise InputError(
            f"{path} has no frames"
            + (
                ""
                if span == (None, None)
                else f" between {span[0] or 0} s and {span[1] or 'its end'}"
            )
            + "; check the file and data.start, data.stop"
        )
    promised = max(
        count_frames(path), round((facts.get("duration") or 0) * (facts.get("fps") or 0))
    )
    if span == (None, None) and count < _COMPLETE * promised - 1:
        raise InputError(
            f"{path} ends after {count} of {promised} frames; it is cut off or its frame rate "
            "varies: encode it again at a constant rate, or set data.stop"
        )


def _encode(frames: Iterable[np.ndarray], out: Path, fps: float, odd: bool) -> None:
    if out.suffix.lower() == ".gif":
        options: dict[str, Any] = {"duration": 1000 / fps, "loop": 0}
    else:
        options = {"fps": fps, "macro_block_size": 1, "quality": 9}
        if out.suffix.lower() == ".webm":
            options["codec"] = "libvpx-vp9"
        if odd:  # halved chroma needs even sides
            options["pixelformat"] = "yuv444p"
    writer = iio.get_writer(str(out), **options)
    with contextlib.closing(writer):
        for frame in frames:
            writer.append_data(frame)
