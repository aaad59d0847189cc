"""One image file -> one uint8 array, whatever its mode; masks and depths likewise.

Colour is sRGB as stored; alpha is straight (not premultiplied). Grey is replicated, 16 bits
become 8, CMYK and palettes become RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt, UInt8
from PIL import Image, UnidentifiedImageError

from polyfield.errors import InputError

# EXIF orientations that swap width and height, and the turn that undoes them
TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Header:
    """What an image file says before its pixels are decoded; size is (width, height)."""

    size: tuple[int, int]
    mode: str
    alpha: bool
    orientation: int


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
    return InputError(
        f"image {path} cannot be read ({reason}); replace it, or remove it from the scene"
    )


def read_header(path: Path) -> Header:
    """Size, mode and EXIF orientation.

    Raises:
        InputError: The file is no image that can be read.
    """
    try:
        with Image.open(path) as image:
            alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
            # pillow decodes a whole PNG to look for a late EXIF block, which nobody writes
            search = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(_ORIENTATION, 1) if search else 1
            return Header(
                image.size, image.mode, alpha or "transparency" in image.info, orientation
            )
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error


def decode(path: Path, turn: int | None = None) -> UInt8[np.ndarray, "height width channels"]:
    """Colour (3 channels) or colour and straight alpha (4) of an image file.

    Args:
        turn: EXIF orientation to apply, one of `TURNS`.

    Raises:
        InputError: The file is truncated, is no image, or holds floating-point pixels.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if turn is not None:
                image = image.transpose(TURNS[turn])
            return _to_uint8(image, path)
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error


def _to_uint8(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode == "F":
        raise InputError(
            f"image {path} holds floating-point pixels, expected 8 or 16 bits; save it as PNG"
        )
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        # PNG stores 16-bit grey either way; 32-bit files that stay below 256 are 8-bit data
        narrow = wide if image.mode == "I" and wide.max(initial=0) < 256 else (wide + 128) // 257
        grey = np.clip(narrow, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if alpha else "RGB"))


def area_average(
    image: UInt[np.ndarray, "h w channels"], size: tuple[int, int]
) -> UInt[np.ndarray, "height width channels"]:
    """The image at another (width, height), each pixel the mean over its area.

    Two and four channels end with alpha. Colour is then averaged weighted by alpha (that is,
    premultiplied) and divided out again, so that compositing and shrinking commute; colour under
    zero alpha becomes 0.
    """
    if image.shape[1::-1] == tuple(size):
        return image
    channels = image.shape[2]
    planes = [image[..., c].astype(np.float32) for c in range(channels)]
    if channels in (1, 3):
        return _rounded(np.stack([_shrink(plane, size) for plane in planes], axis=2), image.dtype)
    *colour, alpha = planes
    mean = _shrink(alpha, size)
    weight = np.maximum(mean, 1e-6)
    shrunk = [_shrink(plane * alpha, size) / weight for plane in colour]
    return _rounded(np.stack([*shrunk, mean], axis=2), image.dtype)


def _shrink(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean over each output pixel's area, pixels cut by its edge counting in part."""
    across, down = plane.shape[1] // size[0], plane.shape[0] // size[1]
    if plane.shape == (down * size[1], across * size[0]):  # whole blocks: add their pixels up
        parts = (plane[i::down, j::across] for i in range(down) for j in range(across))
        return sum(parts) / (down * across)
    return _mean_rows(_mean_rows(plane, size[1]).T, size[0]).T


def _mean_rows(plane: np.ndarray, count: int) -> np.ndarray:
    """Rows averaged in `count` equal stretches: differences of the running integral."""
    rows = len(plane)
    edges = np.linspace(0, rows, count + 1)
    whole = np.minimum(edges.astype(np.int64), rows - 1)
    below = np.zeros((rows + 1, plane.shape[1]))
    np.cumsum(plane, axis=0, dtype=np.float64, out=below[1:])
    at_edges = below[whole] + (edges - whole)[:, None] * plane[whole]
    return np.diff(at_edges, axis=0) * (count / rows)


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


def _nearest(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest pixel, half-pixel centres aligned."""
    height, width = plane.shape[:2]
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(np.int64)
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(np.int64)
    return plane[rows[:, None], columns[None, :]]


def decode_mask(
    path: Path, size: tuple[int, int], zero_ignores: bool
) -> Bool[np.ndarray, "height width"]:
    """Which pixels of a view of this (width, height) to use.

    A pixel of the file counts as set where any colour channel exceeds 127 (0 in files that only
    hold 0 and 1).

    Args:
        zero_ignores: Unset pixels are ignored (nerfstudio); else set ones (instant-ngp).

    Raises:
        InputError: The file is no image that can be read.
    """
    colour = decode(path)[..., :3].max(axis=2)
    lit = colour > (127 if colour.max(initial=0) > 1 else 0)
    return _nearest(lit if zero_ignores else ~lit, size)


def decode_depth(
    path: Path, size: tuple[int, int], scale: float
) -> Float32[np.ndarray, "height width"]:
    """Depth along the camera's axis in world units (0: unknown) for a view of this size.

    Raises:
        InputError: Neither a 2D array in ``.npy`` nor an image with one channel.
    """
    stored = _load_array(path) if path.suffix.lower() == ".npy" else _load_depth_image(path)
    stored = np.squeeze(stored)
    if stored.ndim != 2 or stored.dtype.kind not in "uif":
        raise InputError(
            f"depth {path} has shape {stored.shape} of {stored.dtype}, expected one channel of "
            "numbers (height, width)"
        )
    depth = _nearest(stored, size).astype(np.float32) * np.float32(scale)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def _load_array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"depth {path} cannot be read ({error}); write it again") from error


def _load_depth_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.array(image)
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error
