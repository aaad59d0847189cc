"""Speed on this machine: the torch reference against the fast path, and what the machine can do.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --scene DATA/lego --threads 1 --out lego.json

Every operation with a fast form, a whole training step and whole frames, at equal settings and in
turn within one run; shares of ceilings that the same run measures. One JSON object on stdout and
in a file, a table on stderr. Takes some five minutes of a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine

from polyfield.apps.options import prepare_process

RESULTS = Path(__file__).resolve().parent / "results" / "throughput.json"


@dataclass(frozen=True)
class Effort:
    """How long to look: seconds per ceiling and per row of the table, steps, frames, sizes."""

    ceiling: float = 1.0
    row: float = 1.0
    steps: int = 32
    frames: tuple[int, ...] = (400, 800)
    repeats: int = 3
    largest: int | None = None


QUICK = Effort(0.02, 0.0, 2, (24, 48), 1, 2048)


def peak_mb() -> float | None:
    """Most memory that this process ever held, where the system tells."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def tell(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace, effort: Effort) -> dict[str, Any]:
    """All figures, the fast path's memory first: nothing else has been held by then."""
    import operations
    import training_step as training
    from ceilings import ceilings

    about, begin = machine(), time.monotonic()
    scene = training.open_scene(options.scene)
    with tempfile.TemporaryDirectory() as folder:
        run = training.scratch_run(folder)
        tell(f"warming up on {scene.name} for {options.seconds:g} s")
        warm = training.warm_up(training.new_loop(scene, run, "auto"), options.seconds)
        peak = {"fit": peak_mb()}
        steps = training.compare_steps(scene, run, effort.steps)
        late = training.compare_steps(scene, run, effort.steps // 2, late=True)
        peak["reference_steps"] = peak_mb()
        tell(step_line("reference", steps) + "\n" + step_line("fast", steps))
        frames = training.compare_frames(scene, run, effort.frames, effort.repeats)
    for size, frame in frames.items():
        tell(f"frame {size}: torch {frame['reference_seconds']} s, fast {frame['fast_seconds']} s")
    limits = ceilings(effort.ceiling)
    tell("ceilings (G/s): " + ", ".join(f"{k} {v / 1e9:.2f}" for k, v in limits.items()))
    tell(operations.HEADER)
    rows = []
    for row in operations.measure(operations.CASES, limits, effort.row, effort.largest):
        tell(operations.as_line(row))
        rows.append(row)
    again = ceilings(effort.ceiling)
    worst = max(steps["first_loss_difference"], *(f["max_error"] for f in frames.values()))
    return {
        "benchmark": "throughput",
        "machine": about,
        "seconds": round(time.monotonic() - begin, 1),
        "quick": options.quick,
        "scene": scene.name,
        "preset": "hash-grid, cpu",
        "warm_up": warm,
        "training_step": steps,
        "training_step_late": late,
        "frames": frames,
        "ceilings": {name: round(rate) for name, rate in limits.items()},
        "ceilings_after": {name: round(rate) for name, rate in again.items()},
        "operations": rows,
        "peak_mb": peak | {"all": peak_mb()},
        "parity": worst <= operations.TOLERANCE and all(row["parity"] for row in rows),
    }


def step_line(label: str, steps: dict[str, Any]) -> str:
    """One backend's training step in a line."""
    row = steps[label]
    return (
        f"training step, {label}: {row['step_ms']:.1f} ms, {row['rays_per_second']} rays/s, "
        f"{row['samples_per_second']} samples/s; {steps['ratio']}x between the two"
    )


def main() -> None:
    """Measure, write, print; exit code 1 where fast and reference results differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scene", default="sample:orrery", help="posed images (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--seconds", type=float, help="of warm-up (default: 15)")
    parser.add_argument("--out", type=Path, help=f"(default: results/{RESULTS.name}; quick: none)")
    parser.add_argument("--quick", action="store_true", help="a look whether everything runs")
    options = parser.parse_args()
    if options.seconds is None:
        options.seconds = 0.2 if options.quick else 15.0
    out = options.out or (None if options.quick else RESULTS)
    prepare_process(options.threads)
    result = measure(options, QUICK if options.quick else Effort())
    text = json.dumps(result, indent=1)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    print(text)
    sys.exit(0 if result["parity"] else 1)


if __name__ == "__main__":
    main()
