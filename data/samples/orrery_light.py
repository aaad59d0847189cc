"""Materials and light of the ``orrery`` sample: smooth, rational, the same bits everywhere.

Symbols: x, y, z points on a part, n unit normal, v unit direction to the camera, l unit direction
to the key light. Colours are triples of linear intensities until `display` encodes them.
Like the surface, this uses only operations that IEEE 754 rounds correctly, and integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from polyfield.data.samples import orrery_surface as surface
from polyfield.data.samples.orrery_surface import Array, Ring, Vector, dot, length, unit

Triple = tuple[Array, Array, Array]
Albedo = Callable[[Array, Array, Array], Triple]


@dataclass(frozen=True)
class Material:
    """Albedo as a function of position, reflectance at normal incidence, and roughness.

    `coat` is the reflectance of a clear glaze; a `metal` reflects its albedo instead.
    `roughness` is the width of the GGX highlight (Walter et al. 2007), 1 being matt.
    """

    albedo: Albedo
    coat: float = 0.0
    roughness: float = 1.0
    metal: float = 0.0


CREAM, SLATE, CORAL = (0.84, 0.74, 0.55), (0.07, 0.09, 0.13), (0.78, 0.17, 0.10)
PINE, VEIN = (0.012, 0.085, 0.065), (0.50, 0.60, 0.48)
WALNUT, OAK = (0.22, 0.09, 0.035), (0.5, 0.27, 0.1)
BRASS, COPPER, STEEL = (0.80, 0.55, 0.20), (0.72, 0.30, 0.16), (0.50, 0.52, 0.55)
COBALT, TEAL, SEA = (0.015, 0.06, 0.36), (0.02, 0.26, 0.38), (0.03, 0.16, 0.48)
LAND, DUST, ASH = (0.16, 0.36, 0.07), (0.7, 0.68, 0.64), (0.28, 0.28, 0.30)
SAND, RUST = (0.80, 0.62, 0.38), (0.55, 0.22, 0.09)
WINE, INDIGO = (0.50, 0.015, 0.05), (0.10, 0.06, 0.30)

KEY = unit((0.5, -0.38, 0.78))
KEY_COLOUR, SKY, GROUND = (3.3, 3.0, 2.5), (0.62, 0.72, 0.92), (0.30, 0.24, 0.18)


def smooth(value: Array | float, low: float, high: float) -> Array | float:
    """Cubic step from 0 at `low` to 1 at `high`."""
    t = np.minimum(np.maximum((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def mix(weight: Array, zero: Vector, one: Vector) -> Triple:
    """Colour `zero` where the weight is 0 and `one` where it is 1."""
    return tuple(a + weight * (b - a) for a, b in zip(zero, one, strict=True))


def wave(value: Array) -> Array:
    """Triangle wave of period 1 with values in [0, 1], 0 at the integers."""
    return 1 - np.abs(2 * (value - np.floor(value)) - 1)


def _lattice(i: Array, j: Array, k: Array) -> Array:
    """Pseudo-random numbers in [0, 1) of integer lattice points."""
    h = i * np.uint32(0x9E3779B1) ^ j * np.uint32(0x85EBCA77) ^ k * np.uint32(0xC2B2AE3D)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39)
    return (h >> np.uint32(8)).astype(np.float64) / 16777216.0


def noise(x: Array, y: Array, z: Array, frequency: float) -> Array:
    """Value noise in [0, 1]: random values on a lattice, blended by cubics."""
    cells = [np.floor(c * frequency) for c in (x, y, z)]
    fractions = [c * frequency - cell for c, cell in zip((x, y, z), cells, strict=True)]
    u, v, w = (f * f * (3 - 2 * f) for f in fractions)
    i, j, k = (cell.astype(np.int64).astype(np.uint32) for cell in cells)
    one = np.uint32(1)
    total = np.zeros_like(x)
    for di, weight_u in ((i, 1 - u), (i + one, u)):
        for dj, weight_v in ((j, 1 - v), (j + one, v)):
            near, far = _lattice(di, dj, k), _lattice(di, dj, k + one)
            total = total + weight_u * weight_v * (near + w * (far - near))
    return total


def turns(cosine: Array, sine: Array, doublings: int) -> tuple[Array, Array]:
    """cos and sin of 2^doublings times an angle."""
    for _ in range(doublings):
        cosine, sine = cosine * cosine - sine * sine, 2 * cosine * sine
    return cosine, sine


def _plain(x: Array, y: Array, z: Array, colour: Vector) -> Triple:
    return tuple(np.full_like(x, c) for c in colour)


def _plinth(x: Array, y: Array, z: Array) -> Triple:
    """Chequered floor inside a marble drum."""
    r = np.maximum(length(x, y), 1e-9)
    _, sine = turns(x / r, y / r, 3)
    rings = np.floor((r - 0.09) / 0.09)
    odd = rings - 2 * np.floor(rings / 2)
    dark = np.where((sine < 0) == (odd > 0.5), 1.0, 0.0)
    floor = mix(dark, CREAM, SLATE)
    warp = noise(x, y, z, 3.0) + 0.5 * noise(x, y, z, 7.0)
    vein = wave(1.6 * x - 1.1 * y + 2.0 * z + 1.3 * warp)
    marble = mix(smooth(vein, 0.84, 0.98) + 0.10 * warp, PINE, VEIN)
    on_floor = (z > surface.PLINTH_TOP - 0.008) & (r < 0.54)
    rim = (z > -0.808) & ~on_floor
    return tuple(
        np.where(on_floor, f, np.where(rim, b, m))
        for f, b, m in zip(floor, mix(0.25 * warp, RUST, CREAM), marble, strict=True)
    )


def _knot(x: Array, y: Array, z: Array) -> Triple:
    """Candy stripes that wind around the tube."""
    c, s, u, v, _ = surface.knot_frame(x, y, z)
    u = u - surface.KNOT_OFFSET * np.where(u < 0, -1.0, 1.0)
    around = np.maximum(length(u, v), 1e-9)
    c, s = turns(c, s, 4)
    stripe = (s * u + c * v) / around
    return mix(smooth(stripe, -0.12, 0.12), CREAM, CORAL)


def _column(x: Array, y: Array, z: Array) -> Triple:
    """Strands of two woods with grain."""
    u, v, _ = surface.column_frame(x, y, z)
    grain = wave(30.0 * u + 3.0 * noise(x, y, z, 9.0))
    wood = np.where(np.abs(u) > np.abs(v), 0.9, 0.15)
    return mix(0.75 * wood + 0.25 * grain, WALNUT, OAK)


def _gear(x: Array, y: Array, z: Array, teeth: tuple[int, float, float], body: Vector) -> Triple:
    """A metal wheel with a turned groove and enamelled teeth of two colours.

    teeth: log2 of half their number, the radius where they begin, the radius of the groove.
    """
    doublings, root, groove = teeth
    r = np.maximum(length(x, y), 1e-9)
    cosine, _ = turns(x / r, y / r, doublings)
    enamel = mix(smooth(cosine, -0.1, 0.1), TEAL, CORAL)
    turned = smooth(np.abs(r - groove), 0.006, 0.016)
    metal = mix(turned, WALNUT, body)
    return tuple(np.where(r > root, e, m) for e, m in zip(enamel, metal, strict=True))


def _pinion(x: Array, y: Array, z: Array) -> Triple:
    wheel = _gear(x - surface.PINION[0], y - surface.PINION[1], z, (2, 0.147, 0.09), COPPER)
    post = np.abs(z - surface.GEAR_HEIGHT) > 0.05
    return tuple(np.where(post, s, w) for s, w in zip(STEEL, wheel, strict=True))


def _sun(x: Array, y: Array, z: Array) -> Triple:
    """A glaze that runs from teal to cobalt, with a golden belt."""
    height = (z - surface.SUN[2]) / surface.SUN_RADIUS
    cloud = noise(x, y, z, 9.0)
    glaze = mix(smooth(height + 0.8 * (cloud - 0.5), -0.5, 0.7), COBALT, TEAL)
    belt = smooth(np.abs(height + 0.05), 0.08, 0.12)
    return tuple(g + belt * (c - g) for g, c in zip(BRASS, glaze, strict=True))


def _frame(axis: Vector) -> tuple[Vector, Vector]:
    """Two unit vectors at right angles to each other and to a unit axis; the first is level."""
    a, b = axis, unit((-axis[1], axis[0], 0.0))
    return b, (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _on_ring(x: Array, y: Array, z: Array, ring: Ring) -> Triple:
    """cos and sin of the azimuth on a ring, and the distance from its axis."""
    p = (x - ring.centre[0], y - ring.centre[1], z - ring.centre[2])
    u, v = (dot(p, e) for e in _frame(ring.axis))
    r = np.maximum(length(u, v), 1e-9)
    return u / r, v / r, r


def _zodiac(x: Array, y: Array, z: Array) -> Triple:
    """A brass band divided into dark and light."""
    cosine, sine, _ = _on_ring(x, y, z, surface.ECLIPTIC)
    _, sine = turns(cosine, sine, 4)
    return mix(smooth(sine, -0.15, 0.15), INDIGO, BRASS)


def _halo(x: Array, y: Array, z: Array) -> Triple:
    """Concentric stripes of the giant's ring."""
    _, _, r = _on_ring(x, y, z, surface.GIANT_RING)
    return mix(smooth(wave((r - 0.175) / 0.05), 0.35, 0.65), SAND, INDIGO)


