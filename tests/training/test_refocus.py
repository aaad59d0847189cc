"""Refocusing runs: two planes, sharp where in focus; the shipped sample; what is refused."""

from __future__ import annotations

import json
import math
import re

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from polyfield.apps.cli import cli
from polyfield.errors import ConfigError, InputError
from polyfield.renderers.cameras import Cameras
from polyfield.training import refocus as module
from polyfield.training.cameras import StoredCameras
from polyfield.training.evaluate import evaluate
from polyfield.training.fit import fit
from polyfield.training.lens import Lens, aperture_of, aperture_places, disparities_of
from polyfield.training.model import Model
from polyfield.training.refocus import cameras_at, epi_of_run, refocus_run

NEAR, FAR, SPLIT = 2.0, 6.0, 0.0  # a striped plane on the right, in front of a striped wall
SIZE, FOCAL, BASELINE = 48, 60.0, 0.1


class TwoPlanes(Model):
    """A model of two planes of vertical stripes, in closed form; the nearer one where x > 0."""

    device = torch.device("cpu")

    def __init__(self):
        torch.nn.Module.__init__(self)

    def render(self, rays, background):
        o, d = rays.origins, rays.directions

        def at(depth):
            return o[..., 0] + d[..., 0] / -d[..., 2] * (depth + o[..., 2])

        near, far = at(NEAR), at(FAR)
        shade = torch.where(near > SPLIT, stripes(near / NEAR), stripes(far / FAR))
        zero = torch.zeros_like(shade)
        return {"rgb": shade[..., None].repeat_interleave(3, -1), "depth": zero, "opacity": zero}


def stripes(x):
    return 0.5 + 0.4 * torch.cos(2 * math.pi * x / 0.1)  # period of 6 pixels in both planes


