"""Proposal networks: small densities that place the samples, trained to bound the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polyfield.config import Spec
from polyfield.registry import register
from polyfield.renderers.compositing import weights_from_density
from polyfield.renderers.pdf import sample_intervals
from polyfield.renderers.positions import positions
from polyfield.renderers.samplers.base import MakeField, Sampler
from polyfield.renderers.spacing import Spacing, bounded, dense_intervals, distances
from polyfield.renderers.types import Rays, Samples

# NerfAcc's proposal backbones: a few coarse levels, enough to say where things are.
_SMALL = {"type": "hash-grid", "levels": 5, "log2_entries": 17, "max_resolution": 128}
_SECOND = {**_SMALL, "max_resolution": 256}


@dataclass(frozen=True)
class ProposalConfig:
    """Settings of the proposal sampler."""

    proposals: tuple[Spec | None, ...] = (None,)
    """Backbone of each proposal field, first to last (None: the run's own backbone)."""
    proposal_samples: tuple[int, ...] = (128,)
    """Intervals each proposal field looks at."""
    samples: int = 48
    """Intervals handed to the renderer."""
    spacing: Spacing = "uniform"
    """Even steps of the first round in distance, or in its inverse ('disparity')."""
    anneal_steps: int = 1000
    """Steps over which the weights' exponent grows from 0 (even samples) to 1."""
    train_every: int = 5
    """Proposals get gradients in one of this many steps, once `train_warmup` is over."""
    train_warmup: int = 1000
    """Steps over which that thins out, from every step."""

    def __post_init__(self) -> None:
        if not self.proposals or len(self.proposals) != len(self.proposal_samples):
            raise ValueError(
                f"proposal_samples needs one number per proposal, got {len(self.proposal_samples)} "
                f"for {len(self.proposals)}"
            )
        if min(*self.proposal_samples, self.samples, self.train_every) < 1:
            raise ValueError("numbers of samples and train_every must be at least 1")


def anneal_exponent(step: int, total: int) -> float:
    """Exponent ``10 s / (9 s + 1)`` of the weights after a fraction s of the annealing.

    Source: Barron et al. 2022 (mip-NeRF 360), section 4.
    """
    s = min(1.0, step / total) if total > 0 else 1.0
    return 10 * s / (9 * s + 1)


def trains_proposals(step: int, every: int, warmup: int) -> bool:
    """Whether proposals get gradients in this step: always at first, ever rarer, one in `every`."""
    share = min(1.0, step / warmup) if warmup > 0 else 1.0
    return step % (1 + round((every - 1) * share)) == 0


@register(
    "proposal",
    config=ProposalConfig,
    paper="Barron et al. 2022; Li et al. 2023",
    presets={
        "cpu": {
            "sampler": {"proposals": [_SMALL], "proposal_samples": [64], "samples": 32},
            "losses": {"mse": 1.0, "interlevel": 1.0},
        },
        "paper": {
            "sampler": {"proposals": [_SMALL], "proposal_samples": [128], "samples": 64},
            "losses": {"mse": 1.0, "interlevel": 1.0},
        },
        "unbounded": {
            "sampler": {
                "proposals": [_SMALL, _SECOND],
                "proposal_samples": [128, 64],
                "samples": 48,
                "spacing": "disparity",
            },
            "losses": {"interlevel": 1.0, "distortion": 0.01},
        },
    },
)
class Proposal(Sampler):
    """Rounds of resampling: each proposal field's weights place the next round's intervals.

    ``extras["proposals"]`` holds the edges and weights of every round; the loss named
    ``interlevel`` trains the proposals with them. Positions carry no gradient. The annealing
    follows `update` and is part of the state.
    """

    anneal: Tensor
    train_proposals: Tensor

    def __init__(
        self,
        config: ProposalConfig,
        contraction: str = "none",
        make_field: MakeField | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config, self.contraction = config, contraction
        if make_field is None:
            raise TypeError("the proposal sampler needs make_field to build its fields")
        self.fields = nn.ModuleList(make_field(spec) for spec in config.proposals)
        self.register_buffer("anneal", torch.tensor(1.0))
        self.register_buffer("train_proposals", torch.tensor(True))

    def forward(self, rays: Rays, field: Any, generator: torch.Generator | None = None) -> Samples:
        """Dense intervals (N, samples)."""
        inside = bounded(rays, self.contraction)
        s = torch.tensor([[0.0, 1.0]], dtype=rays.near.dtype, device=rays.near.device)
        s, weights = s.expand(len(rays), 2), torch.ones_like(rays.near)[:, None]
        rounds = []
        for proposal, n in zip(self.fields, self.config.proposal_samples, strict=True):
            s = sample_intervals(s, weights, n, generator)
            edges = distances(s, inside.near, inside.far, self.config.spacing)
            full = self._weigh(proposal, rays, edges)
            rounds.append((edges, full))
            weights = full.detach() ** self.anneal.to(full.dtype)
        s = sample_intervals(s, weights, self.config.samples, generator)
        edges = distances(s, inside.near, inside.far, self.config.spacing)
        return Samples(dense_intervals(edges), {"proposals": rounds})

    def _weigh(self, proposal: Any, rays: Rays, edges: Tensor) -> Tensor:
        intervals = dense_intervals(edges)
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.train_proposals)):
            sigma = proposal.density(positions(rays, intervals))
            return weights_from_density(sigma, intervals.t1 - intervals.t0)

    def update(self, field: Any, step: int, generator: torch.Generator) -> None:
        """Set the annealing exponent, and whether this step trains the proposals."""
        config = self.config
        self.anneal.fill_(anneal_exponent(step, config.anneal_steps))
        self.train_proposals.fill_(trains_proposals(step, config.train_every, config.train_warmup))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups of the proposal fields."""
        return [group for proposal in self.fields for group in proposal.parameter_groups(lr)]
