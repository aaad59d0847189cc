"""What ``polyfield data SCENE`` says: the facts as plain data, and as text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from polyfield.data.frusta import draw_cameras
from polyfield.data.poses import facing, focus_point
from polyfield.data.scene import PosedImages

__all__ = ["draw_cameras", "report_text", "scene_report", "sharpness"]

BLURRY = 0.25  # of the median sharpness
_BLUR_SIDE = 512  # pixels; sharpness is measured on images no larger
LISTED = 20  # names shown in the text


def scene_report(scene: PosedImages) -> dict[str, Any]:
    """Views, sizes, intrinsics, splits, missing and blurry images, bounds, memory: plain data."""
    return {
        "scene": scene.name,
        "path": str(scene.root),
        "format": scene.report.format,
        "why": scene.report.why,
        "views": len(scene),
        "splits": {name: len(views) for name, views in scene.splits.items()},
        "split_rule": scene.report.notes.get("split"),
        "sizes": _sizes(scene),
        "channels": scene.images.channels,
        "intrinsics": _intrinsics(scene),
        "missing": list(scene.report.missing),
        "dropped": [list(pair) for pair in scene.report.dropped],
        "blurry": blurry_views(scene),
        "bounds": _bounds(scene),
        "cameras": _looking(scene),
        "masks": scene.report.notes.get("masks"),
        "depths": None if scene.depths is None else _depth_facts(scene),
        "points": 0 if scene.points is None else len(scene.points),
        "memory_bytes": scene.memory_bytes,
        "cached_in": None if scene.images.path is None else str(scene.images.path),
        "content_hash": scene.content_hash,
        "warnings": list(scene.report.warnings),
        "notes": scene.report.notes,
    }


def _sizes(scene: PosedImages) -> list[dict[str, int]]:
    sizes, counts = np.unique(scene.images.sizes, axis=0, return_counts=True)
    return [
        {"width": int(w), "height": int(h), "views": int(n)}
        for (w, h), n in zip(sizes, counts, strict=True)
    ]


def _intrinsics(scene: PosedImages) -> dict[str, Any]:
    values = scene.cameras.intrinsics
    first = dict(zip(("fx", "fy", "cx", "cy"), values[0].tolist(), strict=True))
    spread = (values[:, :2].amax(0) - values[:, :2].amin(0)) / values[:, :2].mean(0)
    used = scene.cameras.distortion[0].tolist()
    while used and used[-1] == 0:
        used.pop()
    return {
        **first,
        "model": ", ".join(sorted(set(scene.cameras.models))),
        "distortion": used,
        "focal_spread": float(spread.max()),
    }


def _poses_in_world(scene: PosedImages) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(scene), 1, 1))
    poses[:, :3] = scene.cameras.c2w.double().cpu().numpy()
    return scene.transform.pose_to_world(poses)


def _bounds(scene: PosedImages) -> dict[str, Any]:
    positions, scale = _poses_in_world(scene)[:, :3, 3], scene.transform.scale
    return {
        "bounded": scene.bounded,
        "from": scene.report.notes.get("box"),
        "centre": list(scene.transform.centre),
        "half_side": 1 / scale,
        "near": float(scene.cameras.near.min()) / scale,
        "far": float(scene.cameras.far.max()) / scale,
        "ndc": scene.cameras.ndc,
        "background": scene.background,
        "up": list(scene.up),
        "cameras_min": positions.min(0).tolist(),
        "cameras_max": positions.max(0).tolist(),
    }


def _looking(scene: PosedImages) -> dict[str, Any]:
    """How far cameras look at the centre: angles to the box's centre, and to their own focus."""
    poses = _poses_in_world(scene)
    centre = np.array(scene.transform.centre)
    focus, conditioning = focus_point(poses)
    angle = facing(poses, centre)
    offset = poses[:, :3, 3] - focus
    along = (offset * poses[:, :3, 2]).sum(1)
    beside = np.linalg.norm(offset - along[:, None] * poses[:, :3, 2], axis=1)
    distance = np.linalg.norm(poses[:, :3, 3] - centre, axis=1)
    near_focus = (beside < 0.25 * np.linalg.norm(offset, axis=1)) & (along > 0)
    return {
        "share_looking_at_focus": float(near_focus.mean()),
        "mean_angle_to_centre_degrees": math.degrees(angle.mean()),
        "largest_angle_to_centre_degrees": math.degrees(angle.max()),
        "focus": focus.tolist(),
        "focus_conditioning": conditioning,
        "distance_to_centre": [float(v) for v in np.quantile(distance, [0, 0.5, 1])],
    }


