"""``polyfield render``."""

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


@click.command("render", short_help="Render a camera path to a video or frames.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="FILE.mp4 or a folder.")
@click.option("--path", default="orbit", show_default=True,
              help="orbit, spiral, train, test, or a JSON file of cameras.")  # fmt: skip
@click.option("--frames", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--width", type=click.IntRange(min=1), help="Pixels (default: the scene's).")
@click.option("--height", type=click.IntRange(min=1), help="Pixels (default: in proportion).")
@click.option("--fps", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--depth/--no-depth", default=True, show_default=True, help="Depth beside colour.")
@compose(device_option, threads_option, json_option)
def command(run: Path, out: Path, **options: Any) -> None:
    """Render RUN along a camera path: colour, and depth beside it."""
    prepare_process(options["threads"])
    from polyfield.training.render import RenderOptions, render

    names = ("path", "frames", "width", "height", "fps", "depth")
    chosen = RenderOptions(**{name: options[name] for name in names})
    result = render(run, out, chosen, device=options["device"], progress=_show)
    text = f"{result['frames']} frames of {result['width']}x{result['height']} in {out}"
    emit(result, options["as_json"], f"{text} ({result['seconds_per_frame']:.2f} s each)")


def _show(done: int, total: int) -> None:
    end = "\n" if done == total else "\r"
    click.echo(f"frame {done}/{total}", err=True, nl=False)
    click.echo(end, err=True, nl=False)
