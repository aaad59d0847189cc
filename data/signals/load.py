"""`load_signal`: a file -> `Signal`; `write_signal`: values -> a file of the same kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from polyfield.data.signal import Grid, Signal, SignalOptions
from polyfield.data.signals.cache import content_hash
from polyfield.errors import InputError
from polyfield.registry import Entry, entries, lookup

SHAPE_RESOLUTION = 256  # of the grid that a shape's surface is taken from, by default


@dataclass(frozen=True)
class DetectedSignal:
    """The modality of a file and why it was chosen."""

    entry: Entry
    path: Path
    why: str


def detect_signal(path: str | Path, forced: str | None = None) -> DetectedSignal | None:
    """What kind of signal a file holds; None if it is no file or of no known kind.

    Args:
        forced: Name of the kind to read it as.

    Raises:
        UnknownNameError: There is no such kind.
        InputError: A kind is forced on what is no file.
    """
    path = Path(path).expanduser()
    if forced is not None:
        entry = lookup("signals", forced)
        if not path.is_file():
            raise InputError(f"{path} is no file, expected {entry.target.looks_for}")
        return DetectedSignal(entry, path, f"format '{forced}' was asked for")
    if not path.is_file():
        return None
    for entry in sorted(entries("signals"), key=lambda entry: entry.traits.get("order", 100)):
        reason = entry.target.detect(path)
        if reason is not None:
            return DetectedSignal(entry, path, reason)
    return None


MASK = "mask:"


def load_signal(path: str | Path, options: SignalOptions | None = None) -> Signal:
    """Load an image, audio, video, volume or mesh file.

    Raises:
        InputError: The file cannot be used; one sentence says why and what to do.
        ConfigError: An option cannot be used.
        MissingDependencyError: An optional package is needed and absent.
    """
    options = options or SignalOptions()
    detected = detect_signal(path, options.format)
    if detected is None:
        raise InputError(_nothing(Path(path).expanduser()))
    if detected.path.stat().st_size == 0:
        raise InputError(f"{detected.path} is empty (0 bytes); copy it again")
    signal = detected.entry.target.load(detected.path, options)
    report = replace(signal.report, format=detected.entry.name, why=detected.why)
    facts = {"modality": detected.entry.name, "name": signal.name, **signal.meta}
    key = signal.content_hash
    if str(options.holdout).startswith(MASK):  # what is held out is part of what was fitted
        key = content_hash(Path(str(options.holdout).removeprefix(MASK)).expanduser(), key)
    return replace(signal, report=report, meta=facts, content_hash=key)


def _nothing(path: Path) -> str:
    wanted = "; ".join(f"{e.name}: {e.target.looks_for}" for e in entries("signals"))
    if not path.exists():
        return f"{path} does not exist; check the path"
    if path.is_dir():
        return f"{path} is a folder, expected a file ({wanted})"
    return f"{path} is no signal of a known kind ({wanted}); force one with --format, or convert it"


def output_grid(meta: Mapping[str, Any], shape: Sequence[int] | None = None) -> Grid:
    """The grid on which a reconstruction is evaluated before it is written.

    Args:
        meta: A signal's plain facts.
        shape: Entries along each coordinate axis (width, height of an image); the signal's own
            without, and for shapes 256 along each axis.

    Raises:
        InputError: The number of sizes is wrong, or one is not positive.
    """
    own = tuple(meta["shape"]) or (SHAPE_RESOLUTION,) * 3
    chosen = own if shape is None else tuple(int(size) for size in shape)
    least = 2 if meta["modality"] == "shape" else 1
    if len(chosen) != len(own) or min(chosen) < least:
        raise InputError(
            f"a {meta['modality']} of {'x'.join(map(str, own))} cannot be written with size "
            f"{'x'.join(map(str, chosen))}; give {len(own)} sizes of at least {least}"
        )
    return Grid.of(meta["modality"], chosen)


def write_signal(
    blocks: Iterable[Tensor],
    meta: Mapping[str, Any],
    out: str | Path,
    shape: Sequence[int] | None = None,
) -> None:
    """Write a reconstruction; the original file is not needed.

    Args:
        blocks: Values (n, channels) in the order of ``output_grid(meta, shape).blocks(...)``,
            cut anywhere; what lies outside the kind's range is clipped.
        meta: A signal's plain facts.
        out: File to write; its suffix says the format.
        shape: As for `output_grid`.

    Raises:
        InputError: The format cannot be written, or the file cannot.
        TrainingError: A value is not a number, or a shape has no surface.
    """
    entry = lookup("signals", meta["modality"])
    entry.target.write(blocks, dict(meta), output_grid(meta, shape), Path(out).expanduser())
