"""Solid shapes a ray can be cast at: every distance and normal in closed form, in float64.

All shapes but the ground are convex, which the echoes of a beam rely on: the sub-beams that hit one
shape hit one surface. z is up, lengths in metres, directions are unit vectors. A ray that starts
inside a shape does not hit it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Vector = tuple[float, float, float]
_TINY = 1e-300  # stands for a component that is 0: slabs and caps are then at infinity


@dataclass(frozen=True)
class Material:
    """How a surface sends light back: ``reflectance * cos(incidence) ** gloss``.

    reflectance: in [0, 1], head-on; gloss: 1 for a matt surface (Lambert), large for glass,
    which is seen only head-on.
    """

    reflectance: float
    gloss: float = 1.0


@runtime_checkable
class Shape(Protocol):
    """A surface with one material."""

    material: Material

    def hit(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
        """Distance along each ray (infinity: missed) and outward unit normal there."""

    def reflectance(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Head-on reflectance at points of the surface."""

    def bound(self) -> tuple[Vector, Vector] | None:
        """Centre and half sides of an upright box around the shape; None: it is endless."""


class _Plain:
    """One reflectance all over."""

    material: Material

    def reflectance(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """That of the material."""
        return torch.full_like(points[:, 0], self.material.reflectance)


@dataclass(frozen=True)
class Ground:
    """The plane z = height, seen from above, with a dashed line painted along x at y = 0.

    paint: reflectance of dashes `length` long and `width` wide, one every `period`.
    """

    material: Material
    height: float = 0.0
    paint: float | None = None
    period: float = 6.0
    length: float = 3.0
    width: float = 0.16

    def hit(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
        """Where rays that go down reach the plane."""
        distance = (self.height - origins[:, 2]) / never_zero(directions[:, 2])
        down = (directions[:, 2] < 0) & (distance > 0)
        normal = torch.zeros_like(directions)
        normal[:, 2] = 1
        return torch.where(down, distance, math.inf), normal

    def reflectance(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """That of the paint on the dashes."""
        plain = torch.full_like(points[:, 0], self.material.reflectance)
        if self.paint is None:
            return plain
        dash = (points[:, 0] % self.period < self.length) & (points[:, 1].abs() < self.width / 2)
        return torch.where(dash, self.paint, plain)

    def bound(self) -> None:
        """There is none."""


@dataclass(frozen=True)
class Box(_Plain):
    """A box turned about the vertical.

    centre: of the box; half: half its sides; yaw: radians from x towards y.
    """

    material: Material
    centre: Vector
    half: Vector
    yaw: float = 0.0

    def hit(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
        """The last of the three slabs to be entered, if none has been left by then."""
        turn = origins.new_tensor(_about_z(self.yaw))
        local = (origins - origins.new_tensor(self.centre)) @ turn
        ahead = never_zero(directions @ turn)
        half = origins.new_tensor(self.half)
        enter, leave = (-half * ahead.sign() - local) / ahead, (half * ahead.sign() - local) / ahead
        distance, axis = enter.max(-1)
        missed = (distance >= leave.amin(-1)) | (distance <= 0)
        normal = torch.zeros_like(local)
        normal.scatter_(1, axis[:, None], -ahead.gather(1, axis[:, None]).sign())
        return distance.masked_fill(missed, math.inf), normal @ turn.T

    def bound(self) -> tuple[Vector, Vector]:
        """Around the turned box."""
        c, s = abs(math.cos(self.yaw)), abs(math.sin(self.yaw))
        x, y, z = self.half
        return self.centre, (c * x + s * y, s * x + c * y, z)


@dataclass(frozen=True)
class Cylinder(_Plain):
    """An upright cylinder with flat ends.

    foot: centre of the lower end; radius, height: of it.
    """

    material: Material
    foot: Vector
    radius: float
    height: float

    def hit(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
        """Entering both the endless cylinder and the slab between the ends, the later of them."""
        local = origins - origins.new_tensor(self.foot)
        across, flat = local[:, :2], directions[:, :2]
        a = (flat * flat).sum(-1).clamp(min=_TINY)
        b = (across * flat).sum(-1)
        root = (b * b - a * ((across * across).sum(-1) - self.radius**2)).clamp(min=0).sqrt()
        side_in, side_out = (-b - root) / a, (-b + root) / a
        rise = never_zero(directions[:, 2])
        ends = torch.stack((-local[:, 2] / rise, (self.height - local[:, 2]) / rise))
        end_in, end_out = ends.amin(0), ends.amax(0)
        distance = torch.maximum(side_in, end_in)
        missed = (root == 0) | (distance >= torch.minimum(side_out, end_out)) | (distance <= 0)
        normal = torch.zeros_like(local)
        normal[:, :2] = (across + side_in[:, None] * flat) / self.radius
        capped = end_in > side_in
        normal[capped] = 0
        normal[capped, 2] = -rise[capped].sign()
        return distance.masked_fill(missed, math.inf), normal

    def bound(self) -> tuple[Vector, Vector]:
        """Around both ends."""
        x, y, z = self.foot
        return (x, y, z + self.height / 2), (self.radius, self.radius, self.height / 2)


@dataclass(frozen=True)
class Sphere(_Plain):
    """A ball. centre, radius: of it."""

    material: Material
    centre: Vector
    radius: float

    def hit(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
        """The nearer of the two points on the line."""
        local = origins - origins.new_tensor(self.centre)
        b = (local * directions).sum(-1)
        square = b * b - (local * local).sum(-1) + self.radius**2
        distance = -b - square.clamp(min=0).sqrt()
        missed = (square <= 0) | (distance <= 0)
        normal = (local + distance[:, None] * directions) / self.radius
        return distance.masked_fill(missed, math.inf), normal

    def bound(self) -> tuple[Vector, Vector]:
        """Around the ball."""
        return self.centre, (self.radius, self.radius, self.radius)


def _about_z(angle: float) -> list[list[float]]:
    c, s = math.cos(angle), math.sin(angle)
    return [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]


def never_zero(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Components of directions that one may divide by."""
    return torch.where(x == 0, _TINY, x)
