"""The three stores of a scene: images, masks and depths, made from prepared views."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polyfield.data.decode import area_average, decode, decode_depth, decode_mask
from polyfield.data.images import LAYOUT, Plan, RaggedStore, find_store, open_store
from polyfield.data.prepare import Findings, Ready
from polyfield.data.scene import Description
from polyfield.errors import InputError

_END = 1 << 16  # bytes hashed at each end of an image
_WHOLE = 1 << 26  # description files up to this size are hashed whole


@dataclass(frozen=True)
class Stores:
    """Pixels of the chosen views; masks and depths are None where no view has any."""

    images: RaggedStore
    masks: RaggedStore | None
    depths: RaggedStore | None


def content_hash(description: Description, ready: Sequence[Ready]) -> str:
    """Hash of the description files and of the images' names, sizes and both ends.

    Cheap enough to run on every load: a change inside a large image that keeps its size and
    ends goes unnoticed.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in description.files:
        whole = file.stat().st_size <= _WHOLE
        _add(digest, file, description.root, file.stat().st_size if whole else _END)
    for view in ready:
        others = (view.view.alpha_path, view.view.mask_path, view.view.depth_path)
        for path in (view.path, *others):
            if path is not None:
                _add(digest, path, description.root, _END)
    return digest.hexdigest()


def _add(digest: Any, path: Path, root: Path, most: int) -> None:
    """Add a file's name, size, and at most `most` bytes at each end."""
    name = path.relative_to(root) if path.is_relative_to(root) else path.name
    try:
        size = path.stat().st_size
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        with open(path, "rb") as file:
            digest.update(file.read(most))
            if size > most:
                file.seek(max(size - most, most))
                digest.update(file.read(most))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def open_stores(
    ready: Sequence[Ready], chosen: Sequence[int], key: str, findings: Findings
) -> Stores:
    """Stores of the `chosen` views, decoded now unless they are cached.

    Args:
        ready: All views of the scene.
        key: The scene's content hash.

    Raises:
        InputError: A file cannot be decoded, or there is no room.
    """
    images = _open(_image_plan(ready, key), chosen, findings)
    masks = depths = None
    if any(r.view.mask_path for r in ready):
        masks = _open(_plan(ready, key, "masks", 1, np.uint8, _make_mask), chosen, findings)
    if any(r.view.depth_path for r in ready):
        depths = _open(_plan(ready, key, "depths", 1, np.float32, _make_depth), chosen, findings)
    return Stores(images, masks, depths)


def _open(plan: Plan, chosen: Sequence[int], findings: Findings) -> RaggedStore:
    """All views if they are chosen or already cached, else a smaller store of the chosen ones."""
    if len(chosen) < len(plan.sizes):
        cached = find_store(plan)
        if cached is not None:
            return cached.select(chosen)
        plan = _subset(plan, chosen)
    store, warning = open_store(plan)
    if warning and warning not in findings.warnings:
        findings.warnings.append(warning)
    return store


def _subset(plan: Plan, chosen: Sequence[int]) -> Plan:
    key = _key(plan.key, "only", *chosen)
    sizes = tuple(plan.sizes[i] for i in chosen)
    return Plan(key, sizes, plan.channels, plan.dtype, lambda i: plan.make(chosen[i]))


