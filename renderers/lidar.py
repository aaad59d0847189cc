"""The LiDAR renderer: ranges of pulses that go out and come back.

Light meets the medium twice, so that the power returned from t is P(t) = T(t)^2 sigma(t) rho(t)
and the weights of intervals are those of ordinary compositing with doubled density (Neural LiDAR
Fields; Huang et al., ICCV 2023, arXiv 2305.01643):

    w_j = (1 - exp(-2 sigma_j delta_j)) prod_{k<j} exp(-2 sigma_k delta_k).

The range is not the mean of t over the whole ray, which leaves points floating between an edge
and the wall behind it, but that within a window around the strongest return. A second return is
the first of what lies behind it. t: scene units; windows and gaps: metres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.registry import register
from polyfield.renderers.compositing import accumulate, weights_from_density
from polyfield.renderers.lidar_beams import Footprint, diverge, returns_of_bundles
from polyfield.renderers.pdf import sample_pdf, uniforms
from polyfield.renderers.positions import positions
from polyfield.renderers.samplers.base import Sampler
from polyfield.renderers.types import Intervals, Rays, Rendered
from polyfield.renderers.visible import visible_samples

# Logit of being dropped of a beam that meets nothing.
EMPTY = 4.0


@dataclass(frozen=True)
class LidarRendererConfig:
    """Settings of the LiDAR renderer."""

    two_way: bool = True
    """The light passes the medium twice (no: once, as in cameras; LiDAR-NeRF)."""
    range: Literal["window", "expected"] = "window"
    """Range: mean around the strongest return, or over the whole ray."""
    window: float = 0.5
    """Half the width of the window, metres."""
    fine_samples: int = 16
    """Samples in the window."""
    rounds: int = 2
    """How often the window is sampled: evenly, then where more returns (while training: once)."""
    gap: float = 1.0
    """Least distance between first and second return, metres."""
    beams: int = 1
    """Rays per beam: 1, or 7, 19 or 37 over its footprint, where nothing is fitted."""
    divergence: float = 1.5e-3
    """Half-angle of the beam, radians, where its power has fallen to e^-2."""
    second_power: float = 0.1
    """Share of a beam's power from which a second return is told (with several rays)."""
    early_stop_eps: float = 1e-3
    """Samples that less than this share of the light reaches are left out."""
    alpha_threshold: float = 1e-3
    """Samples of less opacity than this are left out (while training, than half the mean)."""

    def __post_init__(self) -> None:
        for name in ("window", "gap", "divergence"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("fine_samples", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("early_stop_eps", "alpha_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.second_power < 1:
            raise ValueError(f"second_power must be in (0, 1), got {self.second_power}")
        Footprint(self.beams, self.divergence)


PRESETS: dict[str, Any] = {
    "cpu": {
        # steps of 0.1 m or so near the sensor, for scenes of 200 m
        "sampler": {
            "type": "occupancy-grid",
            "resolution": 128,
            "steps": 2048,
            "first_steps": 512,
            "growth": 0.5,
            "cone_angle": 0.004,
            "dilate": False,
            "early_stop_eps": 0.0,
        },
    },
    "paper": {
        "sampler": {"type": "occupancy-grid", "resolution": 128, "steps": 4096},
        "fit": {"rays": 4096, "lr": 5e-3, "lr_final": 0.1},
    },
}
LOSSES = {"range": 1.0, "line-of-sight": 0.3, "intensity": 1.0, "drop": 0.1, "second": 0.05}


@register(
    "lidar",
    kind="renderers",
    config=LidarRendererConfig,
    paper="Huang et al. 2023 (NFL); Tao et al. 2023 (LiDAR-NeRF)",
    presets=PRESETS,
    field="lidar",
    levels=("point", "ray"),
    sampled=True,
    measures="beams",
    losses=LOSSES,
    backbone_presets=("cpu", "lidar"),
    backbone_sections=("backbone", "fit"),
)
def render_lidar(
    field: Any,
    rays: Rays,
    sampler: Sampler,
    config: LidarRendererConfig,
    *,
    background: Float[Tensor, "3"] | Float[Tensor, "n 3"] | None = None,
    generator: torch.Generator | None = None,
) -> Rendered:
    """What a sensor reports of its beams.

    Args:
        field: A LiDAR field.
        rays: The beams' axes, one leading dimension N.
        sampler: Picks the intervals.
        config: What to compute.
        background: Not used: nothing comes back from it.
        generator: Jitters the samples, and says that the field is being trained: one ray per beam
            and no second look behind first returns.

    Returns:
        `Rendered`: depth is the range t of the first return (0 where all is empty), opacity the
        share of the power that comes back, rgb the intensity as grey; extras ``intensity``,
        ``drop`` and ``second_logit`` (N,), ``weights``, ``intervals``, ``samples``, and where
        nothing is trained ``second_range`` (N,), 0 where there is none, and ``second`` (bool).
    """
    if generator is not None:
        return first_returns(field, rays, sampler, config, generator)
    if config.beams == 1:
        first = first_returns(field, rays, sampler, config)
        return _with_second(field, rays, sampler, config, first)
    footprint = Footprint(config.beams, config.divergence)
    parts = first_returns(field, diverge(rays, footprint), sampler, config)
    return returns_of_bundles(
        parts, footprint, config.gap * float(field.scale), config.second_power
    )


def first_returns(
    field: Any,
    rays: Rays,
    sampler: Sampler,
    config: LidarRendererConfig,
    generator: torch.Generator | None = None,
) -> Rendered:
    """First returns of single rays; see `render_lidar`."""
    intervals = sampler(rays, field, generator).intervals
    if intervals.packed and (config.early_stop_eps > 0 or config.alpha_threshold > 0):
        seen = visible_samples(
            lambda x: _ways(config) * field.density(x), rays, intervals, config.early_stop_eps,
            config.alpha_threshold, generator is not None,
        )  # fmt: skip
        intervals = intervals.select(seen)[0]
    x = positions(rays, intervals)
    sigma, features = field.density_and_features(x)
    flat = intervals.ray_indices
    index = flat if flat is not None else _rows(intervals)
    width = features.shape[-1]
    seen = field.attributes(features.reshape(-1, width), rays.directions, index)
    weights = _weights(sigma, intervals, config)
    layout = intervals.layout
    opacity = accumulate(weights, None, *layout)
    sums = accumulate(weights, seen.reshape(*weights.shape, 3), *layout)
    intensity = sums[:, 0] / opacity.detach().clamp(min=1e-6)
    if config.range == "expected":
        depth = _mean(accumulate(weights, intervals.mid, *layout), opacity)
    else:
        centre = strongest(weights.detach(), intervals)
        depth = within_window(field, rays, centre, config, generator)
        depth = torch.where(opacity > 0, depth, torch.zeros_like(depth))
    extras = {
        "intensity": intensity,
        "drop": sums[:, 1] + (1 - opacity) * EMPTY,
        "second_logit": sums[:, 2],
        "weights": weights,
        "intervals": intervals,
        "samples": torch.tensor(intervals.t0.numel()),
    }
    return Rendered(intensity[:, None].expand(-1, 3), depth, opacity, None, extras)


def strongest(weights: Float[Tensor, "*shape"], intervals: Intervals) -> Float[Tensor, "n"]:
    """Middle of the interval with the largest weight of every ray; 0 where a ray has none."""
    if intervals.ray_indices is None:
        at = weights.argmax(-1, keepdim=True)
        return intervals.mid.gather(-1, at)[..., 0]
    rays, n = intervals.ray_indices, intervals.n_rays
    most = weights.new_zeros(n).scatter_reduce(0, rays, weights, "amax", include_self=False)
    is_most = weights >= most.index_select(0, rays)
    # of several alike the nearest
    mid = torch.where(is_most, intervals.mid, torch.full_like(intervals.mid, torch.inf))
    nearest = mid.new_full((n,), torch.inf).scatter_reduce(0, rays, mid, "amin")
    return torch.where(nearest.isfinite(), nearest, torch.zeros_like(nearest))


def within_window(
    field: Any,
    rays: Rays,
    centre: Float[Tensor, "n"],
    config: LidarRendererConfig,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n"]:
    """Mean range of what returns from a window around `centre`, nothing absorbed before it.

    Samples fill the window evenly, jittered with a generator; further rounds put them where the
    last one found weight. Density is taken as constant in every interval, and the mean over an
    interval is exact. Where the window is empty: `centre`.
    """
    half = config.window * field.scale
    even = torch.linspace(-1, 1, config.fine_samples + 1, device=centre.device)
    edges = (centre[:, None] + half * even.to(centre)).clamp(min=0)
    weights, at = _window_weights(field, rays, edges, config, generator)
    for _ in range(config.rounds - 1 if generator is None else 0):
        # surfaces may begin in the interval before the first that was found to be dense
        before = torch.nn.functional.pad(weights[:, 1:], (0, 1))
        nothing = (weights.sum(-1, keepdim=True) <= 0).to(weights)
        mass = weights + before + nothing
        edges = sample_pdf(edges, mass, config.fine_samples + 1, padding=0.0)
        weights, at = _window_weights(field, rays, edges, config, generator)
    total = weights.sum(-1)
    found = total > 1e-6
    mean = (weights * at).sum(-1) / torch.where(found, total, torch.ones_like(total))
    return torch.where(found, mean, centre)


def _window_weights(
    field: Any, rays: Rays, edges: Tensor, config: LidarRendererConfig, generator: Any
) -> tuple[Tensor, Tensor]:
    """Weights of the intervals between edges (N, S + 1), and where in them light is absorbed."""
    t0, delta = edges[:, :-1], edges.diff(dim=-1)
    t = t0 + uniforms(t0.shape, t0, generator) * delta
    x = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
    sigma = _ways(config) * field.density(x)
    return weights_from_density(sigma, delta), t0 + absorbed_at(sigma * delta) * delta


def absorbed_at(tau: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Where in an interval of optical depth tau light is absorbed on average: 1/2 down to 0.

    1 / tau - 1 / (exp(tau) - 1), and its series 1/2 - tau / 12 where tau is small.
    """
    small = tau < 1e-2
    safe = torch.where(small, torch.ones_like(tau), tau)
    exact = 1 / safe - 1 / torch.expm1(safe.clamp(max=80.0))
    return torch.where(small, 0.5 - tau / 12, exact)


def _with_second(
    field: Any, rays: Rays, sampler: Sampler, config: LidarRendererConfig, first: Rendered
) -> Rendered:
    """Look behind the first returns of beams that are said to come back twice."""
    told = (first.extras["second_logit"] > 0) & (first.depth > 0)
    at = told.nonzero()[:, 0]
    behind = replace(rays[at], near=first.depth[at] + config.gap * field.scale.to(first.depth))
    behind = replace(behind, far=torch.maximum(behind.far, behind.near))
    other = first_returns(field, behind, sampler, config)
    found = (other.opacity > 0.5) & (other.depth > 0)
    second = first.depth.new_zeros(len(told)).index_put((at,), other.depth * found)
    samples = first.extras["samples"] + other.extras["samples"]
    extras = {**first.extras, "second_range": second, "second": second > 0, "samples": samples}
    return replace(first, extras=extras)


def _ways(config: LidarRendererConfig) -> int:
    return 2 if config.two_way else 1


def _weights(sigma: Tensor, intervals: Intervals, config: LidarRendererConfig) -> Tensor:
    delta = intervals.t1 - intervals.t0
    return weights_from_density(_ways(config) * sigma, delta, *intervals.layout)


def _rows(intervals: Intervals) -> Tensor:
    """The ray of every dense interval."""
    n, s = intervals.t0.shape
    return torch.arange(n, device=intervals.t0.device).repeat_interleave(s)


def _mean(total: Tensor, opacity: Tensor) -> Tensor:
    return total / opacity.clamp(min=torch.finfo(opacity.dtype).eps)
