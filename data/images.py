"""Pixels of all views in one flat memory-mapped file, views of any size side by side.

The file lives in ``$POLYFIELD_CACHE`` or ``~/.cache/polyfield``, is named by the content of the
scene and is written once: decoding happens view by view, nothing ever holds all pixels in
memory. It can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int64, Shaped

from polyfield.data.pixels import read_pixels
from polyfield.errors import InputError
from polyfield.files import write_json

LAYOUT = 1  # raise when the meaning of the cached bytes or figures changes
DECODING_THREADS = 2


class RaggedStore:
    """Images of different sizes with the same channels, read-only.

    Args:
        data: (total pixels, channels), usually a memory map; never copied.
        sizes: (V, 2) width and height.
        figures: Plain data noted about each view when it was decoded.
        path: The cached file, None if it has no name.
        starts: (V,) row of each view's first pixel; views follow each other without it.
    """

    def __init__(
        self,
        data: Shaped[np.ndarray, "pixels channels"],
        sizes: Int64[np.ndarray, "views 2"],
        figures: Sequence[dict[str, Any]] = (),
        path: Path | None = None,
        starts: Int64[np.ndarray, "views"] | None = None,
    ):
        self.sizes = sizes
        self.figures = tuple(figures)
        self.path = path
        self._data = np.asarray(data)  # a plain array over the same memory: indexing is faster
        ends = np.cumsum(sizes.prod(axis=1))
        self._starts = ends - sizes.prod(axis=1) if starts is None else starts
        assert starts is not None or len(self._data) == (ends[-1] if len(ends) else 0)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def channels(self) -> int:
        """Values per pixel."""
        return self._data.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all views."""
        return int(self.sizes.prod(axis=1).sum()) * self.channels * self._data.itemsize

    def select(self, views: Sequence[int]) -> RaggedStore:
        """Some of the views, over the same memory."""
        chosen = np.array(views, np.int64)
        figures = [self.figures[i] for i in views] if self.figures else []
        starts = self._starts[chosen]
        return RaggedStore(self._data, self.sizes[chosen], figures, self.path, starts)

    def pixels(
        self,
        view: Int64[np.ndarray, "n"],
        x: Int64[np.ndarray, "n"],
        y: Int64[np.ndarray, "n"],
    ) -> Shaped[np.ndarray, "n channels"]:
        """Values at column `x` and row `y` of each view, as a new array."""
        return self._data[self._starts[view] + y * self.sizes[view, 0] + x]

    def colours(
        self,
        view: Int64[np.ndarray, "n"],
        x: Int64[np.ndarray, "n"],
        y: Int64[np.ndarray, "n"],
    ) -> Float[np.ndarray, "n 4"]:
        """Colour and alpha in [0, 1] of pixels, 1 for images without alpha; of 8-bit stores."""
        return read_pixels(self._data, self._starts, self.sizes[:, 0], (view, x, y))

    def image(self, view: int) -> Shaped[np.ndarray, "height width channels"]:
        """One image, a view of the mapped memory."""
        width, height = self.sizes[view]
        start = self._starts[view]
        return self._data[start : start + width * height].reshape(height, width, self.channels)

    def stacked(self) -> Shaped[np.ndarray, "views height width channels"]:
        """All images as one array, a view of the mapped memory where they follow each other.

        Raises:
            InputError: They have several sizes.
        """
        width, height = self.sizes[0]
        if (self.sizes != self.sizes[0]).any():
            raise InputError("images of several sizes make no stack; bring them to one size")
        shape = (len(self), height, width, self.channels)
        first, pixels = self._starts[0], width * height
        if (self._starts == first + pixels * np.arange(len(self))).all():
            return self._data[first : first + pixels * len(self)].reshape(shape)
        return np.stack([self.image(i) for i in range(len(self))])


@dataclass(frozen=True)
class Plan:
    """What a store will hold: (width, height) per view, and how to make each view.

    `make(i)` returns an array (height, width, channels) and plain figures about it.
    """

    key: str
    sizes: tuple[tuple[int, int], ...]
    channels: int
    dtype: type
    make: Callable[[int], tuple[np.ndarray, dict[str, Any]]]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        pixels = sum(w * h for w, h in self.sizes)
        return pixels * self.channels * np.dtype(self.dtype).itemsize


