"""NeRF-synthetic and D-NeRF folders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.errors import InputError


def test_splits_sizes_box_and_background(synthetic):
    scene = load_scene(synthetic())
    assert scene.report.format == "nerf-synthetic"
    assert "transforms_train.json" in scene.report.why
    assert {k: len(v) for k, v in scene.splits.items()} == {"train": 9, "val": 0, "test": 3}
    assert scene.names[0] == "train/r_0" and scene.names[9] == "test/r_0"
    assert scene.images.channels == 4 and scene.background == "white" and scene.bounded
    assert scene.up == (0.0, 0.0, 1.0)
    assert scene.transform.scale == pytest.approx(1 / 1.5)
    assert scene.cameras.near[0].item() == pytest.approx(2 / 1.5)
    assert scene.cameras.far[0].item() == pytest.approx(6 / 1.5)


def test_focal_follows_from_the_angle_and_the_pixels_own_width(synthetic):
    scene = load_scene(synthetic(size=(24, 16)))
    focal = 0.5 * 24 / math.tan(0.35)
    torch.testing.assert_close(scene.cameras.intrinsics[0], torch.tensor([focal, focal, 12.0, 8.0]))


def test_the_first_pixels_ray_goes_up_and_left(synthetic):
    scene = load_scene(synthetic(), LoadOptions(scale=1.0))
    rays = scene.cameras.rays(torch.tensor([0]), torch.tensor([[0.5, 0.5]]))
    focal = 0.5 * 24 / math.tan(0.35)
    local = torch.tensor([(0.5 - 12) / focal, -(0.5 - 8) / focal, -1.0])
    c2w = scene.cameras.c2w[0]
    expected = c2w[:, :3] @ (local / local.norm())
    torch.testing.assert_close(rays.directions[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(rays.origins[0], c2w[:, 3])


def test_the_origin_lands_in_the_middle_and_up_is_up(synthetic):
    scene = load_scene(synthetic())
    views = torch.arange(len(scene))
    middle, depth = scene.cameras.project(views, torch.zeros(len(scene), 3))
    torch.testing.assert_close(middle, torch.tensor([12.0, 8.0]).expand(12, 2), atol=1e-4, rtol=0)
    assert bool((depth > 0).all())
    above, _ = scene.cameras.project(views, torch.tensor([0.0, 0.0, 0.1]).expand(12, 3))
    assert bool((above[:, 1] < 8).all())


def test_a_folder_with_only_a_test_split(synthetic):
    scene = load_scene(synthetic(splits=(("test", 4),)))
    assert scene.splits == {"train": (), "val": (), "test": (0, 1, 2, 3)}


def test_a_single_split_file_is_that_split(synthetic):
    scene = load_scene(synthetic() / "transforms_test.json")
    assert {k: len(v) for k, v in scene.splits.items()} == {"train": 0, "val": 0, "test": 3}


def test_only_some_splits_are_decoded_but_the_hash_and_box_stay(synthetic):
    folder = synthetic()
    part = load_scene(folder, only=("test",))
    assert len(part) == 3 and part.splits["test"] == (0, 1, 2) and part.splits["train"] == ()
    assert len(part.images) == 3
    whole = load_scene(folder)
    assert part.content_hash == whole.content_hash and part.transform == whole.transform
    again = load_scene(folder, only=("test",))  # now from the store of all views
    assert again.images.path == whole.images.path
    for scene in (part, again):
        np.testing.assert_array_equal(scene.images.image(1), whole.images.image(10))
    torch.testing.assert_close(part.cameras.c2w, whole.cameras.c2w[9:])


def test_asking_for_a_split_that_is_not_there_lists_what_is(synthetic):
    with pytest.raises(InputError, match="'train': 7, 'test': 2"):
        load_scene(synthetic(splits=(("train", 9),), edit=None), only=("val",))


def test_without_test_views_some_are_held_out(synthetic):
    folder = synthetic(splits=(("train", 9),))
    scene = load_scene(folder)
    assert scene.splits["test"] == (0, 8) and len(scene.splits["train"]) == 7
    scene = load_scene(folder, LoadOptions(holdout="2,7"))
    assert scene.splits["test"] == (2, 7) and 2 not in scene.splits["train"]


def test_validation_views_serve_as_test_views_where_there_are_no_others(synthetic):
    scene = load_scene(synthetic(splits=(("train", 4), ("val", 2))))
    assert scene.splits["test"] == scene.splits["val"] == (4, 5)


def test_a_holdout_beside_the_scenes_own_test_views_is_said_to_do_nothing(synthetic):
    scene = load_scene(synthetic(), LoadOptions(holdout="every:2"))
    assert len(scene.splits["test"]) == 3
    assert any("no effect" in warning for warning in scene.report.warnings)


def test_times_are_kept_and_filled_in(synthetic):
    def edit(split, contents):
        if split == "train":
            for i, frame in enumerate(contents["frames"]):
                frame["time"] = i / 16

    scene = load_scene(synthetic(edit=edit))
    torch.testing.assert_close(scene.times[:9], torch.arange(9) / 16)
    assert load_scene(synthetic(name="still")).times is None


def test_cameras_elsewhere_get_a_range_that_reaches_the_box(synthetic):
    def edit(split, contents):
        for frame in contents["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] *= 5

    scene = load_scene(synthetic(edit=edit))
    distance = 5 * math.sqrt(17)
    assert scene.cameras.near[0].item() * 1.5 == pytest.approx(distance - 1.5 * 3**0.5, rel=1e-5)
    assert scene.cameras.far[0].item() * 1.5 == pytest.approx(distance + 1.5 * 3**0.5, rel=1e-5)


@pytest.mark.parametrize("downscale", [2, 3])
def test_downscaling_keeps_the_ray_of_a_normalised_pixel(synthetic, downscale):
    folder = synthetic()
    whole, small = load_scene(folder), load_scene(folder, LoadOptions(downscale=downscale))
    size = (round(24 / downscale), round(16 / downscale))
    assert small.images.sizes[0].tolist() == list(size) == small.cameras.sizes[0].tolist()
    uv = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    view = torch.zeros(50, dtype=torch.int64)
    ours = small.cameras.rays(view, uv * torch.tensor(size))
    theirs = whole.cameras.rays(view, uv * torch.tensor([24, 16]))
    torch.testing.assert_close(ours.directions, theirs.directions, atol=1e-6, rtol=0)


def test_downscaled_pixels_are_means(synthetic):
    folder = synthetic()
    whole = load_scene(folder).images.image(0).astype(float)
    small = load_scene(folder, LoadOptions(downscale=2)).images.image(0).astype(float)
    weighted = np.concatenate([whole[..., :3] * whole[..., 3:] / 255, whole[..., 3:]], 2)
    expected = weighted.reshape(8, 2, 12, 2, 4).mean((1, 3))
    ours = np.concatenate([small[..., :3] * small[..., 3:] / 255, small[..., 3:]], 2)
    np.testing.assert_allclose(ours, expected, atol=1.01)


def test_sample_scenes_are_named(monkeypatch, synthetic):
    from polyfield.data import detect
    from polyfield.registry import Entry

    entry = Entry("samples", "toy", lambda: synthetic(), None, "", "")
    original = detect.lookup
    monkeypatch.setattr(
        detect, "lookup", lambda kind, name: entry if kind == "samples" else original(kind, name)
    )
    scene = load_scene("sample:toy")
    assert scene.name == "toy" and len(scene) == 12
