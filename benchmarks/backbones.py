"""Every backbone on the same data with the same budget: quality, size, speed and memory.

    python benchmarks/backbones.py --data DATA
    python benchmarks/backbones.py --tasks sample --backbones hash-grid vm cp --seeds 0

A budget is a number of parameters and of seconds: `fit --max-parameters` scales every backbone to
the first, and the second is processor time on one thread (``fit.clock=processor``), which other
programs on the machine hardly change. Each fit is a process of its own through the command line.
Results are added to --out as they come, so that an interrupted run goes on where it was, seed
after seed; then a table and a chart of training PSNR against seconds per task are written beside
it.
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
# Parameters, and seconds of one thread.
BUDGETS = {"small": (50_000, 8.0), "large": (200_000, 30.0)}
CURVE = 16  # points kept of a fit's curve
DRAWN = 8


@dataclass(frozen=True)
class Task:
    """What is fitted: a file of the data folder or a sample, and its extra options."""

    scene: str
    options: tuple[str, ...] = ()
    score: str = "psnr"
    evaluation: tuple[str, ...] = ()


TASKS = {
    "photo": Task("fox/images/0001.jpg", ("--downscale", "4")),
    "clip": Task("video/bikes.mp4", ("--downscale", "4", "--holdout", "0.1")),
    "shape": Task("meshes/stanford-bunny.obj", score="iou"),
    "sample": Task("sample:orrery", evaluation=("--every", "4")),
    "lego": Task("lego", ("--downscale", "2"), evaluation=("--downscale", "2", "--every", "5")),
}


def main() -> None:
    """Measure what is missing, then draw everything."""
    options = parse()
    done = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    done["machine"] = machine()
    known = {_key(row) for row in done["rows"]}
    for wanted in [] if options.draw else plan(options):
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
        if any(row.get("curve") for row in rows):
            stem.with_suffix(".svg").write_text(chart(task, rows))
    print(json.dumps({"out": str(options.out), "rows": len(done["rows"])}))


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--backbones", nargs="+", help="default: all registered")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=os.environ.get("POLYFIELD_DATA"))
    parser.add_argument("--out", type=Path, default=RESULTS / "backbones.json")
    parser.add_argument("--draw", action="store_true", help="only tables and charts of --out")
    options = parser.parse_args()
    if options.data is None and any(
        not TASKS[t].scene.startswith("sample:") for t in options.tasks
    ):
        parser.error(
            "--data, or POLYFIELD_DATA, names the folder with lego/, fox/, video/, meshes/"
        )
    return options


def plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry per fit: all tasks and budgets of a seed before the next."""
    from polyfield.registry import names

    return [
        {"task": task, "backbone": name, "budget": budget, "seed": seed}
        for seed in options.seeds
        for task in options.tasks
        for budget in options.budgets
        for name in options.backbones or names("backbones")
    ]


def _key(row: dict[str, Any]) -> tuple:
    return tuple(row[name] for name in ("task", "backbone", "budget", "seed"))


