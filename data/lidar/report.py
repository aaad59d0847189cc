"""What ``polyfield data DRIVE`` says: the facts as plain data, as text, and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polyfield.data.lidar.poses import steps_between
from polyfield.data.lidar.rays import range_image, sweep_rays
from polyfield.data.lidar.sweeps import LidarSweeps
from polyfield.data.prepare import some
from polyfield.files import replacing

_LOOKED_AT = 4  # sweeps whose slots are counted and drawn
_TALL = 4  # rows of the picture for each ring


def sweeps_report(scene: LidarSweeps) -> dict[str, Any]:
    """Sweeps, returns, rings and how well they fit, ranges, empty slots, box: plain data."""
    notes, sensor = scene.report.notes, scene.sensor
    elevations = np.degrees(sensor.elevations)
    moved = steps_between(scene.poses)[0] if len(scene) > 1 else np.zeros(0)
    return {
        "scene": scene.name,
        "path": str(scene.root),
        "format": scene.report.format,
        "why": scene.report.why,
        "sweeps": len(scene),
        "splits": {name: len(sweeps) for name, sweeps in scene.splits.items()},
        "split_rule": notes["split"],
        "points": notes["points"],
        "sweeps_read": notes["sweeps_read"],
        "dropped": notes["dropped"],
        "ranges_m": notes["ranges"],
        "intensity_unit": notes["intensity_unit"],
        "sensor": {
            "name": sensor.name,
            "rings": sensor.rings,
            "columns": sensor.columns,
            "elevations_degrees": [float(elevations.max()), float(elevations.min())],
            "heights_m": [min(sensor.heights), max(sensor.heights)],
            "fit": notes["fit"],
        },
        "slots": _slots(scene),
        "frame": notes["frame"],
        "poses": notes.get("poses", "none: one sweep"),
        "length_m": float(moved.sum()),
        "deskew": {"used": scene.motion is not None, "why": notes["deskew"]},
        "bounds": {
            "centre": list(scene.transform.centre),
            "half_side_m": 1 / scene.transform.scale,
            **notes["box"],
        },
        "missing": list(scene.report.missing),
        "content_hash": scene.content_hash,
        "warnings": list(scene.report.warnings),
        "notes": notes,
    }


def _looked_at(scene: LidarSweeps) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, len(scene) - 1, _LOOKED_AT).round()})


def _slots(scene: LidarSweeps) -> dict[str, float]:
    """Slots of some sweeps: how many, and shares that brought nothing or two returns back."""
    rays = [sweep_rays(scene, index) for index in _looked_at(scene)]
    count = sum(len(r) for r in rays)
    hits = sum(int(r.hit.sum()) for r in rays)
    second = sum(int((~r.second.isnan()).sum()) for r in rays)
    return {"per_sweep": count / len(rays), "empty": 1 - hits / count, "second": second / count}


def report_text(report: dict[str, Any]) -> str:
    """The report for people."""
    sensor, slots, box = report["sensor"], report["slots"], report["bounds"]
    fit, high, low = sensor["fit"], *sensor["elevations_degrees"]
    splits = ", ".join(f"{name} {count}" for name, count in report["splits"].items() if count)
    dropped = ", ".join(f"{count} {why}" for why, count in report["dropped"].items())
    centre = ", ".join(f"{value:.4g}" for value in box["centre"])
    lines = [
        ("scene", f"{report['scene']} ({report['path']})"),
        ("format", f"{report['format']}: {report['why']}; frame {report['frame']}"),
        ("sweeps", f"{report['sweeps']}: {splits} ({report['split_rule']})"),
        (
            "points",
            f"{report['points']} in the {report['sweeps_read']} sweeps that were read; ranges "
            f"{report['ranges_m'][0]:.3g} to {report['ranges_m'][1]:.3g} m; dropped: "
            f"{dropped or 'none'}",
        ),
        (
            "sensor",
            f"{sensor['name']}: {sensor['rings']} rings from {high:.4g} to {low:.4g} degrees, "
            f"{sensor['columns']} columns; rings by {fit['assigned']}, {fit['smallest_ring']} to "
            f"{fit['largest_ring']} returns each, {1e3 * fit['residual_m']:.2g} mm about "
            "their cones",
        ),
        (
            "slots",
            f"{slots['per_sweep']:.0f} a sweep, {slots['empty']:.1%} empty, "
            f"{slots['second']:.1%} with a second return",
        ),
        ("poses", f"{report['poses']}; {report['length_m']:.4g} m"),
        (
            "motion",
            f"{'per ray' if report['deskew']['used'] else 'none'}: {report['deskew']['why']}",
        ),
        ("box", f"centre ({centre}), half side {box['half_side_m']:.4g} m; from {box['from']}"),
        ("missing", some(report["missing"]) or "none"),
    ]
    lines += [("warning", text) for text in report["warnings"]]
    return "\n".join(f"{label:9}{text}" for label, text in lines)


def draw_ranges(scene: LidarSweeps, out: Path) -> None:
    """Range images of some sweeps below each other: near is bright, black is no return.

    Raises:
        InputError: The picture cannot be written.
    """
    shades = []
    for index in _looked_at(scene):
        ranges, _ = range_image(scene, index)
        shade = np.where(np.isnan(ranges), 0.0, 255 / (1 + ranges / 10))
        shades += [np.repeat(shade, _TALL, axis=0), np.zeros((_TALL, shade.shape[1]))]
    with replacing(out) as temporary:
        Image.fromarray(np.concatenate(shades[:-1]).astype(np.uint8)).save(temporary)
