"""instant-ngp and nerfstudio transforms.json."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.errors import InputError


def test_lens_size_and_holdout(capture):
    scene = load_scene(capture(k1=0.05, k2=-0.08, p1=-0.001, p2=0.002))
    assert scene.report.format == "transforms"
    assert scene.cameras.models[0] == "opencv"
    torch.testing.assert_close(
        scene.cameras.distortion[0, :6], torch.tensor([0.05, -0.08, 0, 0, -0.001, 0.002])
    )
    torch.testing.assert_close(scene.cameras.intrinsics[0], torch.tensor([30.0, 31.0, 12.5, 7.5]))
    assert scene.splits["test"] == (0, 8) and len(scene.splits["train"]) == 7


def test_zero_coefficients_mean_a_pinhole(capture):
    assert set(load_scene(capture(k1=0.0, p1=0.0)).cameras.models) == {"pinhole"}


@pytest.mark.parametrize(
    ("shared", "model"),
    [
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.01, "k4": 0.002}, "opencv-fisheye"),
        ({"is_fisheye": True, "k1": 0.01}, "opencv-fisheye"),
        ({"camera_model": "PINHOLE"}, "pinhole"),
        ({"camera_model": "SIMPLE_RADIAL", "k1": 0.01}, "opencv"),
        ({"camera_model": "opencv", "k3": 0.01}, "opencv"),
    ],
)
def test_camera_models(capture, shared, model):
    scene = load_scene(capture(**shared))
    assert set(scene.cameras.models) == {model}
    if "k1" in shared:
        assert scene.cameras.distortion[0, 0].item() == pytest.approx(0.01)


def test_unknown_camera_models_are_named(capture):
    with pytest.raises(InputError, match=r"unknown camera_model 'WEIRD'.*OPENCV_FISHEYE"):
        load_scene(capture(camera_model="WEIRD"))


def only_angles(**angles):
    def edit(contents, folder):
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            del contents[key]
        contents.update(angles)

    return edit


@pytest.mark.parametrize(
    ("angles", "fx", "fy"),
    [
        ({"camera_angle_x": 0.8}, 12 / math.tan(0.4), 12 / math.tan(0.4)),
        ({"camera_angle_x": 0.8, "camera_angle_y": 0.5}, 12 / math.tan(0.4), 8 / math.tan(0.25)),
        ({"y_fov": 40.0}, 8 / math.tan(math.radians(20)), 8 / math.tan(math.radians(20))),
        ({"x_fov": 60.0}, 12 / math.tan(math.radians(30)), 12 / math.tan(math.radians(30))),
        ({"fl_x": 33.0}, 33.0, 33.0),
    ],
)
def test_focal_lengths_from_what_is_there(capture, angles, fx, fy):
    scene = load_scene(capture(edit=only_angles(**angles)))
    torch.testing.assert_close(scene.cameras.intrinsics[0], torch.tensor([fx, fy, 12.0, 8.0]))


def test_no_focal_length_is_an_answer(capture):
    with pytest.raises(InputError, match="no focal length.*fl_x or camera_angle_x"):
        load_scene(capture(edit=only_angles()))


def test_intrinsics_per_frame_field_by_field(capture):
    def edit(contents, folder):
        contents["frames"][3].update(fl_x=50.0, k1=0.1)

    scene = load_scene(capture(edit=edit))
    assert scene.cameras.intrinsics[3].tolist() == [50.0, 31.0, 12.5, 7.5]
    assert scene.cameras.intrinsics[2].tolist() == [30.0, 31.0, 12.5, 7.5]
    assert scene.cameras.models[3] == "opencv" and scene.cameras.models[2] == "pinhole"


def test_views_of_different_sizes_with_their_own_intrinsics(capture, toys):
    def edit(contents, folder):
        toys.picture(folder / "images" / "0003.jpg", (10, 30))
        contents["frames"][3].update(w=10, h=30, fl_x=40, fl_y=40, cx=5, cy=15)

    scene = load_scene(capture(edit=edit))
    assert scene.images.sizes[3].tolist() == [10, 30] == scene.cameras.sizes[3].tolist()
    assert scene.images.image(3).shape == (30, 10, 3)
    assert scene.images.image(4).shape == (16, 24, 3)


def test_poses_are_the_files_own_whatever_applied_transform_says(capture, toys):
    applied = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]
    scene = load_scene(capture(applied_transform=applied, applied_scale=0.5))
    world = scene.transform.pose_to_world(scene.cameras.c2w.double())
    np.testing.assert_allclose(world, toys.ring(9)[:, :3], atol=1e-6)
    assert scene.report.notes["applied_transform"] == applied


def test_split_lists(capture):
    names = [f"images/{i:04d}.jpg" for i in range(9)]
    folder = capture(
        train_filenames=names[:5], val_filenames=names[5:6], test_filenames=[f"./{names[7]}"]
    )
    scene = load_scene(folder)
    assert len(scene) == 7
    assert {k: len(v) for k, v in scene.splits.items()} == {"train": 5, "val": 1, "test": 1}
    assert scene.names[scene.splits["test"][0]] == names[7]


def test_split_lists_that_match_nothing_are_refused(capture):
    with pytest.raises(InputError, match=r"split lists.*images/x\.jpg"):
        load_scene(capture(test_filenames=["images/x.jpg"]))


def test_frames_are_sorted_by_their_numbers(capture):
    def edit(contents, folder):
        contents["frames"].reverse()

    assert load_scene(capture(edit=edit)).names[:2] == ("images/0000.jpg", "images/0001.jpg")


def half_mask(path, lit_left):
    mask = np.zeros((16, 24), np.uint8)
    mask[:, :12] = 255
    Image.fromarray(mask if lit_left else 255 - mask).save(path)


def test_nerfstudio_masks_ignore_black(capture):
    def edit(contents, folder):
        (folder / "masks").mkdir()
        half_mask(folder / "masks" / "0.png", lit_left=True)
        contents["frames"][0]["mask_path"] = "masks/0.png"

    scene = load_scene(capture(edit=edit))
    used = scene.masks.image(0)[..., 0] > 0
    assert used[:, :12].all() and not used[:, 12:].any()
    assert (scene.masks.image(1) > 0).all()
    assert scene.report.notes["masks"]["ignored"] == "black"


def test_instant_ngp_masks_ignore_what_is_lit(capture):
    def edit(contents, folder):
        half_mask(folder / "images" / "dynamic_mask_0000.png", lit_left=True)

    scene = load_scene(capture(edit=edit))
    used = scene.masks.image(0)[..., 0] > 0
    assert used[:, 12:].all() and not used[:, :12].any()
    assert scene.report.notes["masks"]["ignored"] == "not black"
    assert len(scene) == 9


def test_masks_that_hide_everything_are_refused(capture):
    def edit(contents, folder):
        Image.fromarray(np.zeros((16, 24), np.uint8)).save(folder / "black.png")
        for frame in contents["frames"]:
            frame["mask_path"] = "black.png"

    with pytest.raises(InputError, match=r"ignore every pixel.*black\.png"):
        load_scene(capture(edit=edit))


def test_depth_is_millimetres_and_reaches_the_box(capture):
    def edit(contents, folder):
        Image.fromarray(np.full((16, 24), 4000, np.uint16)).save(folder / "d.png")
        for frame in contents["frames"][:4]:
            frame["depth_file_path"] = "d.png"

    scene = load_scene(capture(edit=edit))
    torch.testing.assert_close(
        scene.depth(0), torch.full((16, 24), 4.0 * scene.transform.scale), rtol=1e-6, atol=0
    )
    assert bool((scene.depth(8) == 0).all())
    assert not any("depth" in warning for warning in scene.report.warnings)


def test_depths_in_another_unit_are_noticed(capture):
    def edit(contents, folder):
        contents["integer_depth_scale"] = 1.0
        Image.fromarray(np.full((16, 24), 4000, np.uint16)).save(folder / "d.png")
        contents["frames"][0]["depth_path"] = "d.png"

    scene = load_scene(capture(edit=edit))
    assert any("check the depth's unit" in warning for warning in scene.report.warnings)


def test_a_separate_alpha_image_becomes_the_alpha_channel(capture):
    def edit(contents, folder):
        for frame in contents["frames"]:
            half_mask((folder / frame["file_path"]).with_suffix(".alpha.png"), lit_left=True)

    scene = load_scene(capture(edit=edit))
    assert scene.images.channels == 4
    alpha = scene.images.image(0)[..., 3]
    assert (alpha[:, :12] == 255).all() and (alpha[:, 12:] == 0).all()


def test_photographs_are_unbounded_and_cut_outs_bounded(capture):
    photo = load_scene(capture())
    assert not photo.bounded and photo.background == "black"
    assert photo.transform.scale == pytest.approx(1 / math.sqrt(17))
    np.testing.assert_allclose(photo.transform.centre, 0, atol=1e-6)
    cut_out = load_scene(capture(suffix=".png", mode="RGBA"))
    assert cut_out.bounded and cut_out.background == "white"
    # what fits in the smaller angle of view, at the cameras' distance
    half = math.sqrt(17) * math.sin(math.atan(8 / 31.0))
    assert 1 / cut_out.transform.scale == pytest.approx(half, rel=1e-5)


def test_the_smaller_of_the_files_box_and_the_estimate_bounds_a_cut_out(capture):
    scene = load_scene(capture(suffix=".png", mode="RGBA", aabb_scale=1, scale=0.6))
    assert 1 / scene.transform.scale == pytest.approx(0.5 / 0.6)
    assert "aabb_scale" in scene.report.notes["box"]


def test_exif_turns_are_applied_only_where_they_make_the_size_fit(capture, toys):
    def edit(contents, folder):
        exif = Image.Exif()
        exif[0x0112] = 6  # "turn 90 degrees clockwise to show"
        toys.picture(folder / "images" / "0000.jpg", (16, 24), exif=exif, quality=95)
        toys.picture(folder / "images" / "0001.jpg", (24, 16), exif=exif, quality=95)

    folder = capture(edit=edit)
    scene = load_scene(folder)
    assert (scene.images.sizes == [24, 16]).all()
    stored = np.asarray(Image.open(folder / "images" / "0000.jpg"))
    np.testing.assert_array_equal(scene.images.image(0), np.rot90(stored, -1))
    np.testing.assert_array_equal(
        scene.images.image(1), np.asarray(Image.open(folder / "images" / "0001.jpg"))
    )
    assert any("1 images were turned" in warning for warning in scene.report.warnings)


def test_images_of_the_declared_shape_but_another_size_rescale_the_intrinsics(capture):
    scene = load_scene(capture(w=48, h=32, fl_x=60, fl_y=62, cx=25, cy=15))
    torch.testing.assert_close(scene.cameras.intrinsics[0], torch.tensor([30.0, 31.0, 12.5, 7.5]))
    assert any("48x32" in w and "24x16" in w for w in scene.report.warnings)


def test_ready_made_smaller_images_rescale_the_intrinsics_without_a_word(capture, toys):
    def edit(contents, folder):
        for i in range(9):
            toys.picture(folder / "images_2" / f"{i:04d}.jpg", (12, 8))
            toys.picture(folder / "images_4" / f"{i:04d}.jpg", (6, 4))

    scene = load_scene(capture(edit=edit), LoadOptions(downscale=2))
    torch.testing.assert_close(scene.cameras.intrinsics[0], torch.tensor([15.0, 15.5, 6.25, 3.75]))
    assert scene.images.sizes[0].tolist() == [12, 8]
    assert scene.report.warnings == () and scene.report.notes["image_folders"] == {"images_2": 9}


def test_detection_says_what_else_it_could_be_and_can_be_forced(capture, synthetic):
    folder = synthetic()
    contents = json.loads((folder / "transforms_train.json").read_text())
    (folder / "transforms.json").write_text(json.dumps(contents))
    scene = load_scene(folder)
    assert scene.report.format == "nerf-synthetic" and "'transforms'" in scene.report.why
    forced = load_scene(folder, LoadOptions(format="transforms"))
    assert forced.report.format == "transforms" and len(forced) == 9
    with pytest.raises(InputError, match=r"is no llff scene: expected poses_bounds\.npy"):
        load_scene(folder, LoadOptions(format="llff"))


def test_a_json_file_of_any_name_is_read(capture):
    folder = capture()
    (folder / "transforms.json").rename(folder / "mine.json")
    assert len(load_scene(folder / "mine.json")) == 9
