"""Shapes: distances, inside or outside, marching cubes, metrics; meshes read and written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from polyfield.data.signal import SignalOptions
from polyfield.data.signals.load import load_signal, output_grid, write_signal
from polyfield.data.signals.marching import case_table, marching_cubes
from polyfield.data.signals.meshes import open_edges, read_mesh, write_mesh
from polyfield.data.signals.shape_metrics import iou, overlap, surface_distance
from polyfield.data.signals.triangles import area_vectors, sample_surface, triangle_tree
from polyfield.errors import ConfigError, InputError, TrainingError

SMALL = SignalOptions(points=8192)


def sphere(n=40, radius=0.7, centre=(0.0, 0.0, 0.0), centred=0.0):
    """Vertices and faces of a sphere by marching cubes, in box units."""
    a = (2 * np.arange(n) + 1) / n - 1
    x = np.stack(np.meshgrid(a, a, a, indexing="ij"), -1) - centre
    vertices, faces = marching_cubes(np.linalg.norm(x, axis=-1) - radius)
    return (2 * vertices + 1) / n - 1 + centred, faces


CUBE = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1, 1) for z in (-1, 1)])
CUBE_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip


def cube(half=0.5):
    return half * CUBE, CUBE_FACES


def cube_distance(p, half=0.5):
    """Closed form of the signed distance to a cube."""
    q = np.abs(p) - half
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)


def naive_distance(p, triangles, steps=60):
    """Nearest of many points on every triangle: an upper bound, close."""
    u, v = np.meshgrid(np.linspace(0, 1, steps), np.linspace(0, 1, steps))
    keep = u + v <= 1 + 1e-9
    w = np.stack([1 - u[keep] - v[keep], u[keep], v[keep]], 1)
    surface = np.einsum("wk,tkd->twd", w, triangles).reshape(-1, 3)
    return np.array([np.linalg.norm(surface - q, axis=1).min() for q in p])


def naive_winding(p, triangles):
    """Sum of solid angles (van Oosterom and Strackee, 1983), one point at a time."""
    out = []
    for q in p:
        a, b, c = (triangles[:, k] - q for k in range(3))
        la, lb, lc = (np.linalg.norm(e, axis=1) for e in (a, b, c))
        volume = np.einsum("ij,ij->i", a, np.cross(b, c))
        around = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        out.append(np.arctan2(volume, around).sum() / (2 * math.pi))
    return np.array(out)


def uniform(n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3))


# Trees of triangles


@pytest.mark.parametrize("count", [1, 2, 5, 9, 33, 100])
def test_distances_match_a_search_over_everything(count):
    rng = np.random.default_rng(count)
    triangles = rng.normal(size=(count, 3, 3)) * 0.3 + rng.normal(size=(count, 1, 3))
    p = rng.normal(size=(20, 3)) * 2
    naive = naive_distance(p, triangles)
    exact = triangle_tree(triangles).distance(p)
    assert (exact <= naive + 1e-12).all()
    np.testing.assert_allclose(exact, naive, atol=0.02)


def test_signed_distances_to_a_cube_are_the_closed_form():
    vertices, faces = cube()
    p = uniform(3000)
    signed = triangle_tree(vertices[faces]).signed_distance(p)
    np.testing.assert_allclose(signed, cube_distance(p), atol=1e-12)
    assert (signed < 0).any() and (signed > 0).any()


def test_a_point_on_the_surface_has_no_distance(generator):
    vertices, faces = sphere(20)
    p = sample_surface(vertices[faces], 500, generator)
    assert triangle_tree(vertices[faces]).distance(p).max() < 1e-7


def test_degenerate_triangles_are_segments_and_points():
    triangles = np.array([[[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 3, 0]] * 3], float)
    p = np.array([[1.5, 1, 0], [0, 4, 0], [-3, 0, 4]])
    np.testing.assert_allclose(triangle_tree(triangles).distance(p), [1, 1, 5])


def test_no_points_are_fine():
    tree = triangle_tree(cube()[0][CUBE_FACES])
    assert tree.signed_distance(np.empty((0, 3))).shape == (0,)


def test_windings_of_a_closed_surface_are_whole_numbers():
    vertices, faces = sphere(24)
    p = uniform(400)
    winding = triangle_tree(vertices[faces]).winding(p)
    np.testing.assert_allclose(winding, naive_winding(p, vertices[faces]), atol=0.05)
    inside = np.linalg.norm(p, axis=1) < 0.68
    outside = np.linalg.norm(p, axis=1) > 0.72
    assert (winding[inside] > 0.9).all() and (np.abs(winding[outside]) < 0.1).all()


def test_inside_survives_holes_and_turned_surfaces():
    vertices, faces = sphere(24)
    pierced = faces[vertices[faces].mean(axis=1)[:, 2] < 0.6]  # the cap is missing
    p = uniform(2000)
    r = np.linalg.norm(p, axis=1)
    sure = (np.abs(r - 0.7) > 0.05) & ~((p[:, 2] > 0.4) & (np.hypot(p[:, 0], p[:, 1]) < 0.5))
    for triangles in (vertices[pierced], vertices[pierced][:, ::-1]):
        inside = triangle_tree(triangles).inside(p)
        np.testing.assert_array_equal(inside[sure], r[sure] < 0.7)
    assert open_edges(vertices, faces) == 0 and open_edges(vertices, pierced) > 10


def test_the_answer_does_not_depend_on_threads():
    vertices, faces = sphere(16)
    tree, p, before = triangle_tree(vertices[faces]), uniform(3000), torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(tree.signed_distance(p))
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_surface_samples_are_uniform_over_area(generator):
    triangles = np.array(
        [[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 0, 1], [3, 0, 1], [0, 3, 1]]], float
    )
    p = sample_surface(triangles, 40_000, generator)
    share = (p[:, 2] > 0.5).mean()
    assert abs(share - 0.9) < 0.01
    small = p[p[:, 2] < 0.5]
    np.testing.assert_allclose(small.mean(axis=0), [1 / 3, 1 / 3, 0], atol=0.015)
    np.testing.assert_allclose(np.linalg.norm(area_vectors(triangles), axis=1), [0.5, 4.5])
    with pytest.raises(ValueError, match="no area"):
        sample_surface(np.zeros((2, 3, 3)), 5, generator)


# Marching cubes


def edges_of(faces):
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def volume_of(triangles):
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def test_the_surface_of_a_sphere():
    vertices, faces = sphere(48)
    triangles = vertices[faces]
    area = np.linalg.norm(area_vectors(triangles), axis=1).sum()
    assert volume_of(triangles) == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=5e-3)
    assert area == pytest.approx(4 * math.pi * 0.7**2, rel=5e-3)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.7, atol=1e-3)
    outward = np.einsum("ij,ij->i", area_vectors(triangles), triangles.mean(axis=1))
    assert (outward > -1e-12).all()


def test_the_surface_of_noise_is_closed_and_two_sided():
    """Noise meets all 256 cases, ambiguous faces included, with every neighbour."""
    values = np.random.default_rng(0).normal(size=(18, 18, 18))
    vertices, faces = marching_cubes(np.pad(values, 1, constant_values=1.0))
    _, times = np.unique(edges_of(faces), axis=0, return_counts=True)
    assert (times == 1).all()  # each direction of an edge once: one triangle on either side
    _, times = np.unique(np.sort(edges_of(faces), axis=1), axis=0, return_counts=True)
    assert (times == 2).all()
    assert len(np.unique(faces)) == len(vertices)
    assert volume_of(vertices[faces]) > 0


def test_a_single_corner_is_cut_off_by_one_triangle():
    table, count = case_table()
    assert count[0] == count[255] == 0 and count.max() == 5
    assert [count[1 << c] for c in range(8)] == [1] * 8
    assert count[0b01101001] == 4  # four corners, none of them neighbours
    values = np.full((2, 2, 2), 1.0)
    values[1, 0, 0] = -3.0
    vertices, faces = marching_cubes(values)
    assert len(faces) == 1
    np.testing.assert_allclose(
        sorted(map(tuple, vertices)), [(0.25, 0, 0), (1, 0, 0.75), (1, 0.75, 0)]
    )


def test_a_level_and_a_plane():
    values = np.broadcast_to(np.arange(5.0)[:, None, None], (5, 3, 4))
    vertices, faces = marching_cubes(values, level=1.75)
    np.testing.assert_allclose(vertices[:, 0], 1.75)
    assert len(vertices) == 12 and len(faces) == 2 * 2 * 3
    assert (area_vectors(vertices[faces])[:, 0] > 0).all()  # towards larger values


def test_no_surface_is_no_triangles():
    for values in (np.ones((3, 3, 3)), -np.ones((3, 3, 3))):
        vertices, faces = marching_cubes(values)
        assert vertices.shape == (0, 3) and faces.shape == (0, 3)


# Metrics


def test_equal_surfaces_have_no_distance_and_shifted_planes_their_shift():
    triangles = sphere(16)[0][sphere(16)[1]]
    same = surface_distance(triangles, triangles, 2000)
    assert same.chamfer < 1e-7 and same.largest < 1e-6 and same.fscore == 1.0
    square = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]], float)
    moved = surface_distance(square + [0, 0, 0.3], square, 2000)
    assert (moved.accuracy, moved.completeness) == pytest.approx((0.3, 0.3))
    assert moved.fscore == 0.0 and moved.threshold == pytest.approx(0.01)


def test_concentric_spheres_are_their_radii_apart():
    small, large = (v[f] for v, f in (sphere(40, 0.5), sphere(40, 0.6)))
    result = surface_distance(small, large, 5000, threshold=0.2)
    assert result.chamfer == pytest.approx(0.1, abs=2e-3)
    assert result.fscore == 1.0
    units = surface_distance(1000 * small, 1000 * large, 5000)
    assert units.chamfer == pytest.approx(100, abs=2)


def test_a_missing_half_costs_completeness_only():
    vertices, faces = sphere(32)
    half = vertices[faces[vertices[faces].mean(axis=1)[:, 0] < 0]]
    result = surface_distance(half, vertices[faces], 5000)
    assert result.accuracy < 1e-6 < 0.05 < result.completeness


def test_overlap_adds_up():
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert overlap(a, b) == (1, 3)
    assert iou(1, 3) == pytest.approx(1 / 3)
    assert iou(0, 0) is None


# Shapes as signals


def save(path, vertices, faces):
    write_mesh(np.asarray(vertices, np.float64), np.asarray(faces, np.int64), path)
    return path


def test_a_cube_in_any_units_becomes_exact_distances(tmp_path):
    path = save(tmp_path / "a.ply", 250.0 * CUBE + [1000.0, -50, 7], CUBE_FACES)
    signal = load_signal(path, SMALL)
    assert (signal.modality, signal.dims, signal.channels, signal.shape) == ("shape", 3, 1, ())
    assert signal.grid is None
    index = torch.arange(signal.samples.entries)
    x, values = signal.samples.at(index)
    assert x.abs().max() <= 1
    expected = cube_distance(x.double().numpy(), half=0.9)
    np.testing.assert_allclose(values[:, 0], expected, atol=1e-5)


def test_points_lie_near_the_surface_and_uniformly(tmp_path, generator):
    path = save(tmp_path / "a.obj", *sphere(24))
    signal = load_signal(path, SignalOptions(points=8192, near=0.5, near_std=(0.01, 0.05)))
    x, values = signal.samples.at(torch.arange(8192))
    assert values[:2048].abs().mean() == pytest.approx(0.01 * math.sqrt(2 / math.pi), rel=0.1)
    assert values[2048:4096].abs().mean() == pytest.approx(0.05 * math.sqrt(2 / math.pi), rel=0.15)
    np.testing.assert_allclose(x[4096:].mean(0), 0, atol=0.04)
    np.testing.assert_allclose(x[4096:].var(0), 1 / 3, atol=0.02)
    held = [b for b in signal.samples.blocks(500) if b.held_out.any()]
    kept = torch.cat([b.x[b.held_out] for b in held])
    assert len(kept) == 1024 and signal.samples.entries == 8192 + 1024
    drawn = signal.samples.sample(5000, generator)[0]
    assert not set(map(tuple, drawn.tolist())) & set(map(tuple, kept.tolist()))


def test_occupancy_is_the_sign_of_the_distance(tmp_path):
    path = save(tmp_path / "a.obj", *sphere(24))
    distance = load_signal(path, SMALL)
    occupied = load_signal(path, SignalOptions(points=8192, target="occupancy"))
    index = torch.arange(distance.samples.entries)
    inside = distance.samples.at(index)[1] < 0
    assert torch.equal(occupied.samples.at(index)[1], inside.float())
    share = float(inside[-1024:].float().mean())
    assert share == pytest.approx(4 / 3 * math.pi * 0.9**3 / 8, abs=0.05)
    assert occupied.content_hash != distance.content_hash


def test_points_are_prepared_once(tmp_path):
    path = save(tmp_path / "a.obj", *sphere(16))
    one = load_signal(path, SMALL)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    two = load_signal(path, SMALL)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == stamps
    index = torch.arange(one.samples.entries)
    assert torch.equal(one.samples.at(index)[1], two.samples.at(index)[1])
    assert one.content_hash == two.content_hash


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".stl", ".off", ".glb"])
@pytest.mark.parametrize("target", ["sdf", "occupancy"])
def test_shapes_come_back_in_the_users_units(tmp_path, suffix, target):
    vertices, faces = sphere(32)
    path = save(tmp_path / f"a{suffix}", 30 * vertices + [5.0, -8, 100], faces)
    signal = load_signal(path, SignalOptions(points=1024, target=target))
    meta = json.loads(json.dumps(signal.meta))
    path.unlink()
    grid = output_grid(meta, (32, 40, 48))
    radius = torch.stack([x.norm(dim=1) for _, x in grid.blocks(grid.entries)])[0]
    values = radius - 0.9 if target == "sdf" else torch.sigmoid(-40 * (radius - 0.9))
    write_signal(values[:, None].split(999), meta, tmp_path / f"b{suffix}", (32, 40, 48))
    back, triangles = read_mesh(tmp_path / f"b{suffix}")
    away = np.linalg.norm(back - [5.0, -8, 100], axis=1)
    np.testing.assert_allclose(away, 21, atol=0.1 if target == "sdf" else 0.4)
    assert volume_of(back[triangles]) == pytest.approx(4 / 3 * math.pi * 21**3, rel=0.03)
    assert open_edges(back, triangles) == 0


def test_a_field_without_a_surface_is_an_error_and_writes_nothing(tmp_path):
    signal = load_signal(save(tmp_path / "a.obj", *cube()), SignalOptions(points=1024))
    for value in (1.0, -1.0):
        with pytest.raises(TrainingError, match="no surface"):
            write_signal([torch.full((64, 1), value)], signal.meta, tmp_path / "b.obj", (4, 4, 4))
    with pytest.raises(InputError, match="choose one of"):
        write_signal([torch.ones(64, 1)], signal.meta, tmp_path / "b.step", (4, 4, 4))
    assert not list(tmp_path.glob("b.*")) and not list(tmp_path.glob(".b*"))


def test_holes_and_turned_faces_are_said(tmp_path):
    vertices, faces = sphere(16)
    assert not load_signal(save(tmp_path / "a.obj", vertices, faces), SMALL).report.warnings
    cap = faces[vertices[faces].mean(axis=1)[:, 2] < 0.6]
    warnings = load_signal(save(tmp_path / "b.obj", vertices, cap), SMALL).report.warnings
    assert "open edges" in warnings[0]
    mixed = faces.copy()
    mixed[::3] = mixed[::3, ::-1]
    warnings = load_signal(save(tmp_path / "c.obj", vertices, mixed), SMALL).report.warnings
    assert "turned against each other" in warnings[-1]


def test_meshes_that_cannot_be_used_are_refused(tmp_path):
    ply = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    ply += "property float z\nend_header\n0 0 0\n1 0 0\n0 1 0\n"
    (tmp_path / "points.ply").write_text(ply)
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    (tmp_path / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "dot.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    (tmp_path / "beyond.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
    (tmp_path / "text.stl").write_text("hello")
    save(tmp_path / "whole.stl", *cube())
    (tmp_path / "cut.stl").write_bytes((tmp_path / "whole.stl").read_bytes()[:300])
    save(tmp_path / "whole.ply", *cube())
    (tmp_path / "cut.ply").write_bytes((tmp_path / "whole.ply").read_bytes()[:-40])
    for name, words in (
        ("points.ply", "3 points and no faces"), ("points.obj", "no faces|cannot be read"),
        ("nan.obj", "finite|cannot be read"), ("flat.obj", "encloses nothing"),
        ("dot.obj", "single point"), ("beyond.off", "vertex 7|cannot be read"),
        ("text.stl", "cannot be read"), ("cut.stl", "cannot be read"),
        ("cut.ply", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words) as caught:
            load_signal(tmp_path / name, SMALL)
        assert name in str(caught.value)
    with pytest.raises(ConfigError, match="means nothing for a shape"):
        load_signal(tmp_path / "whole.ply", SignalOptions(holdout="0.5"))


def test_the_bunny_is_full_in_spite_of_its_holes(real_data):
    path = real_data / "meshes" / "stanford-bunny.obj"
    if not path.is_file():
        pytest.skip("no bunny")
    signal = load_signal(path, SignalOptions(points=16384))
    assert "open edges" in signal.report.warnings[0] and len(signal.report.warnings) == 1
    x, values = signal.samples.at(torch.arange(signal.samples.entries))
    body = torch.tensor([[0.0, -0.3, 0.0]])  # just above the holes in the base
    assert (values[(x - body).norm(dim=1) < 0.2] < 0).all()
    assert (values[x[:, 1] < -0.95] > 0).all()
    inside = float((values[-2048:] < 0).float().mean())
    assert 0.1 < inside < 0.25
