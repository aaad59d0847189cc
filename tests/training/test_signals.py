"""Signals from file to run and back: fits, scores, reconstructions, what goes wrong."""

from __future__ import annotations

import json
import math
import wave

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from polyfield.errors import ConfigError, InputError
from polyfield.run import RunDirectory
from polyfield.training import evaluate_signal as scoring
from polyfield.training.evaluate import evaluate
from polyfield.training.fit import fit, resume
from polyfield.training.metrics import psnr, ssim
from polyfield.training.model import load
from polyfield.training.render_signal import render_signal
from polyfield.training.settings import resolve_signal

SMALL = {
    "backbone": {"type": "hash-grid", "levels": 6, "log2_entries": 12, "max_resolution": 64},
    "fit": {"points": 1024, "checks": 1, "log_every": 10},
}


def picture(height=40, width=56):
    """A smooth picture with an edge."""
    y, x = np.mgrid[0:height, 0:width]
    red = 0.5 + 0.4 * np.sin(x / 9) * np.cos(y / 7)
    green, blue = (x > width / 2) * 0.8, y / height
    return (np.stack([red, green, blue], -1) * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "smooth.png"
    iio.imwrite(path, picture())
    return path


@pytest.fixture(scope="module")
def run(image, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "image"
    fit(image, out, steps=200, settings=SMALL, device="cpu")
    return out


def test_an_image_is_learned_and_scored(run, image):
    result = evaluate(run, device="cpu")
    assert result["psnr"] > 30 and result["ssim"] > 0.9
    assert result["psnr_of"] == "all entries" and result["held_out_entries"] == 0
    assert result["views"] == [{"name": "smooth", "psnr": result["psnr"], "ssim": result["ssim"]}]
    assert json.loads((run / "eval.json").read_text()) == result
    assert (run / "renders" / "side-by-side.png").exists()


def test_scores_are_those_of_the_file_that_render_writes(run, image, tmp_path):
    scores = evaluate(run, device="cpu")
    render_signal(run, tmp_path / "out.png", device="cpu")
    truth, found = (torch.from_numpy(iio.imread(p)).float() / 255 for p in
                    (image, tmp_path / "out.png"))  # fmt: skip
    assert psnr(found, truth) == pytest.approx(scores["psnr"], abs=0.01)
    assert ssim(found, truth) == pytest.approx(scores["ssim"], abs=1e-4)


def test_strips_give_the_ssim_of_the_whole_picture(run, monkeypatch):
    whole = evaluate(run, device="cpu")["ssim"]
    monkeypatch.setattr(scoring, "STRIP", 16)
    assert evaluate(run, device="cpu")["ssim"] == pytest.approx(whole, abs=1e-9)


def test_a_reconstruction_has_any_resolution(run, tmp_path):
    render_signal(run, tmp_path / "large.png", shape={"width": 112, "height": None}, device="cpu")
    large = iio.imread(tmp_path / "large.png").astype(float)
    assert large.shape == (80, 112, 3)
    # four pixels of it cover one of the original
    coarse = large.reshape(40, 2, 56, 2, 3).mean((1, 3))
    assert np.abs(coarse - picture()).mean() < 8


def test_the_file_is_not_needed_to_render(run, tmp_path, image):
    moved = tmp_path / "elsewhere"
    run.rename(moved)
    try:
        hidden = image.rename(image.with_suffix(".hidden"))
        render_signal(moved, tmp_path / "out.png", device="cpu")
        with pytest.raises(InputError, match="does not exist"):
            evaluate(moved, device="cpu")
        hidden.rename(image)
    finally:
        moved.rename(run)


def test_another_file_of_the_same_kind_may_be_scored(run, tmp_path):
    iio.imwrite(tmp_path / "other.png", 255 - picture())
    before = (run / "eval.json").read_text() if (run / "eval.json").exists() else None
    result = evaluate(run, scene=tmp_path / "other.png", device="cpu")
    assert result["psnr"] < 15
    assert (run / "eval-other.json").exists()
    after = (run / "eval.json").read_text() if (run / "eval.json").exists() else None
    assert before == after
    iio.imwrite(tmp_path / "grey.png", picture()[..., 0])
    with pytest.raises(InputError, match="1 channels"):
        evaluate(run, scene=tmp_path / "grey.png", device="cpu")


def test_held_out_pixels_are_not_learned_from_but_scored(image, tmp_path):
    settings = {**SMALL, "data": {"holdout": "every:2"}}
    fit(image, tmp_path / "run", steps=150, settings=settings, device="cpu")
    result = evaluate(tmp_path / "run", device="cpu")
    assert result["psnr_of"] == "held-out entries"
    assert result["held_out_entries"] == 40 * 56 - 20 * 28
    assert result["psnr_fitted"] > result["psnr"] > 15


def test_what_is_held_out_is_never_drawn(image):
    from polyfield.data.signal import SignalOptions
    from polyfield.data.signals.load import load_signal

    signal = load_signal(image, SignalOptions(holdout="0.5"))
    x, _ = signal.samples.sample(4000, torch.Generator().manual_seed(0))
    sizes = torch.tensor(signal.shape)
    drawn = signal.grid.index(((x + 1) / 2 * sizes).floor().long())
    assert not bool(signal.holdout.contains(drawn).any())


def test_a_fit_that_goes_on_equals_one_that_was_longer_from_the_start(image, tmp_path):
    settings = {**SMALL, "fit": {**SMALL["fit"], "lr_final": 1.0}}
    fit(image, tmp_path / "cut", steps=10, settings=settings, device="cpu")
    fit(image, tmp_path / "whole", steps=30, settings=settings, device="cpu")
    resume(tmp_path / "cut", steps=30, device="cpu")
    a, b = (load(tmp_path / name, "cpu").state_dict() for name in ("cut", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_file_that_changed_is_not_resumed(tmp_path):
    iio.imwrite(tmp_path / "a.png", picture())
    fit(tmp_path / "a.png", tmp_path / "run", steps=5, settings=SMALL, device="cpu")
    iio.imwrite(tmp_path / "a.png", 255 - picture())
    with pytest.raises(Exception, match="changed"):
        resume(tmp_path / "run", steps=9, device="cpu")


def test_sound_is_learned_and_written(tmp_path):
    t = np.arange(4000)
    samples = (np.sin(t / 12) * 0.6 * 32767).astype("<i2")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 8000, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    small = {**SMALL, "backbone": {**SMALL["backbone"], "max_resolution": 2048}}
    fit(tmp_path / "tone.wav", tmp_path / "run", steps=200, settings=small, device="cpu")
    result = evaluate(tmp_path / "run", device="cpu")
    assert result["psnr"] > 30 and result["ssim"] is None
    render_signal(tmp_path / "run", tmp_path / "out.wav", device="cpu")
    with wave.open(str(tmp_path / "out.wav"), "rb") as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (8000, 4000, 1)
        written = np.frombuffer(file.readframes(4000), "<i2").astype(float) / 32767
    mse = np.square(written - samples / 32767).mean()
    assert -10 * math.log10(mse) == pytest.approx(result["psnr"], abs=0.1)


def test_a_volume_keeps_its_range(tmp_path):
    z, y, x = np.mgrid[0:12, 0:10, 0:8]
    volume = (300 + 50 * np.sin(x / 3) + y - 2 * z).astype(np.float32)
    np.save(tmp_path / "v.npy", volume)
    fit(tmp_path / "v.npy", tmp_path / "run", steps=150, settings=SMALL, device="cpu")
    render_signal(tmp_path / "run", tmp_path / "out.npy", device="cpu")
    found = np.load(tmp_path / "out.npy")
    assert found.shape == volume.shape and np.abs(found - volume).mean() < 5


def test_a_shape_is_scored_by_its_volume_and_surface(tmp_path):
    corners = "v 1 1 1\nv -1 -1 1\nv -1 1 -1\nv 1 -1 -1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
    (tmp_path / "solid.obj").write_text(corners)
    settings = {**SMALL, "data": {"points": 20000}, "fit": {**SMALL["fit"], "points": 4096}}
    fit(tmp_path / "solid.obj", tmp_path / "run", steps=150, settings=settings, device="cpu")
    result = evaluate(tmp_path / "run", device="cpu")
    assert result["iou"] > 0.85 and result["psnr_of"] == "held-out entries"
    assert result["chamfer"] < 0.05 * 2  # the file's units: edges of length 2.8
    shape = {"resolution": 32}
    render_signal(tmp_path / "run", tmp_path / "mesh.ply", shape=shape, device="cpu")
    import trimesh

    mesh = trimesh.load(tmp_path / "mesh.ply")
    assert np.abs(mesh.bounds - [[-1] * 3, [1] * 3]).max() < 0.2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"renderer": {"type": "volume"}}, "without a renderer"),
        ({"sampler": {"type": "stratified"}}, "without a sampler"),
        ({"losses": {"depth": 1.0}}, "does not compare values"),
        ({"field": {"channels": 5}}, "channels is 3"),
        ({"data": {"holdout": "never"}}, "holdout"),
        ({"backbone": {"type": "vm"}}, "dimension"),
    ],
)
def test_what_a_signal_cannot_have_is_one_sentence(image, tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        fit(image, tmp_path / "run", steps=2, settings=settings, device="cpu")
    assert not (tmp_path / "run").exists()


def test_sizes_that_a_signal_has_not_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="takes no --frames"):
        render_signal(run, tmp_path / "x.png", shape={"frames": 3}, device="cpu")
    with pytest.raises(InputError, match="x.wav|wav"):
        render_signal(run, tmp_path / "x.wav", device="cpu")


