"""``polyfield eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from polyfield.apps.options import (
    compose,
    device_option,
    emit,
    json_option,
    prepare_process,
    threads_option,
)


@click.command("eval", short_help="Compare a run with held-out photos.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--scene", help="Other images of the same world (default: the run's scene).")
@click.option("--split", default="test", show_default=True, help="test, val or train.")
@click.option("--downscale", type=click.IntRange(min=1), help="Divide image sizes by this.")
@click.option("--every", type=click.IntRange(min=1), default=1, help="Use every n-th view.")
@click.option("--rank", type=click.IntRange(min=1), help="Components of a factored backbone.")
@compose(device_option, threads_option, json_option)
def command(run: Path, **options: Any) -> None:
    """Render the held-out views of RUN, score them, and write eval.json and pictures."""
    prepare_process(options["threads"])
    from polyfield.training.evaluate import evaluate

    result = evaluate(
        run, scene=options["scene"], split=options["split"], downscale=options["downscale"],
        every=options["every"], rank=options["rank"], device=options["device"],
        progress=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    emit(result, options["as_json"], describe(result, run))


def describe(result: dict[str, Any], run: Path) -> str:
    """The summary for people."""
    if result.get("modality") == "lidar":
        return describe_lidar(result, run)
    if "modality" in result:
        return describe_signal(result, run)
    psnr = "identical" if result["psnr"] is None else f"{result['psnr']:.2f} dB"
    lpips = "not computed" if result["lpips"] is None else f"{result['lpips']:.4f}"
    return (
        f"{len(result['views'])} {result['split']} views: PSNR {psnr}  SSIM {result['ssim']:.4f}  "
        f"LPIPS {lpips}  ({result['seconds_per_view']:.2f} s per view)\n"
        f"photo | rendering | error in {run / 'renders' / ('eval-' + result['split'])}"
    )


def describe_signal(result: dict[str, Any], run: Path) -> str:
    """The summary of a signal's scores for people."""
    psnr = "identical" if result["psnr"] is None else f"{result['psnr']:.2f} dB"
    more = [f"SSIM {result['ssim']:.4f}"] if result["ssim"] is not None else []
    for name in ("iou", "chamfer"):
        if name in result:
            value = result[name]
            more.append(f"{name} none" if value is None else f"{name} {value:.4f}")
    if "chamfer_reason" in result:
        more.append(f"({result['chamfer_reason']})")
    return (
        f"{result['modality']}, {result['psnr_of']}: PSNR {psnr}  {'  '.join(more)}\n"
        f"truth | reconstruction in {run / 'renders' / 'side-by-side.png'}"
    )


def describe_lidar(result: dict[str, Any], run: Path) -> str:
    """The summary of sweeps for people: the field's scores beside the baseline's."""
    shown = {"range_medae_m": "median error (m)", "range_mae_m": "mean error (m)",
             "chamfer_m": "Chamfer (m)", "fscore": "F at 5 cm", "drop_accuracy": "drop accuracy",
             "intensity_psnr": "intensity PSNR (dB)"}  # fmt: skip
    lines = [f"{len(result['sweeps'])} {result['split']} sweeps: field, training points seen again"]
    for name, title in shown.items():
        sides = [side[name] for side in (result, result["baseline"]) if side is not None]
        values = "   ".join("none" if value is None else f"{value:.4f}" for value in sides)
        lines.append(f"  {title:20} {values}")
    lines.append(f"measured, found, error in {run / 'renders' / ('eval-' + result['split'])}")
    return "\n".join(lines)
