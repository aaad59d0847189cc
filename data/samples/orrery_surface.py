"""The surface of the ``orrery`` sample: signed distances of its parts, in closed form.

Symbols: x, y, z world coordinates (z up), r distance from an axis, p a point relative to a part,
d signed distance (negative inside). World units; the whole object lies in a ball of radius 1.25.

Only + - * / sqrt, min, max, abs and comparisons are used, each correctly rounded by IEEE 754, so
that every machine gets the same bits. This rules out sin, cos and exp (angles are folded by
reflections, rotations are rational), ``**``, complex numbers and sums by BLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64

Array = np.ndarray
Vector = tuple[float, float, float]
Distance = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Part:
    """One solid of the union: its signed distance, and a ball (centre, radius) that holds it."""

    distance: Distance
    centre: Vector
    radius: float


@dataclass(frozen=True)
class Ring:
    """A flat ring: mean radius, half sizes across (radially) and along its unit axis."""

    centre: Vector
    axis: Vector
    radius: float
    half_width: float
    half_height: float


def dot(a: Sequence, b: Sequence) -> Array | float:
    """Inner product of two triples, summed from left to right."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def length(*components: Array | float) -> Array | float:
    """Euclidean norm, summed from left to right."""
    total = components[0] * components[0]
    for component in components[1:]:
        total = total + component * component
    return np.sqrt(total)


def unit(vector: Vector) -> Vector:
    """The vector divided by its norm."""
    norm = float(length(*(np.float64(c) for c in vector)))
    return vector[0] / norm, vector[1] / norm, vector[2] / norm


# cos and sin of pi/4, pi/8, pi/16 and pi/32 by the half-angle formula: mirrors of the folds.
def _mirrors() -> tuple[tuple[float, float], ...]:
    cosine, found = 0.0, []
    for _ in range(4):
        sine = float(np.sqrt(np.float64((1 - cosine) / 2)))
        cosine = float(np.sqrt(np.float64((1 + cosine) / 2)))
        found.append((cosine, sine))
    return tuple(found)


MIRRORS = _mirrors()


def fold(x: Array, y: Array, folds: int) -> tuple[Array, Array]:
    """Reflect the plane into the wedge 0 <= angle <= pi / 2^(folds + 1).

    A shape drawn in the wedge appears in each of its 2^(folds + 2) mirror images, and the
    distance stays exact: the nearest image is never on the other side of a mirror.
    """
    x, y = np.abs(x), np.abs(y)
    for cosine, sine in MIRRORS[:folds]:
        beyond = 2 * np.maximum(cosine * y - sine * x, 0.0)
        x, y = x + sine * beyond, y - cosine * beyond
    return x, y


def box(a: Array, b: Array, half_a: float, half_b: float, rounding: float = 0.0) -> Array:
    """Rectangle with rounded corners in the plane (a, b); exact."""
    a, b = np.abs(a) - (half_a - rounding), np.abs(b) - (half_b - rounding)
    outside = length(np.maximum(a, 0.0), np.maximum(b, 0.0))
    return outside + np.minimum(np.maximum(a, b), 0.0) - rounding


def _slab(flat: Array, height: Array, half: float, rounding: float) -> Array:
    """A plane shape with distance `flat`, extruded to |height| <= half."""
    a, b = flat + rounding, np.abs(height) - (half - rounding)
    outside = length(np.maximum(a, 0.0), np.maximum(b, 0.0))
    return outside + np.minimum(np.maximum(a, b), 0.0) - rounding


def _ball(x: Array, y: Array, z: Array, centre: Vector, radius: float) -> Array:
    return length(x - centre[0], y - centre[1], z - centre[2]) - radius


def _rod(x: Array, y: Array, z: Array, start: Vector, end: Vector, radius: float) -> Array:
    """A capsule from `start` to `end`."""
    along = (end[0] - start[0], end[1] - start[1], end[2] - start[2])
    p = (x - start[0], y - start[1], z - start[2])
    s = np.minimum(np.maximum(dot(p, along) / dot(along, along), 0.0), 1.0)
    return length(p[0] - s * along[0], p[1] - s * along[1], p[2] - s * along[2]) - radius


def _band(x: Array, y: Array, z: Array, ring: Ring) -> Array:
    """A flat ring: a rounded rectangle turned around the axis of `ring`."""
    p = (x - ring.centre[0], y - ring.centre[1], z - ring.centre[2])
    height = dot(p, ring.axis)
    in_plane = (p[0] - height * ring.axis[0], p[1] - height * ring.axis[1])
    r = length(*in_plane, p[2] - height * ring.axis[2])
    return box(r - ring.radius, height, ring.half_width, ring.half_height, 0.006)


