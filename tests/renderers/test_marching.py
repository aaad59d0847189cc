"""Marching: the lattice, the selection by cells, and the compiled kernel against the reference."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield import backend
from polyfield.encodings.contraction import contract
from polyfield.renderers.boxes import clip_to_box
from polyfield.renderers.marching import Lattice, cell_indices, clearance, march
from polyfield.renderers.scans import ray_offsets
from polyfield.renderers.types import Rays

CASES = [("none", 0.0), ("none", 1 / 256), ("sphere", 1 / 256)]


def grid(kind, resolution, seed=0):
    g = torch.Generator().manual_seed(seed)
    if kind == "full":
        return torch.ones((resolution,) * 3, dtype=torch.bool)
    if kind == "empty":
        return torch.zeros((resolution,) * 3, dtype=torch.bool)
    if kind == "noise":
        return torch.rand((resolution,) * 3, generator=g) < 0.05
    axis = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    return (points - torch.tensor([0.2, -0.1, 0.3])).norm(dim=-1) < 0.3


@pytest.fixture(params=["torch", "numba"])
def either_backend(request):
    with backend.using(request.param):
        yield request.param


def far_away(rays, contraction):
    if contraction == "none":
        return rays
    return Rays(rays.origins * 0.4, rays.directions, rays.near, torch.full_like(rays.far, 200.0))


def test_exponential_stepping_numbers():
    s0 = math.sqrt(3) / 1024
    lattice = Lattice(s0, 1 / 256)
    assert s0 == pytest.approx(1.691456e-3, rel=1e-6)
    assert s0 / lattice.growth == pytest.approx(0.433859, rel=1e-5)
    n = lattice.count(torch.tensor([1.0]).double())
    step = lattice.distance(n + 1) - lattice.distance(n)
    assert step.item() == pytest.approx(3.90625e-3, rel=1e-9)


@pytest.mark.parametrize("cone", [0.0, 1 / 256, 0.1])
def test_count_inverts_distance_and_steps_never_shrink(cone):
    lattice = Lattice(0.01, cone)
    n = torch.linspace(0, 900, 2001, dtype=torch.float64)
    t = lattice.distance(n)
    assert torch.allclose(lattice.count(t), n, rtol=1e-12, atol=1e-9)
    steps = lattice.distance(n + 1) - t
    assert (steps.diff() > -1e-12).all()
    # The step at t is c t beyond the switch; across the switch it is in between.
    assert (steps >= 0.01 - 1e-12).all()
    assert (steps <= torch.clamp(cone * t, min=0.01) * (1 + cone) + 1e-12).all()


def test_a_full_grid_is_even_marching(either_backend, make_rays):
    rays = make_rays(50)
    intervals = march(rays, grid("full", 16), Lattice(0.05))
    clipped = clip_to_box(rays)
    length = torch.zeros(50).index_add(0, intervals.ray_indices, intervals.t1 - intervals.t0)
    assert torch.allclose(length, clipped.far - clipped.near, atol=1e-5)
    first = torch.searchsorted(intervals.ray_indices, torch.arange(50))
    assert torch.allclose(intervals.t0[first], clipped.near)
    inner = intervals.ray_indices[1:] == intervals.ray_indices[:-1]
    assert torch.equal(intervals.t0[1:][inner], intervals.t1[:-1][inner])


@pytest.mark.parametrize(("contraction", "cone"), CASES)
def test_every_midpoint_lies_in_an_occupied_cell(either_backend, contraction, cone, make_rays):
    rays, occupied = far_away(make_rays(300), contraction), grid("ball", 24)
    intervals = march(rays, occupied, Lattice(0.02, cone), contraction, torch.rand(300))
    x = rays.origins[intervals.ray_indices]
    x = x + intervals.mid[:, None] * rays.directions[intervals.ray_indices]
    inside = occupied.flatten()[cell_indices(contract(x, contraction), 24)]
    assert len(x) > 100 and inside.float().mean() > 0.999


@pytest.mark.parametrize(("contraction", "cone"), CASES)
def test_a_grid_selects_from_the_full_march(either_backend, contraction, cone, make_rays):
    rays, lattice = far_away(make_rays(100), contraction), Lattice(0.02, cone)
    offset = torch.rand(100, generator=torch.Generator().manual_seed(0))
    occupied = grid("ball", 24)
    everything = march(rays, grid("full", 24), lattice, contraction, offset)
    some = march(rays, occupied, lattice, contraction, offset)
    x = rays.origins[everything.ray_indices]
    x = x + everything.mid[:, None] * rays.directions[everything.ray_indices]
    kept = occupied.flatten()[cell_indices(contract(x, contraction), 24)]
    assert torch.equal(everything.t0[kept], some.t0)
    assert torch.equal(everything.ray_indices[kept], some.ray_indices)


@pytest.mark.parametrize(("contraction", "cone"), CASES)
@pytest.mark.parametrize("resolution", [1, 7, 16, 33])
@pytest.mark.parametrize("kind", ["full", "empty", "noise", "ball"])
def test_the_kernel_takes_the_same_steps(contraction, cone, resolution, kind, make_rays):
    rays = far_away(make_rays(400), contraction)
    offset = torch.rand(400, generator=torch.Generator().manual_seed(1))
    found = []
    for name in ("torch", "numba"):
        with backend.using(name):
            found.append(
                march(rays, grid(kind, resolution), Lattice(0.02, cone), contraction, offset)
            )
    steps = [
        set(zip(f.ray_indices.tolist(), f.t0.tolist(), f.t1.tolist(), strict=True)) for f in found
    ]
    # Ties on cell faces may round differently under the contraction.
    allowed = 0 if contraction == "none" else max(2, len(steps[0]) // 10_000)
    assert len(steps[0] ^ steps[1]) <= allowed


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), case=st.sampled_from(CASES), sparse=st.floats(0, 0.05))
def test_jumps_skip_nothing_on_random_rays_and_grids(seed, case, sparse):
    contraction, cone = case
    g = torch.Generator().manual_seed(seed)
    o = torch.randn(60, 3, generator=g)
    d = torch.randn(60, 3, generator=g)
    d[:20, seed % 3] = 0.0  # rays along faces
    d = torch.nn.functional.normalize(d, dim=-1)
    rays = Rays(o, d, torch.rand(60, generator=g), torch.full((60,), 50.0))
    occupied = torch.rand((24, 24, 24), generator=g) < sparse
    found = []
    for name in ("torch", "numba"):
        with backend.using(name):
            found.append(march(rays, occupied, Lattice(0.03, cone), contraction))
    steps = [set(zip(f.ray_indices.tolist(), f.t0.tolist(), strict=True)) for f in found]
    assert len(steps[0] ^ steps[1]) <= (0 if contraction == "none" else 2)


def test_nothing_to_march(either_backend, make_rays):
    lattice = Lattice(0.05)
    empty = march(make_rays(30), grid("empty", 8), lattice)
    assert empty.t0.shape == (0,) and empty.n_rays == 30 and empty.ray_indices.dtype == torch.int64
    no_rays = march(make_rays(0), grid("full", 8), lattice)
    assert no_rays.t0.shape == (0,) and no_rays.n_rays == 0
    rays = make_rays(5)
    away = Rays(rays.origins, -rays.directions, rays.near, rays.far)
    assert march(away, grid("full", 8), lattice).t0.shape == (0,)


def test_the_number_of_threads_changes_nothing(make_rays):
    rays, occupied = make_rays(2000), grid("noise", 32)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with backend.using("numba"):
                found.append(march(rays, occupied, Lattice(0.02)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].t0, found[1].t0)
    assert torch.equal(found[0].ray_indices, found[1].ray_indices)


def test_double_precision_rays_use_the_reference(make_rays):
    rays = make_rays(20, dtype=torch.float64)
    intervals = march(rays, grid("full", 8), Lattice(0.05))
    assert intervals.t0.dtype == torch.float64 and len(intervals.t0) > 0


def test_scaling_the_scene_scales_the_steps():
    occupied = grid("ball", 16)
    o = torch.tensor([[3.0, 0.4, 0.2]])
    d = torch.nn.functional.normalize(torch.tensor([[-1.0, -0.1, 0.0]]), dim=-1)
    near, far = torch.tensor([0.0]), torch.tensor([9.0])
    fine = march(Rays(o, d, near, far), occupied, Lattice(0.05))
    assert torch.allclose((fine.t1 - fine.t0)[1:-1], torch.tensor(0.05), atol=1e-5)


@pytest.mark.parametrize("resolution", [1, 2, 7, 12, 17])
@pytest.mark.parametrize("kind", ["full", "empty", "noise", "ball"])
def test_clearance_is_the_distance_of_a_chess_king_and_what_is_ahead(
    either_backend, resolution, kind
):
    occupied = grid(kind, resolution)
    got = clearance(occupied, "sphere")
    ahead = clearance(occupied)
    cells = torch.stack(torch.meshgrid(*[torch.arange(resolution)] * 3, indexing="ij"), -1)
    targets = cells[occupied][:: max(1, int(occupied.sum()) // 300)]
    want = torch.full((8, *occupied.shape), 254)
    for octant, signs in enumerate(itertools.product((1, -1), repeat=3)):
        for target in targets:
            away = (target - cells) * torch.tensor(signs)
            reached = (away >= 0).all(-1)
            nearer = torch.minimum(want[octant], away.amax(-1))
            want[octant] = torch.where(reached, nearer, want[octant])
    if len(targets) == occupied.sum():
        assert torch.equal(ahead, want.to(torch.uint8))
    assert torch.equal(got[0], ahead.amin(0))
    assert torch.equal(got[0] == 0, occupied)


@pytest.mark.parametrize(("contraction", "cone"), CASES)
def test_a_known_clearance_changes_nothing(either_backend, make_rays, contraction, cone):
    rays, occupied, lattice = make_rays(300), grid("noise", 20), Lattice(0.02, cone)
    a = march(rays, occupied, lattice, contraction)
    b = march(rays, occupied, lattice, contraction, clear=clearance(occupied, contraction))
    assert torch.equal(a.t0, b.t0) and torch.equal(a.ray_indices, b.ray_indices)


def test_the_offsets_are_those_of_the_ray_indices(either_backend, make_rays):
    rays, occupied = make_rays(700), grid("noise", 20)
    intervals = march(rays, occupied, Lattice(0.02))
    assert torch.equal(intervals.offsets, ray_offsets(intervals.ray_indices, 700))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), sparse=st.floats(0, 0.02), cone=st.sampled_from([0.004, 0.05]))
def test_jumps_skip_nothing_far_outside_the_unit_ball(seed, sparse, cone):
    g = torch.Generator().manual_seed(seed)
    o = torch.randn(80, 3, generator=g) * torch.logspace(-1, 1.5, 80)[:, None]
    aim = torch.randn(80, 3, generator=g) * torch.rand(80, 1, generator=g) * 2
    d = torch.nn.functional.normalize(aim - o, dim=-1)
    d[:20] = torch.nn.functional.normalize(torch.randn(20, 3, generator=g), dim=-1)
    rays = Rays(o, d, torch.rand(80, generator=g), torch.full((80,), 500.0))
    occupied = torch.rand((32, 32, 32), generator=g) < sparse
    found = []
    for name in ("torch", "numba"):
        with backend.using(name):
            found.append(march(rays, occupied, Lattice(0.03, cone), "sphere"))
    steps = [set(zip(f.ray_indices.tolist(), f.t0.tolist(), strict=True)) for f in found]
    assert len(steps[0] ^ steps[1]) <= 2


@pytest.mark.parametrize("distance", [10.0, 1000.0])
def test_jumps_skip_nothing_from_far_away(distance, make_rays):
    rays = make_rays(500, radius=distance)
    rays = Rays(rays.origins, rays.directions, rays.near, torch.full((500,), 2 * distance))
    occupied, found = grid("noise", 32), []
    for name in ("torch", "numba"):
        with backend.using(name):
            found.append(march(rays, occupied, Lattice(0.01)))
    assert len(found[0].t0) > 500 and torch.equal(found[0].t0, found[1].t0)
    assert torch.equal(found[0].t1, found[1].t1)
