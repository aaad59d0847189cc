"""Do the cameras see the scene box? Wrong axes and wrong scales are caught here."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from polyfield.data.bounds import Bounds, Hints
from polyfield.data.images import RaggedStore
from polyfield.data.poses import facing
from polyfield.data.prepare import Findings
from polyfield.data.scene import LoadOptions
from polyfield.errors import InputError
from polyfield.renderers.boxes import clip_to_box
from polyfield.renderers.cameras import Cameras

ALL = 0.95  # share of views from which on a fault is one of the scene, not of a view
AXES_HINT = (
    "the poses may be in OpenCV axes (y down, z forward) where OpenGL's (y up, looking along -z) "
    "are expected: negate the second and third column of each pose's rotation"
)


def sees_box(cameras: Cameras) -> Bool[Tensor, "views"]:
    """Which views have a ray (of nine spread over the image) that meets the box [-1, 1]^3."""
    fractions = torch.tensor([0.05, 0.5, 0.95], device=cameras.c2w.device)
    grid = torch.cartesian_prod(fractions, fractions)
    views = torch.arange(len(cameras), device=cameras.c2w.device)[:, None].expand(-1, len(grid))
    inside = clip_to_box(cameras.rays(views, grid * cameras.sizes[:, None, :]))
    return (inside.far > inside.near).any(dim=1)


def check_sight(
    cameras: Cameras, hints: Hints, bounds: Bounds, options: LoadOptions, findings: Findings
) -> None:
    """Refuse scenes whose cameras all look away from the box or cannot reach it.

    Raises:
        InputError: With the likely cause.
    """
    if options.ndc:
        return
    positions = hints.c2w[:, :3, 3]
    if len(positions) > 1 and np.ptp(positions, axis=0).max() <= 1e-6 * abs(positions).max():
        findings.warnings.append(
            f"all {len(positions)} cameras stand at {_numbers(positions[0])}: nothing can be told "
            "of distances; check the poses, or set data.centre and data.scale for a panorama"
        )
    centre = np.array(bounds.transform.centre)
    distance = np.linalg.norm(hints.c2w[:, :3, 3] - centre, axis=1) * bounds.transform.scale
    outside = distance > 0.05  # panoramas stand in the centre and look at nothing in particular
    angle = facing(hints.c2w, centre)
    away = angle > math.pi / 2
    estimated = options.centre is None and options.scale is None
    if estimated and outside.mean() > 0.5 and away[outside].mean() >= ALL:
        _looking_away(int(away.sum()), len(away), bounds, options, findings)
    seen = sees_box(cameras)
    missed = int((~seen).sum())
    place = f"centre {_numbers(centre)}, half side {1 / bounds.transform.scale:.4g}"
    if missed == len(seen):
        raise InputError(
            f"no camera sees the scene box ({place}; cameras between "
            f"{_numbers(hints.c2w[:, :3, 3].min(0))} and {_numbers(hints.c2w[:, :3, 3].max(0))}); "
            "set data.centre, data.scale, data.near and data.far, or leave them to be estimated"
        )
    if missed:
        findings.warnings.append(f"{missed} of {len(seen)} cameras do not see the box ({place})")


def _looking_away(
    away: int, count: int, bounds: Bounds, options: LoadOptions, findings: Findings
) -> None:
    centre = _numbers(bounds.transform.centre)
    sentence = f"{away} of {count} cameras look away from the scene's centre {centre}; {AXES_HINT}"
    if options.unbounded and not bounds.bounded:
        findings.warnings.append(sentence)
        return
    raise InputError(
        f"{sentence}; if the capture really looks outwards, say so with --set data.unbounded=true"
    )


def check_points(cameras: Cameras, points: Tensor | None, findings: Findings) -> None:
    """Warn when the scene's own points fall into no image: points and poses do not fit."""
    if points is None or cameras.ndc:
        return
    some = points[:: -(-len(points) // 300)].to(cameras.c2w.device)
    seen = torch.zeros(len(some), dtype=torch.bool, device=some.device)
    for view in range(len(cameras)):
        views = torch.full((len(some),), view, dtype=torch.int64, device=some.device)
        xy, z = cameras.project(views, some)
        seen |= (z > 0) & (xy >= 0).all(dim=1) & (xy <= cameras.sizes[view]).all(dim=1)
    share = float(seen.float().mean())
    if share < 0.5:
        findings.warnings.append(
            f"only {share:.0%} of the scene's points fall into any image, so points and poses do "
            "not belong together; check that quaternions are written w, x, y, z"
        )


def check_depths(depths: RaggedStore | None, bounds: Bounds, findings: Findings) -> None:
    """Warn when measured depths lie far outside the scene: a unit was mistaken."""
    medians = [f["median"] for f in (depths.figures if depths else ()) if f["median"] is not None]
    if not medians:
        return
    typical = float(np.median(medians)) * bounds.transform.scale
    if not 1e-2 < typical < 1e2:
        findings.warnings.append(
            f"the median depth is {typical:.3g} times the box's half side; check the depth's unit "
            "(images count millimetres unless the file says otherwise)"
        )


def _numbers(values) -> str:
    return "(" + ", ".join(f"{float(v):.4g}" for v in values) + ")"
