"""The program as scripts use it: options, JSON on the last line, exit codes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "--downscale", "8", "--device", "cpu",
    "--set", "backbone.levels=4", "--set", "backbone.log2_entries=12",
    "--set", "backbone.max_resolution=64", "--set", "sampler.resolution=32",
    "--set", "sampler.steps=64", "--set", "fit.rays=256", "--set", "fit.target_samples=4096",
    "--set", "fit.checks=0", "--set", "fit.log_every=5",
]  # fmt: skip
SCENE = "sample:orrery"


def polyfield(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "polyfield.apps", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, **options,
    )  # fmt: skip


def last_json(done: subprocess.CompletedProcess):
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    return json.loads(lines[-1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a run"
    done = polyfield("fit", "--steps", "30", SCENE, "--json", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    return out, last_json(done)


def test_fit_prints_the_keys_of_the_contract(run):
    out, result = run
    keys = {"run", "steps", "seconds", "rays", "samples", "rays_per_second", "parameters", "bytes",
            "backend", "loss"}  # fmt: skip
    assert keys <= result.keys()
    assert result["run"] == str(out)
    assert result["steps"] == 30


def test_eval_prints_the_keys_of_the_contract(run):
    done = polyfield("eval", run[0], "--json", "--every", "10")
    result = last_json(done)
    keys = {"psnr", "ssim", "lpips", "lpips_reason", "views", "protocol", "seconds_per_view"}
    assert keys <= result.keys()
    assert {"name", "psnr", "ssim"} <= result["views"][0].keys()


def test_render_writes_the_video_it_names(run, tmp_path):
    done = polyfield("render", run[0], "--out", tmp_path / "o.mp4", "--frames", 2,
                     "--width", 32, "--height", 32, "--json")  # fmt: skip
    assert Path(last_json(done)["out"]).is_file()


@pytest.mark.parametrize("kind", ["backbones", "encodings", "fields", "renderers", "samplers",
                                  "losses", "formats", "samples", "signals"])  # fmt: skip
def test_list_describes_every_kind(kind):
    rows = last_json(polyfield("list", kind, "--json"))
    assert rows
    more = {"dims", "presets"} if kind == "backbones" else set()
    assert all(row.keys() == {"name", "kind", "summary", "paper"} | more for row in rows)
    assert all(row["summary"] for row in rows)


def test_doctor_names_components_their_state_and_the_fix():
    rows = last_json(polyfield("doctor", "--json"))
    assert all(row.keys() == {"component", "status", "version", "fix"} for row in rows)
    names = {row["component"] for row in rows}
    assert {
        "torch",
        "numba",
        "open3d",
        "gradio",
        "nerfacc",
        "tinycudann",
        "cuda",
        "ffmpeg",
    } <= names
    assert all(row["fix"] for row in rows if row["status"] in ("missing", "optional", "broken"))


def test_data_reports_and_draws(tmp_path):
    done = polyfield("data", SCENE, "--json", "--picture", tmp_path / "c.png")
    report = last_json(done)
    assert report["views"]
    assert (tmp_path / "c.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "did you mean 'fit'"),
        (["fit", SCENE], "--out"),
        (["fit", SCENE, "--out", "{tmp}/r", "--bakbone", "mlp"], "--backbone"),
        (["fit", SCENE, "--out", "{tmp}/r", "--backbone", "hash-gird"], "did you mean 'hash-grid'"),
        (["fit", SCENE, "--out", "{tmp}/r", "--minutes", "0"], "minutes"),
        (["fit", SCENE, "--out", "{tmp}/r", "--set", "fit.lr"], "KEY=VALUE"),
        (["fit", "{tmp}/nowhere", "--out", "{tmp}/r"], "nowhere"),
        (["fit", "sample:orery", "--out", "{tmp}/r"], "did you mean 'orrery'"),
        (["fit", "{tmp}", "--out", "{tmp}/r"], "{tmp}"),
        (["eval", "{tmp}"], "is not a run"),
        (["resume", "{tmp}"], "is not a run"),
        (["render", "{tmp}", "--out", "{tmp}/o.mp4"], "is not a run"),
        (["list", "backbone"], "did you mean 'backbones'"),
        (["distill", "x", "--out", "y"], "not in version"),
        (["export", "x", "--mesh", "y"], "is not a run"),
        (["export", "x", "--insight", "{tmp}/r"], "is not a run"),
        (["export", "x"], "--insight"),
        (["view"], "not in version"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_two(tmp_path, arguments, message):
    done = polyfield(*[a.format(tmp=tmp_path) for a in arguments])
    assert done.returncode == 2, done.stderr
    assert message.format(tmp=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def test_an_error_with_json_is_one_object():
    done = polyfield("list", "backbone", "--json")
    assert last_json(done)["exit_code"] == done.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_fit_resumes_to_the_uninterrupted_result(run, tmp_path, number):
    import torch

    from polyfield.run import RunDirectory

    out = tmp_path / "cut"
    save_often = ["--set", "fit.save_minutes=0.0001"]
    command = [sys.executable, "-m", "polyfield.apps", "fit", SCENE, "--out", str(out), "--json"]
    process = subprocess.Popen(
        [*command, "--steps", "300", *SMALL, *save_often],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "state.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), stderr
    if number != signal.SIGKILL:
        assert "stopped at step" in json.loads(stdout.strip().splitlines()[-1])["error"]
    at = RunDirectory(out).read_state()[1]["step"]
    assert 0 < at < 300
    assert polyfield("resume", out, "--json").returncode == 0
    whole = tmp_path / "whole"
    assert polyfield("fit", SCENE, "--out", whole, "--steps", "300", *SMALL).returncode == 0
    for read in (
        lambda p: RunDirectory(p).read_weights()[0],
        lambda p: RunDirectory(p).read_state()[0],
    ):
        a, b = read(out), read(whole)
        assert [k for k in a if not torch.equal(a[k], b[k])] == []


def test_fit_with_resume_starts_or_goes_on(tmp_path):
    out = tmp_path / "run"
    first = polyfield("fit", SCENE, "--out", out, "--steps", "5", "--resume", *SMALL, "--json")
    again = polyfield("fit", SCENE, "--out", out, "--steps", "8", "--resume", *SMALL, "--json")
    assert (last_json(first)["steps"], last_json(again)["steps"]) == (5, 8)


def test_broken_pipes_are_quiet():
    command = f"{sys.executable} -m polyfield.apps list backbones | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert "Traceback" not in done.stderr


def test_resuming_with_what_another_run_would_need_is_refused(tmp_path):
    out = tmp_path / "run"
    assert polyfield("fit", SCENE, "--out", out, "--steps", "2", *SMALL).returncode == 0
    for other in (["--backbone", "mlp"], ["--set", "backbone.levels=5"], ["--holdout", "3"]):
        done = polyfield("fit", SCENE, "--out", out, "--steps", "3", "--resume", *SMALL, *other)
        assert done.returncode == 2, done.stderr
        assert "was made with" in done.stderr
    done = polyfield("fit", tmp_path, "--out", out, "--steps", "3", "--resume", *SMALL)
    assert "was made with scene" in done.stderr


def test_a_place_that_cannot_be_written_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "o.mp4", tmp_path / "file"):
        done = polyfield("render", run[0], "--out", out, "--frames", 1, "--width", 16)
        assert done.returncode == 2
        assert "cannot create the folder" in done.stderr
        assert "Traceback" not in done.stderr


def test_scores_that_there_are_none_of_are_said_to_be_none():
    from pathlib import Path

    from polyfield.apps.commands.eval import describe

    result = {"modality": "shape", "psnr_of": "all entries", "psnr": 20.0, "ssim": None,
              "iou": None, "chamfer": None, "chamfer_reason": "no surface"}  # fmt: skip
    text = describe(result, Path("run"))
    assert "iou none" in text and "chamfer none" in text and "no surface" in text


def test_a_drive_is_fitted_with_checks_and_told(tmp_path):
    from polyfield.data.lidar.street_drive import write_street

    write_street(tmp_path / "street", sweeps=3, columns=32)
    small = ("backbone.levels=2", "backbone.log2_entries=8", "sampler.resolution=16",
             "fit.rays=64", "fit.checks=2", "fit.log_every=2")  # fmt: skip
    options = [part for pair in small for part in ("--set", pair)]
    call = [sys.executable, "-m", "polyfield.apps", "fit", tmp_path / "street", "--steps", "6"]
    done = subprocess.run(
        [*map(str, call), "--out", str(tmp_path / "run"), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "held-out median" in done.stderr
    assert "beams/s" in done.stdout and "--path test --out sweeps" in done.stdout
