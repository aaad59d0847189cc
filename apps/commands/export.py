"""``polyfield export``."""

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


@click.command("export", short_help="Export a fitted shape's mesh, or what a backbone learned.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--mesh", type=click.Path(path_type=Path), help="Mesh FILE to write (ply, obj, stl).")
@click.option("--insight", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder for pictures of what the backbone learned (PNG, SVG).")  # fmt: skip
@click.option("--points", type=click.Path(path_type=Path),
              help="Cloud FILE of what a fitted LiDAR sees (ply, pcd, npz, bin).")  # fmt: skip
@click.option("--onnx", type=click.Path(path_type=Path),
              help="ONNX FILE of a light field: a camera in, an image out.")  # fmt: skip
@click.option("--width", type=click.IntRange(min=1), help="Of the ONNX graph's images.")
@click.option("--height", type=click.IntRange(min=1), help="Of the ONNX graph's images.")
@click.option("--resolution", type=click.IntRange(min=8), default=256, show_default=True,
              help="Cells per axis of the grid in which the surface is found.")  # fmt: skip
@click.option("--rank", type=click.IntRange(min=1), help="Components of a factored backbone.")
@compose(device_option, threads_option, json_option)
def command(run: Path, **options: Any) -> None:
    """Export what RUN holds.

    --mesh of a run fitted to a shape, --points of one fitted to LiDAR sweeps, --onnx of a light
    field, --insight of any.
    """
    from polyfield.errors import ConfigError

    known = {"mesh": _mesh, "insight": _insight, "points": _points, "onnx": _onnx}
    asked = [name for name in known if options[name] is not None]
    if len(asked) != 1:
        names = ", ".join(f"--{name}" for name in known)
        raise ConfigError(f"say what to export: one of {names}")
    prepare_process(options["threads"])
    known[asked[0]](run, options[asked[0]], options)


def _mesh(run: Path, mesh: Path, options: dict[str, Any]) -> None:
    from polyfield.errors import ConfigError
    from polyfield.run import RunDirectory

    if RunDirectory(run).read_config().get("modality", "images") != "shape":
        raise ConfigError(
            f"{run} was not fitted to a shape, and meshes of other runs are not exported yet"
        )
    from polyfield.training.render_signal import render_signal

    result = render_signal(
        run, mesh, shape={"resolution": options["resolution"]}, rank=options["rank"],
        device=options["device"],
    )  # fmt: skip
    emit(result, options["as_json"], f"mesh in {mesh} ({result['seconds']:.1f} s)")


def _insight(run: Path, folder: Path, options: dict[str, Any]) -> None:
    from polyfield.training.insight_pictures import export_insights

    result = export_insights(run, folder, rank=options["rank"], device=options["device"])
    lines = [f"{Path(row['file']).name}: {row['name']}; {row['scale']}" for row in result["files"]]
    emit(result, options["as_json"], "\n".join([*lines, f"{len(lines)} files in {folder}"]))


def _points(run: Path, out: Path, options: dict[str, Any]) -> None:
    from polyfield.errors import ConfigError
    from polyfield.run import RunDirectory

    if RunDirectory(run).read_config().get("modality", "images") != "lidar":
        raise ConfigError(
            f"{run} was not fitted to LiDAR sweeps, and points of other runs are not exported yet"
        )
    from polyfield.training.render_lidar import export_points

    result = export_points(run, out, rank=options["rank"], device=options["device"])
    emit(result, options["as_json"], f"{result['points']:,} points in {out}")


def _onnx(run: Path, out: Path, options: dict[str, Any]) -> None:
    from polyfield.training.export_onnx import export_onnx

    result = export_onnx(run, out, width=options["width"], height=options["height"])
    size = f"{result['width']}x{result['height']}"
    emit(result, options["as_json"], f"graph of {size} images in {out}")
