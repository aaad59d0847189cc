"""Fits of light fields, small: learning, resumption, settings, what is refused, ONNX graphs."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch

from polyfield.errors import ConfigError, MissingDependencyError
from polyfield.registry import lookup, names
from polyfield.run import RunDirectory
from polyfield.training import fit as fit_module
from polyfield.training.cameras import read_cameras
from polyfield.training.evaluate import evaluate
from polyfield.training.export_onnx import PoseToImage, export_onnx
from polyfield.training.fit import fit, resume
from polyfield.training.model import Model, load
from polyfield.training.render import RenderOptions, render
from polyfield.training.settings import resolve

SCENE = "sample:orrery"
SMALL = {
    "renderer": {"type": "light-field"},
    "data": {"downscale": 16},
    "fit": {"rays": 512, "checks": 1, "log_every": 5},
}
PLANES = {"type": "six-plane", "resolutions": [4, 8], "width": 32, "blocks": 0}
NETWORK = {"type": "residual-mlp", "levels": 3, "width": 32, "depth": 6}


def of(backbone, field=None, **fit_settings):
    field = {} if field is None else {"field": field}
    return {**SMALL, "backbone": backbone, **field, "fit": {**SMALL["fit"], **fit_settings}}


CASES = {
    "planes": of(PLANES, {"type": "light", "code": {"type": "slab", "clusters": 3}}),
    "network": of(NETWORK, {"type": "light", "code": {"type": "points", "points": 6}}, lr=2e-3),
    "lines": of(NETWORK, {"type": "light", "code": {"type": "plucker"}, "opacity": True}, lr=2e-3),
    "distribution": of(
        NETWORK,
        {"type": "radiance-distribution", "functions": 8, "density": "square"}, lr=2e-3,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in CASES.items():
        fit(SCENE, folder / name, steps=60, settings=settings, device="cpu")
    return folder


@pytest.mark.parametrize("name", list(CASES))
class TestEveryCase:
    def test_the_fit_learns(self, runs, name):
        rows = [row for row in RunDirectory(runs / name).metrics() if "loss" in row]
        assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
        assert rows[-1]["psnr"] > 12

    def test_interrupted_and_resumed_equals_uninterrupted(self, runs, name, tmp_path, monkeypatch):
        train_step = fit_module.train_step

        def raising(state, *arguments):
            train_step(state, *arguments)
            if state.step == 7:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(fit_module, "train_step", raising)
        with pytest.raises(fit_module.Interrupted):
            fit(SCENE, tmp_path / "cut", steps=60, settings=CASES[name], device="cpu")
        monkeypatch.undo()
        resume(tmp_path / "cut", device="cpu")
        whole, cut = (RunDirectory(p).read_weights()[0] for p in (runs / name, tmp_path / "cut"))
        assert whole.keys() == cut.keys()
        assert [k for k in whole if not torch.equal(whole[k], cut[k])] == []

    def test_it_is_scored_and_rendered(self, runs, name, tmp_path):
        assert evaluate(runs / name, every=10, device="cpu")["psnr"] > 10
        options = RenderOptions(frames=2, width=16)
        result = render(runs / name, tmp_path / "frames", options, device="cpu")
        assert result["frames"] == 2
        assert len(list((tmp_path / "frames").glob("colour-*.png"))) == 2


def test_the_ray_code_has_seen_the_training_rays_and_is_saved(runs):
    code = load(runs / "planes", "cpu").field.code
    fresh = Model(stored_settings(runs), "none").field.code
    assert not torch.equal(code.frames, fresh.frames) and float(code.high.max()) > 1


def stored_settings(runs):
    return RunDirectory(runs / "planes").read_config()["settings"]


def test_a_distribution_knows_depths(runs):
    model = load(runs / "distribution", "cpu")
    stored = read_cameras(RunDirectory(runs / "distribution")).cameras
    view = model.render(stored.image_rays(0), torch.ones(3))
    hit = view["opacity"] > 0.5
    assert bool(hit.any()) and bool((view["depth"][hit] > 1).all())


@pytest.mark.parametrize("name", names("backbones"))
def test_every_backbone_is_a_light_field_or_says_which_codes_suit_it(name, tmp_path):
    user = of({"type": name}, rays=64, lr=1e-3)
    tiny = lookup("backbones", name).presets["tiny"]["backbone"]
    user["backbone"] = {**tiny, "type": name}
    user["field"] = {"type": "light", "code": {"type": "slab", "clusters": 2}}
    if 4 not in lookup("backbones", name).traits.get("dims", (4,)):
        with pytest.raises(ConfigError, match="ray code 'slab' has 4 dimensions.*hash-grid"):
            fit(SCENE, tmp_path / "run", steps=1, settings=user, device="cpu")
        return
    result = fit(SCENE, tmp_path / "run", steps=2, settings=user, device="cpu")
    assert math.isfinite(result.loss)


# Settings


def test_a_light_field_has_no_sampler_and_is_fitted_as_signals_are():
    settings = resolve({"renderer": {"type": "light-field"}, "backbone": {"type": "hash-grid"}})
    signal = lookup("backbones", "hash-grid").presets["signal"]
    assert "sampler" not in settings and settings["field"]["type"] == "light"
    assert settings["fit"]["lr"] == signal["fit"]["lr"]
    assert settings["backbone"]["levels"] == signal["backbone"]["levels"]
    assert settings["fit"]["target_samples"] is None and settings["data"]["background"] is None


def test_presets_for_light_fields_are_laid_over_those_for_signals():
    light = resolve({"renderer": {"type": "light-field"}, "backbone": {"type": "residual-mlp"}})
    assert light["field"]["code"]["type"] == "points"
    volume = resolve({"backbone": {"type": "residual-mlp"}})
    assert volume["field"]["type"] == "radiance" and volume["sampler"]["type"] == "occupancy-grid"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"field": {"type": "radiance"}}, "needs a field of kind light or radiance-distribution"),
        ({"field": {"code": {"type": "plucker"}}}, "6 dimensions.*field.code.type=slab.*siren"),
        ({"field": {"code": {"type": "slabs"}}}, "did you mean 'slab'"),
        ({"field": {"code": {"type": "slab", "cluster": 2}}}, "did you mean 'clusters'"),
        ({"data": {"background": "random"}}, "random backgrounds cannot be learned"),
        ({"backbone": {"type": "vm"}}, "no ray code suits it"),
        ({"renderer": {"type": "volume"}, "backbone": {"type": "six-plane"}},
         "not defined for 3 dimensions.*--renderer light-field"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(tmp_path, user, message):
    settings = {**SMALL, "backbone": {"type": "hash-grid"}, **user}
    with pytest.raises(ConfigError, match=message):
        fit(SCENE, tmp_path / "run", steps=1, settings=settings, device="cpu")
    assert not (tmp_path / "run").exists()


def test_random_backgrounds_teach_opacity(tmp_path):
    settings = {**CASES["lines"], "data": {"downscale": 16, "background": "random"}}
    assert fit(SCENE, tmp_path / "run", steps=2, settings=settings, device="cpu").steps == 2


def test_losses_of_weights_are_zero_where_there_are_none(tmp_path):
    settings = {**CASES["lines"], "losses": {"mse": 1.0, "distortion": 0.1}}
    assert math.isfinite(
        fit(SCENE, tmp_path / "run", steps=2, settings=settings, device="cpu").loss
    )


# ONNX


def exported(run, out, *more):
    """`polyfield export` in a process of its own: type checks at run time cannot be traced."""
    call = [sys.executable, "-m", "polyfield.apps", "export", run, "--onnx", out, "--json", *more]
    done = subprocess.run(list(map(str, call)), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip().splitlines(), done.stderr


def camera(run):
    stored = read_cameras(RunDirectory(run))
    pose = torch.cat((stored.cameras.c2w[1], torch.tensor([[0.0, 0.0, 0.0, 1.0]])))
    return stored.cameras, pose, stored.cameras.intrinsics[1]


@pytest.mark.parametrize("name", list(CASES))
def test_the_exported_module_shows_what_the_run_shows(runs, name):
    cameras, pose, intrinsics = camera(runs / name)
    size = tuple(cameras.sizes[1].tolist())
    model = load(runs / name, "cpu")
    made = PoseToImage(model, size, float(cameras.near[1]), float(cameras.far[1]), 1.0)
    expected = model.render(cameras.image_rays(1), torch.ones(3))["rgb"]
    with torch.no_grad():
        torch.testing.assert_close(made(pose, intrinsics), expected.clamp(0, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", list(CASES))
def test_an_onnx_graph_gives_the_same_image_for_a_pose_it_was_not_made_with(runs, name, tmp_path):
    pytest.importorskip("onnx", reason="pip install 'polyfield[onnx]'")
    ort = pytest.importorskip("onnxruntime", reason="pip install 'polyfield[onnx]'")
    code, lines, errors = exported(
        runs / name, tmp_path / "light.onnx", "--width", 12, "--height", 9
    )
    assert code == 0, errors
    result = json.loads(lines[-1])
    assert (result["width"], result["height"]) == (12, 9)
    assert result["bytes"] == (tmp_path / "light.onnx").stat().st_size
    cameras, pose, intrinsics = camera(runs / name)
    intrinsics = cameras.resized(12, 9).intrinsics[1]
    session = ort.InferenceSession(str(tmp_path / "light.onnx"), providers=["CPUExecutionProvider"])
    given = {"pose": pose.numpy(), "intrinsics": intrinsics.numpy()}
    (image,) = session.run(["image"], given)
    view = load(runs / name, "cpu").render(cameras.resized(12, 9).image_rays(1), torch.ones(3))
    difference = torch.from_numpy(image) - view["rgb"].clamp(0, 1)
    assert image.shape == (9, 12, 3) and float(difference.abs().max()) < 1e-4


def test_without_onnx_the_fix_is_named(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"polyfield\[onnx\]"):
        export_onnx(next(iter(runs.iterdir())), tmp_path / "light.onnx")


def test_what_has_no_counterpart_in_onnx_is_named(tmp_path):
    tiny = lookup("backbones", "kan").presets["tiny"]["backbone"]
    user = of({**tiny, "type": "kan"}, {"type": "light", "code": {"type": "plucker"}}, rays=64)
    fit(SCENE, tmp_path / "run", steps=1, settings=user, device="cpu")
    code, _, errors = exported(tmp_path / "run", tmp_path / "light.onnx")
    assert code == 2 and "backbone 'kan' with ray code 'plucker' cannot be written" in errors
    assert "searchsorted" in errors
    assert not (tmp_path / "light.onnx").exists()


def test_only_light_fields_are_exported(tmp_path):
    user = {
        "data": {"downscale": 16},
        "backbone": {"levels": 2, "log2_entries": 6},
        "sampler": {"resolution": 8, "steps": 16},
        "fit": {"rays": 32, "checks": 1},
    }
    fit(SCENE, tmp_path / "run", steps=1, settings=user, device="cpu")
    with pytest.raises(ConfigError, match="rendered by 'volume'.*--renderer light-field"):
        export_onnx(tmp_path / "run", tmp_path / "light.onnx")
