"""Shapes: meshes as signed distances or occupancy around their surface.

The mesh is moved into the box by a similarity that is kept (`meta["transform"]`). Points near
the surface and uniform in the box, with exact distances in box units, are prepared once and
cached; a further set of uniform points is held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfield.data.scene import SceneTransform
from polyfield.data.signal import Grid, Signal, SignalOptions, SignalReport
from polyfield.data.signals.blocks import in_rows, refuse_suffix, write_npy
from polyfield.data.signals.cache import cached_rows, content_hash
from polyfield.data.signals.marching import marching_cubes
from polyfield.data.signals.meshes import SUFFIXES, WRITES, open_edges, read_mesh, write_mesh
from polyfield.data.signals.samples import PointSamples
from polyfield.data.signals.triangles import TriangleTree, sample_surface, triangle_tree
from polyfield.errors import ConfigError, InputError, TrainingError
from polyfield.registry import register

HELD_OUT = 1 << 17  # uniform points kept for evaluation, at most an eighth of those to fit
_BLOCK = 1 << 15
_UNSURE = 0.02  # share of points between inside and outside from which on it is said


@register("shape", kind="signals", order=50)
class ShapeFile:
    """A triangle mesh, as signed distance (negative inside) or occupancy."""

    looks_for = "a mesh as .obj, .ply, .stl, .off, .glb"

    @staticmethod
    def detect(path: Path) -> str | None:
        """By suffix."""
        suffix = path.suffix.lower()
        return f"{suffix} is a mesh" if suffix in SUFFIXES else None

    @staticmethod
    def load(path: Path, options: SignalOptions) -> Signal:
        """Prepare points and their distances unless they are cached.

        Raises:
            InputError: The mesh cannot be read, has no faces or encloses nothing.
            ConfigError: A holdout is asked for, which shapes have of their own.
        """
        if options.holdout is not None:
            raise ConfigError(
                f"holdout '{options.holdout}' means nothing for a shape: points of their own are "
                "always kept for evaluation; leave it out"
            )
        vertices, faces = read_mesh(path)
        transform = fit_transform(vertices[np.unique(faces)], options.margin, path)
        key = content_hash(
            path, "shape", options.points, options.near, options.near_std, options.margin,
            options.holdout_seed,
        )  # fmt: skip

        def make(figures: dict[str, Any]) -> Iterator[np.ndarray]:
            figures["open_edges"] = open_edges(vertices, faces)
            yield from _pool(transform.to_box(vertices[faces]), options, figures)

        rows, figures, warning = cached_rows(key, (4,), np.float32, make)
        if not figures["inside"]:
            raise InputError(
                f"mesh {path} encloses nothing: no point of the box lies inside; its faces are "
                "flat, wholly open, or turned against each other; repair it first"
            )
        kept = _kept(options.points)
        values = rows[:, 3:]
        if options.target == "occupancy":
            values = (values < 0).astype(np.float32)
        return Signal(
            name=path.stem, path=path, modality="shape", dims=3, channels=1, shape=(),
            content_hash=content_hash(path, key, options.target), holdout=None,
            samples=PointSamples(rows[:, :3], values, kept),
            report=_report(warning, figures, vertices, faces),
            meta={
                "shape": [], "channels": 1, "target": options.target,
                "transform": transform.to_plain(),
            },
        )  # fmt: skip

    @staticmethod
    def write(blocks: Iterable[Tensor], meta: dict[str, Any], grid: Grid, out: Path) -> None:
        """As a mesh in the user's units, by marching cubes over the grid; ``.npy``: the values.

        Raises:
            InputError: The format is unknown or the file cannot be written.
            TrainingError: The values have no surface.
        """
        suffix = out.suffix.lower()
        if suffix == ".npy":
            write_npy(blocks, grid, 1, out)
            return
        if suffix not in WRITES:
            raise refuse_suffix(out, (*WRITES, ".npy"), "a shape")
        write_mesh(*surface(blocks, meta, grid), out)


def surface(
    blocks: Iterable[Tensor], meta: dict[str, Any], grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in the user's units, and triangles, of the values over a grid.

    Raises:
        TrainingError: All values are inside, or all outside.
    """
    sign, level = (-1.0, -0.5) if meta["target"] == "occupancy" else (1.0, 0.0)
    layers = (sign * layer[..., 0] for layer in in_rows(blocks, grid, 1))
    indices, faces = marching_cubes(layers, level)
    if not len(faces):
        raise TrainingError(
            f"the field has no surface on a grid of {grid.shape[0]}^3: it is all inside or all "
            "outside; fit it for longer"
        )
    box = (2 * indices + 1) / np.array(grid.shape) - 1
    return SceneTransform.from_plain(meta["transform"]).to_world(box), faces


