"""The light slab: where the ray crosses two parallel planes (LightSpeed).

    (x, y) = (o + (a - o_z) / d_z d)_xy,   (u, v) = (o + (b - o_z) / d_z d)_xy

in a frame whose z axis is the mean direction of the rays (Levoy and Hanrahan, SIGGRAPH 1996; Gupta
et al., NeurIPS 2023, arXiv 2310.16832). Rays from all around are divided among several slabs
("divide and conquer"), found by k-means of their directions. Number of slabs, where the planes
lie, the least cosine, and the cross-fade: [default], not found in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.encodings.ray_codes.base import (
    RayCode,
    RayCodes,
    RayNumbers,
    RayVectors,
    frame_about,
    normalised,
    telling,
)
from polyfield.registry import register

ROUNDS = 30
RAMP = 0.1  # of the cosine, above the least, over which a slab fades


@dataclass(frozen=True)
class SlabConfig:
    """Settings of the code `slab`."""

    clusters: int = 5
    """Slabs, each with a backbone of its own: 1 for captures from the front."""
    planes: tuple[float, float] = (-0.4, 0.4)
    """Where the planes cut the slab's axis, which runs through the centre of the box."""
    fade: float = 10.0
    """Rays this many degrees or less nearer to their slab's axis than to the next one's are mixed
    from both (0: none are)."""
    min_cosine: float = 0.3
    """Rays that make a smaller cosine with the axis are not valid."""

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise ValueError(f"clusters must be at least 1, got {self.clusters}")
        if self.planes[0] == self.planes[1]:
            raise ValueError(f"planes must be two, got {self.planes}")
        if not 0 <= self.fade < 90:
            raise ValueError(f"fade must be in [0, 90) degrees, got {self.fade}")
        if not 0 < self.min_cosine < 1:
            raise ValueError(f"min_cosine must be in (0, 1), got {self.min_cosine}")


def plane_coordinates(
    origins: RayVectors, directions: RayVectors, a: float, b: float
) -> Float[Tensor, "n 4"]:
    """(x, y, u, v) of rays in the slab's frame; d_z must not be 0.

    Example:
        >>> plane_coordinates(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 2.0]]), 0.0, 1.0)
        tensor([[0.0000, 0.0000, 0.5000, 1.0000]])
    """
    slope = directions[:, :2] / directions[:, 2:]
    at = [origins[:, :2] + (plane - origins[:, 2:]) * slope for plane in (a, b)]
    return torch.cat(at, -1)


def mean_directions(
    directions: RayVectors, count: int, generator: torch.Generator | None
) -> Float[Tensor, "count 3"]:
    """Centres of clusters of unit vectors (spherical k-means begun as k-means++), on the CPU."""
    d = normalised(directions.cpu().double())
    first = torch.randint(len(d), (1,), generator=generator)
    centres = d[first]
    while len(centres) < count:
        distance = (1 - d @ centres.T).amin(1).clamp(min=0) + 1e-12
        following = torch.multinomial(distance, 1, generator=generator)
        centres = torch.cat((centres, d[following]))
    for _ in range(ROUNDS):
        nearest = (d @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, d)
        lengths = sums.norm(dim=-1, keepdim=True)
        centres = torch.where(lengths > 1e-9, sums / lengths.clamp(min=1e-9), centres)
    return centres.to(directions)


@register("slab", config=SlabConfig, paper="Gupta et al. 2023 (LightSpeed)")
class SlabCode(RayCode):
    """Two-plane coordinates in the nearest of several slabs: 4 numbers.

    Buffers: `frames` (K, 3, 3), rows x, y, z of each slab; `low`, `high` (K, 4): the range that
    becomes [-1, 1].
    """

    frames: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, config: SlabConfig, bounded: bool = True):
        super().__init__()
        self.config, self.bounded = config, bounded
        self.out_dim, self.clusters = 4, config.clusters
        turn = torch.arange(config.clusters) * (2 * math.pi / config.clusters)
        axes = torch.stack((turn.sin(), torch.zeros_like(turn), -turn.cos()), -1)
        self.register_buffer("frames", frame_about(axes))
        self.register_buffer("low", -torch.ones(config.clusters, 4))
        self.register_buffer("high", torch.ones(config.clusters, 4))

    @torch.no_grad()
    def adapt(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> None:
        """Find the slabs, and the range of every coordinate in each."""
        told = telling(self.bounded, origins, directions, near, far)
        o, d = origins[told], normalised(directions[told])
        self.frames.copy_(frame_about(mean_directions(d, self.clusters, generator)))
        cosines = d @ self.frames[:, 2].T
        angles = cosines.clamp(-1, 1).acos()
        # rays of other slabs that are mixed with this one's are within its range
        reach = angles.amin(1) + math.radians(self.config.fade)
        for k in range(self.clusters):
            mine = (angles[:, k] <= reach) & (cosines[:, k] >= self.config.min_cosine)
            if bool(mine.any()):
                rows = torch.full((int(mine.sum()),), k, device=o.device)
                found = self._coordinates(o[mine], d[mine], rows)
                self.low[k], self.high[k] = found.amin(0), found.amax(0)

    def _coordinates(self, o: Tensor, d: Tensor, cluster: Int64[Tensor, "n"]) -> Tensor:
        """Plane coordinates in slabs; those of rays that are not valid are finite, no more."""
        frames = self.frames.to(o.dtype)[cluster]
        o, d = ((frames * v[:, None]).sum(-1) for v in (o, d))
        z = d[:, 2:].clamp(min=1e-3)
        return plane_coordinates(o, torch.cat((d[:, :2], z), -1), *self.config.planes)

    def _codes(self, o: Tensor, d: Tensor, cluster: Tensor, cosine: Tensor) -> RayCodes:
        low, high = (v.to(o.dtype)[cluster] for v in (self.low, self.high))
        place = (self._coordinates(o, d, cluster) - low) / (high - low).clamp(min=1e-6)
        valid = cosine >= self.config.min_cosine
        values = (2 * place - 1).clamp(-1, 1)
        return RayCodes(torch.where(valid[:, None], values, 0), cluster, valid)

    def forward(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> RayCodes:
        """Codes of rays in their nearest slab, and in the next where they are mixed."""
        d = normalised(directions)
        cosines = d @ self.frames[:, 2].to(d.dtype).T
        best, order = cosines.topk(min(2, self.clusters), dim=1)
        own = self._codes(origins, d, order[:, 0], best[:, 0])
        if self.clusters == 1 or not self.config.fade:
            return own
        other = self._codes(origins, d, order[:, 1], best[:, 1])
        angles = best.clamp(-1, 1).acos()
        lead = (angles[:, 1] - angles[:, 0]) / math.radians(self.config.fade)
        share = (0.5 + 0.5 * lead).clamp(max=1)
        # what is about to leave a slab's range fades as well
        mine, theirs = ((best - self.config.min_cosine) / RAMP).clamp(0, 1).unbind(1)
        mine, theirs = share * mine, (1 - share) * theirs
        share = torch.where(theirs > 0, mine / (mine + theirs).clamp(min=1e-9), 1)
        return RayCodes(own.values, own.cluster, own.valid, other, share)
