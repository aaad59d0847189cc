"""Fits of the shipped sample, small: learning, saving, exact resumption, what goes wrong."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal

import pytest
import torch

from polyfield.errors import ConfigError, InputError, RunError, TrainingError
from polyfield.run import RunDirectory
from polyfield.training import fit as fit_module
from polyfield.training import images as images_module
from polyfield.training import step as step_module
from polyfield.training.fit import fit, resume
from polyfield.training.model import load

SCENE = "sample:orrery"
SMALL = {
    "data": {"downscale": 8},
    "backbone": {"levels": 4, "log2_entries": 12, "max_resolution": 64},
    "sampler": {"resolution": 32, "steps": 64},
    "fit": {"rays": 256, "target_samples": 4096, "log_every": 5, "checks": 2},
}


def rows(path):
    """Metrics without what depends on the clock."""
    timed = ("seconds", "rays_per_second")
    return [{k: v for k, v in r.items() if k not in timed} for r in RunDirectory(path).metrics()]


def last_rate(path):
    return [row["lr"] for row in rows(path) if "lr" in row][-1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = fit(SCENE, out, steps=40, settings=SMALL, device="cpu")
    return out, result


def test_the_loss_falls_and_the_figures_are_those_of_the_rows(finished):
    out, result = finished
    losses = [row["loss"] for row in rows(out) if "loss" in row]
    thirds = [sum(part) / len(part) for part in (losses[:3], losses[3:6], losses[6:])]
    assert thirds[0] > thirds[1] > thirds[2]
    assert result.loss == losses[-1]
    assert (result.steps, len(losses)) == (40, 8)
    assert result.rays == 40 * 256 or result.rays > 0
    assert result.bytes == (out / "weights.safetensors").stat().st_size
    assert result.parameters > 1000
    assert json.loads((out / "fit.json").read_text())["steps"] == 40


def test_held_out_checks_leave_a_score_and_a_picture(finished):
    out, _ = finished
    checks = [row for row in rows(out) if "check_psnr" in row]
    assert [row["step"] for row in checks] == [20, 40]
    assert (out / "renders" / "preview.png").is_file()


def test_the_configuration_is_complete_plain_data(finished):
    out, _ = finished
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["backbone"]["type"] == "hash-grid"
    assert config["settings"]["fit"]["lr"] > 0
    assert config["backends"]["hash-encode"]["backend"] in ("numba", "torch")
    assert config["scene"]["content_hash"]
    assert {"scale", "centre", "rotation"} <= config["transform"].keys()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, tmp_path):
    out, _ = finished
    fit(SCENE, tmp_path / "same", steps=40, settings=SMALL, device="cpu")
    fit(SCENE, tmp_path / "other", steps=40, settings={**SMALL, "seed": 1}, device="cpu")
    ours, same = (
        RunDirectory(out).read_weights()[0],
        RunDirectory(tmp_path / "same").read_weights()[0],
    )
    other = RunDirectory(tmp_path / "other").read_weights()[0]
    assert all(torch.equal(ours[k], same[k]) for k in ours)
    assert not all(torch.equal(ours[k], other[k]) for k in ours)


@pytest.mark.parametrize("stop_at", [7, 23])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    finished, tmp_path, stop_at, monkeypatch
):
    out, _ = finished
    train_step = fit_module.train_step

    def raising(state, *arguments):
        train_step(state, *arguments)
        if state.step == stop_at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(fit_module, "train_step", raising)
    with pytest.raises(fit_module.Interrupted, match=f"stopped at step {stop_at}") as caught:
        fit(SCENE, tmp_path / "cut", steps=40, settings=SMALL, device="cpu")
    assert caught.value.exit_code == 130
    monkeypatch.undo()
    resume(tmp_path / "cut", device="cpu")
    for read in (
        lambda p: RunDirectory(p).read_weights()[0],
        lambda p: RunDirectory(p).read_state()[0],
    ):
        whole, cut = read(out), read(tmp_path / "cut")
        assert whole.keys() == cut.keys()
        different = [k for k in whole if not torch.equal(whole[k], cut[k])]
        assert different == []
    assert rows(out) == rows(tmp_path / "cut")


def test_a_finished_run_can_be_extended(finished, tmp_path):
    fit(SCENE, tmp_path / "run", steps=10, settings=SMALL, device="cpu")
    result = resume(tmp_path / "run", steps=20, device="cpu")
    assert result.steps == 20
    assert rows(tmp_path / "run")[-1]["step"] == 20


def test_a_resumed_run_takes_a_new_rate_but_no_new_backbone(tmp_path):
    fit(SCENE, tmp_path / "run", steps=4, settings=SMALL, device="cpu")
    resume(tmp_path / "run", steps=8, settings={"fit": {"lr": 1e-5}}, device="cpu")
    assert last_rate(tmp_path / "run") < 1e-5
    with pytest.raises(ConfigError, match="not \\['backbone'\\]"):
        resume(tmp_path / "run", steps=9, settings={"backbone": {"levels": 3}}, device="cpu")
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        resume(tmp_path / "run", steps=9, settings={"fit": {"l": 3}}, device="cpu")


def test_minutes_end_on_time_and_the_rate_follows_the_clock(tmp_path):
    out, settings = tmp_path / "run", {**SMALL, "fit": {**SMALL["fit"], "log_every": 1}}
    result = fit(SCENE, out, minutes=0.05, settings=settings, device="cpu")
    assert result.seconds > 2.9
    steps = [row for row in RunDirectory(out).metrics() if "lr" in row]
    before, last = steps[-2], steps[-1]
    assert before["seconds"] < 3 <= last["seconds"] + 0.01
    config = json.loads((out / "config.json").read_text())["settings"]["fit"]
    expected = config["lr"] * config["lr_final"] ** (before["seconds"] / 3)
    assert last["lr"] == pytest.approx(expected, rel=0.02)


def test_a_loaded_model_renders_what_was_trained(finished):
    out, _ = finished
    first, second = load(out, "cpu"), load(out, "cpu")
    x = torch.rand(50, 3) * 2 - 1
    d = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    assert torch.equal(first.field(x, d).rgb, second.field(x, d).rgb)
    assert not first.training


def test_a_run_opens_in_another_folder_without_its_scene(finished, tmp_path):
    import shutil

    out, _ = finished
    shutil.copytree(out, tmp_path / "moved")
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    config["scene"]["path"] = "/nowhere"
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config))
    assert load(tmp_path / "moved", "cpu").parameter_count > 0


def test_weights_of_another_run_are_refused(finished, tmp_path):
    import shutil

    out, _ = finished
    shutil.copytree(out, tmp_path / "mixed")
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    config["settings"]["backbone"]["log2_entries"] = 11
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="do not match the run's config"):
        load(tmp_path / "mixed", "cpu")


def test_a_run_is_never_overwritten(finished):
    out, _ = finished
    with pytest.raises(RunError, match="holds a run already"):
        fit(SCENE, out, steps=1, settings=SMALL, device="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbon": {}}, "did you mean 'backbone'"),
        ({"backbone": {"type": "hashgrid"}}, "did you mean 'hash-grid'"),
        ({"backbone": {"level": 3}}, "did you mean 'levels'"),
        ({"fit": {"ray": 3}}, "did you mean 'rays'"),
        ({"fit": {"rays": 0}}, "rays must be positive"),
        ({"losses": {"msee": 1.0}}, "did you mean 'mse'"),
        ({"losses": {"mse": "much"}}, "must be a weight"),
        ({"backend": "nunba"}, "did you mean 'numba'"),
        ({"seed": -1}, "seed must be"),
        ({"backbone": "mlp"}, r"backbone\.type"),
        ({"sampler": {"type": "occupancy"}}, "did you mean 'occupancy-grid'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        fit(SCENE, tmp_path / "run", steps=1, settings=settings, device="cpu")
    assert not (tmp_path / "run").exists()


def test_minutes_and_steps_together_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="not both"):
        fit(SCENE, tmp_path / "run", steps=1, minutes=1, device="cpu")


def test_an_unknown_preset_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        fit(SCENE, tmp_path / "run", steps=1, preset="papers", device="cpu")


def test_a_loss_that_is_not_a_number_stops_with_the_last_good_state(tmp_path, monkeypatch):
    total_loss = images_module.total_loss
    calls = []

    def poisoned(rendered, batch, model):
        calls.append(1)
        loss = total_loss(rendered, batch, model)
        return loss * float("nan") if len(calls) == 10 else loss  # the first call is a trial

    monkeypatch.setattr(images_module, "total_loss", poisoned)
    with pytest.raises(TrainingError, match="step 8: the loss is not a number"):
        fit(SCENE, tmp_path / "run", steps=20, settings=SMALL, device="cpu")
    monkeypatch.undo()
    weights, _ = RunDirectory(tmp_path / "run").read_weights()
    assert all(bool(torch.isfinite(v).all()) for v in weights.values() if v.is_floating_point())
    assert resume(tmp_path / "run", device="cpu").steps == 20


def test_parameters_that_are_not_numbers_are_named(tmp_path, monkeypatch):
    train_step = fit_module.train_step

    def corrupting(state, *arguments):
        if state.step == 4:
            with torch.no_grad():
                next(state.model.field.parameters()).fill_(math.nan)
        train_step(state, *arguments)

    monkeypatch.setattr(fit_module, "train_step", corrupting)
    with pytest.raises(TrainingError, match=r"step 4: field\.backbone\S+ is not a number"):
        fit(SCENE, tmp_path / "run", steps=20, settings=SMALL, device="cpu")


def test_running_out_of_memory_halves_the_batch_and_says_so(tmp_path, monkeypatch, caplog):
    forward_backward = step_module.forward_backward

    def hungry(state, *arguments):
        if state.rays > 128:
            raise MemoryError
        return forward_backward(state, *arguments)

    monkeypatch.setattr(step_module, "forward_backward", hungry)
    settings = {**SMALL, "fit": {**SMALL["fit"], "target_samples": None}}
    with caplog.at_level("WARNING", "polyfield"):
        result = fit(SCENE, tmp_path / "run", steps=5, settings=settings, device="cpu")
    assert "going on with 128 rays" in caplog.text
    assert result.rays == 5 * 128


def test_a_full_disk_while_saving_keeps_the_last_save(tmp_path, monkeypatch):
    fit(SCENE, tmp_path / "run", steps=10, settings=SMALL, device="cpu")
    before = (tmp_path / "run" / "state.safetensors").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polyfield.files.os.replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        resume(tmp_path / "run", steps=20, device="cpu")
    monkeypatch.undo()
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before
    assert resume(tmp_path / "run", steps=20, device="cpu").steps == 20


def test_resuming_needs_the_same_scene(tmp_path):
    fit(SCENE, tmp_path / "run", steps=2, settings=SMALL, device="cpu")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["scene"]["content_hash"] = "0" * 8
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="has changed since"):
        resume(tmp_path / "run", steps=4, device="cpu")


def test_cuda_without_a_gpu_is_one_sentence(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        fit(SCENE, tmp_path / "run", steps=1, device="cuda")


def test_a_gradient_that_is_not_a_number_never_reaches_the_weights(tmp_path, monkeypatch):
    forward_backward = step_module.forward_backward

    def poisoned(state, *arguments):
        result = forward_backward(state, *arguments)
        if state.step == 5:
            next(p for p in state.model.field.parameters()).grad[0] = math.nan
        return result

    monkeypatch.setattr(step_module, "forward_backward", poisoned)
    with pytest.raises(TrainingError, match=r"step 5: the gradient of field\.backbone"):
        fit(SCENE, tmp_path / "run", steps=6, settings=SMALL, device="cpu")
    monkeypatch.undo()
    assert resume(tmp_path / "run", device="cpu").steps == 6


def test_a_run_stopped_before_its_first_save_is_started_over(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(SCENE, tmp_path / "run", steps=6, settings=SMALL, device="cpu")
    monkeypatch.undo()
    assert fit(SCENE, tmp_path / "run", steps=6, settings=SMALL, device="cpu").steps == 6


def test_a_bad_schedule_changes_nothing_of_a_run(tmp_path):
    with pytest.raises(ConfigError, match="lr_final"):
        bad = {**SMALL, "fit": {**SMALL["fit"], "lr_final": 2.0}}
        fit(SCENE, tmp_path / "run", steps=3, settings=bad, device="cpu")
    assert not (tmp_path / "run").exists()
    fit(SCENE, tmp_path / "run", steps=3, settings=SMALL, device="cpu")
    with pytest.raises(ConfigError, match="lr_final"):
        resume(tmp_path / "run", steps=6, settings={"fit": {"lr_final": 2.0}}, device="cpu")
    assert resume(tmp_path / "run", steps=6, device="cpu").steps == 6


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path, monkeypatch):
    seen = []
    train_step = fit_module.train_step

    def looking(*arguments):
        seen.append(torch.get_num_threads())
        train_step(*arguments)

    monkeypatch.setattr(fit_module, "train_step", looking)
    before = torch.get_num_threads()
    fit(SCENE, tmp_path / "run", steps=1, settings={**SMALL, "threads": 1}, device="cpu")
    resume(tmp_path / "run", steps=2, device="cpu")
    assert seen == [1, 1]
    assert torch.get_num_threads() == before


def test_settings_of_an_unbounded_scenes_sampler_pass_the_first_check(tmp_path):
    settings = {**SMALL, "sampler": {"samples": 8}, "data": {"downscale": 8, "unbounded": True}}
    assert fit(SCENE, tmp_path / "run", steps=1, settings=settings, device="cpu").steps == 1


def test_a_folder_with_other_files_is_not_mixed_with_a_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds other files and no run"):
        fit(SCENE, tmp_path, steps=1, settings=SMALL, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_insisting_to_stop_while_kernels_compile_is_an_interrupt(tmp_path, monkeypatch, caplog):
    def compiling(*_):
        signal.raise_signal(signal.SIGINT)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise RuntimeError("no compiled object yet")

    monkeypatch.setattr(fit_module, "get_ready", compiling)
    with pytest.raises(KeyboardInterrupt):
        fit(SCENE, tmp_path / "run", steps=2, settings=SMALL, device="cpu")
    assert any("again stops at once" in r.message for r in caplog.records)


def test_more_threads_than_cores_are_warned_of(tmp_path, caplog):
    many = (os.cpu_count() or 1) + 1
    fit(SCENE, tmp_path / "run", steps=1, settings={**SMALL, "threads": many}, device="cpu")
    assert any(f"{many} threads on" in r.message for r in caplog.records)
