"""The occupancy-grid sampler: what it remembers, drops and saves."""

import copy
import math

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.registry import build
from polyfield.renderers.cameras import pinhole_cameras
from polyfield.renderers.samplers.occupancy_grid import (
    PAPER_SCHEDULE,
    OccupancyGrid,
    OccupancyGridConfig,
)
from polyfield.renderers.types import Rays
from polyfield.renderers.volume import VolumeConfig, render_volume
from polyfield.training.settings import resolve


def sampler(contraction="none", **settings):
    return OccupancyGrid(OccupancyGridConfig(**settings), contraction=contraction)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def image_rays(size=64):
    c2w = torch.eye(3, 4)[None].clone()
    c2w[0, 2, 3] = 4.0
    intrinsics = torch.tensor([1.5 * size, 1.5 * size, size / 2, size / 2])
    return pinhole_cameras(c2w, intrinsics, (size, size), 1.0, 8.0).image_rays(0).flatten()


def test_a_ball_keeps_less_than_a_quarter_of_the_samples_and_the_picture(make_ball):
    field, rays = make_ball(25.0, 0.6), image_rays()
    grid = sampler(resolution=32, steps=round(256 * math.sqrt(3)), early_stop_eps=0.0)
    dense = render_volume(field, rays, grid, VolumeConfig())
    for step in range(0, 64, 16):
        grid.update(field, step, generator(step))
    sparse = render_volume(field, rays, grid, VolumeConfig())
    assert sparse.extras["samples"] < dense.extras["samples"] / 4
    assert (sparse.rgb - dense.rgb).abs().max() < 1e-3
    assert 0.11 < grid.occupied.float().mean() < 0.20  # the ball and a one-cell shell


def test_pruning_drops_hidden_samples_and_keeps_the_picture(make_ball):
    field, rays = make_ball(50.0, 0.6), image_rays(32)
    keeping, pruning = sampler(early_stop_eps=0.0), sampler(early_stop_eps=1e-3)
    for grid in (keeping, pruning):
        grid.update(field, 0, generator())
    whole = render_volume(field, rays, keeping, VolumeConfig())
    pruned = render_volume(field, rays, pruning, VolumeConfig())
    assert pruned.extras["samples"] < whole.extras["samples"] / 2
    assert (pruned.rgb - whole.rgb).abs().max() < 2e-3


def test_the_alpha_threshold_is_idle_while_the_grid_knows_nothing(make_ball):
    # Before any update the grid's mean is 0, and with it the threshold.
    field, rays = make_ball(50.0, 0.6), image_rays(16)
    every = sampler(early_stop_eps=0.0)(rays, field).intervals
    clear = sampler(early_stop_eps=0.0, alpha_threshold=0.01)(rays, field).intervals
    assert torch.equal(every.t0, clear.t0)


def test_alpha_threshold_drops_empty_samples_once_the_mean_is_known(make_ball):
    field, rays = make_ball(50.0, 0.6), image_rays(16)
    grid = sampler(early_stop_eps=0.0, alpha_threshold=0.01, resolution=16)
    grid.update(field, 0, generator())
    grid.occupied.fill_(True)
    out = grid(rays, field).intervals
    mid = rays.origins[out.ray_indices] + out.mid[:, None] * rays.directions[out.ray_indices]
    assert len(mid) > 0 and (mid.norm(dim=-1) < 0.6 + 1e-5).all()


def test_pruning_carries_no_gradient(make_ball):
    field = make_ball(5.0, 0.6, soft=0.1)
    field.value = torch.tensor(5.0, requires_grad=True)
    intervals = sampler()(image_rays(8), field).intervals
    assert not intervals.t0.requires_grad


def test_everything_is_occupied_before_the_first_look():
    assert sampler(resolution=8).occupied.all()


@pytest.mark.parametrize("density", [100.0, 0.001, 0.0])
def test_a_constant_field_never_empties_the_grid(make_uniform, density):
    grid = sampler(resolution=8)
    grid.update(make_uniform(density), 0, generator())
    assert grid.occupied.all()


