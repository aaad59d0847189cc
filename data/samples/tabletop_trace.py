"""Rays against the ``tabletop``: a table, a wall, two cards and balls, hit in closed form.

Symbols: o ray origins, d unit directions, t distance along a ray; x to the right, y ahead, z up.
Every array is float64 with one entry per ray. Light, glaze and display are those of the orrery;
like there, only correctly rounded operations are used, so that every machine gets the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polyfield.data.samples.orrery_light import (
    COBALT,
    CORAL,
    CREAM,
    KEY,
    OAK,
    PINE,
    SAND,
    SLATE,
    TEAL,
    VEIN,
    WALNUT,
    WINE,
    Material,
    Triple,
    Visibility,
    display,
    mix,
    noise,
    shade,
    smooth,
    wave,
)
from polyfield.data.samples.orrery_surface import Array, Vector, dot, length

TABLE, WALL = -0.5, 4.5  # height of the table; how far ahead the wall stands


@dataclass(frozen=True)
class Ball:
    """A ball on the table."""

    centre: Vector
    radius: float
    material: Material


@dataclass(frozen=True)
class Card:
    """An upright rectangle that faces the cameras: from `low` to `high` in x and z, at `y`."""

    y: float
    low: tuple[float, float]
    high: tuple[float, float]
    material: Material


def _odd(value: Array) -> Array:
    cell = np.floor(value)
    return cell - 2 * np.floor(cell / 2)


def _chequered(size: float, one: Vector, other: Vector) -> Callable[..., Triple]:
    def albedo(x: Array, y: Array, z: Array) -> Triple:
        odd = _odd(x / size) + _odd(y / size) + _odd(z / size)
        return mix(np.where(_odd(odd) > 0.5, 1.0, 0.0), one, other)

    return albedo


def _striped(axis: Vector, period: float, one: Vector, other: Vector) -> Callable[..., Triple]:
    def albedo(x: Array, y: Array, z: Array) -> Triple:
        height = x * axis[0] + y * axis[1] + z * axis[2]
        return mix(smooth(wave(height / period), 0.42, 0.58), one, other)

    return albedo


def _marble(x: Array, y: Array, z: Array) -> Triple:
    warp = noise(x, y, z, 5.0) + 0.5 * noise(x, y, z, 11.0)
    return mix(smooth(wave(2.0 * x + 1.3 * z + 1.2 * warp), 0.55, 0.95), PINE, VEIN)


def _planks(x: Array, y: Array, z: Array) -> Triple:
    """Boards that run away from the cameras, with grain and seams."""
    board = np.floor(x / 0.22)
    grain = wave(14.0 * x + 0.37 * board + 2.2 * noise(x, 0.4 * y, board, 4.0))
    seam = smooth(np.abs(x / 0.22 - board - 0.5), 0.46, 0.49)
    wood = mix(0.2 + 0.5 * grain + 0.25 * _odd(board), WALNUT, OAK)
    return tuple(c * (1 - 0.7 * seam) for c in wood)


def _paper(x: Array, y: Array, z: Array) -> Triple:
    """Wallpaper: a lattice of rings on soft clouds."""
    u, v = x / 0.5 + 0.5 * _odd(z / 0.5), z / 0.5
    ring = np.abs(length(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) - 0.28)
    ground = mix(0.6 * noise(x, y, z, 2.2), SAND, TEAL)
    mark = 1 - smooth(ring, 0.05, 0.09)
    return tuple(g + mark * (c - g) for g, c in zip(ground, WINE, strict=True))


def _picture(x: Array, y: Array, z: Array) -> Triple:
    """A card of hills under a sky with a sun, framed."""
    u, v = x + 0.78, z + 0.1
    hills = v + 0.12 - 0.16 * noise(u, 0 * u, 0 * u, 5.0) - 0.08 * wave(1.7 * u)
    sky = mix(smooth(v, -0.1, 0.3), CREAM, COBALT)
    land = mix(noise(x, y, z, 16.0), PINE, (0.30, 0.42, 0.08))
    sun = 1 - smooth(length(u - 0.12, v - 0.17), 0.05, 0.06)
    scene = (
        np.where(hills < 0, g, s + sun * (c - s)) for g, s, c in zip(land, sky, CORAL, strict=True)
    )
    frame = (np.abs(u) > 0.3) | (np.abs(z + 0.09) > 0.35)
    return tuple(np.where(frame, f, s) for f, s in zip(SLATE, scene, strict=True))


def _ball(x: float, y: float, radius: float, material: Material) -> Ball:
    return Ball((x, y, TABLE + radius), radius, material)


BALLS = (
    _ball(0.36, 1.75, 0.15, Material(_striped((0.0, 0.6, 0.8), 0.1, CREAM, CORAL), 0.05, 0.4)),
    _ball(-0.36, 1.62, 0.085, Material(_striped((0.8, 0.0, 0.6), 0.07, COBALT, SAND), 0.06, 0.35)),
    _ball(-0.05, 2.35, 0.21, Material(_chequered(0.105, CREAM, SLATE))),
    _ball(0.8, 3.2, 0.34, Material(_marble, 0.05, 0.45)),
    _ball(0.28, 3.55, 0.24, Material(_striped((0.0, 0.0, 1.0), 0.12, TEAL, CREAM))),
)
CARDS = (
    Card(2.9, (-1.13, -0.5), (-0.43, 0.3), Material(_picture)),
    Card(2.05, (0.62, -0.5), (0.8, -0.02), Material(_chequered(0.06, WINE, SAND))),
)
PLANKS, PAPER = Material(_planks, 0.02, 0.7), Material(_paper)


def _pick(triple: Triple, index: Array) -> Triple:
    return tuple(c[index] for c in triple)


def _at(o: Triple, d: Triple, t: Array) -> Triple:
    return tuple(a + t * b for a, b in zip(o, d, strict=True))


def _ball_hits(ball: Ball, o: Triple, d: Triple) -> Array:
    to_centre = tuple(c - a for a, c in zip(o, ball.centre, strict=True))
    along = dot(to_centre, d)
    room = ball.radius * ball.radius - (dot(to_centre, to_centre) - along * along)
    return np.where(room > 0, along - np.sqrt(np.maximum(room, 0.0)), np.inf)


def _card_hits(card: Card, o: Triple, d: Triple) -> Array:
    t = (card.y - o[1]) / d[1]
    x, _, z = _at(o, d, t)
    inside = (x > card.low[0]) & (x < card.high[0]) & (z > card.low[1]) & (z < card.high[1])
    return np.where(inside & (t > 0), t, np.inf)


def trace(o: Triple, d: Triple) -> tuple[Array, Array]:
    """t of the first hit of each ray, which must lead ahead, and what is hit: 0 the table, 1 the
    wall, then the balls and the cards."""
    down = np.where(d[2] < 0, (TABLE - o[2]) / np.where(d[2] < 0, d[2], 1.0), np.inf)
    best, which = (WALL - o[1]) / d[1], np.full(d[0].shape, 1)
    hits = [(0, down)]
    hits += [(2 + i, _ball_hits(ball, o, d)) for i, ball in enumerate(BALLS)]
    hits += [(2 + len(BALLS) + i, _card_hits(card, o, d)) for i, card in enumerate(CARDS)]
    for index, t in hits:
        nearer = (t > 0) & (t < best)
        best, which = np.where(nearer, t, best), np.where(nearer, index, which)
    return best, which


def _lit(point: Triple, own: int) -> Array:
    """How much of the key light is seen: soft by the angle at which rays pass the balls."""
    light = np.ones(point[0].shape)
    for index, ball in enumerate(BALLS):
        to_centre = tuple(c - p for p, c in zip(point, ball.centre, strict=True))
        along = dot(to_centre, KEY)
        gap = np.sqrt(np.maximum(dot(to_centre, to_centre) - along * along, 0.0)) - ball.radius
        clear = smooth(gap / np.maximum(along, 0.02), -0.08, 0.08)
        light = light if index == own - 2 else light * np.where(along > 0, clear, 1.0)
    for index, card in enumerate(CARDS):
        if index + 2 + len(BALLS) != own:
            t = (card.y - point[1]) / KEY[1]
            x, z = point[0] + t * KEY[0], point[2] + t * KEY[2]
            over = [card.low[0] - x, x - card.high[0], card.low[1] - z, z - card.high[1]]
            outside = np.maximum(np.maximum(over[0], over[1]), np.maximum(over[2], over[3]))
            clear = smooth(outside / np.maximum(t, 0.02), -0.06, 0.06)
            light = light * np.where(t > 0, clear, 1.0)
    return light


def _open_sky(point: Triple, n: Triple, own: int) -> Array:
    """What the balls leave of the sky, taken together as if far apart; and less in the corner."""
    sky = np.ones(point[0].shape)
    for index, ball in enumerate(BALLS):
        if index != own - 2:
            to_centre = tuple(c - p for p, c in zip(point, ball.centre, strict=True))
            square = np.maximum(dot(to_centre, to_centre), ball.radius * ball.radius)
            facing = np.maximum(dot(to_centre, n) / np.sqrt(square), 0.0)
            sky = sky * (1 - 0.9 * facing * ball.radius * ball.radius / square)
    floor = smooth(point[2] - TABLE, -0.25, 0.35) if own else 1.0
    return sky * (0.45 + 0.55 * floor)


def _surface(which: int, point: Triple) -> tuple[Material, Triple]:
    """Material and unit normals of points on one of the things."""
    flat, up = np.zeros(point[0].shape), np.ones(point[0].shape)
    if which == 0:
        return PLANKS, (flat, flat, up)
    if which == 1:
        return PAPER, (flat, -up, flat)
    if which < 2 + len(BALLS):
        ball = BALLS[which - 2]
        apart = tuple((p - c) / ball.radius for p, c in zip(point, ball.centre, strict=True))
        return ball.material, apart
    return CARDS[which - 2 - len(BALLS)].material, (flat, -up, flat)


def colours(o: Triple, d: Triple) -> Triple:
    """Display colours of rays."""
    t, which = trace(o, d)
    out = tuple(np.zeros(t.shape) for _ in range(3))
    for index in range(2 + len(BALLS) + len(CARDS)):
        group = np.flatnonzero(which == index)
        if len(group):
            ahead = _pick(d, group)
            point = _at(_pick(o, group), ahead, t[group])
            material, n = _surface(index, point)
            sky = _open_sky(point, n, index)
            seen = Visibility(_lit(point, index), sky, 0.25 + 0.6 * sky)
            shaded = shade(material, point, n, tuple(-c for c in ahead), seen)
            for channel, values in zip(out, display(shaded), strict=True):
                channel[group] = values
    return out
