"""Fitting LiDAR sweeps: a small street from the files to scores, sweeps and clouds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from polyfield.data.lidar.batches import LidarBatch, SweepSource, box_rays
from polyfield.data.lidar.files import read_sweep
from polyfield.data.lidar.load import load_sweeps
from polyfield.data.lidar.rays import sweep_rays
from polyfield.data.lidar.street_drive import write_street
from polyfield.errors import ConfigError, InputError
from polyfield.renderers.samplers.occupancy_grid import OccupancyGrid, OccupancyGridConfig
from polyfield.renderers.types import Intervals, Rays, Rendered
from polyfield.training.evaluate import evaluate
from polyfield.training.fit import fit, resume
from polyfield.training.lidar_losses import kernel_width, line_of_sight
from polyfield.training.model import load
from polyfield.training.render_lidar import export_points, render_lidar

SMALL = {
    "threads": 1,
    "backbone": {"type": "hash-grid", "levels": 4, "log2_entries": 12, "max_resolution": 256},
    "sampler": {"resolution": 32, "steps": 256, "first_steps": 256},
    "fit": {"rays": 256, "target_samples": 4096, "target_samples_final": None, "checks": 0},
}


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    write_street(folder, sweeps=5, columns=64)
    return folder


@pytest.fixture(scope="module")
def run(street, tmp_path_factory):
    out = tmp_path_factory.mktemp("lidar") / "run"
    fit(street, out, steps=150, settings=SMALL, device="cpu")
    return out


def test_batches_hold_returns_drops_and_what_lies_behind(street):
    scene = load_sweeps(street)
    source = SweepSource(scene, scene.splits["train"])
    batch = source.sample(4000, torch.Generator().manual_seed(0), gap=0.5 * source.scale)
    share = float(batch.hit[~batch.again].float().mean())
    whole = float((~torch.isnan(source.ranges)).float().mean())
    assert share > whole  # more than uniform draws would give
    assert not bool(batch.hit.all())
    behind = batch.again
    assert bool(behind.any()) and bool(batch.hit[behind].all())
    assert bool((batch.ranges[behind] > batch.rays.near[behind]).all())


def test_rays_of_the_box_meet_the_points_they_were_made_of(street):
    scene = load_sweeps(street)
    slots = sweep_rays(scene, 1)
    rays = box_rays(slots, scene.transform, 0.5, 100.0)
    hit = slots.hit
    t = slots.ranges[hit].float() * scene.transform.scale
    found = rays.origins[hit] + t[:, None] * rays.directions[hit]
    expected = scene.transform.to_box(slots.points()).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_a_fit_finds_the_street(run):
    scores = evaluate(run, device="cpu")
    assert scores["modality"] == "lidar" and len(scores["sweeps"]) == 1
    assert scores["range_medae_m"] < 0.25
    assert scores["range_recall_50cm"] > 0.6
    assert scores["drop_accuracy"] > 0.8
    assert scores["baseline"]["range_medae_m"] > 0
    for name in ("range_mae_m", "chamfer_m", "fscore", "intensity_psnr"):
        assert math.isfinite(scores[name])
    assert json.loads((run / "eval.json").read_text())["range_mae_m"] == scores["range_mae_m"]
    assert list((run / "renders").glob("eval-test/*.png"))


def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(street, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(street, whole, steps=12, settings=SMALL, device="cpu")
    fit(street, parts, steps=5, settings=SMALL, device="cpu")
    # schedules follow the share of the budget, so that a cut fit is resumed towards its own
    resume(parts, steps=12, device="cpu")
    again = tmp_path / "again"
    fit(street, again, steps=5, settings=SMALL, device="cpu")
    resume(again, steps=12, device="cpu")
    first, second = (load(p).state_dict() for p in (parts, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert float(load(whole).field.scale) == float(load(parts).field.scale) != 1.0


def test_rendered_sweeps_are_a_scene_of_their_own(run, tmp_path):
    result = render_lidar(run, tmp_path / "drive", path="all", device="cpu")
    again = load_sweeps(tmp_path / "drive")
    assert len(again) == result["sweeps"] == 5
    assert again.sensor.rings == 32
    assert sum(len(again.read(i)) for i in range(5)) == result["points"] > 1000


def test_another_sensor_drives_the_same_street(run, tmp_path):
    poses = tmp_path / "poses.json"
    poses.write_text(json.dumps([np.eye(4).tolist()]))
    out = tmp_path / "vlp.ply"
    render_lidar(run, out, path=str(poses), sensor_name="vlp-16", device="cpu")
    sweep = read_sweep(out)
    assert 100 < len(sweep) and set(np.unique(sweep.ring)) <= set(range(16))


def test_points_come_out_in_the_world(run, street, tmp_path):
    result = export_points(run, tmp_path / "cloud.ply", path="train", device="cpu")
    cloud = read_sweep(tmp_path / "cloud.ply")
    assert len(cloud) == result["points"]
    scene = load_sweeps(street)
    truth = torch.cat([sweep_rays(scene, i, dropped=False).points() for i in scene.splits["train"]])
    distance = torch.cdist(torch.from_numpy(cloud.points[::50]).double(), truth).amin(1)
    assert float(distance.median()) < 0.5


@pytest.mark.parametrize(
    "text, told",
    [("[[1, 2], [3, 4]]", "4x4"), ("nonsense", "does not hold"),
     (json.dumps([(2 * np.eye(4)).tolist()]), "rotation")],
)  # fmt: skip
def test_bad_poses_are_refused(run, tmp_path, text, told):
    file = tmp_path / "poses.json"
    file.write_text(text)
    with pytest.raises(InputError, match=told):
        render_lidar(run, tmp_path / "out.ply", path=str(file), device="cpu")


def test_sweeps_are_not_fitted_with_a_camera(street, tmp_path):
    with pytest.raises(ConfigError, match="renderer 'lidar'"):
        fit(street, tmp_path / "a", steps=1, settings={"renderer": {"type": "volume"}})
    with pytest.raises(ConfigError, match="loss 'mse' does not compare beams"):
        fit(street, tmp_path / "b", steps=1, settings={"losses": {"mse": 1.0}})


def test_a_camera_is_not_fitted_with_losses_of_beams(tmp_path):
    with pytest.raises(ConfigError, match="does not compare images"):
        fit("sample:orrery", tmp_path / "a", steps=1, settings={"losses": {"range": 1.0}})


def test_the_kernel_narrows_over_the_first_half():
    widths = [kernel_width(f) for f in (0.0, 0.25, 0.5, 1.0)]
    assert widths[0] == 1.0 and widths[2] == widths[3] == pytest.approx(0.15)
    assert widths[1] == pytest.approx(math.sqrt(0.15))


def test_power_that_returns_early_is_lost_to_the_line_of_sight():
    t = torch.linspace(0, 10, 101)
    intervals = Intervals(t[None, :-1], t[None, 1:], 1)

    def loss(at):
        weights = torch.zeros(1, 100)
        weights[0, at] = 1.0
        one, none = torch.ones(1), torch.zeros(1)
        extras = {"weights": weights, "intervals": intervals}
        rendered = Rendered(torch.zeros(1, 3), one, one, None, extras)
        rays = Rays(torch.zeros(1, 3), torch.eye(3)[:1], none, 10 * one)
        no = torch.tensor([False])
        batch = LidarBatch(rays, torch.tensor([5.05]), none, no, no)
        return float(line_of_sight(rendered, batch, 1.0, 1.0))

    assert loss(50) == pytest.approx(0.0, abs=2e-3)
    assert loss(50) < loss(51) < loss(53) < loss(20)


def test_cells_without_returns_nearby_are_switched_off():
    grid = OccupancyGrid(OccupancyGridConfig(resolution=8))
    left = grid.restrict(torch.tensor([[0.1, 0.1, 0.1]]))
    assert left == 8**3 - 3**3
    assert bool(grid.occupied[4, 4, 4]) and not bool(grid.occupied[0, 0, 0])
    grid.update(SimpleDensity(), 0, torch.Generator().manual_seed(0))
    assert not bool(grid.occupied[0, 0, 0])  # for good


class SimpleDensity:
    """Dense everywhere."""

    def density(self, x):
        return torch.full(x.shape[:-1], 1e3)
