"""`load_scene`: any supported folder -> `PosedImages`. What all formats share happens here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from polyfield.data.bounds import Bounds, Hints, scene_bounds
from polyfield.data.checks import check_depths, check_points, check_sight
from polyfield.data.detect import Detected, detect
from polyfield.data.prepare import Findings, Ready, prepare, some
from polyfield.data.scene import (
    Description,
    LoadOptions,
    LoadReport,
    PosedImages,
    SceneTransform,
    Split,
)
from polyfield.data.splits import held_out
from polyfield.data.stores import Stores, content_hash, is_transparent, note_pixels, open_stores
from polyfield.errors import InputError
from polyfield.renderers.cameras import Cameras
from polyfield.renderers.distortion import MAX_PARAMETERS

DEFAULT_HOLDOUT = "every:8"


def load_scene(
    scene: str | Path,
    options: LoadOptions | None = None,
    transform: SceneTransform | None = None,
    only: Sequence[Split] | None = None,
) -> PosedImages:
    """Load posed images in any supported format.

    Args:
        scene: Folder, scene file, or ``sample:NAME``.
        transform: The box of an earlier run, instead of an estimated one.
        only: Splits whose images are wanted; poses and bounds still come from all views.

    Raises:
        InputError: The scene cannot be used; one sentence says why and what to do.
        ConfigError: An option cannot be used.
    """
    options = options or LoadOptions()
    detected = detect(scene, options.format)
    description = detected.entry.target.load(detected.path, options)
    findings = Findings(warnings=list(description.warnings), notes=dict(description.notes))
    ready = prepare(description, options.downscale, findings)
    splits = _splits(ready, _spec(options.holdout), findings)
    chosen = _chosen(splits, only, len(ready))
    key = content_hash(description, ready)
    stores = open_stores(ready, chosen, key, findings)
    note_pixels(stores, ready, findings)
    transparent = is_transparent(stores.images)
    hints = Hints(_poses(ready), _half_angles(ready), transparent, description)
    bounds = scene_bounds(hints, options, transform)
    cameras = make_cameras(ready, bounds, options)
    check_sight(cameras, hints, bounds, options, findings)
    points = _points(description, bounds)
    check_points(cameras, points, findings)
    check_depths(stores.depths, bounds, findings)
    place = {view: i for i, view in enumerate(chosen)}
    return PosedImages(
        name=detected.name,
        root=description.root,
        cameras=cameras[list(chosen)],
        images=stores.images,
        names=tuple(ready[i].view.name for i in chosen),
        splits={s: tuple(place[i] for i in v if i in place) for s, v in splits.items()},
        transform=bounds.transform,
        bounded=bounds.bounded,
        background=_background(options, description, stores, transparent),
        up=tuple(float(u) for u in bounds.up),
        report=_report(detected, bounds, findings),
        content_hash=key,
        masks=stores.masks,
        depths=stores.depths,
        points=points,
        times=_times(ready, chosen),
        sharpness=tuple(ready[i].view.sharpness for i in chosen),
    )


def _spec(holdout: str | int | float | None) -> str | None:
    return None if holdout is None else str(holdout)


def _splits(
    ready: list[Ready], holdout: str | None, findings: Findings
) -> dict[str, tuple[int, ...]]:
    """The format's splits; where it names no test views some are held out of the training ones."""
    splits = {
        name: tuple(i for i, r in enumerate(ready) if (r.view.split or "train") == name)
        for name in ("train", "val", "test")
    }
    stated = {name: len(views) for name, views in splits.items() if views}
    if splits["test"]:
        findings.notes["split"] = "the scene's own"
        if holdout is not None:
            findings.warnings.append(
                f"holdout '{holdout}' has no effect: the scene names its own test views ({stated})"
            )
        return splits
    if splits["val"] and holdout is None:
        findings.notes["split"] = "validation views serve as test views"
        return {**splits, "test": splits["val"]}
    spec = holdout or DEFAULT_HOLDOUT
    if len(splits["train"]) < 2 and holdout is None:
        findings.notes["split"] = "too few views to hold any out"
        return splits
    kept = set(held_out(spec, len(splits["train"])))
    findings.notes["split"] = f"held out: {spec}"
    return {
        "train": tuple(v for i, v in enumerate(splits["train"]) if i not in kept),
        "val": splits["val"],
        "test": tuple(v for i, v in enumerate(splits["train"]) if i in kept),
    }


def _chosen(
    splits: dict[str, tuple[int, ...]], only: Sequence[Split] | None, count: int
) -> tuple[int, ...]:
    if only is None:
        return tuple(range(count))
    wanted = sorted({view for name in only for view in splits[name]})
    if not wanted:
        present = {name: len(views) for name, views in splits.items() if views}
        raise InputError(f"the scene has no views for {some(list(only))}; it has {present}")
    return tuple(wanted)


def _poses(ready: Sequence[Ready]) -> np.ndarray:
    return np.stack([r.view.c2w for r in ready])


def _half_angles(ready: Sequence[Ready]) -> np.ndarray:
    """Half the smaller angle of view, lens distortion left out of account."""
    values = []
    for r in ready:
        i = r.intrinsics
        ratio = min(i.width / i.fx, i.height / i.fy) / 2
        wide = i.model in ("opencv-fisheye", "thin-prism-fisheye", "equirectangular")
        values.append(min(ratio, math.pi / 2) if wide else math.atan(ratio))
    return np.array(values)


def make_cameras(ready: Sequence[Ready], bounds: Bounds, options: LoadOptions) -> Cameras:
    """Cameras of prepared views, in the box."""
    lenses = [r.intrinsics for r in ready]
    distortion = torch.zeros(len(ready), MAX_PARAMETERS)
    for row, lens in enumerate(lenses):
        distortion[row, : len(lens.distortion)] = torch.tensor(lens.distortion)
    cameras = Cameras(
        c2w=torch.from_numpy(bounds.transform.pose_to_box(_poses(ready))[:, :3]).float(),
        intrinsics=torch.tensor([[i.fx, i.fy, i.cx, i.cy] for i in lenses]),
        sizes=torch.tensor([[i.width, i.height] for i in lenses]),
        models=tuple(i.model for i in lenses),
        distortion=distortion,
        near=torch.from_numpy(bounds.near).float(),
        far=torch.from_numpy(bounds.far).float(),
    )
    return cameras.with_ndc() if options.ndc else cameras


def _background(
    options: LoadOptions, description: Description, stores: Stores, transparent: bool
) -> str:
    if options.background is not None:
        return options.background
    if description.background is not None:
        return description.background
    return "white" if stores.images.channels == 4 and transparent else "black"


def _points(description: Description, bounds: Bounds) -> torch.Tensor | None:
    if description.points is None or not len(description.points):
        return None
    return torch.from_numpy(bounds.transform.to_box(description.points)).float()


def _times(ready: Sequence[Ready], chosen: Sequence[int]) -> torch.Tensor | None:
    times = [ready[i].view.time for i in chosen]
    if all(time is None for time in times):
        return None
    return torch.tensor([0.0 if time is None else time for time in times])


def _report(detected: Detected, bounds: Bounds, findings: Findings) -> LoadReport:
    return LoadReport(
        format=detected.entry.name,
        why=detected.why,
        missing=tuple(findings.missing),
        dropped=tuple(findings.dropped),
        warnings=tuple(findings.warnings),
        notes={**findings.notes, "box": bounds.how},
    )