def test_the_threshold_is_the_smaller_of_mean_and_setting(make_uniform):
    grid = sampler(resolution=8, dilate=False, threshold=0.01)
    grid.occupancy.fill_(0.0)
    grid.occupancy[0, 0, 0] = 0.5  # mean 0.00098: cells above it count
    grid.occupancy[1, 0, 0] = 0.002
    grid.occupancy[2, 0, 0] = 0.0005
    grid._threshold()
    assert grid.occupied.sum() == 2 and grid.occupied[1, 0, 0]
    grid.occupancy[4:] = 1.0  # mean above 0.01: the setting counts
    grid._threshold()
    assert not grid.occupied[1, 0, 0] and grid.occupied[0, 0, 0] and grid.occupied[4:].all()


def test_memory_fades_by_the_decay_and_never_below_what_is_seen(make_uniform):
    grid = sampler(resolution=4, steps=100)
    step = 2 * math.sqrt(3) / 100
    grid.update(make_uniform(10.0), 0, generator())
    assert torch.allclose(grid.occupancy, torch.tensor(10 * step))
    grid.update(make_uniform(0.0), 16, generator())
    assert torch.allclose(grid.occupancy, torch.tensor(9.5 * step))
    grid.update(make_uniform(9.9), 32, generator())
    assert torch.allclose(grid.occupancy, torch.tensor(9.9 * step))
    assert 0.95**90 < 0.01 < 0.95**89


def test_updates_come_every_so_many_steps(make_uniform):
    grid = sampler(resolution=4, update_every=16)
    for step in (1, 15, 17):
        grid.update(make_uniform(10.0), step, generator())
    assert (grid.occupancy == 0).all()
    grid.update(make_uniform(10.0), 32, generator())
    assert (grid.occupancy > 0).all()


def test_after_the_warm_up_a_part_of_the_cells_is_looked_at(make_uniform):
    grid = sampler(resolution=16, warmup=16, dilate=False)
    grid.occupied.fill_(False)
    grid.occupied[:2] = True
    grid.update(make_uniform(10.0), 64, generator())
    share = (grid.occupancy > 0).float()
    assert share[:2].mean() == 1  # an eighth of the cells is occupied: all of those
    assert 0.05 < share[2:].mean() < 0.18  # an eighth of all, with repetitions


def test_updates_repeat_exactly_with_the_same_generator(make_ball):
    grids = [sampler(resolution=16, warmup=16) for _ in range(2)]
    for grid in grids:
        for step in range(0, 64, 16):
            grid.update(make_ball(25.0, 0.5), step, generator(step))
    assert torch.equal(grids[0].occupancy, grids[1].occupancy)


def test_an_empty_grid_renders_the_background(make_ball):
    grid = sampler(resolution=8)
    grid.occupied.fill_(False)
    out = render_volume(
        make_ball(), image_rays(8), grid, VolumeConfig(), background=torch.tensor([0.1, 0.2, 0.3])
    )
    assert out.extras["samples"] == 0 and (out.opacity == 0).all() and (out.depth == 0).all()
    assert torch.allclose(out.rgb, torch.tensor([0.1, 0.2, 0.3]))


def test_jitter_moves_samples_and_repeats_with_the_generator(make_ball):
    rays, field, grid = image_rays(8), make_ball(), sampler(early_stop_eps=0.0)
    still, again = (grid(rays, field).intervals for _ in range(2))
    assert torch.equal(still.t0, again.t0)
    a, b = (grid(rays, field, generator(1)).intervals for _ in range(2))
    assert torch.equal(a.t0, b.t0) and not torch.equal(a.mid[:5], still.mid[:5])


