"""Packed operations: compiled kernels against the torch reference, forward and backward."""

import math

import pytest
import torch

from polyfield import backend
from polyfield.renderers import marching, occupancy  # noqa: F401 (operations tested by name)
from polyfield.renderers.compositing import (
    accumulate,
    alpha_from_density,
    composite,
    expected_depth,
    transmittance_from_density,
    visibility,
    visibility_from_density,
    weights_from_density,
)
from polyfield.renderers.positions import positions, sample_positions
from polyfield.renderers.scans import ray_offsets, select_packed
from polyfield.renderers.types import Intervals

SIZES = [(0, 0), (0, 3), (1, 1), (31, 7), (4097, 700), (9001, 3000)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def packing(count, n_rays):
    """Sorted ray indices of `count` samples, the last ray left empty where there are two."""
    rays = torch.randint(max(n_rays - 1, 1), (count,), generator=generator())
    return rays.sort().values


def on_both(function, *tensors, grads=()):
    """What `function` returns, and the gradients of the tensors listed, per backend."""
    found = []
    for name in ("torch", "numba"):
        given = [t.clone() if i not in grads else t.clone().requires_grad_() for i, t in
                 enumerate(tensors)]  # fmt: skip
        with backend.using(name):
            out = function(*given)
        out = out if isinstance(out, tuple) else (out,)
        if grads:
            pull = [torch.randn(o.shape, generator=generator(5)) for o in out]
            sum((o * p).sum() for o, p in zip(out, pull, strict=True)).backward()
        found.append([o.detach() for o in out] + [given[i].grad for i in grads])
    return found


def check(found, rtol=2e-5, atol=2e-6):
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.fixture(params=SIZES, ids=str)
def samples(request):
    count, n_rays = request.param
    g = generator(1)
    columns = torch.rand(6, count, generator=g)
    return n_rays, packing(count, n_rays), columns


@pytest.mark.parametrize("opaque", [False, True])
def test_weights(samples, opaque):
    n, index, v = samples
    check(on_both(lambda s, d: weights_from_density(s, d, index, n, opaque=opaque),
                  v[0] * 30, v[1] / 10, grads=(0, 1)), atol=1e-4)  # fmt: skip


def test_sums_of_nothing_scalars_and_vectors(samples):
    n, index, v = samples
    check(on_both(lambda w: accumulate(w, None, index, n), v[0], grads=(0,)))
    check(on_both(lambda w, x: accumulate(w, x, index, n), v[0], v[1], grads=(0, 1)))
    for width in (1, 3, 5):
        values = v[:1].T.repeat(1, width).contiguous()
        check(on_both(lambda w, x: accumulate(w, x, index, n), v[0], values, grads=(0, 1)))


def test_composite(samples):
    n, index, v = samples
    rgb = v[:3].T.contiguous()
    check(on_both(lambda w, c, m: composite(w, c, m, index, n), v[3], rgb, v[4], grads=(0, 1, 2)),
          atol=1e-5)  # fmt: skip


def test_visible_and_what_is_left(samples):
    n, index, v = samples

    def kept(s, d):
        return visibility_from_density(s, d, index, n, early_stop_eps=0.1, alpha_threshold=0.3)

    found = on_both(kept, v[0] * 20, v[1] / 4)
    check(found)
    check(on_both(lambda k: select_packed(k, ray_offsets(index, n)), found[0][0]))


def test_positions(samples, make_rays):
    n, index, v = samples
    rays = make_rays(n)
    found = on_both(lambda o, d, a, b: sample_positions(o, d, a, b, index),
                    rays.origins, rays.directions, v[0] * 3, v[1] * 3)  # fmt: skip
    assert torch.equal(found[0][0], found[1][0])  # rounded alike: cells and features agree
    for at in (torch.arange(len(index)).flip(0)[::3], index[:0]):
        some = on_both(lambda o, d, a, b, at=at: sample_positions(o, d, a, b, index, at),
                       rays.origins, rays.directions, v[0] * 3, v[1] * 3)  # fmt: skip
        assert torch.equal(some[0][0], found[0][0][at]) and torch.equal(some[1][0], some[0][0])


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_not_one_bit(threads):
    count, n = 20_011, 6007
    index, v = packing(count, n), torch.rand(6, count, generator=generator(2))
    o = torch.randn(n, 3, generator=generator(3))

    def everything():
        s, rgb = (v[0] * 20).requires_grad_(), v[1:4].T.contiguous().requires_grad_()
        w = weights_from_density(s, v[4], index, n)
        out = (*composite(w, rgb, v[5], index, n), accumulate(w, rgb, index, n),
               accumulate(w, None, index, n))  # fmt: skip
        grads = torch.autograd.grad(sum((x * x).sum() for x in out), (s, rgb))
        seen = visibility_from_density(s.detach(), v[4], index, n)
        return (*out, *grads, w, seen, sample_positions(o, o, v[0], v[1], index))

    before, found = torch.get_num_threads(), []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            with backend.using("numba"):
                found.append(everything())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_strided_and_expanded_inputs():
    index, n = packing(101, 20), 20
    v = torch.rand(101, 6, generator=generator(4))
    assert not v[:, 0].is_contiguous()

    def everything(sigma, columns):
        w = weights_from_density(sigma, torch.tensor(0.1).expand(101), index, n)
        seen = visibility_from_density(sigma, columns[:, 1], index, n).to(w.dtype)
        at = sample_positions(v[:20, :3], v[:20, 3:], columns[:, 0], columns[:, 1], index)
        return (*composite(w, columns[:, 1:4], columns[:, 4], index, n), seen, at)

    check(on_both(lambda x: everything(x[:, 0], x), v, grads=(0,)), atol=1e-5)


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_gradcheck_with_empty_rays(name):
    index = torch.tensor([0, 0, 0, 2, 2, 3, 3])
    v = torch.rand(5, 7, generator=generator(), dtype=torch.float64)
    with backend.using(name):
        w, rgb, mid = v[0].requires_grad_(), v[1:4].T.contiguous().requires_grad_(), v[4]
        mid = mid.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda *a: composite(*a, index, 5), (w, rgb, mid))
        assert torch.autograd.gradcheck(lambda *a: accumulate(*a, index, 5), (w, rgb))
        assert torch.autograd.gradcheck(lambda a: accumulate(a, None, index, 5), (w,))


