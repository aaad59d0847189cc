"""Sweeps of a fitted field from any pose and by any sensor, as files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from polyfield.config import from_plain, to_plain
from polyfield.data.lidar.batches import box_rays
from polyfield.data.lidar.files import SUFFIXES, write_sweep
from polyfield.data.lidar.sweeps import PointSweep, SweepRays
from polyfield.data.scene import SceneTransform
from polyfield.errors import ConfigError, InputError
from polyfield.renderers.lidar_sensors import SpinningLidar, sensor
from polyfield.run import RunDirectory
from polyfield.training.lidar import measure_beams
from polyfield.training.model import Model, load

PATHS = ("train", "test", "all")


def render_lidar(
    run: str | Path,
    out: str | Path,
    *,
    path: str = "test",
    sensor_name: str | None = None,
    rank: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Drive a sensor through a fitted field and write what it would have brought back.

    Args:
        run: Run directory; its sweeps are not needed.
        out: Folder, which becomes a scene of its own (``velodyne/*.bin`` and ``poses.txt``), or a
            file (.bin, .ply, .pcd, .npz) for a single pose.
        path: ``train``, ``test``, ``all``, or a JSON file with a list of 4x4 poses,
            sensor to world.
        sensor_name: Another sensor than the run's, e.g. ``vlp-16``.
        rank: Components of a factored backbone to use (None: all).
        device: Where to render.
        progress: Called with (sweeps done, sweeps).

    Raises:
        PolyfieldError: Bad poses, sensor or output.
    """
    config = RunDirectory(run).read_config()
    names, poses = _poses(config, path)
    single = Path(out).suffix.lower() in SUFFIXES
    if single and len(poses) != 1:
        raise ConfigError(
            f"{out} holds one sweep and {path} names {len(poses)} poses; give a folder"
        )
    start, points = time.monotonic(), 0
    sweeps = simulate(run, config, poses, sensor_name, rank, device)
    for i, sweep in enumerate(sweeps):
        target = Path(out) if single else Path(out) / "velodyne" / f"{i:06d}.bin"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_sweep(sweep, target)
        points += len(sweep)
        if progress:
            progress(i + 1, len(poses))
    if not single:
        lines = [" ".join(repr(float(v)) for v in pose[:3].ravel()) for pose in poses]
        (Path(out) / "poses.txt").write_text("\n".join(lines) + "\n")
        table = to_plain(_sensor(config, sensor_name))
        (Path(out) / "sensor.json").write_text(json.dumps(table, indent=1) + "\n")
    seconds = time.monotonic() - start
    return {
        "run": str(run),
        "out": str(out),
        "modality": "lidar",
        "sweeps": len(poses),
        "names": names,
        "points": points,
        "seconds_per_sweep": round(seconds / max(1, len(poses)), 3),
    }


def export_points(
    run: str | Path, out: str | Path, *, path: str = "all", rank: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """All that the run's sensor sees along a path, as one cloud of the world.

    Args:
        run: Run directory.
        out: File (.ply, .pcd, .bin, .npz).
        path: As for `render_lidar`.
        rank: Components of a factored backbone to use (None: all).
        device: Where to render.
    """
    if Path(out).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"points are written to one of {', '.join(SUFFIXES)}, got {out}")
    config = RunDirectory(run).read_config()
    _, poses = _poses(config, path)
    start, parts = time.monotonic(), []
    for pose, sweep in zip(poses, simulate(run, config, poses, None, rank, device), strict=True):
        world = sweep.points @ pose[:3, :3].T + pose[:3, 3]
        parts.append((world, sweep.intensity))
    points, intensity = (np.concatenate(values) for values in zip(*parts, strict=True))
    write_sweep(PointSweep(points, intensity), Path(out))
    seconds = round(time.monotonic() - start, 3)
    return {"run": str(run), "out": str(out), "points": len(points), "seconds": seconds}


def simulate(
    run: str | Path, config: dict[str, Any], poses: Sequence[np.ndarray],
    sensor_name: str | None, rank: int | None, device: str,
) -> Iterator[PointSweep]:  # fmt: skip
    """The sweeps of a sensor that stands still at every pose."""
    model = load(run, device, rank=rank)
    table = _sensor(config, sensor_name)
    transform = from_plain(SceneTransform, config["transform"], "transform")
    for pose in poses:
        yield simulate_sweep(model, table, pose, transform)


def _sensor(config: dict[str, Any], name: str | None) -> SpinningLidar:
    """The table that is asked for, or the run's."""
    return from_plain(SpinningLidar, config["sensor"], "sensor") if name is None else sensor(name)


def simulate_sweep(
    model: Model, table: SpinningLidar, pose: Float[np.ndarray, "4 4"], transform: SceneTransform
) -> PointSweep:
    """First and second returns of one revolution, in the sensor's frame."""
    beams = table.beams()
    matrix = torch.from_numpy(np.asarray(pose, np.float64))
    origins = beams.origins @ matrix[:3, :3].T + matrix[:3, 3]
    directions = beams.directions @ matrix[:3, :3].T
    none = torch.full((len(beams),), torch.nan)
    slots = SweepRays(
        origins, directions, none, none, torch.zeros(len(beams)), beams.ring, beams.times
    )
    found = measure_beams(model, box_rays(slots, transform, table.nearest, table.farthest))
    parts = []
    for number, name in enumerate(("ranges", "second"), start=1):
        ranges = found[name].double()
        kept = ~torch.isnan(ranges)
        at = beams.origins[kept] + ranges[kept, None] * beams.directions[kept]
        numbers = torch.full((int(kept.sum()),), number)
        parts.append((at, found["intensity"][kept], beams.ring[kept], beams.times[kept], numbers))
    points, intensity, ring, times, number = (
        torch.cat(values).numpy() for values in zip(*parts, strict=True)
    )
    return PointSweep(points, intensity.astype(np.float64), ring, times, number)


def _poses(config: dict[str, Any], path: str) -> tuple[list[str], list[np.ndarray]]:
    """Names and poses, sensor to world, of a path.

    Raises:
        InputError: No such path, or its file does not hold poses.
    """
    sweeps = config["sweeps"]
    if path in PATHS:
        chosen = [s for s in sweeps if path in ("all", s["split"])]
        if not chosen:
            raise InputError(f"the run has no {path} sweeps; take --path train or all")
        return [s["name"] for s in chosen], [np.array(s["pose"]) for s in chosen]
    file = Path(path)
    if file.suffix.lower() != ".json" or not file.is_file():
        raise InputError(f"--path takes {', '.join(PATHS)} or a JSON file of poses, got '{path}'")
    try:
        poses = np.array(json.loads(file.read_text()), np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} does not hold a list of 4x4 poses: {error}") from None
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not np.isfinite(poses).all():
        raise InputError(f"{file} must hold a list of 4x4 poses of finite numbers")
    square = poses[:, :3, :3].transpose(0, 2, 1) @ poses[:, :3, :3]
    if np.abs(square - np.eye(3)).max(initial=0) > 1e-3 or (np.linalg.det(poses) <= 0).any():
        raise InputError(f"{file}: the upper left 3x3 of every pose must be a rotation")
    return [f"{i:06d}" for i in range(len(poses))], list(poses)
