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


@click.command("export", short_help="Export the surface of a fitted shape as a mesh.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--mesh", type=click.Path(path_type=Path), help="Mesh FILE to write (ply, obj, stl).")
@click.option("--resolution", type=click.IntRange(min=8), default=256, show_default=True,
              help="Cells per axis of the grid in which the surface is found.")  # fmt: skip
@click.option("--rank", type=click.IntRange(min=1), help="Components of a factored backbone.")
@compose(device_option, threads_option, json_option)
def command(run: Path, mesh: Path | None, **options: Any) -> None:
    """Export what RUN holds. So far: --mesh, of a run fitted to a shape."""
    from polyfield.errors import ConfigError
    from polyfield.run import RunDirectory

    if mesh is None:
        raise ConfigError("say what to export: --mesh FILE")
    if RunDirectory(run).read_config().get("modality", "images") != "shape":
        raise ConfigError(
            f"{run} was not fitted to a shape, and meshes of other runs are not exported yet"
        )
    prepare_process(options["threads"])
    from polyfield.training.render_signal import render_signal

    result = render_signal(
        run, mesh, shape={"resolution": options["resolution"]}, rank=options["rank"],
        device=options["device"],
    )  # fmt: skip
    emit(result, options["as_json"], f"mesh in {mesh} ({result['seconds']:.1f} s)")