def _strand(u: Array, v: Array, offset: float, radius: float, rate: Array) -> Array:
    """A round strand at (offset, 0) of a plane that turns by `rate` radians per unit of length.

    Dividing by the gradient's norm makes the distance exact to first order at the surface.
    """
    core = length(u - offset, v)
    lean = rate * offset * v / np.maximum(core, 1e-9)
    return (core - radius) / np.sqrt(1 + lean * lean)


PLINTH_TOP, KNOT_HEIGHT = -0.73, -0.543
KNOT_RADIUS, KNOT_OFFSET, KNOT_TUBE = 0.37, 0.115, 0.072
COLUMN_MIDDLE, COLUMN_HALF, COLUMN_OFFSET, COLUMN_STRAND = -0.47, 0.26, 0.058, 0.05
GEAR_HEIGHT = -0.12
PINION = (-0.54, 0.0, GEAR_HEIGHT)
SUN, SUN_RADIUS = (0.0, 0.0, 0.52), 0.25
MERIDIAN = Ring(SUN, (0.6, 0.8, 0.0), 0.36, 0.012, 0.03)
ECLIPTIC = Ring(SUN, (-4 / 13, 3 / 13, 12 / 13), 0.36, 0.012, 0.034)
CHEQUERED, CHEQUERED_RADIUS = (0.64, 0.48, 0.32), 0.18
GIANT, GIANT_RADIUS = (-0.3, 0.72, 0.44), 0.15
GIANT_RING = Ring(GIANT, (3 / 13, -4 / 13, 12 / 13), 0.225, 0.05, 0.012)
EARTH, EARTH_RADIUS = (-0.6, -0.32, 0.2), 0.14
MOON, MOON_RADIUS = (-0.66, -0.5, 0.29), 0.055
RUBY, RUBY_RADIUS = (0.3, -0.72, 0.5), 0.125
ROD = 0.02


def _plinth(x: Array, y: Array, z: Array) -> Array:
    r = length(x, y)
    drum = box(r, z + 0.88, 0.74, 0.07, 0.02)
    u, v = fold(x, y, 4)
    groove = length(u - 0.755, v, np.maximum(np.abs(z + 0.88) - 0.015, 0.0)) - 0.038
    return np.minimum(np.maximum(drum, -groove), box(r, z + 0.77, 0.62, 0.04, 0.012))


def knot_frame(x: Array, y: Array, z: Array) -> tuple[Array, ...]:
    """Where a point is along and around the trefoil's tube.

    Returns:
        cos and sin of the knot's parameter (one turn along the whole strand), the offset (u, v)
        from the axis of the torus in the frame that turns with the strands, and r.
    """
    z = z - KNOT_HEIGHT
    r = np.maximum(length(x, y), 1e-9)
    cosine, sine = x / r, y / r
    c = np.sqrt(np.maximum((1 + cosine) / 2, 0.0))  # half the azimuth
    s = np.where(sine < 0, -1.0, 1.0) * np.sqrt(np.maximum((1 - cosine) / 2, 0.0))
    c3, s3 = (4 * c * c - 3) * c, (3 - 4 * s * s) * s  # three times that
    u, v = c3 * (r - KNOT_RADIUS) + s3 * z, c3 * z - s3 * (r - KNOT_RADIUS)
    side = np.where(u < 0, -1.0, 1.0)
    return side * c, side * s, side * u, side * v, r


def _knot(x: Array, y: Array, z: Array) -> Array:
    _, _, u, v, r = knot_frame(x, y, z)
    inner = KNOT_RADIUS - KNOT_OFFSET - KNOT_TUBE  # no surface nearer to the axis
    return _strand(u, v, KNOT_OFFSET, KNOT_TUBE, 1.5 / np.maximum(r, inner))