def test_presets_of_the_modality_lie_over_those_of_all_signals():
    plain = resolve_signal({}, "volume", 3, 1)
    image = resolve_signal({}, "image", 2, 3)
    assert plain["fit"]["points"] == image["fit"]["points"] == 32768
    assert plain["backbone"]["log2_entries"] != image["backbone"]["log2_entries"]
    assert "sampler" not in image and "renderer" not in image
    assert image["field"]["type"] == "signal" and image["field"]["dims"] == 2


def test_a_runs_config_holds_what_is_needed_to_write_the_file(run):
    config = RunDirectory(run).read_config()
    assert config["modality"] == "image" and config["signal"]["shape"] == [56, 40]
    assert config["signal"]["meta"]["modality"] == "image"


def test_a_signal_has_no_other_field(image, tmp_path):
    with pytest.raises(ConfigError, match="field 'signal', not 'radiance'"):
        fit(image, tmp_path / "a", steps=1, settings={"field": {"type": "radiance"}})


def test_presets_of_radiance_do_not_choose_the_points(image, tmp_path):
    settings = {**SMALL, "fit": {"points": 500, "checks": 0}}
    result = fit(image, tmp_path / "a", steps=4, settings=settings, preset="cpu", device="cpu")
    assert result.rays == 4 * 500
    assert resolve_signal({}, "image", 2, 3, preset="cpu")["fit"]["target_samples"] is None