def measure(wanted: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Fit and evaluate; a refusal (an impossible dimension) is a row as well."""
    task = TASKS[wanted["task"]]
    scene = task.scene if task.scene.startswith("sample:") else str(options.data / task.scene)
    parameters, seconds = BUDGETS[wanted["budget"]]
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        fit = polyfield(
            "fit", scene, "--out", run, "--backbone", wanted["backbone"], "--seed", wanted["seed"],
            "--minutes", seconds / 60, "--max-parameters", parameters, "--threads", 1,
            "--set", "fit.clock=processor", "--set", "fit.checks=0", *task.options,
        )  # fmt: skip
        if "error" in fit:
            return {**wanted, "error": fit["error"]}
        curve = thinned(Path(run, "metrics.jsonl"))
        scores = polyfield("eval", run, *task.evaluation, "--threads", 1)
    return {
        **wanted,
        "score": scores.get(task.score),
        "score_of": task.score,
        "psnr": scores.get("psnr"),
        "ssim": scores.get("ssim"),
        "parameters": fit["parameters"],
        "bytes": fit["bytes"],
        "steps": fit["steps"],
        "steps_per_second": round(fit["steps"] / fit["seconds"], 2),
        "peak_mb": fit["peak_mb"],
        "curve": curve,
        "error": scores.get("error"),
    }


def thinned(rows: Path) -> list[tuple[float, float]]:
    """(seconds, training PSNR) of at most `CURVE` rows of a run, the last one included."""
    points = [json.loads(line) for line in rows.read_text().splitlines()]
    known = [(p["seconds"], round(p["psnr"], 3)) for p in points if p.get("psnr") is not None]
    stride = max(1, -(-len(known) // CURVE))
    return known[::-1][::stride][::-1]


def polyfield(*arguments: Any) -> dict[str, Any]:
    """Run a command with --json: its object with peak memory, or its error."""
    command = [sys.executable, "-m", "polyfield.apps", *map(str, arguments), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    out = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    if not out.strip():
        return {"error": f"polyfield {arguments[0]} ended without an answer"}
    found = json.loads(out.strip().splitlines()[-1])
    return {**found, "peak_mb": round(usage.ru_maxrss / 1024)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: budget after budget, best first, seeds averaged."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["budget"], row["backbone"]), []).append(row)
    scored = {key: _average(group) for key, group in groups.items()}
    score = next((r["score_of"] for r in rows if r.get("score_of")), "score")
    unit = {"psnr": "PSNR (dB)", "iou": "IoU"}.get(score, score)
    lines = []
    for budget, (parameters, seconds) in BUDGETS.items():
        keys = [key for key in scored if key[0] == budget and scored[key]["score"] is not None]
        if not keys:
            continue
        lines += [
            f"At most {parameters:,} parameters and {seconds:g} s of one thread:", "",
            f"| backbone | {unit} | spread | SSIM | parameters | KB | steps/s | peak MB | seeds |",
            "|---" * 9 + "|",
        ]  # fmt: skip
        for key in sorted(keys, key=lambda k: -scored[k]["score"]):
            lines.append(_line(key[1], scored[key]))
        lines.append("")
    refused = {k[1]: scored[k]["error"] for k in scored if scored[k]["score"] is None}
    if refused:
        lines += ["Not possible:", "", *(f"- {n}: {why}" for n, why in sorted(refused.items())), ""]
    return "\n".join(lines)


def _line(name: str, a: dict[str, Any]) -> str:
    ssim = "" if a["ssim"] is None else f"{a['ssim']:.3f}"
    digits = 3 if a["score"] < 1.5 else 2
    spread = f"{a['spread']:.{digits}f}" if a["seeds"] > 1 else ""
    return (
        f"| {name} | {a['score']:.{digits}f} | {spread} | {ssim} | {a['parameters']:,.0f} | "
        f"{a['bytes'] / 1024:.0f} | {a['steps_per_second']:.1f} | {a['peak_mb']:.0f} | "
        f"{a['seeds']} |"
    )


def _average(group: list[dict[str, Any]]) -> dict[str, Any]:
    good = [row for row in group if row.get("score") is not None]
    if not good:
        return {"score": None, "error": group[0].get("error")}
    names = ("score", "parameters", "bytes", "steps_per_second", "peak_mb")
    out: dict[str, Any] = {name: mean(row[name] for row in good) for name in names}
    out["spread"] = stdev([row["score"] for row in good]) if len(good) > 1 else 0.0
    known = [row["ssim"] for row in good if row["ssim"] is not None]
    return {**out, "ssim": mean(known) if known else None, "seeds": len(good)}


def chart(task: str, rows: list[dict[str, Any]]) -> str:
    """Training PSNR against seconds with the larger budget: the backbones that end highest."""
    budget = max({row["budget"] for row in rows}, key=lambda name: BUDGETS[name])
    first = min(row["seed"] for row in rows)
    curves = {
        row["backbone"]: row["curve"]
        for row in rows
        if row["budget"] == budget and row["seed"] == first and row.get("curve")
    }
    best = sorted(curves, key=lambda name: -curves[name][-1][1])[:DRAWN]
    series = [Series(name, curves[name]) for name in best]
    parameters = BUDGETS[budget][0]
    note = f"up to {parameters:,} parameters, one thread; {time.strftime('%Y-%m-%d')}"
    return line_chart(
        f"{task}: quality against time", note, ("seconds", "training PSNR (dB)"), series
    )


if __name__ == "__main__":
    main()
