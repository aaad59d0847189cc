"""Evaluation and rendering of a small run."""

from __future__ import annotations

import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from polyfield.errors import ConfigError, InputError
from polyfield.training.evaluate import evaluate
from polyfield.training.fit import fit
from polyfield.training.metrics import psnr
from polyfield.training.model import Model
from polyfield.training.render import RenderOptions, render

SCENE = "sample:orrery"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {
        "data": {"downscale": 4},
        "backbone": {"levels": 6, "log2_entries": 13, "max_resolution": 128},
        "sampler": {"resolution": 32, "steps": 64},
        "fit": {"rays": 1024, "target_samples": 16384, "checks": 0},
    }
    fit(SCENE, out, steps=150, settings=settings, device="cpu")
    return out


def test_scores_are_means_over_views_under_a_stored_protocol(run):
    result = evaluate(run, every=5)
    assert result["psnr"] == pytest.approx(np.mean([v["psnr"] for v in result["views"]]))
    assert result["ssim"] == pytest.approx(np.mean([v["ssim"] for v in result["views"]]))
    assert result["psnr"] > 17
    assert result["protocol"]["background"] == "white"
    assert result["protocol"]["views"] == len(result["views"]) == 4
    assert result["lpips"] is None
    assert result["lpips_reason"]
    assert json.loads((run / "eval.json").read_text()) == result


def test_pictures_show_photo_rendering_and_error_side_by_side(run):
    result = evaluate(run, every=10)
    pictures = sorted((run / "renders" / "eval-test").glob("*.png"))
    assert len(pictures) >= len(result["views"])
    image = iio.imread(pictures[0])
    assert image.shape[1] == 3 * image.shape[0] + 8


def test_evaluation_at_another_size_says_so(run):
    result = evaluate(run, every=10, downscale=8)
    assert result["protocol"]["downscale"] == 8


def test_a_split_that_is_not_there_is_named(run):
    with pytest.raises(InputError, match="no views for val; it has"):
        evaluate(run, split="val")


def test_the_truth_itself_scores_perfectly(run, monkeypatch):
    from polyfield.training import evaluate as module

    truth = {}
    original = module.photo
    monkeypatch.setattr(module, "photo", lambda s, v: truth.setdefault("p", original(s, v)))

    def perfect(self, rays, background=None, chunk=8192):
        return {"rgb": truth["p"]}

    scene = module.load_for_run(json.loads((run / "config.json").read_text()), None, "test", None)
    truth["p"] = original(scene, scene.splits["test"][0])
    monkeypatch.setattr(Model, "render", perfect)
    result = evaluate(run, every=100)
    assert result["psnr"] is None
    assert result["ssim"] == pytest.approx(1.0)


@pytest.mark.parametrize("path", ["orbit", "spiral", "train", "test"])
def test_every_named_path_renders_frames(run, tmp_path, path):
    options = RenderOptions(path=path, frames=2, width=24, height=20)
    result = render(run, tmp_path / "frames", options)
    assert (result["frames"], result["width"], result["height"]) == (2, 24, 20)
    colours = sorted((tmp_path / "frames").glob("colour-*.png"))
    assert len(colours) == 2
    assert iio.imread(colours[0]).shape == (20, 24, 3)
    assert len(list((tmp_path / "frames").glob("depth-*.png"))) == 2


def test_a_video_plays_with_its_number_of_frames(run, tmp_path):
    render(run, tmp_path / "o.mp4", RenderOptions(frames=5, width=48, height=32))
    frames = iio.imread(tmp_path / "o.mp4", plugin="FFMPEG")
    assert frames.shape == (5, 32, 48, 3)
    assert frames.std() > 1
    assert (tmp_path / "o-depth.mp4").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_failed_video_leaves_nothing(run, tmp_path, monkeypatch):
    def broken(self, rays, background=None, chunk=8192):
        raise InputError("no")

    monkeypatch.setattr(Model, "render", broken)
    with pytest.raises(InputError):
        render(run, tmp_path / "o.mp4", RenderOptions(frames=2, width=32, height=32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("o.txt", {}, "cannot write '.txt' files"),
        ("o.mp4", {"path": "orbits"}, "--path takes orbit"),
        ("o.mp4", {"path": "none.json"}, "none.json"),
        ("o.mp4", {"frames": 0}, "--frames takes"),
        ("o.mp4", {"width": 100000}, "--width takes"),
    ],
)
def test_bad_requests_are_one_sentence(run, tmp_path, out, options, message):
    with pytest.raises((ConfigError, InputError), match=message):
        render(run, tmp_path / out, RenderOptions(**options))