def test_as_many_points_as_are_asked_for(image, tmp_path):
    settings = {**SMALL, "fit": {"points": 70_000, "checks": 0}}
    assert fit(image, tmp_path / "a", steps=1, settings=settings, device="cpu").rays == 70_000


def test_a_mask_is_found_from_anywhere_and_must_stay_as_it_was(image, tmp_path, monkeypatch):
    mask = np.zeros((40, 56), np.uint8)
    mask[:, :20] = 255
    iio.imwrite(tmp_path / "mask.png", mask)
    monkeypatch.chdir(tmp_path)
    settings = {**SMALL, "data": {"holdout": "mask:mask.png"}}
    fit(image, tmp_path / "run", steps=2, settings=settings, device="cpu")
    monkeypatch.chdir("/")
    assert evaluate(tmp_path / "run", device="cpu")["held_out_entries"] == 40 * 20
    iio.imwrite(tmp_path / "mask.png", mask.T.copy().reshape(40, 56))
    with pytest.raises(InputError, match="changed"):
        evaluate(tmp_path / "run", device="cpu")


def test_a_budget_in_steps_ends_one_in_minutes(image, tmp_path):
    fit(image, tmp_path / "run", minutes=1e-4, settings=SMALL, device="cpu")
    resume(tmp_path / "run", settings={"fit": {"steps": 60}}, device="cpu")
    stored = RunDirectory(tmp_path / "run").read_config()["settings"]["fit"]
    assert stored["steps"] == 60 and stored["minutes"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_settings_are_finite(image, tmp_path, value):
    with pytest.raises(ConfigError, match="finite"):
        fit(image, tmp_path / "a", steps=1, settings={"field": {"shift": value}})
