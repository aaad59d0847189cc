"""`load_sweeps`: a folder of sweeps and poses -> `LidarSweeps`."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polyfield.config import from_plain, to_plain
from polyfield.data.detect import locate
from polyfield.data.lidar.box import Extent, sweep_box
from polyfield.data.lidar.calibrate import SensorFit, fit_sensor
from polyfield.data.lidar.clean import (
    Cleaning,
    Frame,
    clean_sweep,
    frame_rotation,
    intensity_unit,
)
from polyfield.data.lidar.files import bin_layout, read_sweep, suffix_of
from polyfield.data.lidar.layout import LOOKS_FOR, Layout, find_layout, sweeps_folder
from polyfield.data.lidar.motion import revolution_poses, skewed
from polyfield.data.lidar.rings import RingLabels
from polyfield.data.lidar.sweeps import LidarSweeps, PointSweep
from polyfield.data.scene import LoadReport, SceneTransform, Split
from polyfield.data.splits import held_out
from polyfield.errors import ConfigError, InputError
from polyfield.files import read_json
from polyfield.renderers.lidar_sensors import SpinningLidar, sensor

DEFAULT_HOLDOUT = 5  # every fifth sweep
FIT_SWEEPS = 8  # the sensor's table is fitted to so many
WHOLE = 200  # drives up to so many sweeps are read through before a fit starts
_END = 1 << 16  # bytes hashed at each end of a sweep


@dataclass(frozen=True)
class LidarOptions:
    """How to read LiDAR sweeps (the ``data`` settings of a run)."""

    format: str | None = None
    """Force 'lidar' instead of detecting it."""
    sensor: str | None = None
    """Table of the sensor: hdl-64e, hdl-32e, vlp-16, os1-64 (None: fitted to the data)."""
    holdout: str | int | float | None = None
    """Sweeps kept for evaluation: '2,7', 'every:8' or '0.1' (None: every fifth)."""
    frame: Frame | None = None
    """Axes of the files: kitti (x forward, y left, z up) or nuscenes (x right, y forward, z up)."""
    deskew: bool | None = None
    """A pose for every ray (None: where times are known and the points are as fired)."""
    pose_at: float = 0.0
    """Share of a revolution at which the file's pose holds: 0 its start, 0.5 its middle."""
    nearest: float | None = None
    """Nearest range that is kept, in metres (None: the sensor's, or 0.5)."""
    farthest: float | None = None
    """Farthest range that is kept, in metres (None: the sensor's, or 200)."""
    scale: float | None = None
    """World -> box scale, overriding the estimate."""
    centre: tuple[float, float, float] | None = None
    """Centre of the box in the world, overriding the estimate."""
    margin: float = 1.0
    """Metres left free between the returns and the sides of the box."""

    def __post_init__(self) -> None:
        if self.format not in (None, "lidar"):
            raise ValueError(f"format must be lidar, got {self.format}")
        if not 0 <= self.pose_at <= 1:
            raise ValueError(f"pose_at must lie in [0, 1], got {self.pose_at}")
        if self.nearest is not None and not self.nearest >= 0:
            raise ValueError(f"nearest must not be negative, got {self.nearest}")
        if self.farthest is not None and not self.farthest > (self.nearest or 0):
            raise ValueError(
                f"farthest must exceed nearest, got nearest {self.nearest} and farthest "
                f"{self.farthest}"
            )
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")
        if not self.margin >= 0:
            raise ValueError(f"margin must not be negative, got {self.margin}")


def is_lidar(scene: str | Path) -> bool:
    """Whether a path holds LiDAR sweeps: a folder of them, or one ``.pcd`` or velodyne ``.bin``.

    Looks at names and sizes only. Folders that describe posed images are not.
    """
    if str(scene).startswith("sample:"):
        path, _ = locate(scene)
    else:
        path = Path(scene).expanduser()
    if path.is_dir():
        return not any(path.glob("transforms*.json")) and sweeps_folder(path) is not None
    name = path.name.lower()
    if not path.is_file() or not name.endswith((".pcd", ".bin")):
        return False
    return name.endswith((".pcd", ".pcd.bin")) or any(
        path.stat().st_size % k == 0 for k in (16, 20)
    )


