"""``polyfield list``."""

from __future__ import annotations

from typing import Any

import click

from polyfield.apps.options import emit, json_option


@click.command("list", short_help="List what can be chosen by name.")
@click.argument("kind")
@json_option
def command(kind: str, as_json: bool) -> None:
    """List the components of KIND.

    KIND is one of backbones, encodings, ray-codes, fields, renderers, samplers, losses, formats,
    samples, signals.
    """
    from polyfield.registry import entries

    rows = [
        {"name": e.name, "kind": kind, "summary": e.summary, "paper": e.paper, **_more(e)}
        for e in entries(kind)
    ]
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [
        f"{row['name']:{width}}  {row['summary']}" + (f"  [{row['paper']}]" if row["paper"] else "")
        for row in rows
    ]
    emit(rows, as_json, "\n".join(lines) or f"no {kind} yet")


def _more(entry: Any) -> dict[str, Any]:
    """Of backbones also the numbers of coordinates they are defined for, and their presets."""
    if entry.kind != "backbones":
        return {}
    from polyfield.fields.base import ALL_DIMS

    return {"dims": list(entry.traits.get("dims", ALL_DIMS)), "presets": sorted(entry.presets)}
