"""COLMAP models: conventions, lenses, folders, binary against text."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from polyfield.data.colmap import MODELS, Camera, Model, Registered, read_model, write_model
from polyfield.data.load import load_scene
from polyfield.data.poses import flip_convention, quaternion_from_rotation
from polyfield.data.scene import LoadOptions
from polyfield.errors import InputError

PARAMS = {
    "SIMPLE_PINHOLE": (30.0, 12.0, 8.0),
    "PINHOLE": (30.0, 31.0, 12.0, 8.0),
    "SIMPLE_RADIAL": (30.0, 12.0, 8.0, 0.05),
    "RADIAL": (30.0, 12.0, 8.0, 0.05, -0.02),
    "OPENCV": (30.0, 31.0, 12.0, 8.0, 0.05, -0.02, 0.001, -0.002),
    "OPENCV_FISHEYE": (30.0, 31.0, 12.0, 8.0, 0.05, -0.02, 0.01, -0.005),
    "FULL_OPENCV": (30.0, 31.0, 12.0, 8.0, 0.05, -0.02, 0.001, -0.002, 0.01, 0.02, 0.03, 0.004),
    "FOV": (30.0, 31.0, 12.0, 8.0, 0.3),
    "SIMPLE_RADIAL_FISHEYE": (30.0, 12.0, 8.0, 0.05),
    "RADIAL_FISHEYE": (30.0, 12.0, 8.0, 0.05, -0.02),
    "THIN_PRISM_FISHEYE": (
        30.0, 31.0, 12.0, 8.0, 0.05, -0.02, 0.001, -0.002, 0.01, 0.003, 0.001, 0.002,
    ),
}  # fmt: skip


def colmap_pixel(camera: Camera, x: float, y: float, z: float) -> tuple[float, float]:
    """COLMAP's own projection of a point in OpenCV axes, written out case by case."""
    p, name = camera.params, camera.model
    one_focal = name.startswith(("SIMPLE", "RADIAL"))
    (fx, fy, cx, cy), k = ((p[0], *p[:3]), p[3:]) if one_focal else (p[:4], p[4:])
    u, v = x / z, y / z
    if "FISHEYE" in name:
        r = np.hypot(u, v)
        theta = np.arctan(r)
        u, v = (u * theta / r, v * theta / r) if r > 1e-9 else (u, v)
    r2 = u * u + v * v
    tangential = k[2:4] if name in ("OPENCV", "FULL_OPENCV", "THIN_PRISM_FISHEYE") else (0, 0)
    prism = k[6:8] if name == "THIN_PRISM_FISHEYE" else (0, 0)
    if name in ("OPENCV", "RADIAL", "RADIAL_FISHEYE"):
        radial = 1 + k[0] * r2 + k[1] * r2**2
    elif name in ("SIMPLE_RADIAL", "SIMPLE_RADIAL_FISHEYE"):
        radial = 1 + k[0] * r2
    elif name == "OPENCV_FISHEYE":
        radial = 1 + sum(c * r2 ** (i + 1) for i, c in enumerate(k))
    elif name == "FULL_OPENCV":
        radial = (1 + k[0] * r2 + k[1] * r2**2 + k[4] * r2**3) / (
            1 + k[5] * r2 + k[6] * r2**2 + k[7] * r2**3
        )
    elif name == "THIN_PRISM_FISHEYE":
        radial = 1 + k[0] * r2 + k[1] * r2**2 + k[4] * r2**3 + k[5] * r2**4
    elif name == "FOV":
        r = np.sqrt(r2)
        radial = np.arctan(2 * r * np.tan(k[0] / 2)) / (r * k[0])
    else:
        radial = 1
    p1, p2 = tangential
    du = u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u) + prism[0] * r2
    dv = v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v) + prism[1] * r2
    return fx * du + cx, fy * dv + cy


@pytest.fixture
def colmap(tmp_path, toys):
    """Makes a COLMAP folder whose poses look at the origin."""

    def make(model="PINHOLE", count=9, binary=True, points=None, sub="sparse/0", size=(24, 16)):
        folder = tmp_path / "colmap"
        camera = Camera(model, *size, PARAMS[model])
        images = {}
        for i, pose in enumerate(toys.ring(count)):
            w2c = np.linalg.inv(flip_convention(pose))
            q = tuple(quaternion_from_rotation(w2c[:3, :3]).tolist())
            name = f"shot {i:02d}.png"
            images[count - i] = Registered(name, 7, q, tuple(w2c[:3, 3].tolist()))
            toys.picture(folder / "images" / name, size, seed=i)
        cloud = np.zeros((0, 3)) if points is None else points
        write_model(folder / sub, Model({7: camera}, images, cloud), binary)
        return folder

    return make


