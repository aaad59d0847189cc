"""Compositing: published numbers, naive loops, layouts, backends, gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield import backend
from polyfield.renderers.compositing import (
    accumulate,
    alpha_from_density,
    distortion_loss,
    expected_depth,
    median_depth,
    over_background,
    transmittance_from_alpha,
    transmittance_from_density,
    visibility,
    weights_from_alpha,
    weights_from_density,
)

COUNTS = [3, 0, 2, 2, 0]
INDEX = torch.tensor([0, 0, 0, 2, 2, 3, 3])
VALUES = torch.tensor([0.4, 0.8, 0.1, 0.8, 0.1, 0.0, 0.9])


def near(a, b, tolerance=1e-4):
    return torch.allclose(a, torch.as_tensor(b, dtype=a.dtype), atol=tolerance)


@pytest.fixture(params=["torch", "numba"])
def either_backend(request):
    with backend.using(request.param):
        yield request.param


def test_four_samples_of_a_ray():
    sigma, delta = torch.tensor([[0.0, 1, 2, 4]]), torch.full((1, 4), 0.5)
    assert near(alpha_from_density(sigma, delta), [[0, 0.3935, 0.6321, 0.8647]])
    assert near(transmittance_from_density(sigma, delta), [[1, 1, 0.6065, 0.2231]])
    weights = weights_from_density(sigma, delta)
    assert near(weights, [[0, 0.3935, 0.3834, 0.1929]])
    assert weights.sum().item() == pytest.approx(1 - math.exp(-3.5), abs=1e-6)


def test_packed_alphas():
    assert near(transmittance_from_alpha(VALUES, INDEX), [1, 0.6, 0.12, 1, 0.2, 1, 1])
    assert near(weights_from_alpha(VALUES, INDEX), [0.4, 0.48, 0.012, 0.8, 0.02, 0, 0.9])


def test_packed_densities(either_backend):
    ones = torch.ones(7)
    T = transmittance_from_density(VALUES, ones, INDEX)
    alpha = alpha_from_density(VALUES, ones)
    assert near(T, [1, 0.67, 0.30, 1, 0.45, 1, 1], 0.005)
    assert near(alpha, [0.33, 0.55, 0.095, 0.55, 0.095, 0, 0.59], 0.005)
    # 0.3012 and 0.4493 pass 0.3; the small alphas fail 0.2.
    assert visibility(T, alpha, 0.3, 0.2).tolist() == [True, True, False, True, False, False, True]
    assert near(weights_from_density(VALUES, ones, INDEX, 5), T * alpha, 1e-6)


def test_weights_sum_to_one_minus_what_gets_through(either_backend):
    g = torch.Generator().manual_seed(0)
    sigma, delta = torch.rand(40, generator=g) * 5, torch.rand(40, generator=g)
    index = torch.randint(9, (40,), generator=g).sort().values
    total = accumulate(weights_from_density(sigma, delta, index, 10), None, index, 10)
    depth = torch.zeros(10).index_add(0, index, sigma * delta)
    assert near(total, 1 - torch.exp(-depth), 1e-6)


def test_density_and_alpha_routes_agree():
    g = torch.Generator().manual_seed(0)
    sigma, delta = torch.rand(4, 9, generator=g) * 3, torch.rand(4, 9, generator=g)
    alpha = alpha_from_density(sigma, delta)
    assert near(transmittance_from_alpha(alpha), transmittance_from_density(sigma, delta), 1e-6)
    assert near(weights_from_alpha(alpha), weights_from_density(sigma, delta), 1e-6)


@given(cuts=st.lists(st.floats(0.01, 1.99), min_size=0, max_size=8), sigma=st.floats(0, 20))
@settings(max_examples=40, deadline=None)
def test_opacity_of_constant_density_does_not_depend_on_the_intervals(cuts, sigma):
    edges = torch.tensor([0.0, *sorted(cuts), 2.0], dtype=torch.float64)
    delta = edges.diff()[None]
    weights = weights_from_density(torch.full_like(delta, sigma), delta)
    assert weights.sum().item() == pytest.approx(1 - math.exp(-2 * sigma), abs=1e-9)


def naive_weights(sigma, delta, counts):
    out, start = [], 0
    for count in counts:
        T = 1.0
        for s, d in zip(
            sigma[start : start + count].tolist(),
            delta[start : start + count].tolist(),
            strict=True,
        ):
            out.append(T * (1 - math.exp(-s * d)))
            T *= math.exp(-s * d)
        start += count
    return torch.tensor(out, dtype=sigma.dtype)


def test_packed_weights_equal_loops(either_backend):
    g = torch.Generator().manual_seed(3)
    sigma, delta = torch.rand(7, generator=g).double(), torch.rand(7, generator=g).double()
    got = weights_from_density(sigma, delta, INDEX, 5)
    assert near(got, naive_weights(sigma, delta, COUNTS), 1e-12)


@pytest.mark.parametrize("opaque", [False, True])
def test_packed_equals_dense_with_gradients(either_backend, opaque):
    g = torch.Generator().manual_seed(0)
    sigma = (torch.rand(5, 7, generator=g) * 4).double().requires_grad_()
    delta = torch.rand(5, 7, generator=g).double().requires_grad_()
    flat = [v.detach().flatten().requires_grad_() for v in (sigma, delta)]
    index = torch.arange(5).repeat_interleave(7)
    pull = torch.randn(35, generator=g).double()
    dense = weights_from_density(sigma, delta, opaque=opaque).flatten()
    packed = weights_from_density(*flat, index, 5, opaque=opaque)
    assert near(dense, packed, 1e-12)
    (dense @ pull).backward()
    (packed @ pull).backward()
    assert near(sigma.grad.flatten(), flat[0].grad, 1e-10)
    assert near(delta.grad.flatten(), flat[1].grad, 1e-10)


def test_gradcheck_of_packed_weights_with_empty_rays(either_backend):
    g = torch.Generator().manual_seed(0)
    sigma = torch.rand(7, generator=g).double().requires_grad_()
    delta = torch.rand(7, generator=g).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, d: weights_from_density(s, d, INDEX, 5), (sigma, delta)
    )


def test_gradcheck_from_alpha_opaque_samples_included():
    alpha = torch.tensor([0.4, 1.0, 0.1, 0.8, 0.1, 0.0, 1.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: weights_from_alpha(a, INDEX), (alpha,))
    dense = torch.tensor([[0.4, 1.0, 0.1], [0.2, 0.0, 1.0]]).double().requires_grad_()
    assert torch.autograd.gradcheck(weights_from_alpha, (dense,))


@pytest.mark.parametrize("count", [0, 1, 31, 4097])
def test_backends_agree_forward_and_backward(count):
    g = torch.Generator().manual_seed(count)
    index = torch.randint(50, (count,), generator=g).sort().values
    results = []
    for name in ("torch", "numba"):
        sigma = (torch.rand(count, generator=torch.Generator().manual_seed(1)) * 9).requires_grad_()
        delta = torch.rand(count, generator=torch.Generator().manual_seed(2))
        with backend.using(name):
            weights = weights_from_density(sigma, delta, index, 60)
        (weights * torch.arange(count)).sum().backward()
        results.append((weights.detach(), sigma.grad))
    assert near(results[0][0], results[1][0], 1e-6)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-3)


def test_opaque_background_takes_all_that_is_left(either_backend):
    weights = weights_from_density(VALUES, torch.ones(7), INDEX, 5, opaque=True)
    assert near(accumulate(weights, None, INDEX, 5), [1, 0, 1, 1, 0], 1e-6)
    dense = weights_from_density(torch.zeros(2, 3), torch.ones(2, 3), opaque=True)
    assert dense.tolist() == [[0, 0, 1]] * 2
    alpha = weights_from_alpha(VALUES, INDEX, opaque=True)
    assert near(accumulate(alpha, None, INDEX, 5), [1, 0, 1, 1, 0], 1e-6)


def test_infinite_density_ends_its_own_ray_only(either_backend):
    sigma = torch.tensor([1.0, math.inf, 1.0, 1.0, 1.0])
    index = torch.tensor([0, 0, 0, 1, 1])
    weights = weights_from_density(sigma, torch.ones(5), index, 2)
    assert near(weights, [0.6321, 0.3679, 0, 0.6321, 0.2325])


def test_no_samples_at_all(either_backend):
    none, index = torch.zeros(0, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    weights = weights_from_density(none, none, index, 3)
    rgb = accumulate(weights, torch.zeros(0, 3), index, 3)
    assert rgb.tolist() == [[0.0] * 3] * 3
    assert expected_depth(weights, none, index, 3).tolist() == [0.0] * 3
    assert median_depth(weights, none, none, index, 3).tolist() == [0.0] * 3
    assert distortion_loss(weights, none, none, index, 3).tolist() == [0.0] * 3
    rgb.sum().backward()
    assert none.grad.shape == (0,)


def test_accumulate_equals_a_loop_in_both_layouts():
    g = torch.Generator().manual_seed(0)
    weights, values = torch.rand(7, generator=g), torch.rand(7, 3, generator=g)
    want = torch.zeros(5, 3)
    for i, ray in enumerate(INDEX.tolist()):
        want[ray] += weights[i] * values[i]
    assert near(accumulate(weights, values, INDEX, 5), want, 1e-6)
    assert near(accumulate(weights, values[:, 0], INDEX, 5), want[:, 0], 1e-6)
    dense_w, dense_v = weights[:6].reshape(2, 3), values[:6].reshape(2, 3, 3)
    assert near(accumulate(dense_w, dense_v), (dense_w[..., None] * dense_v).sum(1), 1e-6)
    assert near(accumulate(dense_w), dense_w.sum(1), 1e-6)


def test_expected_depth_is_a_mean_and_zero_without_weight():
    weights = torch.tensor([[0.25, 0.25], [0.0, 0.0]])
    assert expected_depth(weights, torch.tensor([[1.0, 3], [1, 3]])).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("samples", [1, 3, 10])
def test_median_depth_of_constant_density_is_exact_for_any_sampling(samples):
    sigma, start = 2.0, 1.0
    edges = torch.linspace(start, 4, samples + 1).double()[None]
    t0, t1 = edges[:, :-1], edges[:, 1:]
    weights = weights_from_density(torch.full_like(t0, sigma), t1 - t0)
    assert median_depth(weights, t0, t1).item() == pytest.approx(start + math.log(2) / sigma)
    index = torch.zeros(samples, dtype=torch.int64)
    packed = median_depth(weights[0], t0[0], t1[0], index, 2)
    assert packed.tolist() == pytest.approx([start + math.log(2) / sigma, 0.0])


def test_median_depth_of_a_faint_ray_is_zero_and_of_a_wall_its_front():
    t0, t1 = torch.tensor([[1.0, 2, 3]]), torch.tensor([[2.0, 3, 4]])
    faint = weights_from_density(torch.full((1, 3), 0.1), t1 - t0)
    assert median_depth(faint, t0, t1).item() == 0
    wall = weights_from_density(torch.tensor([[0.0, 1e9, 0.0]]), t1 - t0)
    assert median_depth(wall, t0, t1).item() == pytest.approx(2, abs=0.05)


def naive_distortion(weights, t0, t1):
    mid = (t0 + t1) / 2
    pairs = weights[:, None] * weights[None] * (mid[:, None] - mid[None]).abs()
    return pairs.sum() + (weights.square() * (t1 - t0)).sum() / 3


def test_distortion_equals_the_double_sum_in_both_layouts():
    g = torch.Generator().manual_seed(0)
    edges = torch.rand(3, 9, generator=g).double().sort(-1).values
    weights = torch.rand(3, 8, generator=g).double().requires_grad_()
    t0, t1 = edges[:, :-1], edges[:, 1:]
    want = torch.stack([naive_distortion(*r) for r in zip(weights, t0, t1, strict=True)])
    assert near(distortion_loss(weights, t0, t1), want, 1e-12)
    index = torch.tensor([0, 2, 3]).repeat_interleave(8)
    packed = distortion_loss(weights.flatten(), t0.flatten(), t1.flatten(), index, 4)
    assert near(packed[[0, 2, 3]], want, 1e-12) and packed[1] == 0
    assert torch.autograd.gradcheck(lambda w: distortion_loss(w, t0, t1), (weights,))


def test_background_shows_through_what_is_left():
    rgb, opacity = torch.tensor([[0.2, 0.2, 0.2], [0.0, 0.0, 0.0]]), torch.tensor([0.5, 0.0])
    white = over_background(rgb, opacity, torch.ones(3))
    assert torch.allclose(white, torch.tensor([[0.7] * 3, [1.0] * 3]))
    each = over_background(rgb, opacity, torch.tensor([[0.0] * 3, [0.3] * 3]))
    assert torch.allclose(each, torch.tensor([[0.2] * 3, [0.3] * 3]))
    assert over_background(rgb, opacity, None) is rgb