def _key(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _plan(ready, key: str, kind: str, channels: int, dtype: type, make) -> Plan:
    sizes = tuple(r.size for r in ready)
    name = _key(LAYOUT, key, kind, channels, sizes)
    return Plan(name, sizes, channels, dtype, lambda i: make(ready[i]))


def _image_plan(ready: Sequence[Ready], key: str) -> Plan:
    channels = 4 if any(r.alpha for r in ready) else 3
    return _plan(ready, key, "images", channels, np.uint8, partial(_make_image, channels))


def _make_image(channels: int, ready: Ready) -> tuple[np.ndarray, dict[str, Any]]:
    pixels = decode(ready.path, ready.turn)
    if ready.view.alpha_path is not None:
        pixels = _joined(pixels, ready.view.alpha_path)
    if pixels.shape[2] < channels:
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        pixels = np.concatenate([pixels, opaque], axis=2)
    figures = _alpha_figures(pixels) if ready.alpha else {}
    return area_average(pixels, ready.size), figures


def _joined(pixels: np.ndarray, alpha_path: Path) -> np.ndarray:
    alpha = decode(alpha_path)[..., :1]
    if alpha.shape[:2] != pixels.shape[:2]:
        raise InputError(
            f"alpha image {alpha_path} is {alpha.shape[1]}x{alpha.shape[0]}, expected "
            f"{pixels.shape[1]}x{pixels.shape[0]} as its image; remove it or resize it"
        )
    return np.concatenate([pixels[..., :3], alpha], axis=2)


def _alpha_figures(pixels: np.ndarray) -> dict[str, Any]:
    """Share of transparent pixels; half-transparent ones, and how many cannot be premultiplied."""
    alpha = pixels[..., 3]
    soft = pixels[(alpha > 0) & (alpha < 255)]
    return {
        "transparent": float((alpha < 128).mean()),
        "partial": len(soft),
        "straight": int((soft[:, :3].max(axis=1) > soft[:, 3]).sum()),
    }


def _make_mask(ready: Ready) -> tuple[np.ndarray, dict[str, Any]]:
    view, (width, height) = ready.view, ready.size
    if view.mask_path is None:
        used = np.ones((height, width), bool)
    else:
        used = decode_mask(view.mask_path, ready.size, view.mask_zero_ignores)
    return used[..., None], {"used": int(used.sum())}


def _make_depth(ready: Ready) -> tuple[np.ndarray, dict[str, Any]]:
    view, (width, height) = ready.view, ready.size
    if view.depth_path is None:
        return np.zeros((height, width, 1), np.float32), {"median": None}
    depth = decode_depth(view.depth_path, ready.size, view.depth_scale)
    known = depth[depth > 0]
    return depth[..., None], {"median": float(np.median(known)) if known.size else None}


def note_pixels(stores: Stores, ready: Sequence[Ready], findings: Findings) -> None:
    """Record what decoding showed: conversions, alpha that is odd, masks that hide everything."""
    modes = sorted({r.mode for r in ready} - {"RGB", "RGBA"})
    if modes:
        counts = {mode: sum(r.mode == mode for r in ready) for mode in modes}
        findings.notes["converted_modes"] = counts
    with_alpha = sum(r.alpha for r in ready)
    if 0 < with_alpha < len(ready):
        findings.warnings.append(
            f"{with_alpha} of {len(ready)} images have an alpha channel, the others count as opaque"
        )
    _note_premultiplied(stores.images, findings)
    if stores.masks is not None:
        _note_masks(stores.masks, ready, findings)


def _note_premultiplied(images: RaggedStore, findings: Findings) -> None:
    figures = [f for f in images.figures if f]
    soft = sum(f["partial"] for f in figures)
    if soft >= 200 and not any(f["straight"] for f in figures):
        findings.warnings.append(
            "no half-transparent pixel is brighter than its alpha: the images look premultiplied, "
            "but straight alpha is expected; dark rims will show unless they are converted"
        )


def _note_masks(masks: RaggedStore, ready: Sequence[Ready], findings: Findings) -> None:
    files = [r for r in ready if r.view.mask_path]
    used = sum(f["used"] for f in masks.figures)
    total = int(masks.sizes.prod(axis=1).sum())
    rules = {"black" if r.view.mask_zero_ignores else "not black" for r in files}
    findings.notes["masks"] = {
        "views": len(files),
        "ignored": " or ".join(sorted(rules)),
        "share_used": used / total,
    }
    if used == 0:
        raise InputError(
            f"the masks ignore every pixel (ignored is what is {' or '.join(sorted(rules))}); "
            f"invert them, the first is {files[0].view.mask_path}"
        )


def is_transparent(images: RaggedStore) -> bool:
    """Whether most images show real transparency: an object cut out, the scene ends with it."""
    shares = [f.get("transparent", 0.0) for f in images.figures]
    return bool(shares) and sorted(shares)[len(shares) // 2] > 0.02
