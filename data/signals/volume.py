"""Volumes: ``.npy`` arrays of three to six axes, and NIfTI.

Coordinates are the array's axes in order. Values are min-max normalised to [0, 1]; the range is
kept, so that a reconstruction is written in the user's units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from polyfield.data.signal import Grid, Signal, SignalOptions, SignalReport
from polyfield.data.signals.blocks import numbered, refuse_suffix
from polyfield.data.signals.cache import content_hash
from polyfield.data.signals.holdout import parse_holdout
from polyfield.data.signals.samples import GridSamples, Scaling
from polyfield.errors import InputError, MissingDependencyError
from polyfield.files import replacing
from polyfield.registry import register

MOST_CHANNELS = 4  # a last axis no longer than this, after three others, counts as channels
_AXES = range(3, 7)
_NIFTI = (".nii", ".nii.gz")


@register("volume", kind="signals", order=40)
class VolumeFile:
    """A regular grid of numbers: .npy of three to six axes, or NIfTI."""

    looks_for = "a volume as .npy, .nii or .nii.gz"

    @staticmethod
    def detect(path: Path) -> str | None:
        """By suffix."""
        name = path.name.lower()
        found = [suffix for suffix in (".npy", *_NIFTI) if name.endswith(suffix)]
        return f"{found[-1]} is a volume" if found else None

    @staticmethod
    def load(path: Path, options: SignalOptions) -> Signal:
        """Map the array; its range is found block by block.

        Raises:
            InputError: It cannot be read, has another number of axes, holds values that are not
                numbers, or is constant.
            MissingDependencyError: nibabel is absent.
        """
        nifti = path.name.lower().endswith(_NIFTI)
        data, extra = _read_nifti(path) if nifti else (_read_npy(path), {})
        data, warnings = _checked(data, path)
        low, high = value_range(data, path)
        channels = data.shape[-1]
        grid = Grid.of("volume", data.shape[:-1])
        scaling = Scaling(1 / (high - low), low)
        samples = GridSamples(grid, data, scaling, parse_holdout(options, grid))
        slope, intercept = extra.pop("scl", (1.0, 0.0))
        meta = {
            "shape": list(grid.shape), "channels": channels, "dtype": data.dtype.name,
            "range": [low * slope + intercept, high * slope + intercept], **extra,
        }  # fmt: skip
        notes = {"dtype": data.dtype.name, "range": meta["range"]}
        return Signal(
            name=path.name.split(".")[0], path=path, modality="volume",
            content_hash=content_hash(path, "volume"), dims=grid.dims, channels=channels,
            shape=grid.shape, samples=samples, holdout=samples.holdout,
            report=SignalReport("volume", "", tuple(warnings), notes), meta=meta,
        )  # fmt: skip

    @staticmethod
    def write(blocks: Iterable[Tensor], meta: dict[str, Any], grid: Grid, out: Path) -> None:
        """As float32 in the user's units: .npy, or NIfTI with the voxels' place in the world.

        Raises:
            InputError: The format is unknown or the file cannot be written.
            MissingDependencyError: nibabel is absent.
        """
        name = out.name.lower()
        if not name.endswith((".npy", *_NIFTI)):
            raise refuse_suffix(out, (".npy", *_NIFTI), "a volume")
        channels, (low, high) = meta["channels"], meta["range"]
        shape = (*grid.stored_shape, channels) if channels > 1 else grid.stored_shape
        nibabel = _nibabel() if name.endswith(_NIFTI) else None
        with replacing(out) as temporary:
            if nibabel is None:
                array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            else:
                array = np.empty(shape, np.float32)
            flat = array.reshape(grid.entries, channels)
            for start, values in numbered(blocks, grid, channels):
                flat[start : start + len(values)] = values * (high - low) + low
            if nibabel is None:
                array.flush()
                return
            image = nibabel.Nifti1Image(array, resampled_affine(meta, grid.shape))
            temporary.write_bytes(_compressed(image.to_bytes(), name))


def _compressed(content: bytes, name: str) -> bytes:
    import gzip

    return gzip.compress(content) if name.endswith(".gz") else content


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"volume {path} cannot be read ({error}); write it again with numpy.save"
        ) from error


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingDependencyError(
            "NIfTI needs nibabel: pip install 'polyfield[nifti]', or convert the volume to .npy"
        ) from error
    return nibabel


def _read_nifti(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The stored numbers, mapped unless compressed, with their scaling and affine."""
    import zlib

    nibabel = _nibabel()
    faults = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        image = nibabel.load(path)
        proxy = image.dataobj
        data = proxy.get_unscaled()
        affine = np.asarray(image.affine, np.float64).tolist()
    except (*faults, OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"volume {path} cannot be read ({error}); copy it again") from error
    return data, {"affine": affine, "scl": (float(proxy.slope), float(proxy.inter))}


def _checked(data: np.ndarray, path: Path) -> tuple[np.ndarray, list[str]]:
    """The array with a last axis of channels, and what is odd about it."""
    if data.dtype.kind not in "buif":
        raise InputError(f"volume {path} holds {data.dtype}, expected real numbers")
    shape = data.shape
    has_channels = len(shape) > 3 and shape[-1] <= MOST_CHANNELS
    axes = shape[:-1] if has_channels else shape
    if len(axes) not in _AXES or 0 in shape:
        raise InputError(
            f"volume {path} has shape {shape}, expected three to six axes of at least one entry "
            f"(and up to {MOST_CHANNELS} channels last)"
        )
    warnings = []
    if not has_channels and shape[-1] <= MOST_CHANNELS:
        warnings.append(
            f"the last of three axes has only {shape[-1]} entries and counts as space; save a "
            "picture as PNG to have them read as colours"
        )
    return (data if has_channels else data[..., None]), warnings


def value_range(data: np.ndarray, path: Path) -> tuple[float, float]:
    """Least and greatest value, a slab of the first axis at a time.

    Raises:
        InputError: A value is not a number, or all are the same.
    """
    low, high, bad, first = np.inf, -np.inf, 0, None
    for i in range(len(data)):
        slab = np.asarray(data[i])
        if slab.dtype.kind == "f":
            fine = np.isfinite(slab)
            if not fine.all():
                bad += int(fine.size - fine.sum())
                first = first or (i, *map(int, np.argwhere(~fine)[0]))
                continue
        low, high = min(low, float(slab.min())), max(high, float(slab.max()))
    if bad:
        raise InputError(
            f"volume {path} has {bad} values that are not finite numbers, the first at "
            f"{first[: data.ndim - 1]}; replace them, for example with numpy.nan_to_num"
        )
    if not high > low:
        raise InputError(f"volume {path} is {low:g} everywhere: there is nothing to fit")
    return low, high


def resampled_affine(meta: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Voxel -> world of a grid of another `shape` over the same extent, (4, 4) float64."""
    affine = np.array(meta.get("affine", np.eye(4)), np.float64)
    ratio = np.array(meta["shape"][:3], np.float64) / np.array(shape[:3], np.float64)
    to_old = np.eye(4)
    to_old[:3, :3] = np.diag(ratio)
    to_old[:3, 3] = 0.5 * ratio - 0.5
    return affine @ to_old