def load_sweeps(
    scene: str | Path,
    options: LidarOptions | None = None,
    transform: SceneTransform | None = None,
) -> LidarSweeps:
    """Load the sweeps of a drive: poses, the sensor, the box; points are read when asked for.

    Args:
        scene: Folder, single sweep, or ``sample:NAME``.
        transform: The box of an earlier run, instead of an estimated one.

    Raises:
        InputError: The sweeps cannot be used; one sentence says why and what to do.
        ConfigError: An option cannot be used.
    """
    options = options or LidarOptions()
    path, name = locate(scene)
    if path.is_dir() and sweeps_folder(path) is None:
        raise InputError(f"{path} holds no LiDAR sweeps; expected {LOOKS_FOR}")
    layout = find_layout(path)
    splits, rule = _splits(len(layout.sweeps), options.holdout)
    raw, notes = _raw_reader(layout)
    table = _table(layout, options)
    frame = options.frame or _frame(layout)
    how = _cleaning(layout, options, frame, table, raw)
    fit = _fit(layout, splits, table, how, raw)
    final = replace(table or fit.sensor, nearest=how.nearest, farthest=how.farthest)
    read = partial(_read, layout.sweeps, raw, how, RingLabels(fit, final))
    poses = layout.poses @ _four(frame_rotation(frame)).T
    motion, why = _motion(layout, poses, fit, options)
    extent, counts = _walk(layout, poses, splits, how, raw)
    box, box_notes, box_warnings = sweep_box(
        extent, poses[list(splits["train"]), :3, 3], options, transform
    )
    if table is None:
        seen = math.floor(10 * extent.nearest) / 10, float(math.ceil(extent.farthest))
        final = replace(fit.sensor, nearest=seen[0], farthest=seen[1])
    notes = {
        **notes, **layout.notes, "split": rule, "frame": frame, "deskew": why,
        "fit": fit.report(), "box": box_notes,
        "intensity_unit": how.intensity_unit, "ranges": [extent.nearest, extent.farthest],
        **_counted(counts),
    }  # fmt: skip
    starts, ends = motion if motion is not None else (poses, None)
    return LidarSweeps(
        name=name, root=layout.root, names=tuple(p.name for p in layout.sweeps), read=read,
        poses=starts, sensor=final, splits=splits, transform=box,
        report=LoadReport(
            "lidar", _why(layout), missing=layout.missing,
            warnings=(*layout.warnings, *_warnings(counts, fit, final), *box_warnings), notes=notes,
        ),
        content_hash=_content_hash(layout), motion=ends, seconds=layout.seconds,
    )  # fmt: skip


