"""Random pixels: right colours, right rays, masks, depth, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.data.batches import PixelSource
from polyfield.data.load import load_scene
from polyfield.errors import ConfigError, InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_colours_and_rays_belong_to_the_pixels(synthetic):
    scene = load_scene(synthetic())
    batch = PixelSource(scene).sample(500, generator())
    assert set(batch.views.tolist()) == set(range(9))
    for i in range(0, 500, 50):
        view, (x, y) = int(batch.views[i]), batch.xy[i].tolist()
        stored = scene.images.image(view)[int(y), int(x)] / np.float32(255)
        np.testing.assert_allclose(batch.targets["rgba"][i], stored, atol=1e-6)
        assert x % 1 == 0.5 and y % 1 == 0.5
        one = scene.cameras.image_rays(view)[int(y), int(x)]
        torch.testing.assert_close(batch.rays.directions[i], one.directions)
        torch.testing.assert_close(batch.rays.origins[i], one.origins)


def test_opaque_images_have_alpha_one(capture):
    rgba = PixelSource(load_scene(capture())).sample(20, generator()).targets["rgba"]
    assert rgba.shape == (20, 4) and bool((rgba[:, 3] == 1).all())


def test_drawing_is_uniform_over_pixels_of_ragged_views(capture, toys):
    def edit(contents, folder):
        toys.picture(folder / "images" / "0003.jpg", (48, 32))
        contents["frames"][3].update(w=48, h=32, fl_x=60, fl_y=62, cx=25, cy=15)

    scene = load_scene(capture(edit=edit))
    source = PixelSource(scene, (3, 4))
    batch = source.sample(20000, generator())
    share = (batch.views == 3).double().mean().item()
    assert share == pytest.approx(0.8, abs=0.015)  # 4 of 5 pixels
    mine = batch.xy[batch.views == 3]
    assert mine[:, 0].max() == 47.5 and mine[:, 1].max() == 31.5 and mine.min() == 0.5
    assert mine.mean(0).tolist() == pytest.approx([24, 16], abs=0.5)


def test_the_same_generator_gives_the_same_batch(synthetic):
    source = PixelSource(load_scene(synthetic()))
    a, b = source.sample(30, generator(3)), source.sample(30, generator(3))
    assert torch.equal(a.xy, b.xy) and torch.equal(a.targets["rgba"], b.targets["rgba"])
    assert not torch.equal(a.xy, source.sample(30, generator(4)).xy)


def test_the_centre_is_drawn_from_alone(synthetic):
    batch = PixelSource(load_scene(synthetic())).sample(2000, generator(), centre_fraction=0.5)
    assert batch.xy[:, 0].min() == 6.5 and batch.xy[:, 0].max() == 17.5
    assert batch.xy[:, 1].min() == 4.5 and batch.xy[:, 1].max() == 11.5
    with pytest.raises(ConfigError, match="centre_fraction"):
        PixelSource(load_scene(synthetic())).sample(1, generator(), centre_fraction=0.0)


def mask_left(contents, folder):
    mask = np.zeros((16, 24), np.uint8)
    mask[:, :3] = 255
    Image.fromarray(mask).save(folder / "m.png")
    for frame in contents["frames"]:
        frame["mask_path"] = "m.png"


def test_ignored_pixels_are_never_drawn(capture):
    batch = PixelSource(load_scene(capture(edit=mask_left))).sample(3000, generator())
    assert len(batch.rays) == 3000 and batch.xy[:, 0].max() == 2.5
    assert batch.xy.mean(0).tolist() == pytest.approx([1.5, 8], abs=0.3)


def test_a_mask_that_hides_the_centre_is_said(capture):
    source = PixelSource(load_scene(capture(edit=mask_left)))
    with pytest.raises(InputError, match="next to nothing"):
        source.sample(10, generator(), centre_fraction=0.3)


def test_depth_is_a_distance_along_the_ray(capture):
    def edit(contents, folder):
        stored = np.full((16, 24), 4000, np.uint16)
        stored[:, :12] = 0
        Image.fromarray(stored).save(folder / "d.png")
        for frame in contents["frames"]:
            frame["depth_file_path"] = "d.png"

    scene = load_scene(capture(edit=edit))
    batch = PixelSource(scene).sample(200, generator())
    known = batch.xy[:, 0] > 12
    assert bool((batch.targets["depth"][~known] == 0).all())
    points = batch.rays.origins + batch.targets["depth"][:, None] * batch.rays.directions
    _, z = scene.cameras.project(batch.views, points)
    torch.testing.assert_close(
        z[known], torch.full_like(z[known], 4 * scene.transform.scale), rtol=1e-5, atol=1e-6
    )


def test_times_ride_along(synthetic):
    def edit(split, contents):
        for i, frame in enumerate(contents["frames"]):
            frame["time"] = i / 8

    scene = load_scene(synthetic(edit=edit))
    batch = PixelSource(scene).sample(50, generator())
    torch.testing.assert_close(batch.rays.times, batch.views / 8)


def test_an_empty_batch_is_allowed(synthetic):
    batch = PixelSource(load_scene(synthetic())).sample(0, generator())
    assert batch.targets["rgba"].shape == (0, 4) and len(batch.rays) == 0


def test_a_split_without_views_is_said(synthetic):
    with pytest.raises(InputError, match="split 'val'"):
        PixelSource(load_scene(synthetic()), "val")


def test_batches_arrive_on_the_device_asked_for(synthetic, device):
    batch = PixelSource(load_scene(synthetic()), device=device).sample(5, generator())
    assert batch.rays.origins.device.type == batch.targets["rgba"].device.type == device.type