def _chequered(x: Array, y: Array, z: Array) -> Triple:
    """Eight by sixteen fields between the poles."""
    x, y, z = (c - o for c, o in zip((x, y, z), surface.CHEQUERED, strict=True))
    r = np.maximum(length(x, y), 1e-9)
    _, sine = turns(x / r, y / r, 2)
    bands = np.floor(4 * z / surface.CHEQUERED_RADIUS + 0.5)
    odd = bands - 2 * np.floor(bands / 2)
    return mix(np.where((sine < 0) == (odd > 0.5), 1.0, 0.0), SAND, INDIGO)


def _giant(x: Array, y: Array, z: Array) -> Triple:
    """Cloud bands, slightly stirred, around the axis of the ring."""
    p = tuple(c - o for c, o in zip((x, y, z), surface.GIANT, strict=True))
    height = dot(p, surface.GIANT_RING.axis) / surface.GIANT_RADIUS
    stirred = height + 0.35 * (noise(x, y, z, 12.0) - 0.5)
    return mix(smooth(wave(1.6 * stirred), 0.1, 0.9), RUST, SAND)


def _earth(x: Array, y: Array, z: Array) -> Triple:
    """Seas, land and polar caps."""
    relief = 0.65 * noise(x, y, z, 11.0) + 0.35 * noise(x, y, z, 23.0)
    land = smooth(relief, 0.50, 0.56)
    height = np.abs(z - surface.EARTH[2]) / surface.EARTH_RADIUS
    ice = smooth(height + 0.3 * (relief - 0.5), 0.80, 0.86)
    base = mix(land, SEA, LAND)
    return tuple(b + ice * (0.8 - b) for b in base)


