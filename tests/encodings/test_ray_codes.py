"""Ray codes: what they are invariant to, that they tell rays apart, and what they keep."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.encodings.ray_codes.base import box_span, frame_about
from polyfield.encodings.ray_codes.points import PointsCode, PointsConfig, depths, jittered
from polyfield.encodings.ray_codes.slab import mean_directions, plane_coordinates
from polyfield.encodings.ray_codes.sphere_pair import equal_area, sphere_crossings
from polyfield.errors import ConfigError
from polyfield.registry import build, names

SPECS = [
    *({"type": name} for name in names("ray-codes")),
    {"type": "slab", "clusters": 1},
    {"type": "slab", "clusters": 3, "fade": 0.0},
    {"type": "sphere-pair", "form": "charts"},
]
LINES = [spec for spec in SPECS if spec["type"] != "points"]
ids = {"ids": lambda spec: "-".join(str(v) for v in spec.values())}


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def orbit(n=2000, seed=0, dtype=torch.float32):
    """Rays of cameras all around, towards somewhere in the box."""
    g = numbers(seed)
    eye = torch.nn.functional.normalize(torch.randn(n, 3, generator=g, dtype=torch.float64), dim=-1)
    target = torch.rand(n, 3, generator=g, dtype=torch.float64) - 0.5
    o = 3 * eye
    d = torch.nn.functional.normalize(target - o, dim=-1)
    return tuple(v.to(dtype) for v in (o, d, torch.full((n,), 1.0), torch.full((n,), 5.0)))


def made(spec, adapted=True, dtype=torch.float32):
    code = build("ray-codes", spec).to(dtype)
    if adapted:
        code.adapt(*orbit(dtype=dtype), numbers(1))
    return code


@pytest.mark.parametrize("spec", SPECS, **ids)
class TestEveryCode:
    def test_values_lie_in_the_box_and_have_the_declared_width(self, spec):
        for adapted in (False, True):
            code = made(spec, adapted)
            for rays in (orbit(500, seed=7), orbit(0)):
                codes = code(*rays)
                assert codes.values.shape == (len(rays[0]), code.out_dim)
                assert bool((codes.values.abs() <= 1).all())
                if code.clusters > 1:
                    assert codes.cluster.shape == rays[2].shape
                    assert bool((codes.cluster >= 0).all())
                    assert bool((codes.cluster < code.clusters).all())

    def test_what_was_adapted_is_saved_and_nothing_is_learned(self, spec):
        first, second = made(spec), made(spec, adapted=False)
        second.load_state_dict(first.state_dict())
        rays = orbit(50, seed=3)
        assert torch.equal(first(*rays).values, second(*rays).values)
        assert not list(first.parameters())

    def test_adapting_twice_to_the_same_rays_gives_the_same(self, spec):
        first, second = made(spec).state_dict(), made(spec).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_different_rays_have_different_codes(self, spec):
        codes = made(spec, dtype=torch.float64)(*orbit(300, seed=5, dtype=torch.float64))
        valid = slice(None) if codes.valid is None else codes.valid
        distance = torch.cdist(codes.values[valid], codes.values[valid])
        if codes.cluster is not None:
            distance[codes.cluster[valid][:, None] != codes.cluster[valid]] = 1
        distance.fill_diagonal_(1)
        assert float(distance.min()) > 1e-4


@pytest.mark.parametrize("spec", LINES, **ids)
@pytest.mark.parametrize("change", ["slide", "scale"])
def test_codes_of_lines_do_not_depend_on_where_the_origin_is_nor_on_the_length_of_d(spec, change):
    code = made(spec, dtype=torch.float64)
    o, d, near, far = orbit(400, seed=2, dtype=torch.float64)
    amount = torch.rand(len(o), 1, generator=numbers(4), dtype=torch.float64) + 0.3
    moved = (o + amount * d, d) if change == "slide" else (o, d * amount)
    a, b = code(o, d, near, far), code(*moved, near, far)
    torch.testing.assert_close(a.values, b.values, rtol=0, atol=1e-9)
    for x, y in ((a.cluster, b.cluster), (a.valid, b.valid)):
        assert (x is None and y is None) or torch.equal(x, y)


def test_the_code_of_points_depends_on_the_origin():
    code = made({"type": "points"})
    o, d, near, far = orbit(100)
    assert not torch.allclose(code(o, d, near, far).values, code(o + 0.3 * d, d, near, far).values)


# Points


def test_points_of_a_ray_are_those_of_the_paper():
    code = PointsCode(PointsConfig(points=16, near=2.0, far=6.0))
    o, d = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -1.0]])
    z = code(o, d, torch.zeros(1), torch.ones(1)).values.view(16, 3) * code.extent
    expected = -2 - torch.arange(16) * 4 / 15
    torch.testing.assert_close(z[:, 2], expected)
    assert not z[:, :2].any()


def test_jittered_depths_stay_between_the_midpoints_and_fill_them():
    z = depths(torch.tensor(2.0), torch.tensor(6.0), 5)
    drawn = jittered(z, 4000, numbers())
    low, high = torch.tensor([2.0, 2.5, 3.5, 4.5, 5.5]), torch.tensor([2.5, 3.5, 4.5, 5.5, 6.0])
    assert bool((drawn >= low).all()) and bool((drawn <= high).all())
    torch.testing.assert_close(drawn.mean(0), (low + high) / 2, atol=0.03, rtol=0)


def test_points_are_jittered_with_a_generator_only():
    rays = orbit(20)
    code, still = made({"type": "points"}), made({"type": "points", "jitter": False})
    assert torch.equal(code(*rays).values, code(*rays).values)
    assert not torch.equal(code(*rays, numbers()).values, code(*rays).values)
    assert torch.equal(still(*rays, numbers()).values, still(*rays).values)


def test_points_span_the_box_as_training_rays_cross_it():
    o, d, near, far = orbit()
    code = made({"type": "points"})
    enter, leave, met = box_span(o, d, near, far)
    assert float(code.span[0]) == pytest.approx(float(enter[met].min()))
    assert float(code.span[1]) == pytest.approx(float(leave[met].max()))


# Slabs


def test_plane_coordinates_and_back():
    g = numbers()
    o = torch.randn(50, 3, generator=g, dtype=torch.float64)
    d = torch.randn(50, 3, generator=g, dtype=torch.float64)
    d[:, 2] = d[:, 2].abs() + 0.2
    a, b = -0.7, 1.3
    x, y, u, v = plane_coordinates(o, d, a, b).unbind(-1)
    start = torch.stack((x, y, torch.full_like(x, a)), -1)
    along = torch.stack((u - x, v - y, torch.full_like(x, b - a)), -1)
    again = plane_coordinates(start, along, a, b)
    torch.testing.assert_close(again, torch.stack((x, y, u, v), -1), atol=1e-9, rtol=0)
    # the same line
    offset = torch.linalg.cross(o - start, torch.nn.functional.normalize(along, dim=-1))
    assert float(offset.norm(dim=-1).max()) < 1e-9


def test_a_point_of_the_scene_is_a_line_of_known_slope_in_the_slices():
    a, b, depth = 0.0, -1.0, -3.0
    point = torch.tensor([0.4, -0.2, depth], dtype=torch.float64)
    g = numbers()
    o = torch.randn(20, 3, generator=g, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0])
    code = plane_coordinates(o, point - o, a, b)
    slope = 1 - (b - a) / (depth - a)
    for first, second in ((0, 2), (1, 3)):
        rise = code[1:, second] - code[0, second]
        torch.testing.assert_close(rise, slope * (code[1:, first] - code[0, first]))


def test_the_ray_through_both_centres_is_zero():
    code = build("ray-codes", {"type": "slab", "clusters": 1})
    axis = code.frames[0, 2:3]
    values = code(-3 * axis, axis, torch.zeros(1), torch.ones(1)).values
    torch.testing.assert_close(values, torch.zeros(1, 4))


def test_training_rays_fill_the_range_of_their_slab():
    code = made({"type": "slab", "clusters": 3, "fade": 0.0})
    codes = code(*orbit())
    for k in range(3):
        mine = codes.values[(codes.cluster == k) & codes.valid]
        torch.testing.assert_close(mine.amin(0), -torch.ones(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(mine.amax(0), torch.ones(4), atol=1e-4, rtol=0)


def test_rays_belong_to_the_slab_whose_axis_is_nearest():
    code = made({"type": "slab"})
    o, d, near, far = orbit(300, seed=9)
    assert torch.equal(code(o, d, near, far).cluster, (d @ code.frames[:, 2].T).argmax(1))


def test_rays_beside_the_axis_are_not_valid():
    code = build("ray-codes", {"type": "slab", "clusters": 1, "min_cosine": 0.5})
    x, _, z = code.frames[0]
    angles = torch.tensor([0.0, 59.0, 61.0, 120.0]).deg2rad()[:, None]
    d = angles.cos() * z + angles.sin() * x
    valid = code(torch.zeros(4, 3), d, torch.zeros(4), torch.ones(4)).valid
    assert valid.tolist() == [True, True, False, False]


def test_the_cross_fade_is_continuous_and_as_wide_as_said():
    code = build("ray-codes", {"type": "slab", "clusters": 4, "fade": 10.0})
    axes = code.frames[:, 2]
    turn = torch.linspace(0, math.pi / 2, 9001, dtype=torch.float64)[:, None]
    d = (turn.cos() * axes[0] + turn.sin() * axes[1]).float()
    n = len(d)
    codes = code(torch.zeros(n, 3), d, torch.zeros(n), torch.ones(n))
    own = torch.where(codes.cluster == 0, codes.share, 1 - codes.share)  # share of slab 0
    assert float(own[0]) == 1 and float(own[-1]) == 0
    assert float(own.diff().abs().max()) < 0.01 and bool((own.diff() <= 1e-5).all())
    mixed = turn[(codes.share < 1)][:, 0].rad2deg()
    assert float(mixed.min()) == pytest.approx(40, abs=0.1)
    assert float(mixed.max()) == pytest.approx(50, abs=0.1)


def test_clusters_of_directions_are_found():
    centres = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]])
    noise = torch.randn(300, 3, generator=numbers()) * 0.1
    d = centres.repeat(100, 1) + noise
    found = mean_directions(d, 3, numbers(2))
    assert float((found @ centres.T).amax(0).min()) > 0.99


# Spheres and lines


def test_crossings_lie_on_the_line_and_on_the_sphere():
    o, d, *_ = orbit(200, dtype=torch.float64)
    radius = torch.tensor(1.5, dtype=torch.float64)
    enter, leave, met = sphere_crossings(o, d, radius)
    assert bool(met.all())
    for u in (enter, leave):
        torch.testing.assert_close(u.norm(dim=-1), torch.ones(200, dtype=torch.float64))
        assert float(torch.linalg.cross(radius * u - o, d).norm(dim=-1).max()) < 1e-9
    assert bool((((leave - enter) * d).sum(-1) > 0).all())


def test_lines_that_miss_the_sphere_are_not_valid_and_finite():
    code = build("ray-codes", {"type": "sphere-pair", "radius": 1.0})
    o, d = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.5, 0.0]]), torch.tensor([[1.0, 0, 0]] * 2)
    codes = code(o, d, torch.zeros(2), torch.ones(2))
    assert codes.valid.tolist() == [False, True] and bool(codes.values.isfinite().all())


def test_charts_keep_areas_and_break_only_opposite_the_pole():
    frame = frame_about(torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64))
    u = torch.nn.functional.normalize(
        torch.randn(200000, 3, generator=numbers(), dtype=torch.float64), dim=-1
    )
    radius = equal_area(u, frame).norm(dim=-1)
    assert float(radius.max()) <= 1 + 1e-9
    # directions spread evenly are spread evenly over the disc
    assert float((radius < 0.5).double().mean()) == pytest.approx(0.25, abs=5e-3)
    near_pole = torch.nn.functional.normalize(frame[2] + 1e-4 * frame[0], dim=-1)
    assert float(equal_area(near_pole[None], frame).norm()) < 1e-4


def test_moments_of_training_rays_fill_the_range():
    o, d, near, far = orbit()
    values = made({"type": "plucker"})(o, d, near, far).values
    torch.testing.assert_close(values[:, :3], d)
    assert float(values[:, 3:].abs().max()) == pytest.approx(1, abs=1e-5)
    assert float((values[:, :3] * values[:, 3:]).sum(-1).abs().max()) < 1e-5


def test_rays_that_miss_a_bounded_scene_do_not_set_its_ranges():
    o, d, near, far = orbit()
    beside = torch.nn.functional.normalize(torch.linalg.cross(o, d.roll(1, 0)), dim=-1)
    everything = tuple(torch.cat(pair) for pair in ((o, o), (d, beside), (near, near), (far, far)))
    for spec in ({"type": "plucker"}, {"type": "points"}, {"type": "sphere-pair"}):
        alone, bounded = made(spec), build("ray-codes", spec)
        free = build("ray-codes", spec, bounded=False)
        bounded.adapt(*everything), free.adapt(*everything)
        a, b, c = (code.state_dict() for code in (alone, bounded, free))
        name = "radius" if "radius" in a else "extent"
        assert float(b[name]) == pytest.approx(float(a[name]), rel=0.05)
        assert float(c[name]) > float(b[name])


def test_frames_are_rotations():
    axes = torch.nn.functional.normalize(torch.randn(50, 3, generator=numbers()), dim=-1)
    frames = frame_about(torch.cat((axes, torch.tensor([[0.0, 0, 1], [0.0, 0, -1]]))))
    eye = torch.eye(3).expand(len(frames), 3, 3)
    torch.testing.assert_close(frames @ frames.transpose(1, 2), eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(len(frames)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "slab", "clusters": 0}, "clusters must be at least 1"),
        ({"type": "slab", "planes": [1.0, 1.0]}, "planes must be two"),
        ({"type": "slab", "fade": 90.0}, "fade must be"),
        ({"type": "slab", "min_cosine": 1.0}, "min_cosine must be"),
        ({"type": "points", "points": 1}, "points must be at least 2"),
        ({"type": "points", "near": 3.0, "far": 2.0}, "near must be less than far"),
        ({"type": "plucker", "extent": 0.0}, "extent must be positive"),
        ({"type": "sphere-pair", "radius": -1.0}, "radius must be positive"),
        ({"type": "sphere-pair", "form": "angles"}, "form"),
        ({"type": "pluecker"}, "did you mean 'plucker'"),
    ],
)
def test_wrong_settings_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        build("ray-codes", spec)
