"""What a diverging LiDAR beam brings back from shapes: ranges, second returns, intensity, drop.

A beam is 37 sub-beams on rings around its axis, each traced exactly. Echoes are formed from the
hits of the sub-beams in order of range. Layout and weights of the sub-beams, and the irradiance
``exp(-2 (angle / divergence)^2)``: Huang et al., "Neural LiDAR Fields" (ICCV 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.data.lidar.street_shapes import Shape, never_zero

_BLOCK = 4096  # beams traced at once
_RINGS = ((1, 0.0), (6, 1 / 3), (12, 2 / 3), (18, 1.0))  # sub-beams; share of the divergence


@dataclass(frozen=True)
class Pulse:
    """What the sensor sends and what its receiver makes of the echoes.

    divergence: half-angle of the beam in radians (0: one thin ray); separation: metres between
    echoes that can be told apart; threshold: power below which an echo is lost, where 1 is a
    white wall seen head-on at 1 m; nearest, farthest: ranges that are reported, in metres; noise,
    intensity_noise: standard deviations, in metres and of intensity, used with a generator.
    """

    divergence: float = 1.5e-3
    separation: float = 1.75
    threshold: float = 4e-6
    nearest: float = 1.0
    farthest: float = 80.0
    noise: float = 0.02
    intensity_noise: float = 0.01


@dataclass(frozen=True)
class Hits:
    """Where thin rays end: range (infinity: nowhere), number of the shape (-1: none), intensity
    (reflectance and incidence) and outward normal there."""

    ranges: Float[Tensor, "n k"]
    shape: Int64[Tensor, "n k"]
    intensity: Float[Tensor, "n k"]
    normals: Float[Tensor, "n k 3"]


@dataclass(frozen=True)
class Echoes:
    """What beams bring back.

    ranges, second: metres along the beam to the first and second return, NaN without one;
    intensity, second_intensity: reflected share of the beam, corrected for range, in [0, 1], 0
    without a return; normals: unit, mean over the first return's surface, 0 without one.
    """

    ranges: Float[Tensor, "n"]
    second: Float[Tensor, "n"]
    intensity: Float[Tensor, "n"]
    second_intensity: Float[Tensor, "n"]
    normals: Float[Tensor, "n 3"]

    @property
    def drop(self) -> Bool[Tensor, "n"]:
        """Which beams brought nothing back."""
        return torch.isnan(self.ranges)


def sub_beams(
    directions: Float[Tensor, "n 3"], divergence: float
) -> tuple[Float[Tensor, "n k 3"], Float[Tensor, "k"]]:
    """Directions of the sub-beams of every beam and the share of power each carries.

    k is 37, or 1 without divergence; the first is the beam's axis.
    """
    if divergence == 0:
        return directions[:, None], directions.new_ones(1)
    rings = [(share, 2 * math.pi * i / count) for count, share in _RINGS for i in range(count)]
    share, turn = directions.new_tensor(rings).T
    least = directions.abs().argmin(-1, keepdim=True)  # an axis that is never parallel
    side = torch.linalg.cross(directions, torch.zeros_like(directions).scatter_(1, least, 1.0))
    side = torch.nn.functional.normalize(side, dim=-1)
    other = torch.linalg.cross(directions, side)
    angle = share * divergence
    along, right, up = angle.cos(), angle.sin() * turn.cos(), angle.sin() * turn.sin()
    axes = torch.stack((directions, side, other), 1)
    weights = torch.exp(-2 * share**2)
    return torch.stack((along, right, up), -1) @ axes, weights / weights.sum()


def trace(
    shapes: Sequence[Shape],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n k 3"],
    spread: float = 0.0,
) -> Hits:
    """The nearest hit of every ray, exactly.

    Args:
        shapes: What is there.
        origins: One for the k rays of a beam.
        directions: Unit; the first of a beam is its axis.
        spread: Angle within which a beam's rays lie around its axis, in radians.
    """
    n, k = directions.shape[:2]
    ranges = origins.new_full((n, k), math.inf)
    shape = torch.full((n, k), -1, dtype=torch.int64)
    normals = torch.zeros_like(directions)
    for number, near, enters in _candidates(shapes, origins, directions[:, 0], spread):
        solid, near = shapes[number], near[ranges[near].amax(-1) >= enters]
        if not len(near):
            continue
        rays = directions[near].reshape(-1, 3)
        distance, normal = solid.hit(origins[near].repeat_interleave(k, 0), rays)
        row, column = (distance.reshape(-1, k) < ranges[near]).nonzero(as_tuple=True)
        place, row = row * k + column, near[row]
        ranges[row, column], normals[row, column] = distance[place], normal[place]
        shape[row, column] = number
    intensity = _intensity(shapes, origins, directions, ranges, shape, normals)
    return Hits(ranges, shape, intensity, normals)


def _candidates(
    shapes: Sequence[Shape], origins: Tensor, axes: Tensor, spread: float
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Endless shapes, then the others from near to far, each with the numbers of the beams whose
    cone may meet its box and a distance before which it does not."""
    if not len(origins):
        return
    boxes = [(number, solid.bound()) for number, solid in enumerate(shapes)]
    everyone = torch.arange(len(origins)), torch.zeros_like(origins[:, 0])
    for number, box in boxes:
        if box is None:
            yield number, *everyone
    numbers = [number for number, box in boxes if box is not None]
    if not numbers:
        return
    centres, halves = origins.new_tensor([boxes[number][1] for number in numbers]).unbind(1)
    radii = halves.norm(dim=-1)
    along = axes @ centres.T - (axes * origins).sum(-1, keepdim=True)
    away = torch.cdist(origins, centres, compute_mode="donot_use_mm_for_euclid_dist")
    reach = radii + (away + radii) * math.tan(spread) + 1e-6
    meets = (along > -radii) & (away**2 - along**2 < reach**2)
    for place in (away.mean(0) - radii).argsort().tolist():
        rows = meets[:, place].nonzero()[:, 0]
        slack = reach[rows, place] - radii[place]
        half = halves[place] + slack[:, None]
        ahead = never_zero(axes[rows])
        local, sign = origins[rows] - centres[place], ahead.sign()
        enter = ((-half * sign - local) / ahead).amax(-1)
        leave = ((half * sign - local) / ahead).amin(-1)
        keep = (enter <= leave) & (leave > 0)
        yield numbers[place], rows[keep], (enter - slack)[keep]


