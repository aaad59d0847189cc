"""Pinhole rays: the compiled kernel against the reference, and a ray in closed form."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from polyfield import backend
from polyfield.renderers.pinhole import pinhole_rays


def inputs(n, dtype=torch.float32, views=5):
    g = torch.Generator().manual_seed(3)
    numbers = {"generator": g, "dtype": dtype}
    view = torch.randint(views, (n,), generator=g)
    lens = torch.rand(views, 4, **numbers) * 50 + 100
    ends = torch.rand(views, **numbers)
    return (
        view,
        torch.rand(n, 2, **numbers) * 200,
        torch.randn(views, 3, 4, **numbers),
        lens,
        ends,
        ends + 3,
    )


def on(name, arguments):
    with backend.using(name):
        rays = pinhole_rays(*arguments)
    return {f.name: v for f in fields(rays) if (v := getattr(rays, f.name)) is not None}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 10_007])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_gives_the_rays_of_the_reference(threads, n, dtype):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, theirs = on("numba", inputs(n, dtype)), on("torch", inputs(n, dtype))
    finally:
        torch.set_num_threads(before)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name].dtype == dtype
        torch.testing.assert_close(ours[name], values, msg=name)


def test_inputs_that_are_not_contiguous():
    view, xy, *cameras = inputs(50)
    strided = view[::2], xy[::2], *(v.repeat_interleave(2, 0)[::2] for v in cameras)
    ours, theirs = on("numba", strided), on("torch", (view[::2], xy[::2], *cameras))
    assert all(torch.allclose(ours[name], values) for name, values in theirs.items())


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_a_ray_in_closed_form(name):
    c2w = torch.eye(3, 4)[None].clone()
    c2w[0, :, 3] = torch.tensor([1.0, 2, 3])
    lens = torch.tensor([[10.0, 20, 5, 6]])
    found = on(name, (torch.tensor([0]), torch.tensor([[5.0 + 10 * 0.75, 6.0]]), c2w, lens,
                      torch.tensor([0.5]), torch.tensor([9.0])))  # fmt: skip
    torch.testing.assert_close(found["directions"], torch.tensor([[0.6, 0, -0.8]]))
    torch.testing.assert_close(found["origins"], torch.tensor([[1.0, 2, 3]]))
    torch.testing.assert_close(found["z_scale"], torch.tensor([0.8]))
    footprint = (1 / 10 + 1 / 20) / 2 * 0.8 * 2 / 12**0.5
    torch.testing.assert_close(found["radii"], torch.tensor([footprint]))
    assert found["near"].item() == 0.5 and found["far"].item() == 9


def test_cameras_that_are_fitted_get_gradients():
    grads = []
    for name in ("torch", "numba"):
        view, xy, c2w, *rest = inputs(20)
        c2w.requires_grad_()
        (on(name, (view, xy, c2w, *rest))["directions"] ** 3).sum().backward()
        grads.append(c2w.grad)
    torch.testing.assert_close(*grads)
    assert grads[0].abs().max() > 0


@pytest.mark.parametrize("wrong", [5, -6])
def test_a_view_that_does_not_exist_is_refused(wrong):
    view, *rest = inputs(4)
    view[2] = wrong
    with pytest.raises(IndexError):
        on("numba", (view, *rest))
