"""The naive way to see a sweep from elsewhere: put all returns together and look at them again.

Every training return, as a point of the world, falls into the slot of the new sweep whose beam it
is next to; of the points in a slot the nearest surface counts. No field, no fit: what a field has
to beat (the closest-point projection of Li et al., "PCGen", 2022, with the rings of the sensor in
place of a range image).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.data.lidar.rays import sweep_rays
from polyfield.data.lidar.sweeps import LidarSweeps, SweepRays

THICKNESS = 1.0  # metres
_GAP = 1.5  # steps between neighbours in a ring, from which on there is a hole between them
_ROUNDS = 5  # a sensor moves little against ranges: each is several times closer
_ALONE = 5e-3  # half the size of a slot without neighbours, in radians


@dataclass(frozen=True)
class Cloud:
    """First returns of many sweeps in the world: metres, float64, and intensities in [0, 1]."""

    points: Float[Tensor, "n 3"]
    intensity: Float[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.points)


def accumulate(scene: LidarSweeps, sweeps: Sequence[int] | None = None) -> Cloud:
    """The first returns of sweeps in the world (without a choice: of all that are fitted).

    Raises:
        InputError: A sweep cannot be read.
    """
    points, intensity = [torch.zeros(0, 3).double()], [torch.zeros(0).double()]
    for index in scene.splits["train"] if sweeps is None else sweeps:
        rays = sweep_rays(scene, index, dropped=False)
        points.append(rays.points())
        intensity.append(rays.intensity[rays.hit])
    return Cloud(torch.cat(points), torch.cat(intensity))


@dataclass(frozen=True)
class _Ring:
    """The slots of one ring in order of azimuth, in a frame whose z is the sensor's axis.

    below, above: half way to the next rings; step: between neighbours in azimuth; reach: how far
    origins are from the middle of the sweep's.
    """

    slots: Int64[Tensor, "m"]
    origins: Float[Tensor, "m 3"]
    azimuth: Float[Tensor, "m"]
    elevation: Float[Tensor, "m"]
    below: float
    above: float
    step: float
    reach: float


def reproject(
    cloud: Cloud, rays: SweepRays, nearest: float = 0.0, thickness: float = THICKNESS
) -> SweepRays:
    """Predicted ranges and intensities of rays, from points.

    A slot reaches half way to its neighbours in the ring and to the rings above and below. Of the
    points less than `thickness` behind the nearest one in the slot, that closest to the beam gives
    range and intensity; a slot without points brings nothing back. Second returns are not
    predicted.

    Args:
        cloud: What was seen from elsewhere.
        rays: Slots to predict; what was measured along them is not looked at.
        nearest: Points nearer than this to the sensor are left out, in metres.
        thickness: Of a surface, in metres; 0 takes the nearest point whatever its angle.
    """
    none = torch.full_like(rays.ranges, math.nan)
    intensity = torch.zeros_like(rays.intensity)
    if len(rays) and len(cloud):
        frame, middle = _frame(rays), rays.origins.mean(0)
        points = (cloud.points - middle) @ frame.T
        found = [_in_slots(points, ring) for ring in _rings(rays, frame, middle)]
        slot, point, distance, angle = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = distance >= nearest
        kept[kept.clone()] = _surface(slot[kept], distance[kept], thickness, len(rays))
        kept[kept.clone()] = _least(slot[kept], angle[kept], len(rays))
        ranges = none.index_copy(0, slot[kept], distance[kept].to(none.dtype))
        level = cloud.intensity[point[kept]].to(intensity.dtype)
        intensity = intensity.index_copy(0, slot[kept], level)
    else:
        ranges = none
    return replace(rays, ranges=ranges, second=none.clone(), intensity=intensity)


def _frame(rays: SweepRays) -> Tensor:
    """Rotation into a frame whose z is the axis the sensor turns about: directions of a ring differ
    least along it."""
    count = torch.bincount(rays.ring).clamp(min=1)[:, None]
    sums = torch.zeros(len(count), 3, dtype=rays.directions.dtype)
    mean = sums.index_add(0, rays.ring, rays.directions) / count
    offset = rays.directions - mean[rays.ring]
    _, axes = torch.linalg.eigh(offset.T @ offset)
    return torch.stack((axes[:, 2], axes[:, 1], torch.linalg.cross(axes[:, 2], axes[:, 1])))


def _rings(rays: SweepRays, frame: Tensor, middle: Tensor) -> list[_Ring]:
    azimuth, elevation = _angles(rays.directions @ frame.T)
    origins = (rays.origins - middle) @ frame.T
    slots = [(rays.ring == ring).nonzero()[:, 0] for ring in rays.ring.unique().tolist()]
    slots.sort(key=lambda chosen: float(elevation[chosen].mean()))
    means = torch.stack([elevation[chosen].mean() for chosen in slots])
    half = means.diff() / 2
    half = torch.cat((half[:1], half, half[-1:])) if len(half) else means.new_tensor([_ALONE] * 2)
    rings = []
    for place, chosen in enumerate(slots):
        chosen = chosen[azimuth[chosen].argsort()]
        steps = azimuth[chosen].diff()
        rings.append(
            _Ring(
                slots=chosen,
                origins=origins[chosen],
                azimuth=azimuth[chosen],
                elevation=elevation[chosen],
                below=float(half[place]),
                above=float(half[place + 1]),
                step=float(steps.median()) if len(steps) else 2 * _ALONE,
                reach=float(origins[chosen].norm(dim=-1).max()),
            )
        )
    return rings


def _in_slots(points: Tensor, ring: _Ring) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slots of a ring and the points in them, with distances and squared angles to the beam."""
    far = points.norm(dim=-1)
    slack = torch.asin((ring.reach / far.clamp(min=1e-9)).clamp(max=1))
    seen = torch.asin((points[:, 2] / far.clamp(min=1e-9)).clamp(-1, 1))
    low, high = ring.elevation.min() - ring.below, ring.elevation.max() + ring.above
    near = ((seen >= low - slack) & (seen <= high + slack)).nonzero()[:, 0]
    local = points[near]
    beam = _nearest_beam(ring.azimuth, _angles(local - ring.origins.mean(0))[0])
    for _ in range(_ROUNDS):  # the origin depends on the beam, and the beam on the origin
        before = beam
        beam = _nearest_beam(ring.azimuth, _angles(local - ring.origins[before])[0])
        if torch.equal(beam, before):
            break
    offset = local - ring.origins[beam]
    azimuth, elevation = _angles(offset)
    aside, up = _wrapped(azimuth - ring.azimuth[beam]), elevation - ring.elevation[beam]
    inside = (aside.abs() <= _GAP / 2 * ring.step) & (up >= -ring.below) & (up <= ring.above)
    angle = up**2 + (aside * elevation.cos()) ** 2
    beam = beam[inside]
    return ring.slots[beam], near[inside], offset[inside].norm(dim=-1), angle[inside]


