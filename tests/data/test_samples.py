"""The shipped sample: made again exactly, consistent in itself, and a fair benchmark."""

import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polyfield.data.samples import orrery_scene as scene
from polyfield.data.samples import orrery_surface as surface
from polyfield.data.samples.orrery_light import MATERIALS
from polyfield.data.samples.orrery_trace import colours, trace
from polyfield.files import write_json
from polyfield.registry import lookup

FOLDER = scene.orrery()
VIEWS = [(split, index) for split, count in scene.SPLITS.items() for index in range(count)]


@functools.cache
def shipped(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    with Image.open(FOLDER / split / f"r_{index:03d}.png") as colour:
        assert colour.mode == "RGBA"
        rgba = np.asarray(colour)
    with Image.open(FOLDER / split / f"r_{index:03d}_depth.png") as depth:
        return rgba, np.asarray(depth).astype(np.uint16)


@functools.cache
def matrices(split: str) -> np.ndarray:
    frames = json.loads((FOLDER / f"transforms_{split}.json").read_text())["frames"]
    return np.array([frame["transform_matrix"] for frame in frames])


def unproject(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """World points of a view's depth picture, and the colours there, from the documentation."""
    rgba, depth = shipped(split, index)
    row, column = np.nonzero(depth)
    z = depth[row, column] / 512
    focal = scene.SIZE / 2 / math.tan(scene.CAMERA_ANGLE_X / 2)
    x = (column + 0.5 - scene.SIZE / 2) / focal * z
    y = -(row + 0.5 - scene.SIZE / 2) / focal * z
    c2w = matrices(split)[index]
    points = np.stack([x, y, -z], axis=-1) @ c2w[:3, :3].T + c2w[:3, 3]
    return points, rgba[row, column] / 255


def project(points: np.ndarray, split: str, index: int) -> tuple[np.ndarray, ...]:
    """Pixel (row, column) and z-depth of world points in a view."""
    c2w = matrices(split)[index]
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    focal = scene.SIZE / 2 / math.tan(scene.CAMERA_ANGLE_X / 2)
    column = local[:, 0] / -local[:, 2] * focal + scene.SIZE / 2
    row = -local[:, 1] / -local[:, 2] * focal + scene.SIZE / 2
    return np.floor(row).astype(int), np.floor(column).astype(int), -local[:, 2]


def on_part(points: np.ndarray, name: str) -> np.ndarray:
    return np.abs(surface.PARTS[name].distance(*points.T)) < 0.003


@pytest.mark.parametrize(("split", "index"), [("train", 37), ("train", 98), ("test", 11)])
def test_views_are_made_again_exactly(split, index):
    rgba, depth = scene.render_view(matrices(split)[index])
    np.testing.assert_array_equal(rgba, shipped(split, index)[0])
    np.testing.assert_array_equal(depth, shipped(split, index)[1])


@pytest.mark.parametrize("split", scene.SPLITS)
def test_transforms_are_made_again_to_the_letter(split, tmp_path):
    write_json(tmp_path / "again.json", scene.transforms(split))
    assert (tmp_path / "again.json").read_text() == (
        FOLDER / f"transforms_{split}.json"
    ).read_text()


def test_the_program_writes_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(scene, "SPLITS", {"test": 1})
    scene.main([str(tmp_path), "--workers", "1"])
    for name in ("r_000.png", "r_000_depth.png"):
        with (
            Image.open(tmp_path / "test" / name) as again,
            Image.open(FOLDER / "test" / name) as old,
        ):
            assert again.mode == old.mode
            np.testing.assert_array_equal(np.asarray(again), np.asarray(old))


def test_the_folder_holds_what_it_lists_and_stays_small():
    listed = {"LICENSE.txt", "README.txt", "transforms_train.json", "transforms_test.json"}
    for split in scene.SPLITS:
        for frame in json.loads((FOLDER / f"transforms_{split}.json").read_text())["frames"]:
            listed.add(str(Path(frame["file_path"] + ".png")))
            listed.add(str(Path(frame["depth_file_path"])))
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {str(path.relative_to(FOLDER)) for path in files} == listed
    assert len(listed) == 2 * 120 + 4
    assert sum(path.stat().st_size for path in files) <= 6_000_000


def test_the_sample_is_registered_and_costs_no_torch_import():
    entry = lookup("samples", "orrery")
    assert entry.target() == FOLDER and entry.summary
    code = "import polyfield.data.samples.orrery_scene, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_view_shows_the_whole_object_with_soft_edges():
    for split, index in VIEWS:
        rgba, _ = shipped(split, index)
        alpha = rgba[..., 3]
        assert rgba.shape == (176, 176, 4)
        assert 0.12 < (alpha > 0).mean() < 0.5
        assert 0.02 < ((alpha > 0) & (alpha < 255)).mean() < 0.15
        assert not alpha[[0, -1]].any() and not alpha[:, [0, -1]].any()
        assert not rgba[alpha == 0].any()


def test_depth_and_alpha_agree():
    for split, index in VIEWS:
        rgba, depth = shipped(split, index)
        assert not depth[rgba[..., 3] == 0].any()
        assert (depth[rgba[..., 3] == 255] > 0).mean() > 0.995
        assert (rgba[..., 3][depth > 0] > 100).mean() > 0.98
        seen = depth[depth > 0] / 512
        assert seen.min() > 4 - 1.25 and seen.max() < 4 + 1.25


def test_cameras_look_at_the_origin_from_four_units_away():
    angle = json.loads((FOLDER / "transforms_test.json").read_text())["camera_angle_x"]
    assert math.isclose(math.tan(angle / 2), scene.HALF_WIDTH, rel_tol=1e-15)
    for split in scene.SPLITS:
        c2w = matrices(split)
        rotation, centre = c2w[:, :3, :3], c2w[:, :3, 3]
        np.testing.assert_allclose(
            rotation @ rotation.transpose(0, 2, 1),
            np.broadcast_to(np.eye(3), rotation.shape),
            atol=1e-15,
        )
        np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-15)
        np.testing.assert_allclose(centre, 4 * rotation[:, :, 2], atol=1e-15)
        assert (rotation[:, 2, 1] > 0).all()  # the picture's up is the world's


def test_training_views_surround_the_object_and_leave_the_test_views_out():
    train, test = matrices("train")[:, :3, 2], matrices("test")[:, :3, 2]
    assert -0.2 < train[:, 2].min() < -0.1 and train[:, 2].max() > 0.94
    for leading in (16, 25, 50, 100):
        nearest = (test @ train[:leading].T).max(axis=1)
        assert np.degrees(np.arccos(nearest)).max() < 150 / math.sqrt(leading)
    assert np.degrees(np.arccos((test @ train.T).max())) > 0.5


def test_depth_lies_on_the_surface():
    for split, index in VIEWS[::7]:
        points, _ = unproject(split, index)
        assert np.abs(surface.surface_distance(points)).max() < 0.6 / 512 * 1.12


def neighbour(index: int) -> int:
    """The training view nearest to a training view."""
    directions = matrices("train")[:, :3, 2]
    return int(np.argsort(directions @ directions[index])[-2])


@pytest.mark.parametrize("first", [0, 4, 17, 60])
def test_depth_agrees_between_views(first):
    points, _ = unproject("train", first)
    second = neighbour(first)
    row, column, z = project(points, "train", second)
    other = shipped("train", second)[1][row, column] / 512
    assert (other > 0).mean() > 0.9
    # No point may float in front of what another camera saw, but for edges within a pixel.
    assert (z > other - 0.03)[other > 0].mean() > 0.97
    assert (np.abs(z - other) < 0.03)[other > 0].mean() > 0.7


def pairs_seen_twice(name: str, first: int, second: int) -> np.ndarray:
    """Colours (pairs, 2, 3) of points on a part that both training views see."""
    points, colour = unproject("train", first)
    row, column, z = project(points, "train", second)
    rgba, depth = shipped("train", second)
    both = on_part(points, name) & (np.abs(z - depth[row, column] / 512) < 0.02)
    both &= (rgba[row, column, 3] == 255) & (colour[:, 3] == 1)
    return np.stack([colour[both, :3], rgba[row, column][both, :3] / 255], axis=1)


def test_diffuse_parts_look_the_same_from_everywhere():
    pairs = [(index, neighbour(index)) for index in range(0, 100, 10)]
    seen = np.concatenate([pairs_seen_twice("giant", *pair) for pair in pairs])
    assert MATERIALS["giant"].coat == MATERIALS["giant"].metal == 0 and len(seen) > 100
    assert np.median(np.abs(seen[:, 0] - seen[:, 1])) < 0.02


def test_the_glaze_looks_different_from_elsewhere():
    """One point, seen exactly by all training cameras: on the sun a highlight comes and goes."""
    centres = matrices("train")[:, :3, 3]
    spread = {}
    for name, ball in (("sun", surface.SUN), ("giant", surface.GIANT)):
        point = np.array(ball) + surface.PARTS[name].radius * np.array([0.48, -0.64, 0.6])
        distance = np.linalg.norm(point - centres, axis=1)
        directions = (point - centres) / distance[:, None]
        origins, directions = (tuple(np.ascontiguousarray(a.T)) for a in (centres, directions))
        seen = np.abs(trace(origins, directions).t - distance) < 1e-3
        assert seen.sum() > 20
        colour = np.stack(colours(origins, directions)[0], axis=-1)[seen]
        spread[name] = np.ptp(colour, axis=0).max()
    assert spread["sun"] > 0.3
    assert spread["giant"] < 0.02


def test_parts_lie_in_their_balls_and_the_object_in_the_box():
    grid = np.stack(np.meshgrid(*[np.linspace(-1.3, 1.3, 53)] * 3), axis=-1).reshape(-1, 3)
    for part in surface.PARTS.values():
        near = np.concatenate([grid, grid / 1.3 * part.radius * 1.1 + part.centre])
        inside = near[part.distance(*near.T) < 0]
        assert len(inside)
        assert np.linalg.norm(inside - part.centre, axis=1).max() <= part.radius
    solid = grid[surface.surface_distance(grid) < 0]
    assert np.linalg.norm(solid, axis=1).max() < 1.25


def test_distance_to_the_knot_matches_samples_of_its_surface():
    """Naive reference: circles in half-planes through the axis, 1.5 turns per turn, as points."""
    phi, psi = np.meshgrid(
        np.linspace(0, 2 * np.pi, 1800, endpoint=False),  # half the azimuth
        np.linspace(0, 2 * np.pi, 160, endpoint=False),
    )
    offset, tube = surface.KNOT_OFFSET, surface.KNOT_TUBE
    r = surface.KNOT_RADIUS + offset * np.cos(3 * phi) + tube * np.cos(psi)
    z = surface.KNOT_HEIGHT + offset * np.sin(3 * phi) + tube * np.sin(psi)
    samples = np.stack([r * np.cos(2 * phi), r * np.sin(2 * phi), z], axis=-1).reshape(-1, 3)
    random = np.random.default_rng(0)
    points = samples[random.integers(len(samples), size=60)] + random.uniform(-0.01, 0.01, (60, 3))
    naive = np.array([np.linalg.norm(samples - point, axis=1).min() for point in points])
    found = np.abs(surface.PARTS["knot"].distance(*points.T))
    far = naive > 0.004  # nearer than that, the gaps between the samples count
    assert far.sum() > 20
    np.testing.assert_allclose(found[far], naive[far], atol=4e-4)


def test_distance_grows_by_one_per_unit_across_the_surface():
    points, _ = unproject("train", 2)
    step, axes = 1e-5, np.eye(3)
    slope = [
        (surface.surface_distance(points + step * e) - surface.surface_distance(points - step * e))
        for e in axes
    ]
    norm = np.linalg.norm(np.array(slope), axis=0) / (2 * step)
    assert np.quantile(np.abs(norm - 1), 0.95) < 0.02


def test_distance_takes_no_points():
    assert surface.surface_distance(np.zeros((0, 3))).shape == (0,)
