"""Rays, intervals along them, and what renderers return.

Symbols: o origin, d unit direction, t distance along the ray in scene units (the units of the
scene box), N rays, S intervals per ray, M packed intervals.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.renderers.scans import ray_offsets, select_packed

R = TypeVar("R", bound="Rays")


@dataclass(frozen=True)
class Rays:
    """A batch of rays in the scene box.

    origins, directions (unit): scene units; near, far: range of t to look at; radii: radius of
    the pixel's cone at t=1 (None: unknown); z_scale: camera z-depth per unit of t, so
    ``z = t * z_scale`` (None: no camera plane); times in [0, 1] for dynamic fields;
    view_directions: unit directions to show to the field where they differ from `directions`
    (normalised device coordinates).
    """

    origins: Float[Tensor, "*batch 3"]
    directions: Float[Tensor, "*batch 3"]
    near: Float[Tensor, "*batch"]
    far: Float[Tensor, "*batch"]
    radii: Float[Tensor, "*batch"] | None = None
    z_scale: Float[Tensor, "*batch"] | None = None
    times: Float[Tensor, "*batch"] | None = None
    view_directions: Float[Tensor, "*batch 3"] | None = None

    @property
    def shape(self) -> torch.Size:
        """Leading shape of the batch."""
        return self.near.shape

    @property
    def seen_along(self) -> Float[Tensor, "*batch 3"]:
        """Unit directions to show to the field."""
        return self.directions if self.view_directions is None else self.view_directions

    def __len__(self) -> int:
        return self.near.shape[0]

    def _map(self: R, function) -> R:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: function(v) for k, v in values.items() if v is not None})

    def __getitem__(self: R, index) -> R:
        """Rays at an index of the leading dimensions (slice, mask or integer tensor)."""
        return self._map(lambda v: v[index])

    def to(self: R, device) -> R:
        """The same rays on another device."""
        return self._map(lambda v: v.to(device))

    def flatten(self: R) -> R:
        """One leading dimension."""
        n = len(self.shape)
        return self._map(lambda v: v.reshape(-1, *v.shape[n:]))


@dataclass(frozen=True)
class Intervals:
    """Intervals [t0, t1] along rays: dense (N, S), or packed (M,) with a sorted ray index each.

    Packed rays may own any number of intervals, none included. `offsets`, where whoever packed
    them knows it, spares others the counting: ray r owns offsets[r]:offsets[r + 1].
    """

    t0: Float[Tensor, "*shape"]
    t1: Float[Tensor, "*shape"]
    n_rays: int
    ray_indices: Int64[Tensor, "m"] | None = None
    offsets: Int64[Tensor, "n1"] | None = None

    @property
    def layout(self) -> tuple[Tensor | None, int, Tensor | None]:
        """Ray indices, number of rays and offsets, as the functions of `compositing` take them."""
        return self.ray_indices, self.n_rays, self.offsets

    @property
    def packed(self) -> bool:
        """Whether the layout is packed."""
        return self.ray_indices is not None

    @property
    def mid(self) -> Float[Tensor, "*shape"]:
        """Midpoints."""
        return (self.t0 + self.t1) / 2

    def per_ray(self, values: Tensor) -> Tensor:
        """Per-ray `values` (N, ...) spread over the intervals: (N, S, ...) or (M, ...)."""
        if self.ray_indices is not None:
            return values.index_select(0, self.ray_indices)
        return values[:, None].expand(*self.t0.shape, *values.shape[1:])

    def filled_offsets(self) -> Int64[Tensor, "n1"]:
        """The offsets of packed intervals, counted where they are not known."""
        if self.offsets is not None:
            return self.offsets
        return ray_offsets(self.ray_indices, self.n_rays)

    def select(self, kept: Bool[Tensor, "m"]) -> tuple[Intervals, Int64[Tensor, "k"]]:
        """The packed intervals of a mask, and their positions among these."""
        assert self.ray_indices is not None, "dense intervals cannot lose some"
        at, offsets = select_packed(kept, self.filled_offsets())
        t0, t1, rays = (v.index_select(0, at) for v in (self.t0, self.t1, self.ray_indices))
        return Intervals(t0, t1, self.n_rays, rays, offsets), at


@dataclass(frozen=True)
class Samples:
    """What a sampler returns: the intervals, and what its own training needs.

    extras may hold ``coarse`` (a `Rendered` of the coarse pass) and ``proposals`` (a list of
    ``(edges (N, K+1), weights (N, K))``), which the losses of those names read.
    """

    intervals: Intervals
    extras: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Rendered:
    """Measurements per ray.

    rgb in [0, 1] over the background; depth: expected distance t in scene units (0 where the
    ray hits nothing); opacity in [0, 1]; normals: unit, or None; extras: whatever else was
    asked for (``weights``, ``intervals``, ``median_depth``, ``samples``: a 0-d count, ...).
    """

    rgb: Float[Tensor, "*batch 3"]
    depth: Float[Tensor, "*batch"]
    opacity: Float[Tensor, "*batch"]
    normals: Float[Tensor, "*batch 3"] | None = None
    extras: dict = field(default_factory=dict)
