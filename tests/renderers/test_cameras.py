"""Pixels to rays and back."""

import math
from dataclasses import replace

import pytest
import torch

from polyfield.errors import InputError, UnknownNameError
from polyfield.renderers.cameras import MODELS, Cameras, pinhole_cameras
from polyfield.renderers.ndc import ndc_rays, ndc_to_world

DISTORTION = {
    "opencv": [0.05, -0.02, 0.0, 0.0, 1e-3, -5e-4],
    "opencv-fisheye": [0.03, -0.01, 0.004, -0.001],
    "full-opencv": [0.2, -0.1, 0.001, -0.0005, 0.02, 0.25, -0.08, 0.01],
    "fov": [0.8],
    "thin-prism-fisheye": [0.03, -0.01, 0.001, -0.002, 0.004, -0.001, 0.002, -0.003],
}
WIDTH, HEIGHT = 120, 80


def poses(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(n, 3, 3, generator=g, dtype=torch.float64))
    q = q * torch.sign(torch.linalg.det(q))[:, None, None]
    return torch.cat([q, torch.randn(n, 3, 1, generator=g, dtype=torch.float64)], -1)


def cameras_of(models, dtype=torch.float64):
    n = len(models)
    made = pinhole_cameras(
        poses(n).to(dtype),
        torch.tensor([100.0, 110, WIDTH / 2 + 1.5, HEIGHT / 2 - 2], dtype=dtype),
        (WIDTH, HEIGHT),
        near=0.5,
        far=6.0,
    )
    distortion = torch.zeros(n, 12, dtype=dtype)
    for i, model in enumerate(models):
        values = DISTORTION.get(model, [])
        distortion[i, : len(values)] = torch.tensor(values, dtype=dtype)
    return replace(made, models=tuple(models), distortion=distortion)


def random_pixels(cameras, n, seed=1):
    g = torch.Generator().manual_seed(seed)
    view = torch.randint(len(cameras), (n,), generator=g)
    size = torch.tensor([WIDTH, HEIGHT])
    return view, torch.rand(n, 2, generator=g, dtype=cameras.c2w.dtype) * size


@pytest.mark.parametrize("model", MODELS)
def test_projecting_a_point_of_a_ray_returns_its_pixel(model):
    cameras = cameras_of([model] * 3)
    view, xy = random_pixels(cameras, 200)
    rays = cameras.rays(view, xy)
    again, z = cameras.project(view, rays.origins + 2.5 * rays.directions)
    assert (again - xy).abs().max() < 1e-7
    assert torch.allclose(z, 2.5 * rays.z_scale)


def test_views_of_different_models_mix():
    models = list(MODELS)
    cameras = cameras_of(models)
    view, xy = random_pixels(cameras, 300)
    mixed = cameras.rays(view, xy)
    for i, model in enumerate(models):
        mine = view == i
        alone = cameras[i].rays(torch.zeros(int(mine.sum()), dtype=torch.int64), xy[mine])
        assert torch.allclose(mixed.directions[mine], alone.directions), model
        assert torch.allclose(mixed.radii[mine], alone.radii), model
    again, _ = cameras.project(view, mixed.origins + mixed.directions)
    assert (again - xy).abs().max() < 1e-7


@pytest.mark.parametrize("model", MODELS)
def test_the_ray_through_the_principal_point_is_the_optical_axis(model):
    cameras = cameras_of([model])
    ray = cameras.rays(torch.tensor([0]), cameras.intrinsics[:, 2:])
    assert torch.allclose(ray.directions, -cameras.c2w[:, :, 2], atol=1e-12)
    assert torch.allclose(ray.origins, cameras.c2w[:, :, 3])
    assert ray.z_scale.item() == pytest.approx(1)


def test_axes_are_opengl():
    c2w = torch.eye(3, 4)[None]
    cameras = pinhole_cameras(c2w, torch.tensor([100.0, 100, 50, 50]), (100, 100))
    xy = torch.tensor([[150.0, 50], [50, 150]])
    d = cameras.rays(torch.tensor([0, 0]), xy).directions
    half = 0.5**0.5
    assert torch.allclose(d, torch.tensor([[half, 0, -half], [0, -half, -half]]))


