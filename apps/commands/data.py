"""``polyfield data``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from polyfield.apps.options import compose, emit, json_option, set_option


@click.command("data", short_help="Report on a scene before fitting it.")
@click.argument("scene")
@click.option("--format", "format_", help="Force a scene format.")
@click.option("--holdout", metavar="SPEC", help="Views for evaluation: 2,7 or every:8 or 0.1.")
@click.option("--downscale", type=click.IntRange(min=1), default=1, help="Divide image sizes.")
@click.option("--picture", type=click.Path(path_type=Path),
              help="Where to draw the cameras, epipolar planes or ranges (default: "
                   "NAME-cameras.png, NAME-epi.png, NAME-ranges.png, here).")  # fmt: skip
@compose(set_option, json_option)
def command(scene: str, **options: Any) -> None:
    """Report what SCENE holds: views or sweeps, what is missing, bounds, memory."""
    from polyfield.config import merge, parse_overrides
    from polyfield.data.lidar.load import is_lidar
    from polyfield.errors import ConfigError

    given = {"format": options["format_"], "holdout": options["holdout"]}
    settings = {"data": {k: v for k, v in given.items() if v is not None}}
    if options["downscale"] != 1:
        settings["data"]["downscale"] = options["downscale"]
    settings = merge(settings, parse_overrides(options["overrides"]))
    if settings.keys() != {"data"}:
        raise ConfigError("'polyfield data' takes --set data.KEY=VALUE only")
    forced = settings["data"].get("format")
    lidar = forced == "lidar" or (forced is None and is_lidar(scene))
    report, text, picture = (_sweeps if lidar else _images)(
        scene, settings["data"], options["picture"]
    )
    report["picture"] = str(picture)
    emit(report, options["as_json"], f"{text}\npicture  {picture}")


def _images(scene: str, data: dict[str, Any], out: Path | None) -> tuple[dict[str, Any], str, Path]:
    """Facts of posed images, as data and as text, and where their cameras were drawn."""
    from polyfield.config import from_plain
    from polyfield.data.load import load_scene
    from polyfield.data.report import draw_cameras, report_text, scene_report
    from polyfield.data.scene import LoadOptions

    loaded = load_scene(scene, from_plain(LoadOptions, data, "data"))
    report = scene_report(loaded)
    if loaded.report.format == "light-field":
        from polyfield.data.light_field_picture import draw_light_field

        picture = out or Path(f"{loaded.name}-epi.png")
        draw_light_field(loaded, picture)
        return report, report_text(report), picture
    picture = out or Path(f"{loaded.name}-cameras.png")
    draw_cameras(loaded, picture)
    return report, report_text(report), picture


def _sweeps(scene: str, data: dict[str, Any], out: Path | None) -> tuple[dict[str, Any], str, Path]:
    """Facts of LiDAR sweeps, as data and as text, and where their ranges were drawn."""
    from polyfield.config import from_plain
    from polyfield.data.lidar.load import LidarOptions, load_sweeps
    from polyfield.data.lidar.report import draw_ranges, report_text, sweeps_report

    loaded = load_sweeps(scene, from_plain(LidarOptions, data, "data"))
    report = sweeps_report(loaded)
    picture = out or Path(f"{loaded.name}-ranges.png")
    draw_ranges(loaded, picture)
    return report, report_text(report), picture
