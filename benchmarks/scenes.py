"""Quality, speed and memory of a fit from the command line, scene by scene, as one JSON object.

    python benchmarks/scenes.py sample:orrery --minutes 1.6
    python benchmarks/scenes.py DATA/lego --minutes 10 --eval-downscale 2 --out lego.json
    python benchmarks/scenes.py DATA/fox --minutes 10 --downscale 4

Everything runs in processes of its own, as a user would; peak memory is the operating system's
figure of the fit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine


def polyfield(*arguments: Any) -> tuple[dict[str, Any], float, float]:
    """Run a command with --json: its object, wall seconds, peak memory in MB."""
    command = [sys.executable, "-m", "polyfield.apps", *map(str, arguments), "--json"]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    seconds = time.monotonic() - start
    return json.loads(out.strip().splitlines()[-1]), seconds, usage.ru_maxrss / 1024


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fit, evaluate, and collect the figures."""
    run = folder / "run"
    extra = [part for pair in options.set for part in ("--set", pair)]
    budget = ("--minutes", options.minutes, "--downscale", options.downscale)
    names = ("--backbone", options.backbone, "--seed", options.seed)
    fit, fit_seconds, memory = polyfield(
        "fit", options.scene, "--out", run, *budget, *names, *extra
    )
    downscale = options.eval_downscale or options.downscale
    scores, _, eval_memory = polyfield(
        "eval", run, "--downscale", downscale, "--every", options.every
    )
    kept = ("steps", "seconds", "rays", "samples", "rays_per_second", "parameters", "bytes", "loss")
    return {
        "scene": Path(options.scene).name,
        "backbone": options.backbone,
        "minutes": options.minutes,
        "downscale": options.downscale,
        "settings": options.set,
        "seed": options.seed,
        "fit": {name: fit[name] for name in kept},
        "samples_per_second": round(fit["samples"] / max(fit["seconds"], 1e-9)),
        "fit_process_seconds": round(fit_seconds, 1),
        "fit_peak_mb": round(memory),
        "eval_peak_mb": round(eval_memory),
        "psnr": scores["psnr"],
        "ssim": scores["ssim"],
        "seconds_per_view": scores["seconds_per_view"],
        "protocol": {k: v for k, v in scores["protocol"].items() if k != "scene"},
        "machine": machine(),
    }


def main() -> None:
    """Measure one scene."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--backbone", default="hash-grid")
    parser.add_argument("--downscale", type=int, default=1)
    parser.add_argument("--eval-downscale", type=int)
    parser.add_argument("--every", type=int, default=1, help="score every n-th test view")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
