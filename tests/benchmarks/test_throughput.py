"""The throughput benchmark runs, measures every operation that has a fast form, and sees faults."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from polyfield import backend, registry

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """A module of the folder of benchmarks, by name, as its scripts import it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[dict, str, str]:
    """Result, standard output and table of a quick run."""
    out = tmp_path_factory.mktemp("results") / "new" / "throughput.json"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "throughput.py", "--quick", "--threads", "1", "--out", out],
        capture_output=True, text=True, check=False, cwd=out.parent.parent,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(out.read_text()), done.stdout, done.stderr


def with_fast_form() -> set[str]:
    """Operations that have an implementation on the CPU that is not torch's."""
    for kind in ("backbones", "encodings", "fields", "renderers", "samplers"):
        registry.names(kind)
    importlib.import_module("polyfield.training.fit")
    return {
        op
        for op, ways in backend.operations().items()
        if any(way.backend != "torch" and "cpu" in way.devices for way in ways)
    }


def test_a_quick_run_prints_what_it_writes(quick):
    result, stdout, table = quick
    assert json.loads(stdout) == result
    assert result["benchmark"] == "throughput" and result["quick"] is True
    assert result["machine"]["threads"] == 1
    assert all(row["name"] in table for row in result["operations"])


def test_reference_and_fast_path_agree_on_every_operation(quick):
    result, _, _ = quick
    assert result["parity"] and all(row["parity"] for row in result["operations"])


def test_every_operation_with_a_fast_form_is_measured_by_it(quick):
    result, _, _ = quick
    measured = {
        op: name for row in result["operations"] for op, name in row["implementations"].items()
    }
    assert set(measured) == with_fast_form()
    assert set(measured.values()) == {"numba"}


def test_ratios_and_rates_follow_from_the_times(quick):
    result, _, _ = quick
    for row in result["operations"]:
        assert row["ratio"] == pytest.approx(row["reference_ms"] / row["fast_ms"], rel=0.05)
        assert row["samples_per_second"] == pytest.approx(
            1e3 * row["samples"] / row["fast_ms"], rel=0.05
        )
    step = result["training_step"]
    times = [step[label]["step_ms"] for label in ("reference", "fast")]
    assert step["ratio"] == pytest.approx(times[0] / times[1], rel=0.05)


def test_both_backends_take_the_same_steps(quick):
    step = quick[0]["training_step"]
    for name in ("steps", "rays_per_step", "samples_per_step"):
        assert step["fast"][name] == pytest.approx(step["reference"][name], rel=0.02)


def case(module, call):
    def make(n: int) -> tuple[torch.Tensor]:
        return (torch.ones(n).requires_grad_(),)

    return module("operations").Case("a case", (), make, call, both=1.0, sizes=(8,))


def test_a_wrong_value_of_the_fast_form_is_seen(module):
    def call(x: torch.Tensor) -> torch.Tensor:
        return 2 * x if backend.requested() == "torch" else 2.01 * x

    rows = list(module("operations").measure((case(module, call),), {}, 0.0))
    assert [row["pass"] for row in rows] == ["forward", "forward+backward"]
    assert not any(row["parity"] for row in rows)


def test_a_wrong_gradient_of_the_fast_form_is_seen(module):
    def call(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if backend.requested() == "torch" else x * 1 + x.detach()

    forward, both = module("operations").measure((case(module, call),), {}, 0.0)
    assert forward["parity"] and not both["parity"]


def test_missing_values_count_as_different(module):
    def call(x: torch.Tensor) -> torch.Tensor:
        return x if backend.requested() == "torch" else x[:-1]

    operations = module("operations")
    row = operations._compare(case(module, call), 8, False, 0.0)
    assert row["max_error"] == pytest.approx(1 / 8, rel=0.05) and not row["parity"]


def test_packed_inputs_are_as_many_as_asked_for_and_lie_in_the_ball(module):
    operations = module("operations")
    rays, intervals = operations._batch(1000)
    assert len(intervals.t0) == 1000 and intervals.n_rays == len(rays)
    assert bool((intervals.ray_indices.diff() >= 0).all())
    assert torch.equal(intervals.offsets.diff(), intervals.ray_indices.bincount())
    assert float(operations._positions(1000).norm(dim=-1).max()) < 0.5 + 2 * 3**0.5 / 64


@pytest.mark.parametrize("width", [2, 4, 16])
def test_the_bare_loop_reads_the_rows_it_is_told_to(module, width):
    ceilings = module("ceilings")
    index = np.array([2, 0, 1], np.uint32)
    table = np.arange(3 * width, dtype=np.float32)
    sums = np.zeros(1024, np.float32)
    ceilings._fetch(0, 3, index, table, width, sums)
    read = table.reshape(3, width)[:, : min(width, 4)].sum(1)
    assert sums[:3].tolist() == read[index].tolist()


@pytest.mark.parametrize("rate", ["gemm", "copy", "scale"])
def test_ceilings_are_rates_of_this_machine(module, rate):
    ceilings = module("ceilings")
    size = 64 if rate == "gemm" else 1 << 20
    assert 1e6 < getattr(ceilings, rate)(size, 0.0) < 1e15