def _moon(x: Array, y: Array, z: Array) -> Triple:
    return mix(smooth(noise(x, y, z, 30.0), 0.3, 0.7), ASH, DUST)


def _metal(colour: Vector, roughness: float = 0.32) -> Material:
    return Material(partial(_plain, colour=colour), 0.0, roughness, 1.0)


_WHEEL = partial(_gear, teeth=(3, 0.332, 0.3), body=BRASS)

MATERIALS: Mapping[str, Material] = {
    "plinth": Material(_plinth, 0.02, 0.75),
    "knot": Material(_knot, 0.04, 0.42),
    "column": Material(_column, 0.02, 0.5),
    "shaft": _metal(BRASS),
    "gear": Material(_WHEEL, 0.04, 0.52, 0.6),
    "pinion": Material(_pinion, 0.04, 0.52, 0.6),
    "sun": Material(_sun, 0.09, 0.36),
    "meridian": _metal(BRASS),
    "ecliptic": Material(_zodiac, 0.04, 0.35, 0.5),
    "finial": _metal(COPPER, 0.25),
    "chequered": Material(_chequered),
    "giant": Material(_giant),
    "giant ring": Material(_halo),
    "earth": Material(_earth, 0.06, 0.38),
    "moon": Material(_moon),
    "ruby": Material(partial(_plain, colour=WINE), 0.09, 0.36),
    "chequered arm": _metal(STEEL),
    "giant arm": _metal(STEEL),
    "earth arm": _metal(STEEL),
    "ruby arm": _metal(STEEL),
    "moon arm": _metal(STEEL),
}