def test_one_grid_serves_an_unbounded_scene(make_ball):
    class Shell(make_ball):
        """Something beyond the box, seen from inside."""

        def density(self, x):
            r = x.norm(dim=-1)
            return 20.0 * ((r > 5) & (r < 8)).to(x.dtype)

    g = generator()
    d = torch.nn.functional.normalize(torch.randn(200, 3, generator=g), dim=-1)
    rays = Rays(d * 0.1, d, torch.full((200,), 0.05), torch.full((200,), 100.0))
    field, grid = Shell(), sampler("sphere", resolution=64, early_stop_eps=0.0)
    dense = render_volume(field, rays, grid, VolumeConfig())
    for step in range(0, 64, 16):
        grid.update(field, step, generator(step))
    sparse = render_volume(field, rays, grid, VolumeConfig())
    assert (dense.opacity > 0.99).all()
    assert sparse.extras["samples"] < 0.7 * dense.extras["samples"]
    assert (sparse.depth - dense.depth).abs().max() < 0.01
    assert torch.allclose(sparse.depth, torch.tensor(4.95), atol=0.06)  # r = 5, mean free path 0.05


def test_cells_outside_the_contracted_ball_stand_for_finite_points():
    grid = sampler("sphere", resolution=8)
    x = grid.cell_points(torch.arange(512), generator())
    assert x.isfinite().all() and x.norm(dim=-1).max() > 10


def test_cells_no_camera_sees_stay_off(make_uniform):
    c2w = torch.eye(3, 4)[None].clone()
    c2w[0, 2, 3] = 3.0
    cameras = pinhole_cameras(c2w, torch.tensor([100.0, 100, 20, 20]), (40, 40), 0.1, 9.0)
    grid = sampler(resolution=16)
    unseen = grid.mark_unseen(cameras)
    assert unseen == (grid.occupancy == -1).sum() and 0.3 < unseen / 16**3 < 0.95
    g = generator()
    rays = cameras.rays(torch.zeros(500, dtype=torch.int64), torch.rand(500, 2, generator=g) * 40)
    x = rays.origins + (2 + 2 * torch.rand(500, 1, generator=g)) * rays.directions
    x = x[(x.abs() < 1).all(-1)]
    assert len(x) > 300 and grid.occupied_at(x).all()  # nothing in view is switched off
    grid.update(make_uniform(10.0), 0, g)
    assert (grid.occupancy == -1).sum() == unseen and (~grid.occupied).sum() == unseen


def test_the_state_travels_with_the_weights(make_ball):
    grid = sampler(resolution=8)
    grid.update(make_ball(25.0, 0.5), 0, generator())
    other = sampler(resolution=8)
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other.occupied, grid.occupied) and list(other.parameters()) == []


def test_endless_steps_are_refused():
    with pytest.raises(ConfigError, match="cone_angle is 0"):
        sampler("sphere", cone_angle=0.0)
    with pytest.raises(ConfigError, match="resolution must be at least 1"):
        build("samplers", {"type": "occupancy-grid", "resolution": 0}, contraction="none")


def test_what_is_known_of_the_cells_follows_every_change(make_ball):
    field, rays, grid = make_ball(25.0, 0.5), image_rays(16), sampler(resolution=8)

    def samples(grid):
        return len(grid(rays, field).intervals.t0)

    everything = samples(grid)
    grid.occupied[:4] = False
    some = samples(grid)
    assert 0 < some < everything and samples(grid) == some
    other = sampler(resolution=8)
    assert samples(other) == everything
    other.load_state_dict(grid.state_dict())
    assert samples(other) == some
    again = copy.deepcopy(other)
    again.occupied.fill_(True)
    assert samples(again) == everything and samples(other) == some
    assert set(grid.state_dict()) == {"occupancy", "occupied"}


def test_grids_made_in_inference_mode_march(make_ball):
    with torch.inference_mode():
        grid = sampler(resolution=8)
        assert len(grid(image_rays(8), make_ball()).intervals.t0) > 0


def updated_steps(grid, field, total):
    """The training steps, of the first `total`, in which the grid looks at the field."""
    steps = []
    for step in range(total):
        grid.occupancy.fill_(0.0)
        grid.update(field, step, generator(step))
        if grid.occupancy.max() > 0:
            steps.append(step)
    return steps


def test_later_updates_are_rarer_and_fade_as_much_more(make_uniform):
    grid = sampler(resolution=4, steps=100, warmup=32, share=1.0)
    one_step = 2 * math.sqrt(3) / 100
    assert updated_steps(grid, make_uniform(10.0), 200) == [0, 16, 32, 64, 128, 192]
    grid.occupancy.fill_(10 * one_step)
    grid.occupied.fill_(True)
    grid.update(make_uniform(0.0), 64, generator())
    assert torch.allclose(grid.occupancy, torch.tensor(10 * one_step * 0.95**4))


