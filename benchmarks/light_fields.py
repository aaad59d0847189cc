"""Light fields against volume rendering: frames per second, and quality after given minutes.

    python benchmarks/light_fields.py --minutes 5
    python benchmarks/light_fields.py --minutes 0 --out /tmp/frames.json     # frames only

Every system is fitted to the scene with its own preset for the CPU, for the same number of
minutes, and scored on all test views; then all of them render the same frames in turn within one
run. Ratios are to the hash grid behind the volume renderer. One JSON object on stdout and in a
file. Fits by the clock depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine

from polyfield.apps.options import prepare_process

RESULTS = Path(__file__).resolve().parent / "results" / "light_fields.json"
LIGHT = {"renderer": {"type": "light-field"}}
SYSTEMS: dict[str, dict[str, Any]] = {
    "hash grid, volume": {"backbone": {"type": "hash-grid"}},
    "residual MLP on points (R2L)": {**LIGHT, "backbone": {"type": "residual-mlp"}},
    "six planes on slabs (LightSpeed)": {**LIGHT, "backbone": {"type": "six-plane"}},
    "radiance distribution (NeRDF)": {
        **LIGHT,
        "backbone": {"type": "residual-mlp"},
        "field": {"type": "radiance-distribution"},
    },
    "hash grid on slabs": {**LIGHT, "backbone": {"type": "hash-grid"}},
}
REFERENCE = "hash grid, volume"


def tell(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def fitted(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Fit every system and score it; runs lie in `folder` by number."""
    from polyfield.config import merge, parse_overrides
    from polyfield.training.evaluate import evaluate
    from polyfield.training.fit import fit

    rows = {}
    budget = {"minutes": options.minutes} if options.minutes > 0 else {"steps": 20}
    for number, (name, user) in enumerate(SYSTEMS.items()):
        tell(f"fitting: {name}")
        settings = merge({"seed": options.seed}, user, parse_overrides(options.set))
        result = fit(options.scene, folder / str(number), **budget, settings=settings, device="cpu")
        row = {
            "steps": result.steps, "seconds": result.seconds, "parameters": result.parameters,
            "rays_per_second": result.rays_per_second, "bytes": result.bytes,
        }  # fmt: skip
        if options.minutes > 0:
            score = evaluate(folder / str(number), every=options.every, device="cpu")
            row |= {"train_psnr": result.psnr, "psnr": score["psnr"], "ssim": score["ssim"]}
            tell(f"  PSNR {score['psnr']:.2f} dB, SSIM {score['ssim']:.3f}")
        rows[name] = row
    return rows


def add_frames(rows: dict[str, dict[str, Any]], options: argparse.Namespace, folder: Path) -> None:
    """Render the same test view with every system in turn, several times; medians and ratios."""
    import torch

    from polyfield.run import RunDirectory
    from polyfield.training.cameras import read_cameras
    from polyfield.training.model import load
    from polyfield.training.tiles import render_frame

    models = {name: load(folder / str(i), "cpu") for i, name in enumerate(rows)}
    stored = read_cameras(RunDirectory(folder / "0"))
    view = (stored.splits["test"] or stored.splits["train"])[0]
    cameras = stored.cameras.resized(options.size, options.size)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(options.frames + 1):
        for name, model in models.items():
            took = render_frame(model, cameras, view, torch.ones(3))[1]
            if turn:  # the first compiles and fills caches
                seconds[name].append(took)
    reference = statistics.median(seconds[REFERENCE])
    for name, row in rows.items():
        median = statistics.median(seconds[name])
        row |= {
            "seconds_per_frame": round(median, 5),
            "frames_per_second": round(1 / median, 2),
            "times_the_volume_renderer": round(reference / median, 2),
        }


def main() -> None:
    """Fit, score, render, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", default="sample:orrery")
    parser.add_argument("--minutes", type=float, default=5.0, help="per system; 0: frames only")
    parser.add_argument("--size", type=int, default=200, help="of the frames, pixels a side")
    parser.add_argument("--frames", type=int, default=5, help="timed frames per system")
    parser.add_argument("--every", type=int, default=1, help="score every n-th test view")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="a setting of all fits")  # fmt: skip
    parser.add_argument("--keep", type=Path, help="folder for the runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    prepare_process(options.threads)
    before = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = fitted(options, folder)
        add_frames(rows, options, folder)
    result = {
        "scene": options.scene, "minutes": options.minutes, "size": options.size,
        "seed": options.seed, "systems": rows, "machine": before,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
