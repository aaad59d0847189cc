"""From what a format describes to views whose images exist and whose intrinsics fit them.

Everything all formats share: duplicates, missing files, declared against actual sizes, EXIF
turns, ready-made smaller copies, downscaling.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polyfield.data.decode import TURNS, Header, read_header
from polyfield.data.scene import Description, Intrinsics, View
from polyfield.data.search import Finder, Found, natural_key
from polyfield.errors import InputError

SMALLEST_SIDE = 4  # pixels; less is a mistaken downscale


@dataclass(frozen=True)
class Ready:
    """A view whose image was found: intrinsics belong to the `size` that will be stored.

    turn: EXIF orientation to apply; actual: (width, height) of the turned file; alpha: the file
    has an alpha channel or comes with one; mode: of the file, in pillow's terms.
    """

    view: View
    path: Path
    intrinsics: Intrinsics
    size: tuple[int, int]
    actual: tuple[int, int]
    turn: int | None
    alpha: bool
    mode: str


@dataclass
class Findings:
    """What was noticed on the way; becomes part of the `LoadReport`."""

    missing: list[str] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def some(names: Sequence[str], most: int = 20) -> str:
    """A list of names for a message, cut when long."""
    tail = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + tail


def prepare(description: Description, downscale: int, findings: Findings) -> list[Ready]:
    """Views with images, in the order in which views are held out.

    Raises:
        InputError: No image is left, one cannot be read, or sizes contradict the intrinsics.
    """
    views = _distinct(_ordered(description), findings)
    finder = Finder(description.root, downscale)
    found = [(view, hit) for view in views if (hit := _find(finder, view, findings))]
    _answer_missing(description, views, findings)
    _note_other_places(found, findings)
    headers = [read_header(hit.path) for _, hit in found]
    turned = [_turned(v, hit, h) for (v, hit), h in zip(found, headers, strict=True)]
    _check_sizes(found, turned)
    ready = [
        _ready(view, hit, header, turn, downscale)
        for (view, hit), header, turn in zip(found, headers, turned, strict=True)
    ]
    _note_sizes(found, ready, downscale, findings)
    return [_with_companions(finder, r, findings) for r in ready]


def _ordered(description: Description) -> list[View]:
    views = list(description.views)
    if not views:
        raise InputError(
            f"{description.root} describes no cameras; expected at least one posed image"
        )
    if description.order == "natural":
        views.sort(key=lambda view: natural_key(view.name))
    return views


def _distinct(views: list[View], findings: Findings) -> list[View]:
    seen, kept = set(), []
    for view in views:
        key = (view.path, view.split)
        if key in seen:
            findings.dropped.append((view.name, "listed more than once, the first is used"))
        else:
            seen.add(key)
            kept.append(view)
    return kept


def _find(finder: Finder, view: View, findings: Findings) -> Found | None:
    hit = finder.find(view.path)
    if hit is None:
        findings.missing.append(view.name)
    return hit


def _answer_missing(description: Description, views: list[View], findings: Findings) -> None:
    missing = findings.missing
    if len(missing) == len(views):
        raise InputError(
            f"none of the {len(views)} images of {description.files[0]} exists, the first should "
            f"be {views[0].path}; put the images there or correct the paths in the file"
        )
    if missing:
        most = (
            "; that is most of them, check the images folder"
            if len(missing) > len(views) / 2
            else ""
        )
        findings.warnings.append(
            f"{len(missing)} of {len(views)} images are missing and left out{most}: {some(missing)}"
        )


def _note_other_places(found: list[tuple[View, Found]], findings: Findings) -> None:
    moved = Counter(
        (str(view.path.parent), str(hit.path.parent))
        for view, hit in found
        if hit.factor == 1 and hit.path.parent != view.path.parent
    )
    for (said, actual), count in moved.items():
        findings.warnings.append(
            f"{count} images were found in {actual} instead of {said}, which does not exist"
        )


def same_shape(size: tuple[int, int], declared: tuple[int, int]) -> bool:
    """Whether two (width, height) have one aspect ratio, up to rounding to whole pixels."""
    (w, h), (dw, dh) = size, declared
    return abs(w * dh / dw - h) <= 1.0 or abs(h * dw / dh - w) <= 1.0


def _declared(view: View) -> tuple[int, int] | None:
    known = view.intrinsics is not None and view.intrinsics.width and view.intrinsics.height
    return (view.intrinsics.width, view.intrinsics.height) if known else None


def _turned(view: View, hit: Found, header: Header) -> tuple[int | None, tuple[int, int]]:
    """EXIF orientation to apply and the size after it: only where that makes the size fit."""
    declared, size = _declared(view), header.size
    if declared is None or same_shape(size, declared) or header.orientation not in TURNS:
        return None, size
    flipped = size[::-1]
    return (header.orientation, flipped) if same_shape(flipped, declared) else (None, size)


def _check_sizes(
    found: list[tuple[View, Found]], turned: list[tuple[int | None, tuple[int, int]]]
) -> None:
    """One size where intrinsics are given once for all; every size of its declared shape."""
    groups: dict[Any, list[tuple[View, tuple[int, int]]]] = {}
    for (view, hit), (_, size) in zip(found, turned, strict=True):
        if not view.own_intrinsics:
            groups.setdefault((view.split, hit.factor), []).append((view, size))
    for group in groups.values():
        counts = Counter(size for _, size in group).most_common()
        if len(counts) > 1:
            usual, odd = counts[0][0], counts[-1][0]
            name = next(view.name for view, size in group if size == odd)
            raise InputError(
                f"images have {len(counts)} sizes ({usual[0]}x{usual[1]}, but {name} is "
                f"{odd[0]}x{odd[1]}) while the intrinsics are given once for all; give w, h, fl_x, "
                "fl_y, cx, cy per frame, or bring the images to one size"
            )
    for (view, hit), (_, size) in zip(found, turned, strict=True):
        declared = _declared(view)
        if declared is not None and not same_shape(size, declared):
            raise InputError(
                f"image {hit.path} is {size[0]}x{size[1]}, but its intrinsics are for "
                f"{declared[0]}x{declared[1]}, which is another shape; correct w and h in the "
                "scene file, or use the images it was made from"
            )


def _ready(
    view: View,
    hit: Found,
    header: Header,
    turned: tuple[int | None, tuple[int, int]],
    downscale: int,
) -> Ready:
    turn, actual = turned
    declared = _declared(view) or (actual[0] * hit.factor, actual[1] * hit.factor)
    shrink = max(downscale / hit.factor, 1.0)
    size = (max(round(actual[0] / shrink), 1), max(round(actual[1] / shrink), 1))
    if min(size) < SMALLEST_SIDE:
        raise InputError(
            f"downscale {downscale} leaves {size[0]}x{size[1]} pixels of {hit.path} "
            f"({actual[0]}x{actual[1]}); use a smaller one"
        )
    intrinsics = _resized(complete(view, declared), size)
    alpha = header.alpha or view.alpha_path is not None
    return Ready(view, hit.path, intrinsics, size, actual, turn, alpha, header.mode)


def complete(view: View, size: tuple[int, int]) -> Intrinsics:
    """The view's intrinsics at this (width, height), with what the file left open filled in."""
    width, height = size
    nan = math.nan
    given = view.intrinsics or Intrinsics(nan, nan, nan, nan, width, height)
    fx, fy = given.fx, given.fy
    if given.model == "equirectangular":
        fx, fy = width / (2 * math.pi), height / math.pi
    from_x, from_y = _focal(width, view.camera_angle_x), _focal(height, view.camera_angle_y)
    fx = next((f for f in (fx, from_x, fy, from_y) if not math.isnan(f)), nan)
    fy = next((f for f in (fy, from_y, fx) if not math.isnan(f)), nan)
    if math.isnan(fx):
        raise InputError(f"view '{view.name}' has no focal length; expected fl_x or camera_angle_x")
    cx = width / 2 if math.isnan(given.cx) else given.cx
    cy = height / 2 if math.isnan(given.cy) else given.cy
    return replace(given, fx=fx, fy=fy, cx=cx, cy=cy, width=width, height=height)


