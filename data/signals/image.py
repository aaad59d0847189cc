"""Images: 8 or 16 bits, grey or colour, with or without alpha, as they are stored.

Coordinates are (x, y), x along columns and y downwards. Values are the stored, display-space
numbers divided by 255 or 65535; alpha is straight.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from polyfield.data.decode import area_average
from polyfield.data.signal import Grid, Signal, SignalOptions, SignalReport
from polyfield.data.signals.blocks import gather, refuse_suffix, write_npy
from polyfield.data.signals.cache import content_hash
from polyfield.data.signals.ffmpeg import read_frames, wide_channels, write_wide_image
from polyfield.data.signals.holdout import parse_holdout
from polyfield.data.signals.samples import GridSamples, Scaling
from polyfield.errors import InputError
from polyfield.files import replacing
from polyfield.registry import register

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".jp2", ".avif", ".gif",
)  # fmt: skip
_WIDE_SUFFIXES = (".png", ".tif", ".tiff")
_NO_ALPHA = (".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


@register("image", kind="signals", order=20)
class ImageFile:
    """A picture in any format that pillow reads, 16-bit colour included."""

    looks_for = "a picture such as .png, .jpg, .tif, .webp"

    @staticmethod
    def detect(path: Path) -> str | None:
        """By suffix, else by content; moving pictures are videos."""
        if path.suffix.lower() in SUFFIXES:
            return f"{path.suffix.lower()} is a picture" if frame_count(path) == 1 else None
        try:
            with Image.open(path) as image:
                return f"it holds a {image.format} picture"
        except _FAULTS:
            return None

    @staticmethod
    def load(path: Path, options: SignalOptions) -> Signal:
        """Decode the image once; it is kept in its own number type.

        Raises:
            InputError: It cannot be read, or holds floating-point or 32-bit pixels.
        """
        pixels, mode = read_image(path)
        warnings: list[str] = []
        if options.downscale > 1:
            height, width = (side // options.downscale for side in pixels.shape[:2])
            if min(height, width) < 1:
                raise InputError(
                    f"{path} is {pixels.shape[1]}x{pixels.shape[0]}: nothing is left of it at "
                    f"downscale {options.downscale}"
                )
            pixels = area_average(pixels, (width, height))
        height, width, channels = pixels.shape
        bits = pixels.dtype.itemsize * 8
        grid = Grid.of("image", (width, height))
        if channels in (2, 4) and not pixels[..., -1].any():
            warnings.append("the image is wholly transparent")
        samples = GridSamples(
            grid, pixels, Scaling(1 / (2**bits - 1)), parse_holdout(options, grid)
        )
        meta = {"shape": list(grid.shape), "channels": channels, "bits": bits}
        return Signal(
            name=path.stem, path=path, modality="image",
            content_hash=content_hash(path, "image", options.downscale), dims=2,
            channels=channels, shape=grid.shape, samples=samples, holdout=samples.holdout,
            report=SignalReport("image", "", tuple(warnings), {"mode": mode, "bits": bits}),
            meta=meta,
        )  # fmt: skip

    @staticmethod
    def write(blocks: Iterable[Tensor], meta: dict[str, Any], grid: Grid, out: Path) -> None:
        """As an image, with 16 bits where the original had them and the format allows it.

        Raises:
            InputError: The format is unknown, cannot hold alpha, or the file cannot be written.
        """
        suffix, channels = out.suffix.lower(), meta["channels"]
        if suffix == ".npy":
            write_npy(blocks, grid, channels, out)
            return
        if suffix not in SUFFIXES:
            raise refuse_suffix(out, (*SUFFIXES, ".npy"), "an image")
        if channels in (2, 4) and suffix in _NO_ALPHA:
            raise InputError(f"{suffix} holds no alpha, which this image has; choose .png")
        bits = meta["bits"] if suffix in _WIDE_SUFFIXES else 8
        write_image(gather(blocks, grid, channels, 2**bits - 1), out)


def frame_count(path: Path) -> int:
    """Pictures in a file that may move (GIF, WebP, APNG); 1 for what cannot be read."""
    if path.suffix.lower() not in (".gif", ".webp", ".png"):
        return 1
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1)
    except _FAULTS:
        return 1


def read_image(path: Path) -> tuple[np.ndarray, str]:
    """Pixels (height, width, 1 to 4 channels), uint8 or uint16, upright, and the file's mode.

    Raises:
        InputError: It is no image, is truncated, has several pages, or other than 8 or 16 bits.
    """
    wide = _wide_channels(path)
    if wide is not None:
        return _read_wide(path, wide), f"{wide} channels of 16 bits"
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise InputError(
                    f"image {path} has {image.n_frames} pages, expected one; save the page you want"
                )
            image.load()
            return _as_stored(ImageOps.exif_transpose(image), path), image.mode
    except UnidentifiedImageError as error:
        raise InputError(f"image {path} cannot be read (not an image); replace it") from error
    except _FAULTS as error:
        raise InputError(f"image {path} cannot be read ({error}); replace it") from error


def _as_stored(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode == "F" or image.mode == "I":
        raise InputError(
            f"image {path} holds {'floating-point' if image.mode == 'F' else '32-bit'} pixels, "
            "expected 8 or 16 bits; save it as PNG, or as .npy to fit it as a volume"
        )
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    transparent = "transparency" in image.info
    if image.mode in ("1", "L", "LA", "La") and not transparent:
        pixels = np.asarray(image.convert("LA" if image.mode in ("LA", "La") else "L"))
        return pixels if pixels.ndim == 3 else pixels[..., None]
    alpha = transparent or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    return np.asarray(image.convert("RGBA" if alpha else "RGB"))


def _wide_channels(path: Path) -> int | None:
    """Channels of a 16-bit PNG or TIFF that pillow would cut to 8 bits; None for others."""
    try:
        with open(path, "rb") as file:
            start = file.read(26)
        if (
            start[:8] == b"\x89PNG\r\n\x1a\n"
            and start[12:16] == b"IHDR"
            and start[24:25] == b"\x10"
        ):
            channels = _PNG_CHANNELS.get(start[25])
            return channels if channels != 1 else None
        if start[:4] in (b"II*\0", b"MM\0*"):
            with Image.open(path) as image:
                depths = image.tag_v2.get(258, (8,))
                return len(depths) if len(depths) > 1 and set(depths) == {16} else None
    except UnidentifiedImageError:
        return wide_channels(path)
    except _FAULTS:
        return None
    return None


def _read_wide(path: Path, channels: int) -> np.ndarray:
    if channels not in (2, 3, 4):
        raise InputError(f"image {path} has {channels} channels, expected 1 to 4")
    _, frames = read_frames(path, channels, 16)
    first = next(frames, None)
    if first is None:
        raise InputError(f"image {path} cannot be read (it ends early); replace it")
    return first


def write_image(pixels: np.ndarray, out: Path) -> None:
    """Write 8- or 16-bit pixels (height, width, channels).

    Raises:
        InputError: The file cannot be written.
    """
    with replacing(out) as temporary:
        if pixels.dtype == np.uint16 and pixels.shape[2] > 1:
            write_wide_image(pixels, temporary)
            return
        flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        try:
            lossy = {"quality": 95} if out.suffix.lower() in (".jpg", ".jpeg") else {}
            Image.fromarray(flat).save(temporary, **lossy)
        except (ValueError, KeyError) as error:
            raise InputError(f"cannot write {out}: {error}; choose .png") from error