def second_order(function, *tensors):
    """Gradients of a penalty on the gradients of `function`, per backend, None as zeros."""
    found = []
    for name in ("torch", "numba"):
        given = [t.clone().requires_grad_() for t in tensors]
        with backend.using(name):
            out = function(*given)
        # a sum's gradient is of ones, which have no graph of their own
        first = torch.autograd.grad(sum(o.sum() for o in out), given, create_graph=True)
        penalty = sum((f - 0.3).square().sum() for f in first)
        found.append([*first, *torch.autograd.grad(penalty, given, materialize_grads=True)])
    return found


def test_gradients_can_be_differentiated_again(samples):
    n, index, v = samples

    def rendered(sigma, delta, rgb, mid):
        w = weights_from_density(sigma, delta, index, n)
        w_opaque = weights_from_density(sigma, delta, index, n, opaque=True)
        out = *composite(w, rgb, mid, index, n), *composite(w_opaque, rgb, mid, index, n)
        sums = accumulate(w, rgb, index, n), accumulate(w, mid, index, n)
        return *out, *sums, accumulate(w, None, index, n).square()

    colours = v[:3].T.contiguous()
    given = (v[3] * 4, v[4] / 4 + 0.1, colours, v[5])
    check(second_order(rendered, *(t.double() for t in given)), rtol=1e-6, atol=1e-7)
    check(second_order(lambda w: composite(w * w, colours, w, index, n), v[3]),
          rtol=1e-4, atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("opaque", [False, True])
def test_second_derivatives_are_those_of_finite_differences(opaque):
    index = torch.tensor([0, 0, 0, 2, 2, 3, 3])
    v = torch.rand(6, 7, generator=generator(), dtype=torch.float64)
    given = [t.requires_grad_() for t in (v[0], v[1], v[2:5].T.contiguous(), v[5].clone())]

    def rendered(sigma, delta, rgb, mid):
        w = weights_from_density(sigma, delta, index, 5, opaque=opaque)
        return *composite(w, rgb, mid, index, 5), accumulate(w, w, index, 5)  # w twice in one

    with backend.using("numba"):
        assert torch.autograd.gradgradcheck(rendered, given)
        total = [given[0]]
        assert torch.autograd.gradgradcheck(lambda s: accumulate(s, None, index, 5), total)
        assert torch.autograd.gradgradcheck(lambda s: accumulate(s, s, index, 5), total)


def test_compiled_compositing_is_chosen_where_second_derivatives_are_asked_for():
    for op in ("weights", "accumulate", "composite"):
        asked = {"device": "cpu", "second_order": True}
        assert backend.resolve(f"packed-{op}", **asked).backend == "numba"


REFERENCES = ["packed-weights", "packed-visible", "packed-accumulate", "packed-composite",
              "packed-select", "sample-positions", "march", "clearance", "occupancy-remember",
              "occupancy-mean", "occupancy-grow", "occupancy-points"]  # fmt: skip


@pytest.mark.parametrize("op", REFERENCES)
@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
def test_the_references_are_not_tied_to_kinds_of_device(op, device):
    dtype = "bool" if op in ("packed-select", "clearance") else "float32"
    assert backend.resolve(op, device=device, dtype=dtype).backend == "torch"


def test_rays_are_composited_on_tensors_without_storage(make_rays):
    rays, index = make_rays(4), torch.zeros(7, dtype=torch.int64, device="meta")
    t = torch.zeros(7, device="meta")
    w = weights_from_density(t, t, index, 4, opaque=True)
    colour, depth, opacity = composite(w, t[:, None].expand(7, 3), t, index, 4)
    assert colour.is_meta and colour.shape == (4, 3) and depth.shape == opacity.shape == (4,)
    assert visibility_from_density(t, t, index, 4).shape == (7,)
    ends = rays.origins.to("meta"), rays.directions.to("meta")
    assert sample_positions(*ends, t, t, index).shape == (7, 3)


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_composite_is_its_three_sums_in_both_layouts(name):
    g = generator()
    w, rgb = torch.rand(4, 6, generator=g), torch.rand(4, 6, 3, generator=g)
    mid = torch.rand(4, 6, generator=g)
    index = torch.arange(4).repeat_interleave(6)
    with backend.using(name):
        dense = composite(w, rgb, mid)
        packed = composite(w.flatten(), rgb.flatten(0, 1), mid.flatten(), index, 5)
    want = accumulate(w, rgb), expected_depth(w, mid), accumulate(w)
    for a, b, c in zip(dense, packed, want, strict=True):
        assert torch.allclose(a, c) and torch.allclose(b[:4], c) and (b[4] == 0).all()


@pytest.mark.parametrize("name", ["torch", "numba"])
@pytest.mark.parametrize(("eps", "threshold"), [(0.0, 0.0), (1e-4, 0.0), (0.3, 0.2), (0.0, 0.5)])
def test_visibility_is_that_of_transmittance_and_alpha(name, eps, threshold):
    g = generator()
    sigma, delta = torch.rand(500, generator=g) * 40, torch.rand(500, generator=g) / 10
    sigma[50:60], sigma[100] = 0.0, math.inf
    index = packing(500, 40)
    asked = {"early_stop_eps": eps, "alpha_threshold": threshold}
    reaching = transmittance_from_density(sigma, delta, index)
    want = visibility(reaching, alpha_from_density(sigma, delta), eps, threshold)
    with backend.using(name):
        assert torch.equal(visibility_from_density(sigma, delta, index, 40, **asked), want)
    dense = visibility_from_density(sigma[None], delta[None], **asked)
    one = transmittance_from_density(sigma[None], delta[None])
    alpha = alpha_from_density(sigma, delta)[None]
    assert torch.equal(dense, visibility(one, alpha, eps, threshold))


def test_half_precision_colours_meet_single_precision_weights():
    index, w = torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.25, 1.0])
    rgb = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    colour, _, _ = composite(w, rgb.bfloat16(), w, index, 2)
    assert colour.dtype == torch.float32 and colour.tolist() == [[0.5, 0.25, 0], [0, 0, 1]]


