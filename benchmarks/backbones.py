"""Every backbone on the same data with the same budget: quality, size, speed and memory.

    python benchmarks/backbones.py --tasks photo sound --data DATA --seconds 10 40
    python benchmarks/backbones.py --tasks sample --backbones hash-grid vm cp --seconds 60

Each fit is a process of its own through the command line. A budget is a number of seconds and a
number of parameters: of each backbone the one size that scales it most (`SIZES`) is chosen so
that it comes as close to the parameters as it can without passing them. Results are added to
--out as they come, so that an interrupted run goes on where it was; a table and a chart per task
are written beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from chart import Series, line_chart
from machine import machine

RESULTS = Path(__file__).resolve().parent / "results"
BUDGETS = {"small": 50_000, "large": 200_000}
# The setting that scales a backbone, and the range it makes sense in.
SIZES: dict[str, tuple[str, int, int]] = {
    "mlp": ("width", 8, 512),
    "siren": ("width", 8, 512),
    "wire": ("width", 8, 512),
    "finer": ("width", 8, 512),
    "gauss": ("width", 8, 512),
    "pi-net": ("width", 8, 1024),
    "mi-mlp": ("width", 8, 512),
    "hash-grid": ("log2_entries", 4, 22),
}


@dataclass(frozen=True)
class Task:
    """What is fitted: a file of the data folder or a sample, and its extra options."""

    scene: str
    options: tuple[str, ...] = ()
    score: str = "psnr"
    evaluation: tuple[str, ...] = ()


TASKS = {
    "photo": Task("fox/images/0001.jpg", ("--set", "data.downscale=4")),
    "clip": Task("video/bikes.mp4", ("--holdout", "0.5")),
    "shape": Task("meshes/stanford-bunny.obj", score="iou"),
    "sample": Task("sample:orrery"),
    "lego": Task("lego", ("--downscale", "2"), evaluation=("--downscale", "2", "--every", "3")),
}


def main() -> None:
    """Measure what is missing, then draw everything."""
    options = parse()
    done = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    done["machine"] = machine()
    known = {_key(row) for row in done["rows"]}
    for wanted in plan(options):
        if _key(wanted) in known:
            continue
        row = measure(wanted, options)
        done["rows"].append(row)
        options.out.write_text(json.dumps(done, indent=1) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)
    for task in {row["task"] for row in done["rows"]}:
        rows = [row for row in done["rows"] if row["task"] == task]
        stem = options.out.with_name(f"{options.out.stem}-{task}")
        stem.with_suffix(".md").write_text(table(rows))
        stem.with_suffix(".svg").write_text(chart(task, rows))
    print(json.dumps({"out": str(options.out), "rows": len(done["rows"])}))


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["photo"], choices=TASKS)
    parser.add_argument("--backbones", nargs="+", help="default: all registered")
    parser.add_argument("--seconds", nargs="+", type=float, default=[10.0, 40.0])
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--data", type=Path, default=os.environ.get("POLYFIELD_DATA"))
    parser.add_argument("--out", type=Path, default=RESULTS / "backbones.json")
    options = parser.parse_args()
    if options.data is None and any(
        not TASKS[t].scene.startswith("sample:") for t in options.tasks
    ):
        parser.error(
            "--data, or POLYFIELD_DATA, names the folder with lego/, fox/, video/, meshes/"
        )
    return options


def plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry per fit, cheap ones first."""
    from polyfield.registry import names

    return [
        {"task": task, "backbone": name, "budget": budget, "seconds": seconds, "seed": seed}
        for seconds in sorted(options.seconds)
        for task in options.tasks
        for budget in options.budgets
        for seed in options.seeds
        for name in options.backbones or names("backbones")
    ]


def _key(row: dict[str, Any]) -> tuple:
    return tuple(row[name] for name in ("task", "backbone", "budget", "seconds", "seed"))


