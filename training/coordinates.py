"""How many coordinates a field asks its backbones with, and which backbones take as many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyfield.config import Spec
from polyfield.errors import ConfigError
from polyfield.fields.base import ALL_DIMS
from polyfield.registry import build, configure, entries, lookup


def takes_several(field: Spec) -> bool:
    """Whether a field takes a list of backbones: those of rays, one per part of the ray code."""
    return hasattr(lookup("fields", field["type"]).target, "coordinates")


def coordinates(field: Spec) -> tuple[int, ...]:
    """Coordinates of each of a field's backbones."""
    if takes_several(field):
        return lookup("fields", field["type"]).target.coordinates(configure("fields", field))
    return (field.get("dims", 3),)


def check_coordinates(settings: Mapping[str, Any]) -> None:
    """Refuse a backbone that is not defined for the field's coordinates.

    Raises:
        ConfigError: With backbones, ray codes and renderers that go together.
    """
    name, field = settings["backbone"]["type"], settings["field"]
    wanted = coordinates(field)[0]
    if _takes(name, wanted):
        return
    if takes_several(field):
        raise ConfigError(
            f"ray code '{field['code']['type']}' has {wanted} dimensions, and backbone '{name}' "
            f"is not defined for them; {_codes_for(name)}, or one of the backbones "
            f"{', '.join(_backbones(wanted))}"
        )
    more = ""
    if codes := _codes(name):
        more = f"; for rays it is: --renderer light-field --set field.code.type={codes[0]}"
    raise ConfigError(f"backbone '{name}' is not defined for {wanted} dimensions{more}")


def _takes(backbone: str, count: int) -> bool:
    """Backbones that declare no numbers of dimensions take any."""
    declared = lookup("backbones", backbone).traits.get("dims")
    return declared is None or tuple(declared) == ALL_DIMS or count in declared


def _backbones(count: int) -> list[str]:
    return [entry.name for entry in entries("backbones") if _takes(entry.name, count)]


def _codes(backbone: str) -> list[str]:
    """Ray codes, as they are by default, whose numbers of dimensions a backbone takes."""
    sizes = {e.name: build("ray-codes", {"type": e.name}).out_dim for e in entries("ray-codes")}
    return [name for name, count in sizes.items() if _takes(backbone, count)]


def _codes_for(backbone: str) -> str:
    codes = _codes(backbone)
    if not codes:
        return "no ray code suits it: choose another renderer"
    return f"choose a code with --set field.code.type={' or '.join(codes)}"