def test_cells_no_camera_sees_are_not_looked_at_after_the_warm_up_either(make_uniform):
    grid = sampler(resolution=8, warmup=0, share=1.0)
    grid.occupancy[:4] = -1.0
    grid.occupied[:4] = False
    grid.update(make_uniform(10.0), 64, generator())
    assert (grid.occupancy[:4] == -1).all() and (grid.occupancy[4:] > 0).all()


def test_updates_keep_their_pace_where_that_is_asked_for(make_uniform):
    grid = sampler(resolution=4, steps=100, warmup=32, share=1.0, rarer=False)
    assert updated_steps(grid, make_uniform(10.0), 200) == list(range(0, 200, 16))
    grid.occupancy.fill_(0.5)
    grid.occupied.fill_(True)
    grid.update(make_uniform(0.0), 64, generator())
    assert torch.allclose(grid.occupancy, torch.tensor(0.5 * 0.95))


def test_the_papers_schedule_is_that_of_the_preset_whatever_the_defaults_are():
    # Müller et al. 2022, appendix E.3
    for backbone in ({}, {"backbone": {"type": "mlp"}}):
        user = {**backbone, "sampler": {"type": "occupancy-grid"}}
        found = resolve(user, preset="paper")["sampler"]
        names = ("update_every", "warmup", "share", "rarer", "decay", "resolution", "steps")
        assert [found[name] for name in names] == [16, 256, 0.25, False, 0.95, 128, 1024]
    cells = []
    for step in (0, 240, 256, 272):
        grid = OccupancyGrid(OccupancyGridConfig(resolution=8, **PAPER_SCHEDULE))
        grid.occupied.fill_(True)
        look = grid._look
        grid._look = lambda f, c, g, look=look: (cells.append(len(c)), look(f, c, g))[1]
        grid.update(_Empty(), step, generator(step))
    assert cells == [512, 512, 256, 256]


class _Empty:
    def density(self, x):
        return torch.zeros_like(x[:, 0])


@pytest.mark.parametrize(
    ("fraction", "steps"), [(0.0, 64), (0.25, 128), (0.5, 256), (0.9, 256), (1.0, 256)]
)
def test_steps_get_finer_by_a_fixed_factor_per_share_of_the_fit(fraction, steps):
    config = OccupancyGridConfig(resolution=4, steps=256, first_steps=64, growth=0.5)
    sampler = OccupancyGrid(config)
    assert sampler.lattice.step == pytest.approx(2 * 3**0.5 / 256)  # as a loaded run renders
    sampler.schedule(fraction)
    assert sampler.lattice.step == pytest.approx(2 * 3**0.5 / steps)


@pytest.mark.parametrize("bad", [{"first_steps": 0}, {"growth": 0.0}, {"growth": 1.5}])
def test_impossible_growth_of_steps_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        OccupancyGridConfig(steps=512, **bad)


def test_first_steps_beyond_the_last_change_nothing():
    sampler = OccupancyGrid(OccupancyGridConfig(resolution=4, steps=32, first_steps=64))
    sampler.schedule(0.0)
    assert sampler.lattice.step == pytest.approx(2 * 3**0.5 / 32)


def test_occupied_cells_are_centres_in_the_box():
    sampler = OccupancyGrid(OccupancyGridConfig(resolution=4))
    assert sampler.occupied_cells() is None
    sampler.occupied.zero_()
    sampler.occupied[0, 1, 3] = sampler.occupied[2, 1, 3] = True
    cells = sampler.occupied_cells()
    assert cells.centres.tolist() == [[-0.75, -0.25, 0.75], [0.25, -0.25, 0.75]]
    assert cells.half == 0.25
    assert cells.box.tolist() == [[-1.0, -0.5, 0.5], [0.5, 0.0, 1.0]]
    sampler.occupied.zero_()
    assert sampler.occupied_cells().box.tolist() == [[-1.0] * 3, [1.0] * 3]