def _splits(
    count: int, holdout: str | int | float | None
) -> tuple[dict[Split, tuple[int, ...]], str]:
    """Whole sweeps: every fifth by default, from the middle of the first five on."""
    every = tuple(range(count))
    if holdout is not None:
        kept = held_out(str(holdout), count)
        rule = f"held out: {holdout}"
    elif count < 2:
        kept, rule = (), "too few sweeps to hold any out"
    else:
        kept = every[min(DEFAULT_HOLDOUT // 2, count - 1) :: DEFAULT_HOLDOUT]
        rule = "held out: every fifth sweep"
    train = tuple(i for i in every if i not in set(kept))
    return {"train": train, "val": (), "test": kept}, rule


def _raw_reader(layout: Layout) -> tuple[Callable[[int], PointSweep], dict[str, Any]]:
    """Reads a numbered file; what a ``.bin`` holds is decided once for the folder."""
    columns, notes = None, {}
    if suffix_of(layout.sweeps[0]) == ".bin":
        found = bin_layout(layout.sweeps)
        columns, notes = found.columns, {"bin": f"{found.columns} numbers a point: {found.why}"}
    return lambda index: read_sweep(layout.sweeps[index], columns), notes


def _table(layout: Layout, options: LidarOptions) -> SpinningLidar | None:
    """The table that is named by an option or the scene's own ``sensor.json``."""
    if options.sensor is not None:
        return sensor(options.sensor)
    if layout.sensor is None:
        return None
    stored = read_json(layout.sensor, "sensor file")
    if not isinstance(stored, dict):
        raise InputError(f"{layout.sensor} is no JSON object; expected a sensor's name or table")
    base = stored.pop("sensor", None)
    plain = {} if base is None else to_plain(sensor(base))
    try:
        return from_plain(SpinningLidar, {**plain, **stored}, "sensor")
    except (ConfigError, TypeError) as error:
        raise InputError(f"{layout.sensor}: {error}") from error


def _frame(layout: Layout) -> Frame:
    """nuScenes' axes where files are named as its are."""
    return "nuscenes" if layout.sweeps[0].name.lower().endswith(".pcd.bin") else "kitti"


def _cleaning(
    layout: Layout,
    options: LidarOptions,
    frame: Frame,
    table: SpinningLidar | None,
    raw: Callable[[int], PointSweep],
) -> Cleaning:
    nearest = options.nearest if options.nearest is not None else table.nearest if table else 0.5
    farthest = (
        options.farthest if options.farthest is not None else table.farthest if table else 200.0
    )
    if not farthest > nearest:
        raise ConfigError(f"farthest {farthest:g} must exceed nearest {nearest:g}")
    some = _spread(range(len(layout.sweeps)), FIT_SWEEPS)
    return Cleaning(frame, nearest, farthest, intensity_unit(raw(i) for i in some))


def _spread(items: Sequence[int], most: int) -> list[int]:
    """At most so many of the items, equally spaced."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _fit(
    layout: Layout,
    splits: dict[Split, tuple[int, ...]],
    table: SpinningLidar | None,
    how: Cleaning,
    raw: Callable[[int], PointSweep],
) -> SensorFit:
    chosen = _spread(splits["train"], FIT_SWEEPS)
    return fit_sensor([clean_sweep(raw(i), layout.sweeps[i], how) for i in chosen], table)


def _read(
    sweeps: tuple[Path, ...],
    raw: Callable[[int], PointSweep],
    how: Cleaning,
    labels: RingLabels,
    index: int,
) -> PointSweep:
    """A cleaned sweep whose rings are those of the table."""
    return labels.apply(clean_sweep(raw(index), sweeps[index], how))


def _four(rotation: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = rotation
    return out


def _motion(
    layout: Layout, poses: np.ndarray, fit: SensorFit, options: LidarOptions
) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """Poses at starts and ends of sweeps, None for compensated points; and why."""
    timed = layout.seconds is not None or fit.timed
    use, why = skewed(poses, layout.clock, fit, timed)
    if options.deskew is not None:
        use, why = options.deskew, f"data.deskew={str(options.deskew).lower()} ({why})"
    if not use:
        return None, why
    return revolution_poses(poses, layout.clock, options.pose_at), why


def _walk(
    layout: Layout,
    poses: np.ndarray,
    splits: dict[Split, tuple[int, ...]],
    how: Cleaning,
    raw: Callable[[int], PointSweep],
) -> tuple[Extent, Counter[str]]:
    """Read the drive (of a long one, some sweeps) once: extent of train returns, what is wrong."""
    extent, counts, train = Extent(), Counter(), set(splits["train"])
    for index in _spread(range(len(layout.sweeps)), WHOLE):
        sweep = clean_sweep(raw(index), layout.sweeps[index], how, counts)
        counts["sweeps read"] += 1
        extent.see(sweep.points, poses[index], index in train)
    return extent, counts


def _counted(counts: Counter[str]) -> dict[str, Any]:
    known = ("points", "sweeps read")
    dropped = {k: v for k, v in counts.items() if k not in known and v}
    return {"points": counts["points"], "sweeps_read": counts["sweeps read"], "dropped": dropped}


def _warnings(counts: Counter[str], fit: SensorFit, final: SpinningLidar) -> list[str]:
    bad = counts["not finite"]
    share = f"{bad} of {counts['points']} points are not finite numbers and left out"
    return ([share] if bad else []) + fit.warnings(final)


def _why(layout: Layout) -> str:
    kind = suffix_of(layout.sweeps[0])
    return f"{len(layout.sweeps)} {kind} sweeps in {layout.sweeps[0].parent.name}/"


def _content_hash(layout: Layout) -> str:
    """Hash of poses, times and sensor, and of the sweeps' names, sizes and both ends."""
    digest = hashlib.blake2b(digest_size=16)
    for path, most in [*((f, 1 << 26) for f in layout.files), *((s, _END) for s in layout.sweeps)]:
        try:
            size = path.stat().st_size
            digest.update(json.dumps([path.name, size]).encode())
            with open(path, "rb") as file:
                digest.update(file.read(most))
                if size > most:
                    file.seek(max(size - most, most))
                    digest.update(file.read(most))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
