"""Camera paths: rotations stay rotations, and the paths go where they should."""

import math

import pytest
import torch

from polyfield.errors import InputError
from polyfield.renderers.cameras import pinhole_cameras
from polyfield.renderers.paths import (
    focus_point,
    interpolate_path,
    orbit_path,
    spiral_path,
)

INTRINSICS = torch.tensor([80.0, 80, 50, 40])


def looking_at(positions, target, up=(0.0, 0, 1)):
    back = torch.nn.functional.normalize(positions - target, dim=-1)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(torch.tensor(up).expand_as(back), back), dim=-1
    )
    return torch.stack([right, torch.linalg.cross(back, right), back, positions], -1)


def ring(angles, radius=2.0, height=1.0, centre=(0.3, -0.2, 0.1)):
    a = torch.as_tensor(angles, dtype=torch.float32)
    offset = torch.stack([radius * a.cos(), radius * a.sin(), torch.full_like(a, height)], -1)
    centre = torch.tensor(centre)
    return pinhole_cameras(looking_at(centre + offset, centre), INTRINSICS, (100, 80), 0.5, 5.0)


FULL = ring([i * math.tau / 12 for i in range(12)])
ARC = ring([0.2 + i * 0.1 for i in range(10)])


@pytest.mark.parametrize("make", [orbit_path, spiral_path, interpolate_path])
@pytest.mark.parametrize(
    "cameras", [FULL, ARC, FULL[:1], FULL[:2]], ids=["ring", "arc", "one", "two"]
)
def test_frames_are_proper_poses(make, cameras):
    path = make(cameras, 7)
    rotation = path.c2w[:, :, :3]
    assert len(path) == 7 and path.c2w.isfinite().all()
    assert torch.allclose(
        rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(7, 3, 3), atol=1e-5
    )
    assert (torch.linalg.det(rotation) > 0).all()
    assert path.sizes[0].tolist() == [100, 80] and path.intrinsics[0].tolist() == [80, 80, 50, 40]
    assert torch.allclose(path.near, torch.tensor(0.5)) and torch.allclose(
        path.far, torch.tensor(5.0)
    )


@pytest.mark.parametrize("make", [orbit_path, spiral_path, interpolate_path])
def test_no_cameras_are_answered_with_a_sentence(make):
    with pytest.raises(InputError, match="at least one camera"):
        make(FULL[:0], 5)


def test_focus_is_where_the_axes_meet():
    got = focus_point(FULL.c2w[:, :, 3].double(), -FULL.c2w[:, :, 2].double())
    assert torch.allclose(got, torch.tensor([0.3, -0.2, 0.1]).double(), atol=1e-3)


def test_focus_of_parallel_axes_is_finite_and_in_front():
    p = torch.tensor([[0.0, 0, 3], [1, 0, 3]]).double()
    f = torch.tensor([[0.0, 0, -1], [0, 0, -1]]).double()
    got = focus_point(p, f)
    assert got.isfinite().all() and got[2] < 3