def _intensity(
    shapes: Sequence[Shape], origins: Tensor, directions: Tensor, *hits: Tensor
) -> Tensor:
    ranges, shape, normals = hits
    out = torch.zeros_like(ranges)
    cosine = -(normals * directions).sum(-1)
    for number in shape.unique().tolist():
        if number < 0:
            continue
        row, column = (shape == number).nonzero(as_tuple=True)
        ends = origins[row] + ranges[row, column, None] * directions[row, column]
        facing = cosine[row, column].clamp(0, 1) ** shapes[number].material.gloss
        out[row, column] = shapes[number].reflectance(ends) * facing
    return out


def cast(
    shapes: Sequence[Shape],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    pulse: Pulse | None = None,
    generator: torch.Generator | None = None,
) -> Echoes:
    """What beams bring back from shapes: the ground truth of any ray, with a generator measured.

    An echo is the power-weighted mean of the hits on the surface that is nearest and of what lies
    less than ``separation`` behind; its power is the sum of ``weight * intensity / range^2``. The
    first echo above the threshold is the first return, the next one at least ``separation`` further
    the second.

    Args:
        shapes: What is there.
        origins: World, metres, float64.
        directions: Unit.
        pulse: Divergence, thresholds and noise.
        generator: Draws range and intensity noise; none without.
    """
    pulse = pulse or Pulse()
    blocks = [
        _cast(shapes, origins[low : low + _BLOCK], directions[low : low + _BLOCK], pulse)
        for low in range(0, max(len(origins), 1), _BLOCK)
    ]
    echoes = Echoes(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))
    return echoes if generator is None else _noisy(echoes, pulse, generator)


def _cast(
    shapes: Sequence[Shape], origins: Tensor, directions: Tensor, pulse: Pulse
) -> tuple[Tensor, ...]:
    rays, weights = sub_beams(directions, pulse.divergence)
    hits = trace(shapes, origins, rays, pulse.divergence)
    left = torch.isfinite(hits.ranges)
    empty = torch.full_like(origins[:, 0], math.nan)
    returns = [(empty, torch.zeros_like(empty))] * 2
    normals = torch.zeros_like(origins)
    found = torch.zeros(len(origins), dtype=torch.int64)
    # a beam meets few surfaces: two that are too weak and two that are not is plenty
    for _ in range(4):
        if not left.any():
            break
        echo = _nearest_echo(hits, left, pulse.separation)
        left = left & ~echo
        share = echo * weights * hits.intensity
        intensity = share.sum(-1)
        power = torch.where(echo, share / hits.ranges**2, 0.0)
        ranges = (power * torch.where(echo, hits.ranges, 0.0)).sum(-1) / power.sum(-1)
        seen = (power.sum(-1) >= pulse.threshold) & (ranges >= pulse.nearest)
        seen &= ranges <= pulse.farthest
        first = seen & (found == 0)
        apart = ranges - returns[0][0] >= pulse.separation
        for slot, this in enumerate((first, seen & (found == 1) & apart)):
            returns[slot] = tuple(
                torch.where(this, new, old)
                for new, old in zip((ranges, intensity), returns[slot], strict=True)
            )
            found = found + this
        facing = torch.einsum("nk,nkd->nd", share / intensity[:, None], hits.normals)
        normals = torch.where(first[:, None], facing, normals)
    normals = torch.nn.functional.normalize(normals, dim=-1)
    return returns[0][0], returns[1][0], returns[0][1], returns[1][1], normals


def _nearest_echo(hits: Hits, left: Tensor, separation: float) -> Tensor:
    """Of the hits that are left, those on the nearest surface or little behind its first point."""
    nearest, which = torch.where(left, hits.ranges, math.inf).min(-1, keepdim=True)
    surface = hits.shape.gather(1, which)
    return left & ((hits.shape == surface) | (hits.ranges < nearest + separation))


def _noisy(echoes: Echoes, pulse: Pulse, generator: torch.Generator) -> Echoes:
    noise = torch.randn(4, len(echoes.ranges), generator=generator, dtype=echoes.ranges.dtype)
    levels = [
        torch.where(power > 0, power + pulse.intensity_noise * n, power).clamp(0, 1)
        for power, n in zip((echoes.intensity, echoes.second_intensity), noise[2:], strict=True)
    ]
    first, second = echoes.ranges + pulse.noise * noise[0], echoes.second + pulse.noise * noise[1]
    return Echoes(first, second, *levels, echoes.normals)
