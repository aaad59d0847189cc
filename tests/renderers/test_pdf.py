"""Histogram sampling and the loss between histograms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.renderers.pdf import interlevel_loss, outer_mass, sample_intervals, sample_pdf


def test_inverting_a_pdf_at_five_even_levels():
    edges, weights = torch.tensor([[0.0, 1, 2, 3]]), torch.tensor([[0.0, 1, 3]])
    got = sample_pdf(edges, weights, 5)
    assert torch.allclose(got, torch.tensor([[0, 2, 7 / 3, 8 / 3, 3]]), atol=1e-4)


def test_even_intervals_of_even_mass():
    one = sample_intervals(torch.tensor([[0.0, 1]]), torch.tensor([[0.5]]), 2)
    assert torch.allclose(one, torch.tensor([[0.0, 0.5, 1]]))
    two = sample_intervals(torch.tensor([[0.0, 1, 2]]), torch.tensor([[0.5, 0.5]]), 2)
    assert torch.allclose(two, torch.tensor([[0.0, 1, 2]]))


def test_a_single_interval_spans_the_histogram():
    got = sample_intervals(torch.tensor([[1.0, 2, 5]]), torch.tensor([[1.0, 3]]), 1)
    assert got.tolist() == [[1.0, 5.0]]


def test_rays_without_weight_are_sampled_evenly():
    edges = torch.tensor([[0.0, 1, 2]])
    got = sample_pdf(edges, torch.zeros(1, 2), 3)
    assert torch.allclose(got, torch.tensor([[0.0, 1, 2]]), atol=1e-6)


def test_samples_follow_the_histogram():
    g = torch.Generator().manual_seed(0)
    edges = torch.tensor([[0.0, 1, 3, 4]])
    weights = torch.tensor([[0.1, 0.6, 0.3]])
    for samples in (
        sample_pdf(edges, weights, 20_000, g),
        sample_intervals(edges, weights, 20_000, g),
    ):
        share = torch.histc(samples, 4, 0, 4) / 20_000
        assert torch.allclose(share, torch.tensor([0.1, 0.3, 0.3, 0.3]), atol=0.02)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), n=st.integers(1, 20), random=st.booleans())
def test_intervals_ascend_inside_the_histogram(seed, k, n, random):
    g = torch.Generator().manual_seed(seed)
    edges = torch.rand(3, k + 1, generator=g).sort(-1).values
    weights = torch.rand(3, k, generator=g) * (torch.rand(3, k, generator=g) > 0.5)
    got = sample_intervals(edges, weights, n, g if random else None)
    assert got.shape == (3, n + 1)
    assert (got.diff() >= -1e-6).all()
    assert (got >= edges[:, :1] - 1e-6).all() and (got <= edges[:, -1:] + 1e-6).all()


def test_no_rays():
    assert sample_pdf(torch.zeros(0, 4), torch.zeros(0, 3), 5).shape == (0, 5)
    assert sample_intervals(torch.zeros(0, 4), torch.zeros(0, 3), 5).shape == (0, 6)


def test_samples_carry_no_gradient():
    weights = torch.rand(1, 3, requires_grad=True)
    assert not sample_pdf(torch.tensor([[0.0, 1, 2, 3]]), weights, 4).requires_grad


def naive_outer(edges, proposal_edges, proposal_weights):
    out = torch.zeros(len(edges) - 1, dtype=edges.dtype)
    for i in range(len(edges) - 1):
        for j in range(len(proposal_edges) - 1):
            if proposal_edges[j] < edges[i + 1] and proposal_edges[j + 1] > edges[i]:
                out[i] += proposal_weights[j]
    return out


def test_outer_mass_equals_a_loop_over_overlaps():
    g = torch.Generator().manual_seed(1)
    edges = torch.rand(6, 9, generator=g).double().sort(-1).values
    proposal = torch.rand(6, 5, generator=g).double().sort(-1).values
    weights = torch.rand(6, 4, generator=g).double()
    got = outer_mass(edges, proposal, weights)
    want = [naive_outer(*row) for row in zip(edges, proposal, weights, strict=True)]
    assert torch.allclose(got, torch.stack(want))


def test_outer_mass_of_the_same_edges_is_the_weight_itself():
    edges = torch.tensor([[0.0, 1, 2, 3]])
    weights = torch.tensor([[0.2, 0.5, 0.1]])
    assert torch.allclose(outer_mass(edges, edges, weights), weights)


def test_interlevel_loss_is_zero_under_an_envelope_and_positive_outside():
    edges, weights = torch.tensor([[0.0, 1, 2, 3]]), torch.tensor([[0.2, 0.5, 0.1]])
    assert interlevel_loss(edges, weights, edges, weights).item() == pytest.approx(0, abs=1e-10)
    wide = torch.tensor([[0.0, 1.5, 3]])
    assert interlevel_loss(edges, weights, wide, torch.tensor([[0.7, 0.6]])).item() == 0
    low = interlevel_loss(edges, weights, edges, weights / 2)
    want = ((weights / 2) ** 2 / weights).sum().item()
    assert low.item() == pytest.approx(want, rel=1e-4)


def test_only_the_proposal_gets_gradients():
    edges = torch.tensor([[0.0, 1, 2, 3]])
    final = torch.tensor([[0.2, 0.5, 0.1]], requires_grad=True)
    proposal = torch.tensor([[0.1, 0.2, 0.6]], requires_grad=True)
    interlevel_loss(edges, final, edges, proposal).sum().backward()
    assert final.grad is None
    # Too low a proposal is pushed up; where it is high enough nothing pulls.
    assert (proposal.grad[0, :2] < 0).all() and proposal.grad[0, 2] == 0