def fit_transform(vertices: np.ndarray, margin: float, path: Path) -> SceneTransform:
    """The similarity that puts a shape's box into the middle of [-1, 1]^3.

    Raises:
        InputError: All vertices are in one place.
    """
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    half = float((high - low).max()) / 2
    if not half > 0:
        raise InputError(f"mesh {path} is a single point; export it again")
    centre = tuple(float(c) for c in (low + high) / 2)
    return SceneTransform(scale=(1 - margin) / half, centre=centre)


def _kept(points: int) -> int:
    return min(HELD_OUT, points // 8)


def _pool(
    triangles: np.ndarray, options: SignalOptions, figures: dict[str, Any]
) -> Iterator[np.ndarray]:
    """Rows (x, y, z, signed distance): near the surface, uniform, and last those held out."""
    generator = torch.Generator().manual_seed(options.holdout_seed)
    tree = triangle_tree(triangles)
    near = round(options.points * options.near)
    stds = [(near // 2, options.near_std[0]), (near - near // 2, options.near_std[1])]
    uniform = options.points - near
    inside = unsure = 0
    for count, std in [*stds, (uniform, None), (_kept(options.points), None)]:
        for low in range(0, count, _BLOCK):
            n = min(_BLOCK, count - low)
            x = _draw(triangles, n, std, generator)
            rows, windings = _measured(tree, x)
            inside += int((rows[:, 3] < 0).sum())
            unsure += int((np.abs(np.abs(windings) % 1 - 0.5) < 0.25).sum()) if std is None else 0
            yield rows
    figures["inside"] = inside
    figures["unsure"] = unsure / (uniform + _kept(options.points))


def _draw(
    triangles: np.ndarray, n: int, std: float | None, generator: torch.Generator
) -> np.ndarray:
    """Points in the box, float32: uniform, or at a normally distributed offset from the surface."""
    if std is None:
        x = 2 * torch.rand(n, 3, generator=generator, dtype=torch.float64) - 1
        return x.numpy().astype(np.float32)
    offset = std * torch.randn(n, 3, generator=generator, dtype=torch.float64).numpy()
    x = sample_surface(triangles, n, generator) + offset
    reflected = np.where(np.abs(x) > 1, np.sign(x) * 2 - x, x)
    return reflected.clip(-1, 1).astype(np.float32)


def _measured(tree: TriangleTree, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    windings = tree.winding(x)
    distance = tree.distance(x)
    signed = np.where(np.abs(windings) > 0.5, -distance, distance)
    return np.concatenate([x, signed[:, None].astype(np.float32)], axis=1), windings


def _report(
    warning: str | None, figures: dict[str, Any], vertices: np.ndarray, faces: np.ndarray
) -> SignalReport:
    warnings = [warning] if warning else []
    if figures["open_edges"]:
        warnings.append(
            f"the mesh has holes ({figures['open_edges']} open edges): they are closed by the "
            "winding number, and distances there are to the rim"
        )
    if figures["unsure"] > _UNSURE:
        warnings.append(
            f"for {figures['unsure']:.0%} of the box inside and outside are unclear: faces are "
            "missing or turned against each other; repair the mesh for a better fit"
        )
    used = vertices[np.unique(faces)]
    notes = {
        "triangles": len(faces), "open_edges": figures["open_edges"],
        "low": used.min(axis=0).tolist(), "high": used.max(axis=0).tolist(),
    }  # fmt: skip
    return SignalReport("shape", "", tuple(warnings), notes)