def _softbox(d: Triple, towards: Vector, half: float) -> Array:
    """A square lamp seen in direction `d`: 1 inside, 0 outside, blurred edges."""
    ahead = np.maximum(dot(d, towards), 0.05)
    lit = smooth(dot(d, towards), 0.05, 0.3)
    for side in _frame(towards):
        lit = lit * (1 - smooth(np.abs(dot(d, side) / ahead), half - 0.15, half + 0.1))
    return lit


WINDOW, LAMP = unit((-0.6, -0.55, 0.55)), unit((-0.1, 0.9, 0.42))


def surroundings(d: Triple) -> Triple:
    """What a glossy part sees in direction `d`: sky over warm ground, a window and a lamp."""
    up = smooth(d[2], -0.35, 0.6)
    window, lamp = _softbox(d, WINDOW, 0.55), _softbox(d, LAMP, 0.4)
    sky = mix(up, (0.22, 0.18, 0.15), (0.62, 0.72, 0.88))
    return tuple(
        s + 5.0 * window * w + 2.5 * lamp * m
        for s, w, m in zip(sky, (0.95, 1.0, 1.1), (1.1, 1.0, 0.85), strict=True)
    )


@dataclass(frozen=True)
class Visibility:
    """What reaches a point: of the key light, of the sky, and of the mirrored surroundings."""

    key: Array
    sky: Array
    mirrored: Array


def reflect(n: Triple, v: Triple) -> Triple:
    """Mirror the direction `v` about the normal."""
    twice = 2 * dot(n, v)
    return tuple(twice * a - b for a, b in zip(n, v, strict=True))


def _highlight(n: Triple, v: Triple, roughness: float) -> Array:
    """GGX lobe of the key light, its peak kept low enough for 8-bit pictures."""
    half = tuple(a + b for a, b in zip(v, KEY, strict=True))
    cosine = np.maximum(dot(n, half), 0.0) / np.maximum(length(*half), 1e-9)
    square = roughness * roughness
    square = square * square
    lobe = square / (1 - (1 - square) * cosine * cosine)
    return lobe * lobe / (4 * square + 0.02)


def shade(material: Material, point: Triple, n: Triple, v: Triple, seen: Visibility) -> Triple:
    """Linear colour of surface points: Lambert + sky + ground, under a glaze or of metal."""
    albedo = material.albedo(*point)
    facing = np.maximum(dot(n, KEY), 0.0)
    key = facing * seen.key
    up = 0.5 + 0.5 * n[2]
    grazing = 1 - np.maximum(dot(n, v), 0.0)
    fifth = grazing * grazing
    fifth = fifth * fifth * grazing  # Schlick 1994
    gloss = material.coat + (1 - material.roughness) * (1 - material.coat) * fifth
    gloss = gloss * smooth(1 - material.roughness, 0.0, 0.5)
    mirrored = surroundings(reflect(n, v))
    lobe = _highlight(n, v, material.roughness) * seen.key * smooth(dot(n, KEY), 0.0, 0.15)
    matt = 1 - 0.75 * material.metal
    out = []
    for a, k, s, g, e in zip(albedo, KEY_COLOUR, SKY, GROUND, mirrored, strict=True):
        light = 0.62 * key * k + seen.sky * (g + up * (s - g)) * 0.75
        shine = gloss + material.metal * a * (1 - gloss)
        glow = e * seen.mirrored + lobe * k
        out.append(a * light * matt + shine * glow)
    return tuple(out)


def display(colour: Triple) -> Triple:
    """Linear intensity to display values in [0, 1]: a soft shoulder, then gamma 2."""
    white = 9.0  # the square of the intensity that becomes 1
    curved = (c * (1 + c / white) / (1 + 0.55 * c) * 1.05 for c in colour)
    return tuple(np.sqrt(np.minimum(c, 1.0)) for c in curved)