def column_frame(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """(x, y) in the frame that turns with the column's strands, and radians turned per unit z."""
    t = 5.5 * (z - COLUMN_MIDDLE)  # tangent of half the angle
    square = t * t
    cosine, sine = (1 - square) / (1 + square), 2 * t / (1 + square)
    return cosine * x + sine * y, cosine * y - sine * x, 11.0 / (1 + square)


def _column(x: Array, y: Array, z: Array) -> Array:
    u, v, rate = column_frame(x, y, z)
    u, v = fold(u, v, 1)
    strands = _strand(u, v, COLUMN_OFFSET, COLUMN_STRAND, rate)
    return np.maximum(strands, np.abs(z - COLUMN_MIDDLE) - COLUMN_HALF)


def _shaft(x: Array, y: Array, z: Array) -> Array:
    r = length(x, y)
    d = box(r, z - 0.05, 0.034, 0.23)
    for height, half, radius in ((-0.185, 0.035, 0.14), (-0.7, 0.035, 0.14)):
        d = np.minimum(d, box(r, z - height, radius, half, 0.015))
    for height in (-0.01, 0.05, 0.11):
        d = np.minimum(d, box(r, z - height, 0.06, 0.025, 0.01))
    return d


def _gear(x: Array, y: Array, z: Array) -> Array:
    u, v = fold(x, y, 2)
    hole = length(u - 0.215, v) - 0.055
    u, v = fold(x, y, 3)
    teeth = box(u - 0.33, v, 0.055, 0.03)
    flat = np.maximum(np.minimum(length(x, y) - 0.33, teeth), -hole)
    return _slab(flat, z - GEAR_HEIGHT, 0.042, 0.008)


def _pinion(x: Array, y: Array, z: Array) -> Array:
    x, y = x - PINION[0], y - PINION[1]
    cosine, sine = MIRRORS[1]  # half a tooth further, so that it meshes with the gear
    u, v = fold(cosine * x - sine * y, sine * x + cosine * y, 2)
    flat = np.minimum(length(x, y) - 0.145, box(u - 0.14, v, 0.055, 0.03))
    wheel = _slab(flat, z - GEAR_HEIGHT, 0.042, 0.008)
    post = box(length(x, y), z + 0.4, 0.026, 0.345, 0.01)
    return np.minimum(wheel, post)


def _arm(x: Array, y: Array, z: Array, height: float, planet: Vector) -> Array:
    elbow = (planet[0], planet[1], height)
    level = _rod(x, y, z, (0.0, 0.0, height), elbow, ROD)
    return np.minimum(level, _rod(x, y, z, elbow, planet, ROD))


def _ball_part(centre: Vector, radius: float) -> Part:
    return Part(partial(_ball, centre=centre, radius=radius), centre, radius)


def _band_part(ring: Ring) -> Part:
    reach = ring.radius + ring.half_width + ring.half_height
    return Part(partial(_band, ring=ring), ring.centre, reach)


def _rod_part(start: Vector, end: Vector, radius: float) -> Part:
    middle = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
    reach = float(length(*(np.float64(b - a) for a, b in zip(start, end, strict=True)))) / 2
    return Part(partial(_rod, start=start, end=end, radius=radius), middle, reach + radius)


def _arm_part(height: float, planet: Vector) -> Part:
    whole = _rod_part((0.0, 0.0, height), planet, ROD)  # the elbow is a right angle: Thales
    return Part(partial(_arm, height=height, planet=planet), whole.centre, whole.radius)


PARTS: Mapping[str, Part] = {
    "plinth": Part(_plinth, (0.0, 0.0, -0.84), 0.76),
    "knot": Part(_knot, (0.0, 0.0, KNOT_HEIGHT), 0.56),
    "column": Part(_column, (0.0, 0.0, COLUMN_MIDDLE), 0.29),
    "shaft": Part(_shaft, (0.0, 0.0, -0.225), 0.53),
    "gear": Part(_gear, (0.0, 0.0, GEAR_HEIGHT), 0.4),
    "pinion": Part(_pinion, (-0.54, 0.0, -0.4), 0.4),
    "sun": _ball_part(SUN, SUN_RADIUS),
    "meridian": _band_part(MERIDIAN),
    "ecliptic": _band_part(ECLIPTIC),
    "finial": _ball_part((0.0, 0.0, 0.91), 0.045),
    "chequered": _ball_part(CHEQUERED, CHEQUERED_RADIUS),
    "giant": _ball_part(GIANT, GIANT_RADIUS),
    "giant ring": _band_part(GIANT_RING),
    "earth": _ball_part(EARTH, EARTH_RADIUS),
    "moon": _ball_part(MOON, MOON_RADIUS),
    "ruby": _ball_part(RUBY, RUBY_RADIUS),
    "chequered arm": _arm_part(0.05, CHEQUERED),
    "giant arm": _arm_part(0.11, GIANT),
    "earth arm": _arm_part(-0.01, EARTH),
    "ruby arm": _arm_part(0.05, RUBY),
    "moon arm": _rod_part(EARTH, MOON, 0.016),
}


def surface_distance(points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " n"]:
    """Signed distance from world points to the surface of the orrery.

    Zero on the surface and negative inside. The error outside is of second order in the distance
    (the twisted and grooved parts; the others are exact), so it is meant for points near the
    surface; inside, where parts overlap, it is a bound. Not differentiable by autograd.

    Args:
        points: World coordinates.

    Returns:
        World units.
    """
    x, y, z = (np.ascontiguousarray(points[:, axis]) for axis in range(3))
    nearest = np.full(len(points), np.inf)
    for part in PARTS.values():
        nearest = np.minimum(nearest, part.distance(x, y, z))
    return nearest
