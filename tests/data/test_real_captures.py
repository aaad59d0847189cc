"""The check values of real captures, where they lie on this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.data.write import world_poses


@pytest.fixture(scope="module")
def lego(real_data):
    if not (real_data / "lego").is_dir():
        pytest.skip("no lego in the folder of real data")
    return load_scene(real_data / "lego", LoadOptions(downscale=8), only=("train",))


@pytest.fixture(scope="module")
def fox(real_data):
    if not (real_data / "fox").is_dir():
        pytest.skip("no fox in the folder of real data")
    return load_scene(real_data / "fox", LoadOptions(downscale=16))


def test_lego_has_the_published_cameras(lego):
    assert len(lego) == 100
    assert lego.cameras.intrinsics[0, 0].item() * 8 == pytest.approx(1111.111, abs=1e-3)
    poses = world_poses(lego)
    distance = np.linalg.norm(poses[:, :3, 3], axis=1)
    assert 4.031128 - 1e-6 <= distance.min() and distance.max() <= 4.031130 + 1e-6
    towards = (poses[:, :3, 2] * poses[:, :3, 3]).sum(1) / distance
    assert towards.min() >= 0.9999998
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1, atol=1e-5)
    assert lego.images.channels == 4 and lego.bounded and lego.background == "white"


def test_the_rays_of_lego_see_the_box(lego):
    rays = lego.cameras.image_rays(0)
    hits = lego.images.image(0)[..., 3] > 0
    middle = rays.origins + rays.directions * ((rays.near + rays.far) / 2)[..., None]
    assert (middle[torch.from_numpy(hits.copy())].abs() < 1.1).all()


def test_fox_loads_50_of_67_and_names_the_17(fox):
    assert len(fox) == 50 and len(fox.report.missing) == 17
    assert fox.report.missing[:2] == ("images/0005.jpg", "images/0016.jpg")
    assert len([w for w in fox.report.warnings if "17 of 67" in w]) == 1
    assert set(fox.cameras.models) == {"opencv"}
    torch.testing.assert_close(
        fox.cameras.distortion[0, :6],
        torch.tensor([0.0578421, -0.0805099, 0, 0, -0.000980296, 0.00015575]),
    )
    assert fox.images.sizes[0].tolist() == [68, 120] and not fox.bounded
    assert fox.up[2] > 0.98


def test_foxs_cameras_face_the_centre(fox):
    _, z = fox.cameras.project(torch.arange(50), torch.zeros(50, 3))
    assert bool((z > 0.5).all())