def test_positions_carry_gradients_to_rays(make_rays):
    rays, index = make_rays(5, dtype=torch.float64), torch.tensor([0, 0, 2, 4])
    t = torch.rand(2, 4, generator=generator(), dtype=torch.float64)
    given = [v.clone().requires_grad_() for v in (rays.origins, rays.directions, *t)]
    with backend.using("numba"):
        assert torch.autograd.gradcheck(lambda *a: sample_positions(*a, index), given)


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_positions_are_the_midpoints_in_both_layouts(name, make_rays):
    rays, t = make_rays(3), torch.tensor([[1.0, 2.0, 4.0]]).expand(3, 3)
    dense = Intervals(t[:, :-1], t[:, 1:], 3)
    index = torch.arange(3).repeat_interleave(2)
    flat = Intervals(t[:, :-1].flatten(), t[:, 1:].flatten(), 3, index)
    with backend.using(name):
        a, b = positions(rays, dense), positions(rays, flat)
    assert torch.equal(a.flatten(0, 1), b)
    assert torch.allclose(b[3], rays.origins[1] + 3 * rays.directions[1])


@pytest.mark.parametrize("known", [True, False])
def test_selected_intervals_know_their_rays(known):
    index = torch.tensor([0, 0, 2, 2, 3])
    offsets = ray_offsets(index, 5) if known else None
    t = torch.arange(5.0)
    some, at = Intervals(t, t + 1, 5, index, offsets).select(
        torch.tensor([True, False, False, True, True])
    )
    assert at.tolist() == [0, 3, 4] and some.t0.tolist() == [0, 3, 4]
    assert some.t1.tolist() == [1, 4, 5] and some.ray_indices.tolist() == [0, 2, 3]
    assert torch.equal(some.offsets, ray_offsets(some.ray_indices, 5))


def test_offsets_spare_the_counting_and_change_nothing():
    index, n = packing(200, 30), 30
    v = torch.rand(3, 200, generator=generator())
    offsets = ray_offsets(index, n)
    for name in ("torch", "numba"):
        with backend.using(name):
            a = weights_from_density(v[0], v[1], index, n)
            b = weights_from_density(v[0], v[1], index, n, offsets)
            assert torch.equal(a, b)
            assert torch.equal(accumulate(a, v[2], index, n),
                               accumulate(a, v[2], index, n, offsets))  # fmt: skip


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_what_is_not_a_number_is_visible(name):
    sigma = torch.tensor([float("nan"), 1.0, 0.0, 1.0])
    rays = torch.tensor([0, 0, 1, 1])
    with backend.using(name):
        seen = visibility_from_density(
            sigma, torch.ones(4), rays, 2, early_stop_eps=0.9, alpha_threshold=0.1
        )
    assert seen[:2].tolist() == [True, True]
