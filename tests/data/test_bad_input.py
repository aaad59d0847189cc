"""What users' folders get when they are not what they should be: an answer, never a traceback."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.errors import ConfigError, InputError, UnknownNameError


def test_missing_images_are_listed_and_the_rest_goes_on(capture):
    def edit(contents, folder):
        for i in (2, 5):
            (folder / "images" / f"{i:04d}.jpg").unlink()

    scene = load_scene(capture(edit=edit))
    assert len(scene) == 7 and len(scene.images) == 7
    assert scene.report.missing == ("images/0002.jpg", "images/0005.jpg")
    assert any("2 of 9 images are missing" in w and "0005" in w for w in scene.report.warnings)
    assert "images/0003.jpg" == scene.names[2]


def test_mostly_missing_images_are_pointed_out(capture):
    def edit(contents, folder):
        for i in range(6):
            (folder / "images" / f"{i:04d}.jpg").unlink()

    assert any("most of them" in w for w in load_scene(capture(edit=edit)).report.warnings)


def test_no_image_left_is_an_error_that_names_the_first(capture):
    def edit(contents, folder):
        for path in (folder / "images").iterdir():
            path.unlink()

    with pytest.raises(InputError, match=r"none of the 9 images.*0000\.jpg"):
        load_scene(capture(edit=edit))


def test_truncated_images_are_named_and_leave_no_cache(capture, tmp_path):
    def edit(contents, folder):
        path = folder / "images" / "0004.jpg"
        path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(InputError, match=r"0004\.jpg cannot be read.*replace it"):
        load_scene(capture(edit=edit, size=(240, 160)))
    assert list((tmp_path / "cache").iterdir()) == []


def test_empty_image_files_are_named(capture):
    def edit(contents, folder):
        (folder / "images" / "0004.jpg").write_bytes(b"")

    with pytest.raises(InputError, match=r"0004\.jpg.*not an image"):
        load_scene(capture(edit=edit))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p[0].__setitem__(3, float("nan")), "not finite"),
        (lambda p: [row.__setitem__(2, -row[2]) for row in p[:3]], "left-handed"),
        (lambda p: p[0].__setitem__(0, p[0][0] + 0.5), "not perpendicular|length"),
        (lambda p: p.pop(), None),
        (lambda p: [p.pop(), p.pop()], r"shape \(2, 4\)"),
        (lambda p: p[1].__setitem__(1, "one"), "no 4x4 matrix"),
    ],
)
def test_poses_that_are_no_rotation_name_file_and_frame(capture, change, said):
    def edit(contents, folder):
        change(contents["frames"][3]["transform_matrix"])

    if said is None:
        assert len(load_scene(capture(edit=edit))) == 9
        return
    with pytest.raises(InputError, match=said) as caught:
        load_scene(capture(edit=edit))
    assert "transforms.json" in str(caught.value) and "0003.jpg" in str(caught.value)


def test_scaled_rotations_are_normalised_and_reported(capture):
    def edit(contents, folder):
        pose = np.array(contents["frames"][3]["transform_matrix"])
        pose[:3, :3] *= 2
        contents["frames"][3]["transform_matrix"] = pose.tolist()

    scene = load_scene(capture(edit=edit))
    assert any("0003.jpg" in w and "scaled to 1" in w for w in scene.report.warnings)


def test_mixed_sizes_without_intrinsics_of_their_own(capture, toys):
    def edit(contents, folder):
        toys.picture(folder / "images" / "0003.jpg", (20, 20))

    with pytest.raises(InputError, match=r"2 sizes \(24x16, but images/0003.jpg is 20x20\)"):
        load_scene(capture(edit=edit))


def test_a_declared_size_of_another_shape_names_both(capture):
    with pytest.raises(InputError, match="is 24x16.*for 24x24"):
        load_scene(capture(w=24, h=24))


@pytest.mark.parametrize("frames", [[], None, {"a": 1}, [{"file_path": "a"}], [7]])
def test_zero_cameras_or_no_frames(capture, frames):
    def edit(contents, folder):
        contents["frames"] = frames

    with pytest.raises(InputError, match=r"transforms\.json"):
        load_scene(capture(edit=edit))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("fl_x", -3.0, "focal length is -3"),
        ("fl_x", "wide", "fl_x is 'wide'"),
        ("k1", None, None),
        ("k1", [1], r"k1 is \[1\]"),
        ("camera_angle_x", 4.0, "camera angle is 4"),
        ("ftheta_p0", 1.0, "ftheta_p0.*undistort"),
    ],
)
def test_unusable_intrinsics_say_which(capture, key, value, said):
    if said is None:
        assert load_scene(capture(**{key: value})).cameras.models[0] == "pinhole"
        return
    with pytest.raises(InputError, match=said):
        load_scene(capture(**{key: value}))


def test_json_that_is_cut_off(capture):
    folder = capture()
    text = (folder / "transforms.json").read_text()
    (folder / "transforms.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="not valid JSON"):
        load_scene(folder)


def test_poses_in_opencv_axes_are_refused_with_the_remedy(synthetic, capture):
    def flip(contents):
        for frame in contents["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, 1:3] *= -1
            frame["transform_matrix"] = pose.tolist()

    for folder in (
        synthetic(edit=lambda split, contents: flip(contents)),
        capture(edit=lambda contents, folder: flip(contents)),
    ):
        with pytest.raises(InputError, match="look away.*OpenCV.*negate"):
            load_scene(folder)
    outwards = load_scene(folder, LoadOptions(unbounded=True))
    assert any("look away" in warning for warning in outwards.report.warnings)


def test_a_box_no_camera_sees_is_refused_with_both_places(synthetic):
    with pytest.raises(InputError, match=r"no camera sees the scene box.*data\.centre"):
        load_scene(synthetic(), LoadOptions(centre=(0.0, 0.0, 400.0), scale=1.0, near=0.0, far=5.0))


def test_near_beyond_far_is_refused(synthetic):
    with pytest.raises(InputError, match="not below far 6"):
        load_scene(synthetic(), LoadOptions(near=7.0))


def test_duplicates_are_dropped_and_listed(capture):
    def edit(contents, folder):
        contents["frames"].append(dict(contents["frames"][2]))

    scene = load_scene(capture(edit=edit))
    assert len(scene) == 9
    assert scene.report.dropped == (
        ("images/0002.jpg", "listed more than once, the first is used"),
    )


def test_alpha_in_only_some_images_is_said(capture, toys):
    def edit(contents, folder):
        toys.picture(folder / "images" / "0000.png", (24, 16), "RGBA")
        contents["frames"][0]["file_path"] = "images/0000.png"

    scene = load_scene(capture(edit=edit))
    assert (scene.images.image(3)[..., 3] == 255).all() and not scene.bounded
    assert any("1 of 9 images have an alpha channel" in w for w in scene.report.warnings)


@pytest.mark.parametrize("premultiplied", [True, False])
def test_premultiplied_alpha_is_suspected_only_where_it_can_be(capture, premultiplied):
    def edit(contents, folder):
        alpha = np.tile(np.linspace(0, 255, 24).astype(np.uint8), (16, 1))
        colour = alpha if premultiplied else np.full_like(alpha, 200)
        pixels = np.stack([colour, colour // 2, colour // 3, alpha], axis=2)
        for frame in contents["frames"]:
            Image.fromarray(pixels).save(folder / frame["file_path"])

    scene = load_scene(capture(edit=edit, suffix=".png", mode="RGBA"))
    assert any("premultiplied" in w for w in scene.report.warnings) == premultiplied


def test_folders_found_elsewhere_are_said(capture):
    folder = capture()
    (folder / "images").rename(folder / "input")
    scene = load_scene(folder)
    assert len(scene) == 9
    assert any("9 images were found in" in w and "input" in w for w in scene.report.warnings)


def test_grey_images_load_and_are_counted(capture):
    def edit(contents, folder):
        for i in range(9):
            grey = np.full((16, 24), 10 * i, np.uint8)
            Image.fromarray(grey).save(folder / "images" / f"{i:04d}.png")

    scene = load_scene(capture(edit=edit, suffix=".png"))
    assert scene.images.image(3)[0, 0].tolist() == [30, 30, 30]
    assert scene.report.notes["converted_modes"] == {"L": 9}


def test_masks_missing_for_some_frames_leave_them_whole(capture):
    def edit(contents, folder):
        contents["frames"][0]["mask_path"] = "masks/lost.png"

    scene = load_scene(capture(edit=edit))
    assert scene.masks is None
    assert scene.report.notes["missing_masks"] == ["images/0000.jpg"]


def test_paths_that_are_no_scene_say_what_was_looked_for_and_found(tmp_path, capture, toys):
    with pytest.raises(InputError, match="does not exist"):
        load_scene(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"transforms_train\.json.*poses_bounds.*an empty folder"):
        load_scene(empty)
    folder = capture()
    with pytest.raises(InputError, match="holds scenes: capture"):
        load_scene(folder.parent)
    pictures = tmp_path / "pictures"
    toys.picture(pictures / "images" / "a.jpg")
    with pytest.raises(InputError, match="1 images without camera poses, run COLMAP"):
        load_scene(pictures)
    with pytest.raises(InputError, match="no scene in a known format"):
        load_scene(pictures / "images" / "a.jpg")


def test_unknown_names_get_the_nearest(capture):
    with pytest.raises(UnknownNameError, match="transforms"):
        load_scene(capture(), LoadOptions(format="transform"))
    with pytest.raises(UnknownNameError, match="sample"):
        load_scene("sample:nonesuch")


def test_holdout_is_checked_against_the_views(capture):
    with pytest.raises(ConfigError, match="there are 9"):
        load_scene(capture(), LoadOptions(holdout="9"))
    with pytest.raises(ConfigError, match="every:8"):
        load_scene(capture(), LoadOptions(holdout="some"))


def test_too_much_downscaling_is_refused(capture):
    with pytest.raises(InputError, match="downscale 8 leaves 3x2"):
        load_scene(capture(), LoadOptions(downscale=8))


@pytest.mark.parametrize(
    "options", [{"downscale": 0}, {"scale": -1.0}, {"near": -1.0}, {"near": 2.0, "far": 1.0}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError):
        LoadOptions(**options)


def test_depth_or_mask_files_that_cannot_be_read_are_named(capture):
    def edit(contents, folder):
        (folder / "bad.png").write_text("no")
        contents["frames"][1]["mask_path"] = "bad.png"

    with pytest.raises(InputError, match=r"bad\.png"):
        load_scene(capture(edit=edit))


def test_a_single_view_loads_and_nothing_is_held_out(capture):
    scene = load_scene(capture(count=1))
    assert scene.splits == {"train": (0,), "val": (), "test": ()}
    assert math.isfinite(scene.transform.scale)


def test_a_read_only_cache_is_a_warning_not_an_end(capture, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POLYFIELD_CACHE", str(tmp_path / "file" / "cache"))
    scene = load_scene(capture())
    assert len(scene.images) == 9
    assert any("POLYFIELD_CACHE" in warning for warning in scene.report.warnings)


def test_the_cache_follows_the_content(capture, toys):
    folder = capture()
    first = load_scene(folder)
    again = load_scene(folder)
    assert again.images.path == first.images.path and again.content_hash == first.content_hash
    toys.picture(folder / "images" / "0004.jpg", seed=99)
    changed = load_scene(folder)
    assert changed.content_hash != first.content_hash
    assert changed.images.path != first.images.path
    moved = folder.with_name("elsewhere")
    folder.rename(moved)
    assert load_scene(moved).images.path == changed.images.path
    contents = json.loads((moved / "transforms.json").read_text())
    contents["fl_x"] += 1
    (moved / "transforms.json").write_text(json.dumps(contents))
    assert load_scene(moved).content_hash != changed.content_hash


def test_cameras_that_never_move_are_warned_of(capture):
    def freeze(contents, folder):
        for frame in contents["frames"]:
            frame["transform_matrix"] = contents["frames"][0]["transform_matrix"]

    warnings = load_scene(capture(edit=freeze)).report.warnings
    assert any("all 9 cameras stand at" in warning for warning in warnings)


def test_a_missing_mask_is_told(capture):
    def mask(contents, folder):
        for frame in contents["frames"]:
            frame["mask_path"] = frame["file_path"]  # any picture that is not black will do
        contents["frames"][2]["mask_path"] = "masks/nope.png"

    warnings = load_scene(capture(edit=mask)).report.warnings
    assert any("nope.png) is missing: the image is used without it" in w for w in warnings)
