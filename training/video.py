"""Writing a video of colours and one of depths, complete or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as iio
import numpy as np

from polyfield.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".gif")


class Video:
    """A video file, and with `depth` a second one named ``*-depth``; a context manager.

    Frames go to hidden files beside the target, which take its name when the block succeeds and
    every frame can be read back.
    """

    def __init__(self, out: Path, fps: int, depth: bool):
        self.out, self.fps = out, fps
        self.depth = out.with_name(f"{out.stem}-depth{out.suffix}")
        targets = [self.out, self.depth] if depth else [self.out]
        self._files = [(t.with_name(f".{t.stem}.part{t.suffix}"), t) for t in targets]
        self._writers: list[Any] = []
        self._frames = 0

    def __enter__(self) -> Video:
        with self._telling():
            for part, target in self._files:
                gif = target.suffix.lower() == ".gif"
                speed = {"duration": 1000 / self.fps} if gif else {"fps": self.fps}
                extra = {} if gif else {"macro_block_size": 2, "quality": 8}
                self._writers.append(iio.get_writer(str(part), **speed, **extra))
        return self

    def add(
        self, index: int, colour: np.ndarray, depth: np.ndarray, distance: np.ndarray | None
    ) -> None:
        """Append the pictures of a frame; distances are for folders."""
        self._frames += 1
        with self._telling():
            for writer, image in zip(self._writers, (colour, depth), strict=False):
                writer.append_data(image)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._drop()
            return
        with self._telling():
            for writer in self._writers:
                writer.close()
            for part, _ in self._files:
                if _count(part) != self._frames:
                    raise OSError(f"only {_count(part)} of {self._frames} frames arrived")
            for part, target in self._files:
                part.replace(target)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Answer failures of the encoder and the disk with one sentence, leaving nothing."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            self._drop()
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "write error"
            raise InputError(
                f"cannot write the video {self.out}: {reason}; check that the place can be written "
                "and has free space, or choose another --out"
            ) from error

    def _drop(self) -> None:
        for writer in self._writers:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                writer.close()
        for part, _ in self._files:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _count(path: Path) -> int:
    """Frames that can be read back."""
    import imageio_ffmpeg

    if not path.is_file() or not path.stat().st_size:
        return 0
    try:
        return imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except RuntimeError:
        return 0
