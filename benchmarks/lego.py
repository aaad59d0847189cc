"""Quality against time on NeRF-synthetic lego (or another scene), as a user would see it.

    python benchmarks/lego.py --scene DATA/lego --minutes 1 5 10

Every budget is a fit of its own, in a fresh process through the command line at full resolution,
scored at half of it. Written to --out: NAME.json (figures, curves, machine), NAME.svg (quality
over time) and NAME.png (a photo and what each budget makes of it).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from chart import Series, line_chart
from machine import machine
from scenes import measure, polyfield

RESULTS = Path(__file__).resolve().parent / "results"
POINTS = 60  # of a curve
GAP = 4  # white columns between pictures


def main(arguments: list[str] | None = None) -> None:
    """Measure every budget and write the results."""
    options = parse(arguments)
    start = datetime.now(timezone.utc)
    described = machine()
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        kept = options.keep or Path(folder)
        fits, pictures = [], []
        for minutes in options.minutes:
            fits.append(measure_budget(options, minutes, kept / f"{minutes:g}min"))
            pictures.append(picture(kept / f"{minutes:g}min" / "run"))
            print(told(fits[-1]), file=sys.stderr)
    result = {
        "scene": Path(options.scene).name,
        "date": start.strftime("%Y-%m-%d %H:%M UTC"),
        "machine": described,
        "fits": fits,
    }
    write(options.out, result["scene"].split(":")[-1], result, pictures)
    print(json.dumps(result))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; the scene is looked for under $POLYFIELD_DATA."""
    data = os.environ.get("POLYFIELD_DATA")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 5.0, 10.0])
    parser.add_argument("--scene", default=data and f"{data}/lego", required=data is None)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--keep", type=Path, help="folder to keep the runs in")
    parser.add_argument("--eval-downscale", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="score every n-th test view")
    parser.add_argument("--backbone", default="hash-grid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.set_defaults(downscale=1)
    return parser.parse_args(arguments)


def warm_up() -> None:
    """A few steps of the sample in a process of their own: compiles what is not compiled yet."""
    with tempfile.TemporaryDirectory() as folder:
        polyfield("fit", "sample:orrery", "--out", f"{folder}/run", "--steps", 20)
        polyfield("eval", f"{folder}/run", "--every", 20)


def measure_budget(options: argparse.Namespace, minutes: float, folder: Path) -> dict[str, Any]:
    """Figures of one fit, with its curve; the run stays in the folder."""
    one = argparse.Namespace(**{**vars(options), "minutes": minutes})
    figures = measure(one, folder)
    about_all = ("scene", "machine", "minutes")
    figures = {key: value for key, value in figures.items() if key not in about_all}
    frame = iio.improps(next(iter(sorted((folder / "run/renders/eval-test").glob("*.png")))))
    height, wide = frame.shape[:2]
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return {
        "minutes": minutes,
        **figures,
        "frame": {"width": (wide - 2 * GAP) // 3, "height": height},
        "curve": curve(rows),
        "checks": checks(rows),
    }


def curve(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Training PSNR in about `POINTS` stretches: the mean squared errors of each, averaged."""
    rows = [row for row in rows if "psnr" in row]
    size = max(1, len(rows) // POINTS)
    points = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        error = np.mean([10 ** (-row["psnr"] / 10) for row in part])
        last = {name: part[-1][name] for name in ("step", "seconds", "rays_per_second")}
        points.append({**last, "psnr": round(float(-10 * np.log10(error)), 3)})
    return points


def checks(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Held-out checks of one view while the fit went on, with the seconds of the nearest row."""
    timed = [row for row in rows if "seconds" in row]
    return [
        {
            "step": row["step"],
            "seconds": min(timed, key=lambda t, s=row["step"]: abs(t["step"] - s))["seconds"],
            "psnr": round(row["check_psnr"], 3),
        }
        for row in rows
        if "check_psnr" in row and timed
    ]


def picture(run: Path) -> np.ndarray:
    """Photo and rendering of the first scored view, (height, 2 width + gap, 3)."""
    view = iio.imread(min((run / "renders" / "eval-test").glob("*.png")))
    return view[:, : 2 * ((view.shape[1] - 2 * GAP) // 3) + GAP]


def write(out: Path, name: str, result: dict[str, Any], pictures: list[np.ndarray]) -> None:
    """The JSON, the chart and the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / f"{name}.svg").write_text(chart(result))
    width = (pictures[0].shape[1] - GAP) // 2
    renderings = [p[:, width:] for p in pictures]
    iio.imwrite(out / f"{name}.png", np.concatenate([pictures[0][:, :width], *renderings], axis=1))


def chart(result: dict[str, Any]) -> str:
    """Quality over time: training as lines, checks as dots, the scores of the test views marked."""
    series = [
        Series(
            f"{fit['minutes']:g} min: {fit['psnr']:.2f} dB, SSIM {fit['ssim']:.4f}",
            [(p["seconds"] / 60, p["psnr"]) for p in fit["curve"]],
            [(p["seconds"] / 60, p["psnr"]) for p in fit["checks"]],
            (fit["fit"]["seconds"] / 60, fit["psnr"]),
        )
        for fit in result["fits"]
    ]
    machine = result["machine"]
    title = f"{result['scene']}, {machine['cores']} cores of {machine['processor']}"
    note = "lines: training pixels; dots: one held-out view meanwhile; diamonds: all test views"
    return line_chart(title, note, ("minutes of training", "PSNR in dB"), series)


def told(fit: dict[str, Any]) -> str:
    """A line about a fit."""
    return (
        f"{fit['minutes']:g} min: PSNR {fit['psnr']:.2f} dB  SSIM {fit['ssim']:.4f}  "
        f"{fit['fit']['steps']} steps  {fit['fit']['rays_per_second']:,.0f} rays/s  "
        f"{fit['samples_per_second']:,} samples/s  {fit['fit_peak_mb']} and {fit['eval_peak_mb']} "
        f"MB  {fit['seconds_per_view']:.3f} s per {fit['frame']['width']}x{fit['frame']['height']}"
    )


if __name__ == "__main__":
    main()
