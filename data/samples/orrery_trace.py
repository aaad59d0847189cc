"""Rays against the ``orrery``: sphere tracing part by part, normals, soft shadows, occlusion.

Symbols: o ray origins, d unit directions, t distance along a ray, h distance to a part. Every
array is float64 with one entry per ray; only correctly rounded operations are used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyfield.data.samples.orrery_light import (
    KEY,
    MATERIALS,
    Triple,
    Visibility,
    display,
    reflect,
    shade,
    smooth,
)
from polyfield.data.samples.orrery_surface import PARTS, Array, Part, dot, length

STEPS, CLOSE = 400, 2e-5
NAMES = tuple(PARTS)


@dataclass(frozen=True)
class Hits:
    """First surface point of each ray: t (infinite where nothing is hit) and the part's index."""

    t: Array
    part: Array


def _at(o: Triple, d: Triple, t: Array) -> Triple:
    return tuple(a + t * b for a, b in zip(o, d, strict=True))


def _pick(triple: Triple, index: Array) -> Triple:
    return tuple(c[index] for c in triple)


def _passage(part: Part, o: Triple, d: Triple) -> tuple[Array, Array, Array]:
    """t of the closest approach to the centre of a part's ball, the distance there, and half the
    chord (-1 where the ray misses the ball)."""
    to_centre = tuple(c - a for a, c in zip(o, part.centre, strict=True))
    middle = dot(to_centre, d)
    gap = dot(to_centre, to_centre) - middle * middle
    room = part.radius * part.radius - gap
    half = np.where(room > 0, np.sqrt(np.maximum(room, 0.0)), -1.0)
    return middle, np.sqrt(np.maximum(gap, 0.0)), half


def _trace_part(part: Part, o: Triple, d: Triple, t: Array, end: Array) -> Array:
    """t of the first point nearer than `CLOSE` to the part, infinite where there is none."""
    found = np.full(t.shape, np.inf)
    rays = np.arange(len(t))
    for _ in range(STEPS):
        h = part.distance(*_at(o, d, t))
        t = t + 0.9 * h
        close, gone = h < CLOSE, t > end
        found[rays[close]] = t[close]
        stay = ~(close | gone)
        if not stay.any():
            break
        rays, t, end, o, d = rays[stay], t[stay], end[stay], _pick(o, stay), _pick(d, stay)
    return found


def trace(o: Triple, d: Triple) -> Hits:
    """The first hit of each ray."""
    best, which = np.full(d[0].shape, np.inf), np.full(d[0].shape, -1)
    for index, name in enumerate(NAMES):
        part = PARTS[name]
        middle, _, half = _passage(part, o, d)
        start = np.maximum(middle - half, 0.0)
        rays = np.flatnonzero((half > 0) & (start < best) & (middle + half > 0))
        end = np.minimum(middle + half, best)[rays]
        t = _trace_part(part, _pick(o, rays), _pick(d, rays), start[rays], end)
        nearer = t < best[rays]
        best[rays[nearer]] = t[nearer]
        which[rays[nearer]] = index
    return Hits(best, which)


def normals(part: Part, point: Triple) -> Triple:
    """Unit gradients of a part's distance, by differences at the corners of a tetrahedron."""
    step = 1e-4
    total = [0.0, 0.0, 0.0]
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        h = part.distance(*(p + step * c for p, c in zip(point, corner, strict=True)))
        total = [a + h * c for a, c in zip(total, corner, strict=True)]
    norm = np.maximum(length(*total), 1e-12)
    return tuple(a / norm for a in total)


def light_through(o: Triple, d: Triple, sharpness: float) -> Array:
    """How much of a round lamp in direction `d` is seen from `o`: 0 hidden, 1 in full.

    The smallest clearance angle along the ray, times `sharpness`, passed through a cubic (the
    usual soft shadow of distance fields). Points should be lifted off their own surface.
    """
    clear = np.ones(o[0].shape)
    for part in PARTS.values():
        middle, gap, half = _passage(part, o, d)
        reach = middle + part.radius
        rays = np.flatnonzero((reach > 0) & (sharpness * (gap - part.radius) < reach))
        if len(rays):
            margin = part.radius + np.maximum(gap - part.radius, 0.0) + 0.05
            start = np.maximum(middle - margin, 0.0)[rays]
            clear[rays] = np.minimum(
                clear[rays],
                _clearance(part, _pick(o, rays), _pick(d, rays), (start, reach[rays]), sharpness),
            )
    t = 0.25 * (1 + clear) * (1 + clear)
    return t * (2 - clear)