@pytest.mark.parametrize("model", sorted(PARAMS))
def test_points_land_where_colmap_puts_them(colmap, model, toys):
    assert model in {name for name, _ in MODELS.values()}
    scene = load_scene(colmap(model))
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (20, 3))
    camera = Camera(model, 24, 16, PARAMS[model])
    for view in (0, 4):
        w2c = np.linalg.inv(flip_convention(toys.ring(9)[view]))
        local = points @ w2c[:3, :3].T + w2c[:3, 3]
        expected = [colmap_pixel(camera, *p) for p in local]
        box = torch.from_numpy(scene.transform.to_box(points)).float()
        ours, depth = scene.cameras.project(torch.full((20,), view), box)
        np.testing.assert_allclose(ours, expected, atol=2e-4)
        np.testing.assert_allclose(depth / scene.transform.scale, local[:, 2], rtol=1e-5)


def test_views_are_sorted_by_name_and_every_8th_is_held_out(colmap):
    scene = load_scene(colmap())
    assert scene.report.format == "colmap"
    assert scene.names[:2] == ("shot 00.png", "shot 01.png")
    assert scene.splits["test"] == (0, 8)


def test_binary_and_text_give_identical_records(tmp_path, colmap):
    points = np.random.default_rng(0).normal(size=(5, 3))
    model = read_model(colmap("OPENCV", points=points) / "sparse" / "0")
    write_model(tmp_path / "text", model, binary=False)
    again = read_model(tmp_path / "text")
    assert again.cameras == model.cameras and again.images == model.images
    np.testing.assert_array_equal(again.points, points)


def test_text_models_load_with_observations_and_empty_second_lines(colmap):
    folder = colmap(binary=False)
    file = folder / "sparse" / "0" / "images.txt"
    lines = file.read_text().split("\n")
    assert lines[2] == "" and lines[4] == ""
    lines[2] = "1.5 2.5 -1 3.5 4.5 17"
    file.write_text("\n".join(lines))
    scene = load_scene(folder)
    assert len(scene) == 9 and scene.names[3] == "shot 03.png"


def test_binary_observations_and_tracks_are_skipped(tmp_path):
    (tmp_path / "cameras.bin").write_bytes(
        struct.pack("<Q", 1) + struct.pack("<iiQQ3d", 1, 0, 24, 16, 30.0, 12.0, 8.0)
    )
    image = struct.pack("<i7di", 5, 1, 0, 0, 0, 1.0, 2.0, 3.0, 1) + b"a b.png\0"
    observed = struct.pack("<Q", 2) + struct.pack("<ddq", 1, 2, -1) + struct.pack("<ddq", 3, 4, 9)
    (tmp_path / "images.bin").write_bytes(struct.pack("<Q", 2) + 2 * (image + observed))
    point = struct.pack("<Q3d3BdQ", 9, 1.0, 2.0, 3.0, 1, 2, 3, 0.5, 2) + struct.pack(
        "<4i", 5, 0, 5, 1
    )
    (tmp_path / "points3D.bin").write_bytes(struct.pack("<Q", 2) + 2 * point)
    model = read_model(tmp_path)
    assert model.images[5].name == "a b.png" and model.images[5].translation == (1.0, 2.0, 3.0)
    np.testing.assert_array_equal(model.points, [[1, 2, 3], [1, 2, 3]])


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("keep", [0, 4, 11, -3])
def test_truncated_files_are_refused_with_their_length(colmap, file, keep):
    folder = colmap(points=np.ones((4, 3)))
    path = folder / "sparse" / "0" / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"{file}.*|registered 0 images"):
        load_scene(folder)


def test_garbled_text_is_refused_with_its_line(colmap):
    folder = colmap(binary=False)
    file = folder / "sparse" / "0" / "cameras.txt"
    file.write_text("# comment\n7 PINHOLE 24 sixteen 30 31 12 8\n")
    with pytest.raises(InputError, match=r"cameras\.txt, line 2.*sixteen"):
        load_scene(folder)


