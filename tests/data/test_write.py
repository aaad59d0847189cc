"""What is written is read back: same rays in the world, same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyfield.data.batches import PixelSource
from polyfield.data.load import load_scene
from polyfield.data.scene import PosedImages
from polyfield.data.write import write_colmap, write_llff, write_nerf_synthetic
from polyfield.errors import InputError


def world_rays(scene: PosedImages, view: int) -> tuple[np.ndarray, np.ndarray]:
    rays = scene.cameras.image_rays(view)
    origins = scene.transform.to_world(rays.origins.double())
    rotation = torch.tensor(scene.transform.rotation, dtype=torch.float64)
    return origins.numpy(), (rays.directions.double() @ rotation).numpy()


def assert_same(a: PosedImages, b: PosedImages, pairs) -> None:
    for i, j in pairs:
        for ours, theirs in zip(world_rays(a, i), world_rays(b, j), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_array_equal(a.images.image(i), b.images.image(j))


@pytest.mark.parametrize("binary", [True, False])
def test_colmap_gives_the_same_rays_and_split(tmp_path, synthetic, binary):
    scene = load_scene(synthetic())
    write_colmap(scene, tmp_path / "out", binary)
    again = load_scene(tmp_path / "out")
    assert again.report.format == "colmap" and len(again) == len(scene)
    place = {name: i for i, name in enumerate(again.names)}
    pairs = [(i, place[f"{name}.png"]) for i, name in enumerate(scene.names)]
    assert_same(scene, again, pairs)
    tests = {again.names[i] for i in again.splits["test"]}
    assert tests == {f"{scene.names[i]}.png" for i in scene.splits["test"]}


def test_llff_gives_the_same_rays(tmp_path, synthetic):
    scene = load_scene(synthetic())
    write_llff(scene, tmp_path / "out")
    again = load_scene(tmp_path / "out")
    assert again.report.format == "llff"
    assert_same(scene, again, [(i, i) for i in range(len(scene))])


def test_nerf_synthetic_gives_the_same_rays(tmp_path, synthetic):
    scene = load_scene(synthetic())
    write_nerf_synthetic(scene, tmp_path / "out")
    again = load_scene(tmp_path / "out")
    assert again.report.format == "nerf-synthetic" and again.splits == scene.splits
    assert_same(scene, again, [(i, i) for i in range(len(scene))])


@pytest.mark.parametrize(
    "lens",
    [
        {"k1": 0.05, "k2": -0.03, "p1": 0.001, "p2": -0.002},
        {"camera_model": "OPENCV_FISHEYE", "k1": 0.05, "k2": -0.03, "k3": 0.01, "k4": 0.002},
    ],
)
def test_lenses_survive_colmap(tmp_path, capture, lens):
    scene = load_scene(capture(**lens))
    write_colmap(scene, tmp_path / "out")
    again = load_scene(tmp_path / "out")
    assert_same(scene, again, [(i, i) for i in range(len(scene))])


def test_points_come_back(tmp_path, capture):
    from dataclasses import replace

    scene = replace(load_scene(capture()), points=torch.rand(5, 3))
    write_colmap(scene, tmp_path / "out")
    again = load_scene(tmp_path / "out")
    world = scene.transform.to_world(scene.points.double())
    torch.testing.assert_close(
        again.transform.to_world(again.points.double()), world, atol=1e-5, rtol=0
    )


def test_what_a_format_cannot_hold_is_refused(tmp_path, capture):
    scene = load_scene(capture(k3=0.01))
    with pytest.raises(InputError, match="write COLMAP instead"):
        write_llff(scene, tmp_path / "a")
    with pytest.raises(InputError, match="write COLMAP instead"):
        write_nerf_synthetic(scene, tmp_path / "b")
    with pytest.raises(InputError, match="k3"):
        write_colmap(scene, tmp_path / "c")


@pytest.mark.parametrize("write", [write_colmap, write_llff, write_nerf_synthetic])
def test_the_shipped_sample_survives_every_format(tmp_path, write):
    whole = load_scene("sample:orrery", only=("test",))
    write(whole, tmp_path / "out")
    again = load_scene(tmp_path / "out")
    assert_same(whole, again, [(i, i) for i in range(len(whole))])


def test_the_samples_depths_agree_between_neighbouring_views():
    scene = load_scene("sample:orrery", only=("test",))
    pixels = PixelSource(scene, (0,)).sample(4000, torch.Generator().manual_seed(0))
    hit = pixels.targets["depth"] > 0
    points = pixels.rays.origins + pixels.targets["depth"][:, None] * pixels.rays.directions
    away = (scene.cameras.c2w[:, :, 3] - scene.cameras.c2w[0, :, 3]).norm(dim=1)
    neighbour = int(away.argsort()[1])
    xy, z = scene.cameras.project(torch.full_like(pixels.views, neighbour), points)
    width, height = scene.cameras.sizes[neighbour].tolist()
    column, row = xy[:, 0].long().clamp(0, width - 1), xy[:, 1].long().clamp(0, height - 1)
    stored = scene.depth(neighbour)[row, column]
    both = hit & (stored > 0)
    assert both.sum() > 500
    assert (stored - z)[both].abs().median() < 0.01
