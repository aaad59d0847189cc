"""Sampling along rays from histograms, and the loss that ties histograms together.

edges: (N, K+1) ascending interval edges, any monotone ray coordinate; weights: (N, K) mass of each
interval; u in [0, 1]: cumulated mass.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# NeRF's padding: rays without any weight are sampled evenly instead of dividing by zero.
PADDING = 1e-5


def uniforms(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Float[Tensor, "*shape"]:
    """Random numbers in [0, 1) of `like`'s dtype and device, drawn where the generator lives.

    Without a generator every number is 1/2.
    """
    if generator is None:
        return torch.full(shape, 0.5, dtype=like.dtype, device=like.device)
    drawn = torch.rand(shape, dtype=like.dtype, device=generator.device, generator=generator)
    return drawn.to(like.device)


def _invert(edges: Tensor, weights: Tensor, u: Tensor, padding: float) -> Tensor:
    """Positions where the piecewise linear cumulated mass reaches u."""
    mass = weights + padding
    cdf = mass.cumsum(-1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf / cdf[:, -1:]], -1)
    right = torch.searchsorted(cdf, u.contiguous(), right=True)
    right = right.clamp(1, edges.shape[-1] - 1)
    c0, c1 = cdf.gather(-1, right - 1), cdf.gather(-1, right)
    e0, e1 = edges.gather(-1, right - 1), edges.gather(-1, right)
    gap = c1 - c0
    return e0 + (e1 - e0) * ((u - c0) / torch.where(gap > 0, gap, 1.0)).clamp(0, 1)


@torch.no_grad()
def sample_pdf(
    edges: Float[Tensor, "n k1"],
    weights: Float[Tensor, "n k"],
    n: int,
    generator: torch.Generator | None = None,
    padding: float = PADDING,
) -> Float[Tensor, "n samples"]:
    """Positions drawn from a histogram.

    Without a generator u are n even values from 0 to 1 inclusive (ascending), with one they
    are random and unsorted. Not differentiable.

    Source: Mildenhall et al. 2020, section 5.2.
    """
    if generator is None:
        u = torch.linspace(0, 1, n, dtype=edges.dtype, device=edges.device)
        u = u.expand(len(edges), n)
    else:
        u = uniforms((len(edges), n), edges, generator)
    return _invert(edges, weights, u, padding)


@torch.no_grad()
def sample_intervals(
    edges: Float[Tensor, "n k1"],
    weights: Float[Tensor, "n k"],
    n: int,
    generator: torch.Generator | None = None,
    padding: float = PADDING,
) -> Float[Tensor, "n samples1"]:
    """Edges of n intervals that follow a histogram.

    Sample centres sit at u = (i + b) / n, with b one random number per ray (1/2 without a
    generator); edges are midpoints between them, the end ones mirrored about the outermost
    centres and kept inside the histogram. Not differentiable.

    Source: the proposal sampler of Li et al. 2023 (NerfAcc).

    >>> sample_intervals(torch.tensor([[0.0, 1, 2]]), torch.tensor([[1.0, 1]]), 2)
    tensor([[0., 1., 2.]])
    """
    b = uniforms((len(edges), 1), edges, generator)
    u = (torch.arange(n, dtype=edges.dtype, device=edges.device) + b) / n
    centres = _invert(edges, weights, u, padding)
    inner = (centres[:, 1:] + centres[:, :-1]) / 2
    if n == 1:
        return torch.cat([edges[:, :1], edges[:, -1:]], -1)
    first = (2 * centres[:, :1] - inner[:, :1]).clamp(min=edges[:, :1])
    last = torch.minimum(2 * centres[:, -1:] - inner[:, -1:], edges[:, -1:])
    return torch.cat([first, inner, last], -1)


def outer_mass(
    edges: Float[Tensor, "n k1"],
    proposal_edges: Float[Tensor, "n p1"],
    proposal_weights: Float[Tensor, "n p"],
) -> Float[Tensor, "n k"]:
    """Total proposal weight of the proposal intervals that overlap each interval of `edges`."""
    total = proposal_weights.cumsum(-1)
    cdf = torch.cat([torch.zeros_like(total[:, :1]), total], -1)
    last = proposal_weights.shape[-1]
    inner = proposal_edges.contiguous()
    low = torch.searchsorted(inner, edges[:, :-1].contiguous(), right=True) - 1
    high = torch.searchsorted(inner, edges[:, 1:].contiguous(), right=False)
    return cdf.gather(-1, high.clamp(0, last)) - cdf.gather(-1, low.clamp(0, last))


def interlevel_loss(
    edges: Float[Tensor, "n k1"],
    weights: Float[Tensor, "n k"],
    proposal_edges: Float[Tensor, "n p1"],
    proposal_weights: Float[Tensor, "n p"],
) -> Float[Tensor, "n"]:
    """How far the final weights stick out of the proposal's histogram, per ray.

    ``sum max(0, w - bound)^2 / (w + 1e-7)``, the bound being the proposal's mass over the
    intervals that overlap. Zero when the proposal is an upper envelope. Only the proposal's
    weights get gradients.

    Source: Barron et al. 2022 (mip-NeRF 360), equations 13 and 14.
    """
    w = weights.detach()
    bound = outer_mass(edges.detach(), proposal_edges.detach(), proposal_weights)
    return ((w - bound).clamp(min=0).square() / (w + 1e-7)).sum(-1)