def cache_folder() -> Path:
    """``$POLYFIELD_CACHE``, else ``polyfield`` in the user's cache folder."""
    named = os.environ.get("POLYFIELD_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "polyfield"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir()) / "polyfield"


def find_store(plan: Plan) -> RaggedStore | None:
    """The cached store of this plan if it is there and whole."""
    try:
        return _reuse(cache_folder(), plan)
    except OSError:
        return None


def open_store(plan: Plan) -> tuple[RaggedStore, str | None]:
    """The cached store of this plan, made first if it is not there, and a warning if it could
    not be kept.

    Raises:
        InputError: An image cannot be decoded, or the pixels fit nowhere.
    """
    try:
        folder = cache_folder()
        kept = _reuse(folder, plan) or _build(folder, plan)
        return kept, None
    except OSError as error:
        reason = f"{error.strerror or error}"
    warning = (
        f"decoded images cannot be kept in {cache_folder()} ({reason}), a temporary file is "
        "used; set POLYFIELD_CACHE to a folder with room to decode only once"
    )
    return _build_temporary(plan), warning


def _paths(folder: Path, plan: Plan) -> tuple[Path, Path]:
    return folder / f"{plan.key}.pixels", folder / f"{plan.key}.json"


def _reuse(folder: Path, plan: Plan) -> RaggedStore | None:
    """The store if both files are complete and of this layout; damaged ones are made again."""
    pixels, sidecar = _paths(folder, plan)
    try:
        stored = json.loads(sidecar.read_text(encoding="utf-8"))
        if stored["about"] != _about(plan) or pixels.stat().st_size != plan.nbytes:
            return None
        return _mapped(pixels, plan, stored["figures"], pixels)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _about(plan: Plan) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "sizes": [list(size) for size in plan.sizes],
        "channels": plan.channels,
        "dtype": np.dtype(plan.dtype).name,
    }


def _build(folder: Path, plan: Plan) -> RaggedStore:
    folder.mkdir(parents=True, exist_ok=True)
    pixels, sidecar = _paths(folder, plan)
    if shutil.disk_usage(folder).free < plan.nbytes:
        raise OSError(f"{plan.nbytes / 1e6:.0f} MB are needed, which it has not")
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{plan.key[:16]}-")
    try:
        with os.fdopen(handle, "wb") as file:
            figures = _fill(file, plan)
        os.replace(name, pixels)
    finally:
        Path(name).unlink(missing_ok=True)
    try:
        write_json(sidecar, {"about": _about(plan), "figures": figures})
    except InputError as error:
        raise OSError(str(error)) from error
    return _mapped(pixels, plan, figures, pixels)


def _fill(file: BinaryIO, plan: Plan) -> list[dict[str, Any]]:
    """Decode with a few threads, each writing its views where they belong."""
    itemsize = plan.channels * np.dtype(plan.dtype).itemsize
    starts = np.cumsum([0] + [w * h * itemsize for w, h in plan.sizes])
    write = partial(_write_view, file.fileno(), plan, starts)
    file.truncate(plan.nbytes)
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        pending = [pool.submit(write, i) for i in range(len(plan.sizes))]
        try:
            return [job.result() for job in pending]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # after an error, decode no more


def _write_view(handle: int, plan: Plan, starts: np.ndarray, index: int) -> dict[str, Any]:
    values, figures = plan.make(index)
    width, height = plan.sizes[index]
    assert values.shape == (height, width, plan.channels), (values.shape, plan.sizes[index])
    left = memoryview(np.ascontiguousarray(values, dtype=plan.dtype)).cast("B")
    position = int(starts[index])
    while left:
        written = os.pwrite(handle, left, position)
        left, position = left[written:], position + written
    return figures


def _build_temporary(plan: Plan) -> RaggedStore:
    """The store in a file without a name, gone when the store is."""
    try:
        if shutil.disk_usage(tempfile.gettempdir()).free < plan.nbytes:
            raise OSError("the disk is full")
        with tempfile.TemporaryFile() as file:
            figures = _fill(file, plan)
            return _mapped(file, plan, figures, None)
    except OSError as error:
        raise InputError(
            f"the decoded images need {plan.nbytes / 1e6:.0f} MB and neither {cache_folder()} nor "
            f"the temporary folder can take them ({error}); set POLYFIELD_CACHE to a folder with "
            "room, or use --set data.downscale=2"
        ) from error


def _mapped(
    file: Path | BinaryIO, plan: Plan, figures: list[dict[str, Any]], path: Path | None
) -> RaggedStore:
    shape = (sum(w * h for w, h in plan.sizes), plan.channels)
    data = np.memmap(file, dtype=plan.dtype, mode="r", shape=shape)
    return RaggedStore(data, np.array(plan.sizes, np.int64).reshape(-1, 2), figures, path)