def line_of_cameras(zero=3.0, columns=5, rows=5):
    count = columns * rows
    c2w = torch.eye(4)[None, :3].repeat(count, 1, 1)
    lens = torch.tensor([[FOCAL, FOCAL, SIZE / 2, SIZE / 2]]).repeat(count, 1)
    for i in range(count):
        right, down = (i % columns - columns // 2) * BASELINE, (i // columns - rows // 2) * BASELINE
        c2w[i, 0, 3], c2w[i, 1, 3] = right, -down
        lens[i, 2:] += torch.tensor([right, down]) * FOCAL / zero
    sizes = torch.tensor([[SIZE, SIZE]]).repeat(count, 1)
    ones = torch.ones(count)
    return Cameras(c2w, lens, sizes, ("pinhole",) * count, torch.zeros(count, 12), ones, 9 * ones)


@pytest.fixture
def planes(monkeypatch):
    """A run of the two planes, whose units are twice those of its box."""
    cameras = line_of_cameras()
    stored = StoredCameras(cameras, ("",) * len(cameras), {"train": (0,), "test": ()})
    geometry = module.grid_geometry(cameras)
    opened = module._Opened(TwoPlanes(), stored, geometry, geometry.scaled(2.0), torch.zeros(3))
    monkeypatch.setattr(module, "_open", lambda *_: opened)
    return opened


def contrast(picture: np.ndarray, half: slice) -> float:
    return float(picture[10:38, half, 0].astype(float).std())


NEAR_HALF, FAR_HALF = slice(34, 46), slice(2, 14)


@pytest.mark.parametrize(("focus", "sharp", "blurred"),
                         [("4m", NEAR_HALF, FAR_HALF), ("12m", FAR_HALF, NEAR_HALF)])  # fmt: skip
def test_the_plane_in_focus_is_sharp_and_the_other_blurred(planes, tmp_path, focus, sharp, blurred):
    result = refocus_run("run", tmp_path / "lens.png", Lens(focus))
    picture = iio.imread(tmp_path / "lens.png")
    assert picture.shape == (SIZE, SIZE, 3) and result["views"] == 37
    assert contrast(picture, sharp) > 60 and contrast(picture, blurred) < 15
    assert result["aperture"] == 2.0 and result["distance"] == pytest.approx([float(focus[:-1])])
    again = refocus_run("run", tmp_path / "again.png", Lens(f"{result['disparity'][0]:.9f}"))
    np.testing.assert_array_equal(iio.imread(tmp_path / "again.png"), picture)
    assert again["distance"] == pytest.approx(result["distance"], rel=1e-5)


def test_a_small_aperture_is_sharp_everywhere(planes, tmp_path):
    refocus_run("run", tmp_path / "lens.png", Lens("4m", "0.01m"))
    picture = iio.imread(tmp_path / "lens.png")
    assert min(contrast(picture, half) for half in (NEAR_HALF, FAR_HALF)) > 60


def test_pictures_of_another_size_are_focused_alike(planes, tmp_path):
    lens = Lens("4m:12m", frames=2, width=2 * SIZE)
    result = refocus_run("run", tmp_path / "frames", lens)
    assert (result["width"], result["height"]) == (2 * SIZE, 2 * SIZE)
    near, far = (iio.imread(tmp_path / "frames" / f"focus-000{i}.png")[20:76] for i in range(2))
    for half, sharp, blurred in ((slice(68, 92), near, far), (slice(4, 28), far, near)):
        assert sharp[:, half, 0].astype(float).std() > 2 * blurred[:, half, 0].astype(float).std()


def test_a_sweep_passes_both_planes(planes, tmp_path):
    lens = Lens("4m:12m", frames=5)
    result = refocus_run("run", tmp_path / "frames", lens)
    pictures = [iio.imread(p) for p in sorted((tmp_path / "frames").glob("focus-*.png"))]
    assert len(pictures) == result["frames"] == 5
    near, far = ([contrast(p, half) for p in pictures] for half in (NEAR_HALF, FAR_HALF))
    assert near[0] > 2 * near[-1] and far[-1] > 2 * far[0]
    refocus_run("run", tmp_path / "sweep.mp4", lens)
    assert len(iio.imread(tmp_path / "sweep.mp4")) == 5


def test_places_cover_the_aperture_evenly():
    places = aperture_places()
    assert len(places) == 37 and np.abs(places.mean(0)).max() < 1e-12
    radii = np.linalg.norm(places, axis=1)
    assert radii.max() < 1 and (radii**2).mean() == pytest.approx(0.5, abs=0.02)


def test_cameras_between_the_grids_are_those_of_the_grid_where_they_meet():
    stored = line_of_cameras()
    geometry = module.grid_geometry(stored)
    made = cameras_at(stored, geometry, np.array([[3.0, 1.0]]), 0.0)
    torch.testing.assert_close(made.c2w[0], stored.c2w[8], atol=1e-5, rtol=0)
    torch.testing.assert_close(made.intrinsics[0], stored.intrinsics[8], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("lens", "message"),
    [
        (Lens("near"), "--refocus takes a number .disparity.*2.5m.*got 'near'"),
        (Lens("1:2:3"), "one value or FROM:TO"),
        (Lens("-2m"), "distances ahead of the cameras"),
        (Lens("1", "0"), "positive radius"),
        (Lens("1", "wide"), "--aperture takes a number .columns"),
    ],
)
def test_values_that_cannot_be_read_are_refused(lens, message):
    geometry = module.grid_geometry(line_of_cameras())
    with pytest.raises(ConfigError, match=message):
        disparities_of(lens, geometry)
        aperture_of(lens, geometry)


def test_pictures_and_sweeps_go_to_files_of_their_kind(planes, tmp_path):
    with pytest.raises(InputError, match="FILE.png here"):
        refocus_run("run", tmp_path / "lens.mp4", Lens("1"))
    with pytest.raises(InputError, match=r"a video \(.*\) or a folder here"):
        refocus_run("run", tmp_path / "lens.png", Lens("1:2"))


def test_lines_of_an_epipolar_plane_lean_by_their_disparity(planes, tmp_path):
    result = epi_of_run("run", tmp_path / "epi.png")
    epi = iio.imread(tmp_path / "epi.png")[..., 0].astype(float)
    assert epi.shape == (4 * module.EPI_STEPS + 1, SIZE) and result["row"] == SIZE // 2
    # a column of the grid further, everything has moved left by its disparity
    x, ends = np.arange(SIZE), (module.EPI_STEPS, 2 * module.EPI_STEPS)
    for depth, half in ((NEAR, slice(36, 42)), (FAR, slice(4, 10))):
        before, after = (epi[line] for line in ends)
        expected = np.interp(x + planes.geometry.disparity(depth), x, before)
        error = [np.abs(after - row)[half].max() for row in (expected, before)]
        assert error[0] < 25 < error[1]


# A fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("light") / "run"
    settings = {
        "renderer": {"type": "light-field"},
        "backbone": {"type": "six-plane"},
        "field": {"type": "light", "code": {"type": "slab", "clusters": 1}},
        "data": {"downscale": 4},
        "fit": {"rays": 2048, "checks": 1},
    }
    fit("sample:tabletop", folder, steps=150, settings=settings, device="cpu")
    return folder


def test_a_short_fit_of_the_sample_is_beyond_a_floor(run):
    assert evaluate(run, every=8, device="cpu")["psnr"] > 20


def test_a_fitted_light_field_is_refocused(run, tmp_path):
    detail = {}
    for distance in ("1.5m", "4.5m"):
        refocus_run(run, tmp_path / "p.png", Lens(distance), device="cpu")
        wall = iio.imread(tmp_path / "p.png")[:8].astype(float)
        detail[distance] = wall.std((0, 1)).mean()
    assert detail["4.5m"] > 1.5 * detail["1.5m"]


def test_runs_without_a_grid_are_refused(tmp_path):
    settings = {"data": {"downscale": 16}, "fit": {"rays": 64, "checks": 1},
                "renderer": {"type": "light-field"}, "backbone": {"type": "six-plane"}}  # fmt: skip
    fit("sample:orrery", tmp_path / "run", steps=1, settings=settings, device="cpu")
    with pytest.raises(InputError, match="run cannot be refocused: .* turned alike"):
        refocus_run(tmp_path / "run", tmp_path / "p.png", Lens("1"), device="cpu")


def test_the_command_line_takes_focus_aperture_and_rows(run, tmp_path):
    runner = CliRunner()

    def call(*arguments):
        return runner.invoke(cli, ["render", str(run), "--device", "cpu", *map(str, arguments)])

    out = tmp_path / "p.png"
    done = call("--refocus", "-0.2", "--aperture", "0.1m", "--width", 20, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["disparity"] == [-0.2] and result["aperture"] == pytest.approx(2.5, rel=1e-3)
    assert iio.imread(out).shape == (20, 20, 3)
    assert call("--epi", 0, "--out", out).exit_code == 0
    assert iio.imread(out).shape == (8 * module.EPI_STEPS + 1, 24, 3)
    for wrong, message in (
        (("--epi", 24), "from 0 to 23"),
        (("--aperture", "2"), "--refocus .* or --epi"),
        (("--refocus", "1", "--epi", "2"), "one of them"),
    ):
        done = call(*wrong, "--out", out)
        said = done.output if done.exit_code == 2 else str(done.exception)
        assert done.exit_code != 0 and re.search(message, said)
