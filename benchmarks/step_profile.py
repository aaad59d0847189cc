"""Where the time of a training step goes: shares by part of the program, as JSON and a picture.

    python benchmarks/step_profile.py DATA/lego --seconds 60 --out benchmarks/results/step

A second thread looks once a millisecond at what the fit is doing and notes the innermost
function of this program. The first half of the fit is not counted: grids still fill then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parent.parent
# The first fragment that the path of a source file contains decides.
PARTS = (
    ("encodings/", "hash grid"),
    ("fields/small_mlp", "small networks"),
    ("fields/", "rest of the field"),
    ("renderers/samplers/occupancy", "upkeep of the occupancy grid"),
    ("renderers/occupancy", "upkeep of the occupancy grid"),
    ("renderers/marching", "marching"),
    ("renderers/cameras", "pixels and rays"),
    ("data/", "pixels and rays"),
    ("renderers/", "compositing"),
    ("training/optimisers", "optimiser"),
    ("training/record", "checks and saving"),
    ("training/", "step: loss, gradients of torch's own operations"),
)
# Shared machinery: what called it is meant.
PASSED = ("polyfield/", "renderers/kernels/launch")
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5",
           "#9c6b4e", "#9498a0")  # fmt: skip


def part_of(frame: Any) -> str:
    """The part of the program that a stack is in."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(HOUSE) and "site-packages" not in path.parts:
            inside = path.relative_to(HOUSE).as_posix()
            if not inside.startswith(PASSED):
                named = (name for fragment, name in PARTS if fragment in inside)
                return next(named, "other")
        frame = frame.f_back
    return "other"


class Watch(threading.Thread):
    """Counts what a thread is doing, a thousand times a second, while `active`."""

    def __init__(self, thread: int):
        super().__init__(daemon=True)
        self.watched, self.counts = thread, Counter()
        self.active = False
        self.done = threading.Event()

    def run(self) -> None:
        """Look, until `done`."""
        while not self.done.wait(1e-3):
            frame = sys._current_frames().get(self.watched)
            if self.active and frame is not None:
                self.counts[part_of(frame)] += 1


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Fit, watching."""
    from machine import machine

    from polyfield.config import parse_overrides
    from polyfield.training.fit import fit

    about = machine()
    watch = Watch(threading.get_ident())

    def progress(row: dict[str, Any]) -> None:
        watch.active = row.get("seconds", 0.0) > options.seconds / 2

    watch.start()
    with tempfile.TemporaryDirectory() as folder:
        settings = parse_overrides(options.set)
        result = fit(
            options.scene, Path(folder) / "run", minutes=options.seconds / 60, settings=settings,
            progress=progress,
        )  # fmt: skip
    watch.done.set()
    watch.join()
    total = sum(watch.counts.values())
    return {
        "benchmark": "step-profile",
        "scene": Path(options.scene).name,
        "set": options.set,
        "seconds": result.seconds,
        "ms_per_step": round(1000 * result.seconds / result.steps, 2),
        "rays_per_second": result.rays_per_second,
        "looks": total,
        "shares": {name: round(n / total, 4) for name, n in watch.counts.most_common()},
        "machine": about,
    }


def picture(figures: dict[str, Any]) -> str:
    """One bar of shares with its legend, as SVG."""
    width, x, parts = 640.0, 0.0, []
    for i, (name, share) in enumerate(figures["shares"].items()):
        colour, wide, row = COLOURS[min(i, len(COLOURS) - 1)], share * width, 74 + 20 * i
        label = f"{100 * share:.0f} %" if share >= 0.04 else ""
        parts += [
            f'<rect x="{20 + x:.1f}" y="14" width="{wide:.1f}" height="36" fill="{colour}"/>',
            f'<text x="{20 + x + wide / 2:.1f}" y="37" text-anchor="middle">{label}</text>',
            f'<rect x="20" y="{row - 11}" width="13" height="13" fill="{colour}"/>',
            f'<text x="40" y="{row}">{name}: {100 * share:.1f} %</text>',
        ]
        x += wide
    height = 80 + 20 * len(figures["shares"])
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{height}" '
        'font-family="sans-serif" font-size="13">'
        f'<rect width="680" height="{height}" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def main() -> None:
    """Measure, print the JSON, write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="path without suffix: .json and .svg are written")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from polyfield.apps.options import prepare_process

    prepare_process(options.threads)
    figures = measure(options)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
        options.out.with_suffix(".svg").write_text(picture(figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
