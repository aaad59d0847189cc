"""Random slots of sweeps as rays in the scene box, with what came back along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.data.lidar.rays import sweep_rays
from polyfield.data.lidar.sweeps import LidarSweeps, SweepRays
from polyfield.data.scene import SceneTransform
from polyfield.renderers.types import Rays

HITS = 0.75  # share of a batch drawn among the slots that came back
SECONDS = 0.05  # and among second returns, seen from behind the first


@dataclass(frozen=True)
class LidarBatch:
    """Beams and what was measured along them, in scene units.

    rays: near and far as the sensor reports them; ranges: to the return, NaN where there was
    none; intensity: in [0, 1]; twice: there was a second return; again: the ray is the rest of
    a beam behind its first return, and `ranges` the second's.
    """

    rays: Rays
    ranges: Float[Tensor, "n"]
    intensity: Float[Tensor, "n"]
    twice: Bool[Tensor, "n"]
    again: Bool[Tensor, "n"]

    @property
    def hit(self) -> Bool[Tensor, "n"]:
        """Which came back."""
        return ~torch.isnan(self.ranges)


def box_rays(slots: SweepRays, transform: SceneTransform, nearest: float, farthest: float) -> Rays:
    """Slots as rays of the scene box, single precision.

    Args:
        slots: In the world, metres.
        transform: World to box.
        nearest: Range from which returns are reported, metres.
        farthest: Up to which.
    """
    rotation = torch.tensor(transform.rotation, dtype=torch.float64)
    origins = transform.to_box(slots.origins).float()
    directions = (slots.directions @ rotation.T).float()
    limits = [torch.full((len(slots),), v * transform.scale) for v in (nearest, farthest)]
    return Rays(origins, torch.nn.functional.normalize(directions, dim=-1), *limits)


class SweepSource:
    """Draws slots of sweeps; all of them are held in single precision, 48 bytes a slot.

    Args:
        scene: The sweeps.
        chosen: Their numbers.
        device: Where batches are wanted.
    """

    def __init__(
        self, scene: LidarSweeps, chosen: Sequence[int], device: torch.device | str = "cpu"
    ):
        parts = [sweep_rays(scene, index) for index in chosen]
        scale, sensor = scene.transform.scale, scene.sensor
        rays = [box_rays(p, scene.transform, sensor.nearest, sensor.farthest) for p in parts]
        self.scale = scale
        self.rays = _joined(rays).to(device)
        self.ranges = torch.cat([p.ranges for p in parts]).float().to(device) * scale
        self.second = torch.cat([p.second for p in parts]).float().to(device) * scale
        self.intensity = torch.cat([p.intensity for p in parts]).float().to(device)
        self._hit = (~torch.isnan(self.ranges)).nonzero()[:, 0]
        self._twice = (~torch.isnan(self.second)).nonzero()[:, 0]

    def __len__(self) -> int:
        return len(self.ranges)

    def points(self) -> Float[Tensor, "hits 3"]:
        """All returns, first and second, in the box."""
        found = []
        for index, ranges in ((self._hit, self.ranges), (self._twice, self.second)):
            rays = self.rays[index]
            found.append(rays.origins + ranges[index, None] * rays.directions)
        return torch.cat(found)

    def sample(self, n: int, generator: torch.Generator, gap: float = 0.0) -> LidarBatch:
        """`n` random slots: most of them came back, some are the rest of beams behind a return.

        Args:
            n: How many.
            generator: A CPU generator, the only source of randomness.
            gap: Distance behind a first return from which the second is looked for, scene units.
        """
        again = round(n * SECONDS) if len(self._twice) else 0
        hits = round((n - again) * HITS) if len(self._hit) else 0
        anywhere = torch.randint(len(self), (n - again - hits,), generator=generator)
        index = torch.cat((
            anywhere.to(self._hit.device),
            _some(self._hit, hits, generator),
            _some(self._twice, again, generator),
        ))  # fmt: skip
        behind = torch.zeros(n, dtype=torch.bool, device=index.device)
        behind[n - again :] = True
        rays, ranges = self.rays[index], self.ranges[index]
        near = torch.where(behind, ranges + gap, rays.near)
        second = self.second[index]
        rays = Rays(rays.origins, rays.directions, near, torch.maximum(rays.far, near))
        return LidarBatch(
            rays, torch.where(behind, second, ranges), self.intensity[index],
            ~torch.isnan(second) & ~behind, behind,
        )  # fmt: skip


def _some(among: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` random entries, with replacement; none where there are none."""
    if not len(among):
        return among
    return among[torch.randint(len(among), (n,), generator=generator).to(among.device)]


def _joined(parts: Sequence[Rays]) -> Rays:
    names = ("origins", "directions", "near", "far")
    return Rays(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
