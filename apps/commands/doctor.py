"""``polyfield doctor``."""

from __future__ import annotations

import click

from polyfield.apps.options import emit, json_option


@click.command("doctor", short_help="What works on this machine, and how to mend the rest.")
@json_option
def command(as_json: bool) -> None:
    """Name every component Polyfield can use, its state, and the exact fix."""
    from polyfield.apps.doctor import examine

    rows = examine()
    lines = [
        f"{row['status']:9} {row['component']:14} {row['version'] or '-':12} {row['fix'] or ''}"
        for row in rows
    ]
    emit(rows, as_json, "\n".join(line.rstrip() for line in lines))