def test_unknown_camera_models_are_refused(colmap):
    folder = colmap(binary=False)
    (folder / "sparse" / "0" / "cameras.txt").write_text("7 LENSBABY 24 16 30 31 12 8\n")
    with pytest.raises(InputError, match=r"unknown camera model 'LENSBABY'.*image_undistorter"):
        load_scene(folder)
    binary = colmap()
    file = binary / "sparse" / "0" / "cameras.bin"
    file.write_bytes(struct.pack("<QiiQQ", 1, 7, 42, 24, 16))
    with pytest.raises(InputError, match="unknown camera model number 42"):
        load_scene(binary)


def test_the_largest_of_several_models_is_used(tmp_path, colmap):
    folder = colmap(count=4)
    (folder / "sparse" / "0").rename(folder / "sparse" / "1")
    colmap(count=9)
    (folder / "sparse" / "0").rename(folder / "sparse" / "2")
    scene = load_scene(folder)
    assert len(scene) == 9
    assert any("sparse/1: 4" in w and "sparse/2: 9" in w for w in scene.report.warnings)


def test_too_few_registered_images_are_refused_with_advice(colmap):
    with pytest.raises(InputError, match="registered 2 images.*exhaustive"):
        load_scene(colmap(count=2))


@pytest.mark.parametrize("sub", ["sparse/0", "sparse", "colmap/sparse/0", "colmap", "."])
def test_model_folders_are_found(colmap, sub):
    assert len(load_scene(colmap(sub=sub))) == 9


def test_the_model_folder_itself_may_be_given(colmap):
    assert len(load_scene(colmap() / "sparse" / "0")) == 9


def test_split_lists_are_followed(colmap):
    folder = colmap()
    (folder / "train_list.txt").write_text("shot 01.png\nshot 02.png\nshot 03.png\n")
    (folder / "test_list.txt").write_text("shot 05.png\n")
    scene = load_scene(folder)
    assert scene.names == ("shot 01.png", "shot 02.png", "shot 03.png", "shot 05.png")
    assert scene.splits["test"] == (3,)


def test_smaller_copies_and_renamed_ones(colmap, toys):
    folder = colmap()
    for i in range(9):
        toys.picture(folder / "images_4" / f"image{i:03d}.png", (6, 4))
    for path in (folder / "images").iterdir():
        path.unlink()
    (folder / "images").rmdir()
    scene = load_scene(folder)
    assert scene.images.sizes[0].tolist() == [6, 4]
    torch.testing.assert_close(scene.cameras.intrinsics[0], torch.tensor([7.5, 7.75, 3.0, 2.0]))
    assert any("paired" in warning for warning in scene.report.warnings)


def test_points_are_kept_in_the_box_and_bring_the_near_plane_closer(colmap, toys):
    points = np.random.default_rng(0).normal(size=(400, 3)) * 0.3
    near_camera = toys.ring(9)[0, :3, 3] * 0.97
    scene = load_scene(colmap(points=np.concatenate([points, [near_camera] * 40, [[np.nan] * 3]])))
    assert scene.points.shape == (440, 3)
    torch.testing.assert_close(
        scene.points[:400], torch.from_numpy(scene.transform.to_box(points)).float()
    )
    assert not scene.bounded
    assert scene.cameras.near[0].item() < 0.05
    far_points = load_scene(colmap(points=points))
    assert far_points.cameras.near[0].item() == pytest.approx(0.2)


def test_colmaps_mask_folder_is_read(colmap):
    from PIL import Image

    folder = colmap()
    mask = np.zeros((16, 24), np.uint8)
    mask[:8] = 255
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "shot 00.png.png")
    used = load_scene(folder).masks.image(0)[..., 0] > 0
    assert used[:8].all() and not used[8:].any()


def test_ndc_needs_a_depth_and_says_so(colmap):
    with pytest.raises(InputError, match=r"data\.near"):
        load_scene(colmap(), LoadOptions(ndc=True))


def test_points_and_poses_that_do_not_fit_are_noticed(colmap):
    points = np.random.default_rng(0).normal(size=(300, 3)) * 0.3
    folder = colmap(points=points)
    assert not any("belong together" in w for w in load_scene(folder).report.warnings)
    away = load_scene(colmap(points=points + [0.0, 0.0, 90.0]))
    assert any("do not belong together" in w for w in away.report.warnings)
