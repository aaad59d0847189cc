"""Where rays meet the box, and how steps are spread over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.renderers.boxes import clip_to_box, intersect_box
from polyfield.renderers.spacing import distances, even_edges
from polyfield.renderers.types import Rays


def ray(o, d, near=0.0, far=100.0):
    d = torch.nn.functional.normalize(torch.tensor([d]), dim=-1)
    return Rays(torch.tensor([o]), d, torch.tensor([near]), torch.tensor([far]))


def test_a_ray_through_the_middle():
    enter, leave = intersect_box(ray([0.0, 0, 3], [0.0, 0, -1]))
    assert (enter.item(), leave.item()) == (2, 4)


def test_from_inside_entry_is_behind():
    enter, leave = intersect_box(ray([0.0, 0, 0], [1.0, 0, 0]))
    assert (enter.item(), leave.item()) == (-1, 1)


@pytest.mark.parametrize("o", [[2.0, 0, 3], [1.5, 1.5, 0]])
def test_a_miss_has_no_length(o):
    enter, leave = intersect_box(ray(o, [0.0, 0, -1]))
    assert not enter < leave
    clipped = clip_to_box(ray(o, [0.0, 0, -1], 0.3, 9.0))
    assert clipped.near.item() == clipped.far.item() == pytest.approx(0.3)


def test_a_ray_in_a_face_is_no_nan():
    enter, leave = intersect_box(ray([1.0, 0, 3], [0.0, 0, -1]))
    assert enter.isfinite().all() and leave.isfinite().all()


def test_clipping_respects_near_and_far():
    clipped = clip_to_box(ray([0.0, 0, 3], [0.0, 0, -1], 2.5, 3.5))
    assert (clipped.near.item(), clipped.far.item()) == (2.5, 3.5)


def test_a_box_behind_the_camera_is_missed():
    clipped = clip_to_box(ray([0.0, 0, 3], [0.0, 0, 1]))
    assert clipped.near.item() == clipped.far.item()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_clipped_segments_lie_in_the_box_and_nothing_else_does(seed):
    g = torch.Generator().manual_seed(seed)
    o = torch.randn(20, 3, generator=g, dtype=torch.float64) * 2
    d = torch.nn.functional.normalize(torch.randn(20, 3, generator=g, dtype=torch.float64), dim=-1)
    rays = Rays(o, d, torch.zeros(20).double(), torch.full((20,), 10.0).double())
    clipped = clip_to_box(rays)
    t = torch.linspace(0, 10, 301, dtype=torch.float64)
    inside = ((o[:, None] + t[:, None] * d[:, None]).abs() <= 1).all(-1)
    kept = (t > clipped.near[:, None]) & (t < clipped.far[:, None])
    edge = (t - clipped.near[:, None]).abs().minimum((t - clipped.far[:, None]).abs()) < 1e-9
    assert (inside == kept)[~edge].all()


def test_disparity_is_linear_in_one_over_t():
    s = torch.linspace(0, 1, 5)[None]
    t = distances(s, torch.tensor([0.5]), torch.tensor([8.0]), "disparity")
    assert torch.allclose((1 / t).diff(), torch.full((1, 4), (1 / 8 - 2) / 4))
    assert t[0, 0].item() == pytest.approx(0.5) and t[0, -1].item() == pytest.approx(8)


def test_disparity_survives_near_zero_and_missed_rays():
    s = torch.linspace(0, 1, 5).expand(2, 5)
    t = distances(s, torch.tensor([0.0, 0.0]), torch.tensor([1e6, 0.0]), "disparity")
    assert t.isfinite().all() and (t.diff() >= 0).all()


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_even_edges_cover_everything_in_order(seed):
    g = None if seed is None else torch.Generator().manual_seed(seed)
    s = even_edges(50, 8, torch.zeros(1), g)
    assert s.shape == (50, 9) and (s.diff() >= 0).all()
    assert (s[:, 0] == 0).all() and (s[:, -1] == 1).all()
    assert (s - torch.linspace(0, 1, 9)).abs().max() <= 0.5 / 8 + 1e-6
    if g is None:
        assert torch.allclose(s, torch.linspace(0, 1, 9).expand(50, 9))
    else:
        assert (s[0] != s[1]).any()
