"""Frames by tiles: every pixel once, from coarse to fine, the same picture in the end."""

from __future__ import annotations

import itertools

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.renderers.cameras import pinhole_cameras
from polyfield.training.model import Model
from polyfield.training.settings import resolve
from polyfield.training.tiles import Frame, Tile, plan_tiles, render_frame, render_tiles

SIZES = [(1, 1), (3, 2), (8, 8), (17, 9), (40, 33), (5, 70)]


@pytest.fixture(scope="module")
def model() -> Model:
    settings = resolve(
        {
            "backbone": {"levels": 3, "log2_entries": 10, "max_resolution": 32},
            "sampler": {"type": "stratified", "samples": 16},
        }
    )
    made = Model(settings, "none", torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # something to see
        made.field.backbone.encoding.table.copy_(
            torch.randn(made.field.backbone.encoding.table.shape, generator=generator)
        )
    return made


def cameras(width: int, height: int):
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = 3.0
    poses = torch.stack([pose, pose + torch.tensor([0, 0, 0, 0.2])])
    middle = torch.tensor([40.0, 40.0, width / 2, height / 2])
    return pinhole_cameras(poses, middle, (width, height), near=0.1, far=6.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", [1, 4, 64])
def test_every_pixel_comes_once(size, tile):
    seen = torch.zeros(size[1], size[0], dtype=torch.int64)
    for _, x, y in plan_tiles(*size, tile):
        assert 1 <= len(x) <= tile * tile
        seen.index_put_((y, x), torch.ones_like(x), accumulate=True)
    assert bool((seen == 1).all())


def test_levels_are_lattices_each_finer_than_the_one_before():
    width, height = 40, 33
    seen = set()
    for step, tiles in itertools.groupby(plan_tiles(width, height, 8), key=lambda t: t[0]):
        for _, x, y in tiles:
            seen |= set(zip(x.tolist(), y.tolist(), strict=True))
        lattice = itertools.product(range(0, width, step), range(0, height, step))
        assert seen == set(lattice)


def test_tiles_hold_neighbours_and_go_from_the_centre_outwards():
    tiles = [(x, y) for _, x, y in plan_tiles(80, 80, 16, (1,))]
    distance = [(x.double().mean() - 39.5).hypot(y.double().mean() - 39.5) for x, y in tiles]
    assert len(tiles) == 25
    assert distance == sorted(distance)
    assert all(int(x.max() - x.min()) == int(y.max() - y.min()) == 15 for x, y in tiles)


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("options", [{}, {"tile": 5}, {"steps": (1,)}, {"steps": (6, 3, 1)}])
def test_all_tiles_together_are_the_frame(model, options, view):
    seen, background = cameras(23, 14), torch.tensor([0.2, 0.5, 0.9])
    frame = Frame(23, 14)
    for tile in render_tiles(model, seen, view, background, **options):
        assert tile.rgb.shape == (len(tile.x), 3)
        assert not frame.complete
        frame.add(tile)
    assert frame.complete
    whole, seconds = render_frame(model, seen, view, background)
    assert seconds > 0
    assert float(whole["rgb"].std()) > 0.01
    for name in ("rgb", "depth", "opacity"):
        torch.testing.assert_close(getattr(frame, name), whole[name], atol=1e-5, rtol=1e-5)


def nearest(values: torch.Tensor, step: int) -> torch.Tensor:
    """Every pixel's nearest pixel of a lattice; of two the right or lower one; naive."""
    height, width = values.shape
    out = torch.empty_like(values)
    for y, x in itertools.product(range(height), range(width)):
        at = [
            min(range(0, size, step), key=lambda a, p=p: (abs(a - p), -a))
            for p, size in ((y, height), (x, width))
        ]
        out[y, x] = values[at[0], at[1]]
    return out


@pytest.mark.parametrize("size", SIZES)
def test_after_each_level_every_pixel_shows_its_nearest_one(size):
    width, height = size
    values = torch.arange(1.0, 1 + width * height).reshape(height, width)
    frame = Frame(width, height)
    for step, tiles in itertools.groupby(plan_tiles(width, height, 3), key=lambda t: t[0]):
        for _, x, y in tiles:
            v = values[y, x]
            frame.add(Tile(x, y, step, v[:, None].expand(-1, 3), v, v / 2))
        want = nearest(values, step)
        assert torch.equal(frame.depth, want)
        assert torch.equal(frame.opacity, want / 2)
        assert torch.equal(frame.rgb, want[..., None].expand(-1, -1, 3))
    assert frame.complete


def test_rendered_pixels_are_never_painted_over():
    width, height = 21, 13
    values = torch.rand(height, width, generator=torch.Generator().manual_seed(0))
    frame, done = Frame(width, height), torch.zeros(height, width, dtype=torch.bool)
    for step, x, y in plan_tiles(width, height, 4):
        v = values[y, x]
        frame.add(Tile(x, y, step, v[:, None].expand(-1, 3), v, v))
        done[y, x] = True
        assert torch.equal(frame.depth[done], values[done])
        assert frame.pixels == int(done.sum())


def test_a_frame_is_dropped_before_the_next_tile(model):
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    tiles = list(render_tiles(model, cameras(32, 32), 0, tile=4, stop=stop))
    assert len(tiles) == 3
    assert len(asked) == 4


def test_the_first_level_is_whole_before_the_second_begins(model):
    steps = [tile.step for tile in render_tiles(model, cameras(33, 20), 0, tile=3)]
    assert steps == sorted(steps, reverse=True)
    assert set(steps) == {8, 4, 2, 1}


@pytest.mark.parametrize("steps", [(), (4, 3), (2, 2), (1, 2), (4, 0), (-2, -1)])
def test_steps_that_do_not_nest_are_refused(model, steps):
    with pytest.raises(ConfigError, match="divisors"):
        render_tiles(model, cameras(8, 8), 0, steps=steps)


def test_a_tile_without_pixels_is_refused(model):
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        render_tiles(model, cameras(8, 8), 0, tile=0)


def test_samples_are_counted_and_a_larger_first_chunk_changes_nothing(model):
    rays = cameras(40, 30).image_rays(0)
    small, large = (model.render(rays, first=first) for first in (100, 4096))
    assert int(small["samples"]) == int(large["samples"]) == 40 * 30 * 16
    torch.testing.assert_close(small["rgb"], large["rgb"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("view", [-1, 2])
def test_a_view_that_is_not_there_is_refused(model, view):
    with pytest.raises(ConfigError, match="there are 2 cameras"):
        render_tiles(model, cameras(8, 8), view)