def _focal(side: int, angle: float | None) -> float:
    return math.nan if angle is None else 0.5 * side / math.tan(0.5 * angle)


def _resized(intrinsics: Intrinsics, size: tuple[int, int]) -> Intrinsics:
    x, y = size[0] / intrinsics.width, size[1] / intrinsics.height
    return replace(
        intrinsics,
        fx=intrinsics.fx * x,
        fy=intrinsics.fy * y,
        cx=intrinsics.cx * x,
        cy=intrinsics.cy * y,
        width=size[0],
        height=size[1],
    )


def _note_sizes(
    found: list[tuple[View, Found]], ready: list[Ready], downscale: int, findings: Findings
) -> None:
    folders = Counter(hit.path.parent.name for _, hit in found if hit.factor > 1)
    if folders:
        findings.notes["image_folders"] = dict(folders)
    coarse = sorted({hit.factor for _, hit in found if downscale % hit.factor})
    if coarse:
        findings.warnings.append(
            f"only images already divided by {coarse[0]} exist, they are used for downscale "
            f"{downscale}; intrinsics follow"
        )
    rescaled = [
        (r, declared)
        for (view, hit), r in zip(found, ready, strict=True)
        if hit.factor == 1 and (declared := _declared(view)) and declared != r.actual
    ]
    if rescaled:
        first, declared = rescaled[0]
        findings.warnings.append(
            f"intrinsics of {len(rescaled)} views are for {declared[0]}x{declared[1]} pixels and "
            f"were rescaled to the images' {first.actual[0]}x{first.actual[1]}"
        )
    turned = [r.view.name for r in ready if r.turn is not None]
    if turned:
        findings.warnings.append(
            f"{len(turned)} images were turned as their EXIF data says, which fits the declared "
            f"size: {some(turned, 3)}"
        )


def _with_companions(finder: Finder, ready: Ready, findings: Findings) -> Ready:
    """Mask and depth files that exist; others are left out and counted."""
    view = ready.view
    for kind in ("mask_path", "depth_path"):
        declared = getattr(view, kind)
        if declared is None:
            continue
        exists = declared if declared.is_file() else finder.match(declared.parent, declared.name)
        if exists is None:
            absent = findings.notes.setdefault(f"missing_{kind.removesuffix('_path')}s", [])
            absent.append(view.name)
            what = kind.removesuffix("_path")
            findings.warnings.append(
                f"the {what} of {view.name} ({declared}) is missing: the image is used without it"
            )
        view = replace(view, **{kind: exists})
    return replace(ready, view=view)