def test_equirectangular_turns_with_the_column():
    cameras = replace(
        pinhole_cameras(
            torch.eye(3, 4)[None], torch.tensor([100 / math.tau, 50 / math.pi, 50, 25]), (100, 50)
        ),
        models=("equirectangular",),
    )
    xy = torch.tensor([[50.0, 25], [75, 25], [0, 25], [50, 0]])
    d = cameras.rays(torch.zeros(4, dtype=torch.int64), xy).directions
    want = torch.tensor([[0.0, 0, -1], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert torch.allclose(d, want, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_halved_image_and_intrinsics_give_the_same_ray(model):
    cameras = cameras_of([model] * 2)
    view, xy = random_pixels(cameras, 50)
    half = cameras.resized(WIDTH // 2, HEIGHT // 2)
    assert half.sizes.tolist() == [[WIDTH // 2, HEIGHT // 2]] * 2
    whole, small = cameras.rays(view, xy), half.rays(view, xy / 2)
    assert torch.allclose(whole.directions, small.directions)
    assert torch.allclose(2 * whole.radii, small.radii, rtol=0.05)


def test_resizing_scales_each_axis_by_actual_over_declared_size():
    cameras = cameras_of(["pinhole"]).resized(60, 20)
    assert cameras.intrinsics[0].tolist() == pytest.approx([50, 27.5, 30.75, 9.5])


def test_radius_is_the_pixel_spacing_at_unit_distance():
    cameras = pinhole_cameras(torch.eye(3, 4)[None], torch.tensor([50.0, 100, 0, 0]), (8, 8))
    at_axis = cameras.rays(torch.tensor([0]), torch.zeros(1, 2))
    assert at_axis.radii.item() == pytest.approx((1 / 50 + 1 / 100) / 2 * 2 / math.sqrt(12))
    # Off axis the plane at z = 1 is |d| away, so at t = 1 the cone is narrower by |d|.
    aside = cameras.rays(torch.tensor([0]), torch.tensor([[50.0, 0]]))
    assert aside.radii.item() == pytest.approx(at_axis.radii.item() / 2**0.5, rel=1e-5)


def test_image_rays_cover_the_pixel_centres():
    cameras = cameras_of(["opencv", "pinhole"])
    rays = cameras.image_rays(0)
    assert rays.shape == (HEIGHT, WIDTH)
    one = cameras.rays(torch.tensor([0]), torch.tensor([[5.5, 7.5]], dtype=torch.float64))
    assert torch.equal(rays.directions[7, 5], one.directions[0])
    assert torch.allclose(rays.directions.norm(dim=-1), torch.ones(HEIGHT, WIDTH).double())
    assert (rays.near == 0.5).all() and (rays.far == 6).all()


def test_any_leading_shape_and_none_at_all():
    cameras = cameras_of(["opencv", "pinhole"])
    rays = cameras.rays(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, 2).double())
    assert rays.origins.shape == (2, 3, 3) and rays.radii.shape == (2, 3)
    empty = cameras.rays(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2).double())
    assert empty.directions.shape == (0, 3)
    xy, z = cameras.project(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3).double())
    assert xy.shape == (0, 2) and z.shape == (0,)


def test_subsets_keep_everything_of_a_view():
    cameras = cameras_of(["opencv", "pinhole", "fov"])
    for index in (slice(1, None), [1, 2], torch.tensor([1, 2]), torch.tensor([False, True, True])):
        part = cameras[index]
        assert part.models == ("pinhole", "fov") and torch.equal(part.c2w, cameras.c2w[1:])
    assert len(cameras[-1]) == 1 and cameras[-1].models == ("fov",)


def test_behind_the_camera_has_negative_depth():
    cameras = cameras_of(["pinhole"])
    behind = cameras.c2w[:, :, 3] + cameras.c2w[:, :, 2]
    xy, z = cameras.project(torch.tensor([0]), behind)
    assert z.item() == pytest.approx(-1) and xy.isfinite().all()


def test_unknown_models_are_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="opencv-fisheye"):
        replace(cameras_of(["pinhole"]), models=("opencv-fishey",))
    with pytest.raises(InputError, match="one per view"):
        replace(cameras_of(["pinhole"]), models=("pinhole", "pinhole"))


def test_ndc_numbers():
    scale = (2 * 815.13 / 1008, 2 * 815.13 / 756)
    o = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    d = torch.tensor([0.2, 0.1, -1.0], dtype=torch.float64)
    start, along = ndc_rays(o, d, scale)
    assert start.tolist() == pytest.approx([0.58224, -0.15095, -1], abs=1e-5)
    assert (start + along).tolist() == pytest.approx([0.32346, 0.21564, 1], abs=1e-5)
    assert torch.allclose(ndc_to_world(start, scale), torch.tensor([0.36, -0.07, -1]).double())


def forward_facing(n=5):
    g = torch.Generator().manual_seed(0)
    c2w = torch.eye(3, 4, dtype=torch.float64).repeat(n, 1, 1)
    c2w[:, :, 3] = torch.randn(n, 3, generator=g, dtype=torch.float64) * 0.2
    angle = 0.1
    c2w[1, :, :3] = torch.tensor(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    )
    intrinsics = torch.tensor([815.13, 815.13, 504, 378], dtype=torch.float64)
    return pinhole_cameras(c2w, intrinsics, (1008, 756), near=1.2, far=9.0).with_ndc()


def test_ndc_rays_stay_in_the_box_and_span_it():
    cameras = forward_facing()
    for view in range(2):
        rays = cameras.image_rays(view)
        assert torch.allclose(rays.origins[..., 2], torch.tensor(-1.0).double())
        ends = rays.origins + rays.far[..., None] * rays.directions
        assert torch.allclose(ends[..., 2], torch.tensor(1.0).double())
        assert max(rays.origins.abs().max(), ends.abs().max()) <= 1 + 1e-9
        assert torch.allclose(rays.directions.norm(dim=-1), torch.ones(756, 1008).double())
        assert (rays.near == 0).all()


def test_ndc_rays_show_the_field_the_directions_of_the_world():
    cameras = forward_facing()
    plain = replace(cameras, ndc=False)
    view, xy = torch.tensor([1, 2]), torch.tensor([[10.0, 20], [900, 700]]).double()
    assert torch.allclose(cameras.rays(view, xy).view_directions, plain.rays(view, xy).directions)
    assert plain.rays(view, xy).view_directions is None


def test_ndc_points_project_to_their_pixel():
    cameras = forward_facing()
    view, xy = torch.tensor([1, 2, 0]), torch.tensor([[10.0, 20], [900, 700], [500, 300]]).double()
    rays = cameras.rays(view, xy)
    again, z = cameras.project(view, rays.origins + 0.7 * rays.far[:, None] * rays.directions)
    assert torch.allclose(again, xy) and (z > 0).all()


def test_ndc_needs_forward_facing_cameras_and_a_shared_scale():
    with pytest.raises(InputError, match="does not look along -z"):
        cameras_of(["pinhole"] * 4).with_ndc()
    with pytest.raises(InputError, match="with_ndc"):
        replace(cameras_of(["pinhole"]), ndc=True)


def test_ndc_radius_is_half_a_pixel_or_so():
    cameras = forward_facing()[0]
    ray = cameras.rays(torch.tensor([0]), torch.tensor([[504.0, 378]]).double())
    scale = cameras.ndc_scale
    # The near plane is reached from o_z, so a pixel covers (1 + o_z) / focal there.
    reach = 1 + cameras.c2w[0, 2, 3].item()
    spacing = (scale[0] + scale[1]) / 2 * reach / 815.13
    assert ray.radii.item() == pytest.approx(spacing * 2 / math.sqrt(12), rel=1e-6)


def test_moving_keeps_names_and_values():
    cameras = cameras_of(["fov"])
    assert isinstance(cameras.to("cpu"), Cameras) and cameras.to("cpu").models == ("fov",)


def test_pinhole_rays_are_those_of_a_lens_without_distortion():
    plain = cameras_of(["pinhole"] * 3)
    general = replace(plain, models=("opencv",) * 3)
    view, xy = random_pixels(plain, 200)
    a, b = plain.rays(view, xy), general.rays(view, xy)
    for name in ("origins", "directions", "near", "far", "radii", "z_scale"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), msg=name)
