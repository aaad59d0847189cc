"""The run directory: atomic, checked, free of code."""

from __future__ import annotations

import json

import pytest
import torch

from polyfield.errors import RunError
from polyfield.run import FORMAT, KEYS, NEEDED, RunDirectory


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    directory.write_config(dict.fromkeys((*KEYS, *NEEDED["images"]), {}))
    return directory


def test_weights_and_sizes_round_trip(run):
    tensors = {"a.b": torch.randn(3, 4), "empty": torch.zeros(0, 2), "n": torch.tensor(5)}
    run.write_weights(tensors, {"a": {"resolution": [4, 5]}})
    back, sizes = run.read_weights()
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)
    assert sizes == {"a": {"resolution": [4, 5]}}


def test_state_keeps_plain_floats_to_the_last_bit(run):
    run.write_state({"x": torch.ones(2)}, {"loss": 0.1 + 0.2, "step": 7})
    _, plain = run.read_state()
    assert plain == {"loss": 0.1 + 0.2, "step": 7}


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        RunDirectory(tmp_path).read_config()


def test_a_run_of_a_newer_version_is_refused(run):
    config = json.loads((run.path / "config.json").read_text())
    config |= {"format": FORMAT + 1, "polyfield": "99.0"}
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"made by Polyfield 99\.0 .* upgrade"):
        run.read_config()


def test_a_configuration_cut_short_is_named(run):
    config = json.loads((run.path / "config.json").read_text())
    del config["transform"]
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="lacks 'transform'"):
        run.read_config()


def test_damaged_weights_are_named(run):
    run.write_weights({"x": torch.ones(100)}, {})
    path = run.path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"weights\.safetensors is damaged"):
        run.read_weights()


def test_missing_weights_say_what_happened(run):
    with pytest.raises(RunError, match="stopped before its first save"):
        run.read_weights()


def test_metrics_beyond_the_resumed_step_are_dropped(run):
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
    run.truncate_metrics(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_a_metrics_line_cut_short_is_left_out(run):
    run.append_metrics({"step": 1})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert [row["step"] for row in run.metrics()] == [1]
