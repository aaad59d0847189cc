"""What a fit learns does not depend on how many threads work, beyond rounding."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from polyfield.run import RunDirectory
from polyfield.training.fit import fit

SETTINGS = {
    "data": {"downscale": 8},
    "backbone": {"levels": 4, "log2_entries": 12, "max_resolution": 64},
    "sampler": {"resolution": 32, "steps": 64},
    "fit": {"rays": 512, "target_samples": 8192, "log_every": 4, "checks": 1},
}


def fitted(path, threads, steps=12):
    fit("sample:orrery", path, steps=steps, settings={**SETTINGS, "threads": threads}, device="cpu")
    return RunDirectory(path).read_weights()[0]


def test_one_thread_gives_the_same_bits_again(tmp_path):
    first, second = (fitted(tmp_path / name, 1) for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(float(v.float().abs().max()) > 1e-3 for v in first.values())


def test_two_threads_give_the_same_up_to_rounding(tmp_path):
    one, two = (fitted(tmp_path / str(threads), threads) for threads in (1, 2))
    for name, value in one.items():
        off = (value.float() - two[name].float()).abs()
        size = max(1e-3, float(value.float().abs().max()))
        assert float(off.mean()) < 1e-4 * size, name


def test_threads_of_the_program_are_those_of_torch_and_of_the_kernels(tmp_path):
    code = (
        "import sys, threading, torch\n"
        "from polyfield.apps.options import prepare_process\n"
        "from polyfield.parallel import run_tasks\n"
        "prepare_process(int(sys.argv[1]))\n"
        "seen = set()\n"
        "gate = threading.Barrier(int(sys.argv[1]), timeout=20)\n"
        "run_tasks(lambda i: (seen.add(threading.get_ident()), gate.wait()),\n"
        "          [(i,) for i in range(int(sys.argv[1]))])\n"
        "print(torch.get_num_threads(), len(seen))\n"
    )
    for threads in ("1", "3"):
        out = subprocess.run(
            [sys.executable, "-c", code, threads], capture_output=True, text=True, check=True,
            cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "2"},
        )  # fmt: skip
        assert out.stdout.split() == [threads, threads]
