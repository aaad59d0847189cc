"""LLFF poses_bounds.npy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.errors import InputError


@pytest.fixture
def llff(tmp_path, toys):
    """Makes a forward-facing folder; hwf belongs to images of 24 x 16."""

    def make(count=9, folders=(("images", (24, 16)),), edit=None):
        folder, rows = tmp_path / "llff", []
        for i in range(count):
            place = (0.3 * (i % 3) - 0.3, 0.2 * (i // 3) - 0.2, 0.05 * i)
            pose = toys.look_at(place, (0.1, 0, -6), (0, 1, 0))
            right, up, back, position = pose[:3].T
            matrix = np.stack([-up, right, back, position, [16, 24, 26.0]], axis=1)
            rows.append(np.concatenate([matrix.ravel(), [3.0 + 0.1 * i, 20.0]]))
            for name, size in folders:
                toys.picture(folder / name / f"IMG_{i:02d}.JPG", size, format="JPEG")
        table = np.array(rows)
        if edit:
            table = edit(table)
        folder.mkdir(exist_ok=True)
        np.save(folder / "poses_bounds.npy", table)
        return folder

    return make


def test_columns_become_right_up_back_and_rotations_proper(llff, toys):
    scene = load_scene(llff())
    assert scene.report.format == "llff"
    world = scene.transform.pose_to_world(scene.cameras.c2w.double()).numpy()
    np.testing.assert_allclose(np.linalg.det(world[:, :3, :3]), 1, atol=1e-6)
    expected = toys.look_at((-0.3, -0.2, 0), (0.1, 0, -6), (0, 1, 0))
    np.testing.assert_allclose(world[0], expected[:3], atol=1e-6)
    assert scene.cameras.intrinsics[0].tolist() == [26.0, 26.0, 12.0, 8.0]
    assert scene.splits["test"] == (0, 8) and not scene.bounded


def test_nearest_bound_limits_the_near_plane(llff):
    scene = load_scene(llff())
    box_near = scene.cameras.near[0].item()
    assert 0 < box_near / scene.transform.scale <= 3.0
    stated = load_scene(llff(), LoadOptions(near=2.5, far=50.0))
    assert stated.cameras.near[0].item() == pytest.approx(2.5 * stated.transform.scale)
    assert stated.cameras.far[0].item() == pytest.approx(50.0 * stated.transform.scale)


def test_image_folders_at_a_factor(llff):
    folder = llff(folders=(("images", (24, 16)), ("images_2", (12, 8))))
    scene = load_scene(folder, LoadOptions(downscale=2))
    assert scene.cameras.intrinsics[0].tolist() == [13.0, 13.0, 6.0, 4.0]
    assert scene.report.notes["image_folders"] == {"images_2": 9}
    assert load_scene(folder).images.sizes[0].tolist() == [24, 16]


def test_only_smaller_images_rescale_the_focal_length(llff):
    scene = load_scene(llff(folders=(("images_4", (6, 4)),)))
    assert scene.images.sizes[0].tolist() == [6, 4]
    assert scene.cameras.intrinsics[0].tolist() == [6.5, 6.5, 1.5 * 2, 2.0]
    assert any("divided by 4" in warning for warning in scene.report.warnings)


def test_ndc_recentres_and_fills_the_box(llff):
    scene = load_scene(llff(), LoadOptions(ndc=True))
    assert scene.cameras.ndc and scene.bounded and scene.up == (0.0, 1.0, 0.0)
    # bd_factor: the nearest content, at 3, ends up at 1 / 0.75
    assert scene.transform.scale * 3.0 == pytest.approx(1 / 0.75)
    c2w = scene.cameras.c2w
    torch.testing.assert_close(c2w[:, :, 3].mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    back = c2w[:, :, 2].mean(0)
    torch.testing.assert_close(back / back.norm(), torch.tensor([0.0, 0, 1]), atol=1e-5, rtol=0)
    rays = scene.cameras.image_rays(4)
    ends = rays.origins + rays.far[..., None] * rays.directions
    assert rays.origins[..., 2].allclose(torch.tensor(-1.0), atol=1e-5)
    assert ends.abs().max() < 1 + 1e-4


def test_more_images_than_poses_names_the_first_extra(llff, toys):
    folder = llff()
    toys.picture(folder / "images" / "extra.jpg")
    with pytest.raises(InputError, match="9 poses.*10 images.*extra"):
        load_scene(folder)


def test_fewer_images_than_poses_gives_both_counts(llff):
    folder = llff()
    (folder / "images" / "IMG_03.JPG").unlink()
    with pytest.raises(InputError, match="9 poses.*8 images"):
        load_scene(folder)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t[:, :15], r"shape \(9, 15\)"),
        (lambda t: t[:0], r"shape \(0, 17\)"),
        (lambda t: np.where(np.arange(17) == 3, np.nan, t), "IMG_00.*not finite"),
        (lambda t: np.where(np.arange(17) == 15, -1.0, t), "0 < near < far"),
        (lambda t: np.where(np.arange(17) == 14, 0.0, t), "positive numbers"),
    ],
)
def test_bad_tables_are_refused(llff, edit, said):
    with pytest.raises(InputError, match=said):
        load_scene(llff(edit=edit))


def test_a_file_that_is_no_array_is_refused(llff):
    folder = llff()
    (folder / "poses_bounds.npy").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"poses_bounds\.npy cannot be read"):
        load_scene(folder)


def test_no_images_at_all(llff):
    with pytest.raises(InputError, match="images_4 or images_8"):
        load_scene(llff(folders=()))