def test_an_orbit_of_a_ring_is_the_ring():
    path = orbit_path(FULL, 24, (0.0, 0.0, 1.0))
    offset = path.c2w[:, :, 3] - torch.tensor([0.3, -0.2, 0.1])
    assert torch.allclose(offset[:, 2], torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(offset[:, :2].norm(dim=-1), torch.tensor(2.0), atol=1e-3)
    angle = torch.atan2(offset[:, 1], offset[:, 0])
    assert torch.allclose(angle.sort().values.diff(), torch.tensor(math.tau / 24), atol=1e-3)


def test_orbit_looks_at_the_scene_the_right_way_up():
    path = orbit_path(FULL, 9)
    centre = torch.tensor([0.3, -0.2, 0.1]).expand(9, 3)
    xy, z = path.project(torch.arange(9), centre)
    assert (z > 0).all() and torch.allclose(xy, torch.tensor([50.0, 40]), atol=0.5)
    above, _ = path.project(torch.arange(9), centre + torch.tensor([0.0, 0, 0.1]))
    assert (above[:, 1] < xy[:, 1]).all()  # rows run downwards


def test_an_orbit_of_an_arc_stays_on_the_arc_and_closes():
    path = orbit_path(ARC, 40, (0.0, 0.0, 1.0))
    offset = path.c2w[:, :, 3] - torch.tensor([0.3, -0.2, 0.1])
    angle = torch.atan2(offset[:, 1], offset[:, 0])
    assert angle.min() > 0.2 - 1e-2 and angle.max() < 1.1 + 1e-2
    assert angle.max() > 1.05 and angle.min() < 0.25
    assert (angle[0] - angle[-1]).abs() < 0.1


def test_cameras_that_look_outwards_give_a_path_that_looks_outwards():
    a = torch.arange(12) * math.tau / 12
    p = torch.stack([a.cos(), a.sin(), torch.zeros(12)], -1) * 0.1
    room = pinhole_cameras(looking_at(p, 2 * p), INTRINSICS, (100, 80))
    path = orbit_path(room, 8)
    outward = (-path.c2w[:, :, 2] * path.c2w[:, :, 3]).sum(-1)
    assert (outward > 0).all()
    assert path.c2w[:, :, 3].norm(dim=-1).max() < 0.15


def test_spiral_stays_among_the_cameras_and_looks_ahead():
    g = torch.Generator().manual_seed(0)
    p = torch.cat([torch.randn(20, 2, generator=g) * 0.1, torch.ones(20, 1)], -1)
    c2w = torch.cat([torch.eye(3).expand(20, 3, 3), p[..., None]], -1)
    cameras = pinhole_cameras(c2w, INTRINSICS, (100, 80), 1.0, 8.0)
    path = spiral_path(cameras, 30)
    spread = path.c2w[:, :, 3] - p.mean(0)
    assert spread.abs().max() < 0.3 and spread.abs().max() > 0.05
    assert (-path.c2w[:, 2, 2] < -0.9).all()


def test_interpolation_passes_through_the_cameras():
    keys = FULL[[0, 3, 5]]
    path = interpolate_path(keys, 9)
    for frame, key in ((0, 0), (4, 1), (8, 2)):
        assert torch.allclose(path.c2w[frame], keys.c2w[key], atol=1e-5)
    middle = path.c2w[2]
    assert torch.allclose(middle[:, 3], (keys.c2w[0] + keys.c2w[1])[:, 3] / 2, atol=1e-5)
    turn = torch.linalg.matrix_norm(keys.c2w[0, :, :3].T @ middle[:, :3] - torch.eye(3))
    rest = torch.linalg.matrix_norm(middle[:, :3].T @ keys.c2w[1, :, :3] - torch.eye(3))
    assert turn.item() == pytest.approx(rest.item(), rel=1e-4)


def test_a_closed_interpolation_comes_back():
    path = interpolate_path(FULL, 24, closed=True)
    assert torch.allclose(path.c2w[0], FULL.c2w[0], atol=1e-5)
    assert torch.allclose(path.c2w[22], FULL.c2w[11], atol=1e-5)
    step = (path.c2w[0, :, 3] - path.c2w[23, :, 3]).norm()
    assert step.item() == pytest.approx(
        (path.c2w[1, :, 3] - path.c2w[0, :, 3]).norm().item(), rel=0.01
    )


def test_half_turns_interpolate_to_rotations():
    flip = torch.diag(torch.tensor([-1.0, -1, 1]))
    c2w = torch.stack([torch.eye(3), flip])
    keys = pinhole_cameras(torch.cat([c2w, torch.zeros(2, 3, 1)], -1), INTRINSICS, (100, 80))
    path = interpolate_path(keys, 5)
    assert torch.allclose(torch.linalg.det(path.c2w[:, :, :3]), torch.ones(5), atol=1e-5)
    assert torch.allclose(path.c2w[-1, :, :3], flip, atol=1e-5)


def test_rotations_take_the_short_way():
    g = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(40, 3, 3, generator=g))
    q = q * torch.sign(torch.linalg.det(q))[:, None, None]

    def angle(a, b):
        return (((a.transpose(-1, -2) @ b).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).acos()

    keys = pinhole_cameras(torch.cat([q, torch.zeros(40, 3, 1)], -1), INTRINSICS, (100, 80))
    middle = interpolate_path(keys, 79).c2w[1::2, :, :3]
    whole = angle(q[:-1], q[1:])
    assert torch.allclose(angle(q[:-1], middle), whole / 2, atol=1e-3)
    assert torch.allclose(angle(middle, q[1:]), whole / 2, atol=1e-3)
