"""A street made of solids, with known ground truth along any ray.

Houses with windows, kerbs, parked cars, trees, lamp posts and signs on a flat ground: about two
hundred shapes whose places and sizes come from a seed. The street runs along x around y = 0, the
ground is z = 0, units are metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.data.lidar.street_beam import Echoes, Hits, Pulse, cast, trace
from polyfield.data.lidar.street_shapes import Box, Cylinder, Ground, Material, Shape, Sphere

LOW, HIGH = -45.0, 65.0  # where houses begin and end along x
KERB, FRONT = 4.5, 7.5  # distances of the kerb and of the house fronts from the middle

ASPHALT = Material(0.18)
PAINT = 0.7
STONE = Material(0.35)
GLASS = Material(0.9, gloss=60.0)
BARK = Material(0.3)
LEAVES = Material(0.5)
STEEL = Material(0.45)
SIGN = Material(0.95)


@dataclass(frozen=True)
class Street:
    """Shapes, and what rays and beams meet there."""

    shapes: tuple[Shape, ...]

    def trace(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Hits:
        """Exact hits of thin rays: (n, 1) ranges, shapes, intensities, (n, 1, 3) normals."""
        return trace(self.shapes, origins, directions[:, None])

    def cast(
        self,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        pulse: Pulse | None = None,
        generator: torch.Generator | None = None,
    ) -> Echoes:
        """What beams bring back, see `polyfield.data.lidar.street_beam.cast`."""
        return cast(self.shapes, origins, directions, pulse, generator)


class _Dice:
    """Uniform numbers from a generator."""

    def __init__(self, generator: torch.Generator):
        self._generator = generator

    def __call__(self, low: float, high: float) -> float:
        u = torch.rand((), generator=self._generator, dtype=torch.float64)
        return low + (high - low) * float(u)


def make_street(seed: int = 0) -> Street:
    """The street of a seed."""
    dice = _Dice(torch.Generator().manual_seed(seed))
    shapes: list[Shape] = [Ground(ASPHALT, paint=PAINT)]
    for side in (-1, 1):
        shapes += [*_pavement(side), *_houses(side, dice), *_furniture(side, dice)]
        shapes += _cars(side, dice)
    return Street(tuple(shapes))


def _pavement(side: int) -> list[Shape]:
    middle, half = (LOW + HIGH) / 2, (HIGH - LOW) / 2
    width = (FRONT - KERB) / 2
    return [Box(STONE, (middle, side * (KERB + width), 0.06), (half, width, 0.06))]


def _houses(side: int, dice: _Dice) -> list[Shape]:
    """Fronts set back by up to 1.5 m, every third gap wide enough to look through."""
    shapes: list[Shape] = []
    x, count = LOW, 0
    while x < HIGH - 6:
        width, depth, height = dice(8, 14), dice(5, 9), dice(5, 12)
        front = FRONT + dice(0, 1.5)
        wall = Material(dice(0.25, 0.8))
        middle = x + width / 2
        centre = (middle, side * (front + depth / 2), height / 2)
        shapes.append(Box(wall, centre, (width / 2, depth / 2, height / 2)))
        shapes += _windows(middle, width, height, side * front, side)
        count += 1
        x += width + (dice(3, 6) if count % 3 == 0 else dice(0.0, 0.8))
    return shapes


def _windows(middle: float, width: float, height: float, y: float, side: int) -> list[Shape]:
    """A strip of glass per storey, 3 cm proud of the front."""
    storeys = int(height / 3)
    return [
        Box(GLASS, (middle, y - side * 0.015, 1.7 + 3 * i), (width * 0.35, 0.015, 0.6))
        for i in range(storeys)
    ]


def _furniture(side: int, dice: _Dice) -> list[Shape]:
    """Trees, lamp posts and signs in turn along the kerb, now and then a bin."""
    shapes: list[Shape] = []
    x, turn = LOW + 2 + dice(0, 4), 0
    while x < HIGH:
        y = side * (KERB + 0.6)
        if turn % 3 == 0:
            trunk, radius = dice(2.4, 3.2), dice(1.2, 1.9)
            shapes.append(Cylinder(BARK, (x, y, 0.12), dice(0.12, 0.25), trunk))
            shapes.append(Sphere(LEAVES, (x, y, trunk + 0.7 * radius), radius))
        elif turn % 3 == 1:
            shapes.append(Cylinder(STEEL, (x, y, 0.12), 0.07, dice(5, 6)))
        else:
            post = 2.6
            shapes.append(Cylinder(STEEL, (x, y, 0.12), 0.03, post))
            yaw = dice(-0.3, 0.3)
            shapes.append(Box(SIGN, (x - 0.05, y, post), (0.01, 0.3, 0.3), yaw))
            shapes.append(
                Box(STEEL, (x + 1.5, y + side * 0.6, 0.57), (0.25, 0.25, 0.45), dice(0, 1))
            )
        x += dice(4.5, 7.0)
        turn += 1
    return shapes


def _cars(side: int, dice: _Dice) -> list[Shape]:
    """Parked along the kerb: a body, a cabin of glass and its roof."""
    shapes: list[Shape] = []
    x = LOW + dice(4, 12)
    while x < HIGH:
        paint, yaw = Material(dice(0.1, 0.8), gloss=2.0), dice(-0.04, 0.04)
        y, length = side * (KERB - 1.1), dice(1.9, 2.3)
        shapes.append(Box(paint, (x, y, 0.6), (length, 0.85, 0.35), yaw))
        shapes.append(Box(GLASS, (x - 0.2, y, 1.15), (length * 0.55, 0.75, 0.2), yaw))
        shapes.append(Box(paint, (x - 0.2, y, 1.4), (length * 0.5, 0.72, 0.05), yaw))
        x += 2 * length + (dice(0.8, 2.0) if dice(0, 1) < 0.5 else dice(6, 14))
    return shapes
