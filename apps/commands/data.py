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
              help="Where to draw the cameras (default: NAME-cameras.png, here).")  # fmt: skip
@compose(set_option, json_option)
def command(scene: str, **options: Any) -> None:
    """Report what SCENE holds: views, sizes, missing or blurry images, bounds, memory."""
    from polyfield.config import from_plain, merge, parse_overrides
    from polyfield.data.load import load_scene
    from polyfield.data.report import draw_cameras, report_text, scene_report
    from polyfield.data.scene import LoadOptions
    from polyfield.errors import ConfigError

    given = {"format": options["format_"], "holdout": options["holdout"]}
    settings = {"data": {k: v for k, v in given.items() if v is not None}}
    settings["data"]["downscale"] = options["downscale"]
    settings = merge(settings, parse_overrides(options["overrides"]))
    if settings.keys() != {"data"}:
        raise ConfigError("'polyfield data' takes --set data.KEY=VALUE only")
    loaded = load_scene(scene, from_plain(LoadOptions, settings["data"], "data"))
    report = scene_report(loaded)
    picture = options["picture"] or Path(f"{loaded.name}-cameras.png")
    draw_cameras(loaded, picture)
    report["picture"] = str(picture)
    emit(report, options["as_json"], f"{report_text(report)}\npicture  {picture}")
