"""Beams that widen: rays over a footprint, and the returns of a bundle of them.

A beam's power falls with the angle gamma off its axis as exp(-2 gamma^2 / gamma0^2) (Neural
LiDAR Fields; Huang et al., ICCV 2023). It is stood for by rings of 6, 12 and 18 rays around the
axis, out to gamma0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.renderers.types import Rays, Rendered

RINGS = {1: 0, 7: 1, 19: 2, 37: 3}


@dataclass(frozen=True)
class Footprint:
    """Rays that stand for a beam.

    beams: 1, 7, 19 or 37; divergence: half-angle gamma0, radians.
    """

    beams: int
    divergence: float

    def __post_init__(self) -> None:
        if self.beams not in RINGS:
            raise ValueError(f"beams must be one of {list(RINGS)}, got {self.beams}")

    def offsets(self) -> Float[Tensor, "beams 2"]:
        """Angles off the axis in two directions at right angles to it, radians, float64."""
        rings = RINGS[self.beams]
        out = [(0.0, 0.0)]
        for ring in range(1, rings + 1):
            gamma, count = self.divergence * ring / rings, 6 * ring
            for k in range(count):
                angle = 2 * math.pi * k / count
                out.append((gamma * math.cos(angle), gamma * math.sin(angle)))
        return torch.tensor(out, dtype=torch.float64)

    def power(self) -> Float[Tensor, "beams"]:
        """Share of the power of each, float64; they add up to 1."""
        squared = self.offsets().square().sum(-1) / self.divergence**2
        power = torch.exp(-2 * squared)
        return power / power.sum()


def diverge(rays: Rays, footprint: Footprint) -> Rays:
    """The rays of each beam, (N beams) of them, those of a beam together."""
    across, up = _frame(rays.directions)
    angles = footprint.offsets().to(rays.directions)
    turned = (
        rays.directions[:, None]
        + angles[:, :1].tan() * across[:, None]
        + angles[:, 1:].tan() * up[:, None]
    )
    directions = torch.nn.functional.normalize(turned, dim=-1).flatten(0, 1)
    count = footprint.beams
    spread = rays[torch.arange(len(rays), device=rays.near.device).repeat_interleave(count)]
    return replace(spread, directions=directions)


def _frame(d: Float[Tensor, "n 3"]) -> tuple[Tensor, Tensor]:
    """Two unit vectors at right angles to d and to each other."""
    least = d.abs().argmin(-1)
    helper = torch.nn.functional.one_hot(least, 3).to(d)
    across = torch.nn.functional.normalize(torch.linalg.cross(d, helper, dim=-1), dim=-1)
    return across, torch.linalg.cross(d, across, dim=-1)


def returns_of_bundles(
    parts: Rendered, footprint: Footprint, gap: float, second_power: float
) -> Rendered:
    """First and second returns of beams, from the first returns of their rays.

    A return is a group of rays whose ranges lie within `gap` of the nearest of them: its range
    is their mean weighted with their power, and it is told if it holds at least `second_power`
    of the beam's.

    Args:
        parts: Of N times `footprint.beams` rays, those of a beam together.
        footprint: What the rays stand for.
        gap: Least distance between two returns, scene units.
        second_power: Share of the power.
    """
    shape = (-1, footprint.beams)
    power = footprint.power().to(parts.depth) * parts.opacity.reshape(shape)
    ranges = parts.depth.reshape(shape)
    power = torch.where(ranges > 0, power, torch.zeros_like(power))
    chosen, depth = _nearest_group(ranges, power, gap, second_power)
    behind = torch.where(ranges > (depth + gap)[:, None], power, torch.zeros_like(power))
    again, second = _nearest_group(ranges, behind, gap, second_power)
    whole = footprint.power().to(parts.depth)
    grouped = torch.where(chosen, power, torch.zeros_like(power))
    share = grouped / grouped.sum(-1, keepdim=True).clamp(min=1e-12)
    intensity = (share * parts.extras["intensity"].reshape(shape)).sum(-1)
    extras = {
        "intensity": intensity,
        "drop": (whole * parts.extras["drop"].reshape(shape)).sum(-1),
        "second_logit": (whole * parts.extras["second_logit"].reshape(shape)).sum(-1),
        "second_range": second,
        "second": again.any(-1),
        "samples": parts.extras["samples"],
    }
    opacity = (whole * parts.opacity.reshape(shape)).sum(-1)
    return Rendered(intensity[:, None].expand(-1, 3), depth, opacity, None, extras)


def _nearest_group(
    ranges: Float[Tensor, "n k"], power: Float[Tensor, "n k"], gap: float, least: float
) -> tuple[Tensor, Float[Tensor, "n"]]:
    """The nearest rays within `gap` of each other that hold enough power: which, and their range.

    Where no group does, none of them and 0.
    """
    live = power > 0
    # group that begins at each ray: all from its range up to gap behind it
    ahead = ranges[:, None, :] - ranges[:, :, None]
    member = (ahead >= 0) & (ahead <= gap) & live[:, None, :] & live[:, :, None]
    held = torch.where(member, power[:, None, :], torch.zeros_like(power)[:, None, :]).sum(-1)
    start = torch.where(held >= least, ranges, torch.full_like(ranges, torch.inf))
    first = start.argmin(-1)
    rows = torch.arange(len(ranges), device=ranges.device)
    chosen = member[rows, first] & start[rows, first].isfinite()[:, None]
    kept = torch.where(chosen, power, torch.zeros_like(power))
    total = kept.sum(-1)
    mean = (kept * ranges).sum(-1) / torch.where(total > 0, total, torch.ones_like(total))
    return chosen, mean