def _depth_facts(scene: PosedImages) -> dict[str, Any]:
    medians = [f["median"] for f in scene.depths.figures if f["median"] is not None]
    return {"views": len(medians), "median": float(np.median(medians)) if medians else None}


def sharpness(image: UInt8[np.ndarray, "height width channels"]) -> float:
    """Variance of the Laplacian of the grey image, shrunk to at most 512 pixels a side.

    Transparent pixels count as black, so the outline of a cut-out is part of it.
    """
    colour = image[..., :3].astype(np.float32)
    if image.shape[2] == 4:
        colour = colour * (image[..., 3:].astype(np.float32) / 255)
    grey = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    factor = max(grey.shape) / _BLUR_SIDE
    if factor > 1:
        size = tuple(max(round(side / factor), 3) for side in grey.shape[::-1])
        grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).var()) if inner.size else 0.0


def blurry_views(scene: PosedImages) -> list[dict[str, Any]]:
    """Views far less sharp than the median; by the file's own figures where all views have one."""
    stated = [value for value in scene.sharpness if value is not None]
    measured = len(stated) < len(scene)
    values = [sharpness(scene.images.image(i)) for i in range(len(scene))] if measured else stated
    limit = BLURRY * float(np.median(values))
    return [
        {"name": name, "sharpness_to_median": value * BLURRY / limit}
        for name, value in zip(scene.names, values, strict=True)
        if limit > 0 and value < limit
    ]


def report_text(report: dict[str, Any]) -> str:
    """The report for people."""
    bounds, cameras, lens = report["bounds"], report["cameras"], report["intrinsics"]
    sizes = ", ".join(f"{s['width']}x{s['height']} ({s['views']})" for s in report["sizes"])
    splits = ", ".join(f"{name} {count}" for name, count in report["splits"].items() if count)
    box = f"{'ends at' if bounds['bounded'] else 'goes on beyond'} the box"
    low, middle, high = cameras["distance_to_centre"]
    cached = report["cached_in"] or "a temporary folder"
    lines = [
        ("scene", f"{report['scene']} ({report['path']})"),
        ("format", f"{report['format']}: {report['why']}"),
        ("views", f"{report['views']}: {splits} ({report['split_rule']})"),
        ("sizes", f"{sizes}, {report['channels']} channels"),
        (
            "lens",
            f"{lens['model']}, focal {lens['fx']:.3f} {lens['fy']:.3f}, "
            f"centre {lens['cx']:.2f} {lens['cy']:.2f}, coefficients {_row(lens['distortion'])}",
        ),
        (
            "bounds",
            f"centre {_row(bounds['centre'])}, half side {bounds['half_side']:.4g}, near "
            f"{bounds['near']:.4g}, far {bounds['far']:.4g}; from {bounds['from']}; "
            f"the scene {box}",
        ),
        (
            "cameras",
            f"{cameras['share_looking_at_focus']:.0%} look at their common focus "
            f"{_row(cameras['focus'])}; {cameras['mean_angle_to_centre_degrees']:.1f} degrees from "
            f"the centre on average; distance {low:.4g} to {high:.4g}, median {middle:.4g}",
        ),
        ("missing", _names(report["missing"])),
        ("dropped", _names([f"{name} ({why})" for name, why in report["dropped"]])),
        (
            "blurry",
            _names([f"{b['name']} ({b['sharpness_to_median']:.0%})" for b in report["blurry"]]),
        ),
        ("memory", f"{report['memory_bytes'] / 1e6:.0f} MB, mapped from {cached}"),
    ]
    lines += [("warning", text) for text in report["warnings"]]
    return "\n".join(f"{label:9}{text}" for label, text in lines)


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:LISTED])
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)}: {shown}{more}" if names else "none"


def _row(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