def measure(wanted: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Fit and evaluate; a refusal (an impossible dimension) is a row as well."""
    task = TASKS[wanted["task"]]
    scene = task.scene if task.scene.startswith("sample:") else str(options.data / task.scene)
    sized = fitting_size(wanted["backbone"], BUDGETS[wanted["budget"]], wanted["task"])
    extra = ["--threads", str(options.threads)] if options.threads else []
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        fit = polyfield(
            "fit", scene, "--out", run, "--backbone", wanted["backbone"], "--seed", wanted["seed"],
            "--minutes", wanted["seconds"] / 60, *task.options, *sized, *extra,
            "--set", "fit.checks=0",
        )  # fmt: skip
        if "error" in fit:
            return {**wanted, "error": fit["error"]}
        scores = polyfield("eval", run, *task.evaluation, *extra)
    return {
        **wanted,
        "sized": sized[1::2],
        "score": scores.get(task.score),
        "score_of": task.score,
        "psnr": scores.get("psnr"),
        "ssim": scores.get("ssim"),
        "parameters": fit["parameters"],
        "bytes": fit["bytes"],
        "steps_per_second": round(fit["steps"] / fit["seconds"], 2),
        "peak_mb": fit["peak_mb"],
        "error": scores.get("error"),
    }


def polyfield(*arguments: Any) -> dict[str, Any]:
    """Run a command with --json: its object with peak memory, or its error."""
    command = [sys.executable, "-m", "polyfield.apps", *map(str, arguments), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    out = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    found = json.loads(out.strip().splitlines()[-1])
    return {**found, "peak_mb": round(usage.ru_maxrss / 1024)}


def fitting_size(name: str, parameters: int, task: str) -> list[str]:
    """The --set that brings a backbone's parameters closest to a number from below."""
    if name not in SIZES:
        return []
    setting, low, high = SIZES[name]
    while low < high:  # parameters grow with the size
        middle = (low + high + 1) // 2
        if count_parameters(name, setting, middle, task) <= parameters:
            low = middle
        else:
            high = middle - 1
    return ["--set", f"backbone.{setting}={low}"]


def count_parameters(name: str, setting: str, value: int, task: str) -> int:
    """Parameters of the whole field as a fit would build it."""
    from polyfield.training.model import Model
    from polyfield.training.settings import resolve, resolve_signal

    user = {"backbone": {"type": name, setting: value}}
    if task in ("sample", "lego"):
        return Model(resolve(user), "none").parameter_count
    modality, dims = {"photo": ("image", 2), "clip": ("video", 3), "shape": ("shape", 3)}[task]
    channels = 1 if modality == "shape" else 3
    return Model(resolve_signal(user, modality, dims, channels), "none").parameter_count


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: best first, one line per backbone and budget, seeds averaged."""
    head = "| backbone | seconds | parameters | score | +- | SSIM | KB | steps/s | peak MB |\n"
    lines = [head + "|---" * 9 + "|"]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["seconds"], row["budget"], row["backbone"]), []).append(row)
    scored = {key: _average(group) for key, group in groups.items()}
    order = sorted(scored, key=lambda k: (k[0], k[1], -(scored[k]["score"] or -1e9)))
    for key in order:
        a = scored[key]
        if a["score"] is None:
            lines.append(f"| {key[2]} | {key[0]:g} | | {a['error']} | | | | | |")
            continue
        ssim = "" if a["ssim"] is None else f"{a['ssim']:.3f}"
        lines.append(
            f"| {key[2]} | {key[0]:g} | {a['parameters']:,.0f} | {a['score']:.2f} | "
            f"{a['spread']:.2f} | {ssim} | {a['bytes'] / 1024:.0f} | {a['steps_per_second']:.1f} | "
            f"{a['peak_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _average(group: list[dict[str, Any]]) -> dict[str, Any]:
    good = [row for row in group if row.get("score") is not None]
    if not good:
        return {"score": None, "error": group[0].get("error")}
    names = ("score", "parameters", "bytes", "steps_per_second", "peak_mb")
    out: dict[str, Any] = {name: mean(row[name] for row in good) for name in names}
    out["spread"] = stdev([row["score"] for row in good]) if len(good) > 1 else 0.0
    known = [row["ssim"] for row in good if row["ssim"] is not None]
    return {**out, "ssim": mean(known) if known else None}


def chart(task: str, rows: list[dict[str, Any]]) -> str:
    """Score against seconds for the larger number of parameters, the best six backbones."""
    budget = max({row["budget"] for row in rows}, key=BUDGETS.get)
    points: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if row["budget"] == budget and row.get("score") is not None:
            by_time = points.setdefault(row["backbone"], {})
            by_time.setdefault(row["seconds"], []).append(row["score"])
    lines = {
        name: sorted((seconds, mean(scores)) for seconds, scores in by_time.items())
        for name, by_time in points.items()
    }
    best = sorted(lines, key=lambda name: -lines[name][-1][1])[:6]
    series = [Series(name, lines[name], dots=lines[name]) for name in best]
    note = f"up to {BUDGETS[budget]:,} parameters; {time.strftime('%Y-%m-%d')}"
    return line_chart(f"{task}: quality against time", note, ("seconds", "score"), series)


if __name__ == "__main__":
    main()