def _clearance(
    part: Part, o: Triple, d: Triple, span: tuple[Array, Array], sharpness: float
) -> Array:
    """min over the ray of sharpness * h / t, in [-1, 1]."""
    t, end = span
    least = np.ones(t.shape)
    rays = np.arange(len(t))
    for _ in range(48):
        h = part.distance(*_at(o, d, t))
        least[rays] = np.minimum(least[rays], sharpness * h / np.maximum(t, 0.02))
        t = t + np.maximum(0.7 * np.abs(h), 0.012)
        stay = (t < end) & (least[rays] > -1)
        if not stay.any():
            break
        rays, t, end, o, d = rays[stay], t[stay], end[stay], _pick(o, stay), _pick(d, stay)
    return np.maximum(least, -1.0)


def _nearest(point: Triple, cap: float) -> Array:
    """Distance to the union, cut at `cap` (parts farther than that are not evaluated)."""
    nearest = np.full(point[0].shape, cap)
    for part in PARTS.values():
        apart = tuple(p - c for p, c in zip(point, part.centre, strict=True))
        reach = part.radius + cap
        near = np.flatnonzero(dot(apart, apart) < reach * reach)
        if len(near):
            h = part.distance(*_pick(point, near))
            nearest[near] = np.minimum(nearest[near], h)
    return nearest


def open_sky(point: Triple, n: Triple) -> Array:
    """Ambient occlusion: how far the distance falls short of the height above the surface."""
    shortage, weight, total = 0.0, 1.0, 0.0
    for height in (0.025, 0.06, 0.12, 0.22, 0.36):
        free = _nearest(_at(point, n, np.full(point[0].shape, height)), height)
        shortage = shortage + weight * (height - np.maximum(free, 0.0)) / height
        total = total + weight
        weight = weight * 0.8
    openness = 1 - np.minimum(1.1 * shortage / total, 1.0)
    return 0.12 + 0.88 * openness


def colours(o: Triple, d: Triple) -> tuple[Triple, Array]:
    """Display colours of rays and whether they hit (colours are 0 where they do not)."""
    hits = trace(o, d)
    struck = np.flatnonzero(hits.part >= 0)
    part = hits.part[struck]
    groups = [np.flatnonzero(part == index) for index in range(len(NAMES))]
    point = _at(_pick(o, struck), _pick(d, struck), hits.t[struck])
    v = tuple(-c for c in _pick(d, struck))
    n = tuple(np.zeros(len(struck)) for _ in range(3))
    for name, group in zip(NAMES, groups, strict=True):
        _put(n, group, normals(PARTS[name], _pick(point, group)))
    lit = visibility(part, point, n, v)
    out = tuple(np.zeros(d[0].shape) for _ in range(3))
    for name, group in zip(NAMES, groups, strict=True):
        seen = Visibility(lit.key[group], lit.sky[group], lit.mirrored[group])
        shaded = shade(MATERIALS[name], *(_pick(a, group) for a in (point, n, v)), seen)
        _put(out, struck[group], display(shaded))
    return out, hits.part >= 0


def _put(triple: Triple, index: Array, values: Triple) -> None:
    for channel, value in zip(triple, values, strict=True):
        channel[index] = value


def visibility(part: Array, point: Triple, n: Triple, v: Triple) -> Visibility:
    """What reaches surface points of the parts with the given indices, seen from `v`."""
    lifted = _at(point, n, np.full(part.shape, 0.012))
    sky = open_sky(point, n)
    key = np.zeros(part.shape)
    lit = np.flatnonzero(dot(n, KEY) > 0)
    key[lit] = light_through(_pick(lifted, lit), tuple(np.full(len(lit), c) for c in KEY), 9.0)
    mirrored = sky.copy()
    shiny = np.array([MATERIALS[name].coat + MATERIALS[name].metal > 0.03 for name in NAMES])
    glossy = np.flatnonzero(shiny[part])
    through = light_through(_pick(lifted, glossy), _pick(reflect(n, v), glossy), 5.0)
    mirrored[glossy] = 0.15 + 0.85 * through * smooth(sky[glossy], 0.0, 0.5)
    return Visibility(key, sky, mirrored)