def test_rendering_falls_back_to_smaller_chunks(run, monkeypatch, caplog):
    from polyfield.training.model import load

    model = load(run, "cpu")
    forward = Model.forward

    def hungry(self, rays, background=None, generator=None):
        if len(rays) > 256:
            raise torch.OutOfMemoryError("no memory")
        return forward(self, rays, background, generator)

    scene_rays = _rays(run)
    whole = model.render(scene_rays, chunk=1024)["rgb"]
    monkeypatch.setattr(Model, "forward", hungry)
    with caplog.at_level("WARNING", "polyfield"):
        small = model.render(scene_rays, chunk=1024)["rgb"]
    assert "chunks of 256 rays" in caplog.text
    assert torch.allclose(whole, small, atol=1e-5)


def _rays(run):
    from polyfield.renderers.cameras_plain import cameras_from_plain

    cameras = cameras_from_plain(json.loads((run / "cameras.json").read_text())["cameras"])
    return cameras.image_rays(0)


def test_ignored_pixels_do_not_count(run, monkeypatch):
    from polyfield.training import evaluate as module
    from polyfield.training.model import load

    config = json.loads((run / "config.json").read_text())
    scene = module.load_for_run(config, None, "test", None)
    model = load(run, "cpu")
    view = scene.splits["test"][0]
    plain, _, (truth, prediction, _) = module.evaluate_view(model, scene, view, "none")
    photo = module.photo(scene, view)
    spoiled = photo.clone()
    spoiled[:10] = 1 - spoiled[:10]
    mask = torch.ones(photo.shape[:2], dtype=torch.bool)
    mask[:10] = False
    original = module.photo
    monkeypatch.setattr(module, "photo", lambda s, v: spoiled)
    assert module.evaluate_view(model, scene, view, "none")[0]["psnr"] < plain["psnr"] - 3
    monkeypatch.setattr(module, "usable", lambda s, v: mask)
    hidden, _, _ = module.evaluate_view(model, scene, view, "none")
    monkeypatch.setattr(module, "photo", original)
    assert hidden == module.evaluate_view(model, scene, view, "none")[0]
    assert hidden["psnr"] == pytest.approx(psnr(prediction[10:], truth[10:]), abs=1e-6)


@pytest.mark.parametrize("name", ["o.mp4", "o.gif"])
def test_a_full_disk_while_writing_a_video_leaves_nothing(run, tmp_path, monkeypatch, name):
    from polyfield.training import video

    monkeypatch.setattr(video, "_count", lambda path: 1)  # the file was cut short
    with pytest.raises(InputError, match="only 1 of 3 frames"):
        render(run, tmp_path / name, RenderOptions(frames=3, width=32, height=32))
    assert list(tmp_path.iterdir()) == []


def test_frames_come_with_distances_in_world_units(run, tmp_path):
    render(run, tmp_path / "f", RenderOptions(path="test", frames=2))
    distance = np.load(tmp_path / "f" / "distance-0000.npy")
    # The sample's cameras are 4 world units from the origin, around which everything lies.
    assert 2.5 < np.median(distance[distance > 1]) < 5


def test_scores_on_another_scene_leave_the_runs_own_alone(run):
    own = evaluate(run, every=10)
    evaluate(run, scene=SCENE, every=10)
    assert json.loads((run / "eval.json").read_text()) == own
    assert (run / "eval-orrery.json").is_file()