def _nearest_beam(azimuths: Tensor, wanted: Tensor) -> Tensor:
    """Of sorted azimuths the nearest one, round the circle."""
    after = torch.searchsorted(azimuths, wanted)
    pair = torch.stack((after - 1, after)) % len(azimuths)
    apart = _wrapped(azimuths[pair] - wanted).abs()
    return torch.where(apart[0] < apart[1], pair[0], pair[1])


def _angles(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Azimuth and elevation."""
    x, y, z = vectors.unbind(-1)
    return torch.atan2(y, x), torch.atan2(z, torch.hypot(x, y))


def _wrapped(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _surface(slot: Tensor, distance: Tensor, thickness: float, count: int) -> Tensor:
    """Which points are at most `thickness` behind the first of their slot."""
    return distance <= _first(slot, distance, count)[slot] + thickness


def _least(slot: Tensor, value: Tensor, count: int) -> Tensor:
    """One point per slot: that of the least value, of equal ones the first."""
    best = (value == _first(slot, value, count)[slot]).nonzero()[:, 0]
    place = _first(slot[best], best.double(), count)[slot[best]]
    chosen = torch.zeros_like(slot, dtype=torch.bool)
    chosen[best[place == best]] = True
    return chosen


def _first(slot: Tensor, value: Tensor, count: int) -> Tensor:
    return value.new_full((count,), math.inf).scatter_reduce(0, slot, value, "amin")
