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
@click.option("--path", help="orbit (default), spiral, train, test, or a JSON file of cameras; of "
              "LiDAR test (default), train, all, or a JSON file of poses.")  # fmt: skip
@click.option("--sensor", help="LiDAR: another sensor, such as vlp-16.")
@click.option("--frames", type=click.IntRange(min=1), help="Default: 60, or the video's own.")
@click.option("--width", type=click.IntRange(min=1), help="Pixels (default: the scene's).")
@click.option("--height", type=click.IntRange(min=1), help="Pixels (default: in proportion).")
@click.option("--fps", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--depth/--no-depth", default=True, show_default=True, help="Depth beside colour.")
@click.option("--rank", type=click.IntRange(min=1), help="Components of a factored backbone.")
@click.option("--refocus", metavar="FOCUS",
              help="Light fields: a picture through a large lens; FOCUS is a disparity or a "
                   "distance such as 2.5m, FROM:TO a sweep.")  # fmt: skip
@click.option("--aperture", metavar="R",
              help="With --refocus: radius in columns of the grid, or such as 0.1m (default: half "
                   "the grid).")  # fmt: skip
@click.option("--epi", type=click.IntRange(min=0), metavar="ROW",
              help="Light fields: the epipolar-plane image of a row of pixels.")  # fmt: skip
@compose(device_option, threads_option, json_option)
def command(run: Path, out: Path, **options: Any) -> None:
    """Render RUN along a camera path: colour, and depth beside it.

    A run fitted to LiDAR sweeps writes sweeps, as a folder that is a scene of its own. A run
    fitted to a signal (image, audio, video, volume, shape) is written back to FILE, at its
    own size or another.
    """
    prepare_process(options["threads"])
    from polyfield.errors import ConfigError
    from polyfield.run import RunDirectory
    from polyfield.training.render import RenderOptions, render

    modality = RunDirectory(run).read_config().get("modality", "images")
    if modality == "lidar":
        return _render_lidar(run, out, options)
    if options["sensor"] is not None:
        raise ConfigError(f"--sensor is for runs fitted to LiDAR sweeps, and {run} was not")
    light = {name: options[name] for name in ("refocus", "aperture", "epi")}
    if any(value is not None for value in light.values()):
        if modality != "images":
            raise ConfigError(f"--refocus and --epi are for runs of posed images, and {run} is not")
        return _render_light_field(run, out, options)
    if modality != "images":
        return _render_signal(run, out, options)
    names = ("path", "width", "height", "fps", "depth", "rank")
    options["path"] = options["path"] or "orbit"
    chosen = RenderOptions(
        frames=options["frames"] or 60, **{name: options[name] for name in names}
    )
    result = render(run, out, chosen, device=options["device"], progress=_show)
    text = f"{result['frames']} frames of {result['width']}x{result['height']} in {out}"
    emit(result, options["as_json"], f"{text} ({result['seconds_per_frame']:.2f} s each)")


def _render_signal(run: Path, out: Path, options: dict[str, Any]) -> None:
    from polyfield.training.render_signal import render_signal

    sizes = {name: options[name] for name in ("width", "height", "frames")}
    result = render_signal(run, out, shape=sizes, rank=options["rank"], device=options["device"])
    size = " x ".join(map(str, result["shape"]))
    text = f"{result['modality']} of {size} in {out} ({result['seconds']:.2f} s)"
    emit(result, options["as_json"], text)


def _render_light_field(run: Path, out: Path, options: dict[str, Any]) -> None:
    from polyfield.errors import ConfigError
    from polyfield.training.lens import Lens
    from polyfield.training.refocus import epi_of_run, refocus_run

    refocus, epi = options["refocus"], options["epi"]
    if (refocus is None) == (epi is None):
        raise ConfigError("give --refocus (with --aperture, if you like) or --epi, one of them")
    if epi is not None:
        result = epi_of_run(run, out, epi, device=options["device"], rank=options["rank"])
        return emit(result, options["as_json"], f"row {epi} as seen along a line in {out}")
    lens = Lens(refocus, options["aperture"], options["frames"] or 60, options["fps"],
                options["rank"], options["width"], options["height"])  # fmt: skip
    result = refocus_run(run, out, lens, device=options["device"], progress=_show)
    ends = " to ".join(f"{d:.4g}" for d in result["disparity"])
    far = " to ".join(f"{d:.4g}" for d in result["distance"])
    text = f"{result['frames']} pictures, disparity {ends}, distance {far}, in {out}"
    emit(result, options["as_json"], text)


def _render_lidar(run: Path, out: Path, options: dict[str, Any]) -> None:
    from polyfield.training.render_lidar import render_lidar

    result = render_lidar(
        run, out, path=options["path"] or "test", sensor_name=options["sensor"],
        rank=options["rank"], device=options["device"], progress=_show,
    )  # fmt: skip
    text = f"{result['sweeps']} sweeps, {result['points']:,} points in {out}"
    emit(result, options["as_json"], f"{text} ({result['seconds_per_sweep']:.2f} s each)")


def _show(done: int, total: int) -> None:
    end = "\n" if done == total else "\r"
    click.echo(f"frame {done}/{total}", err=True, nl=False)
    click.echo(end, err=True, nl=False)
