"""Commands whose names are kept for a later version."""

from __future__ import annotations

import click

from polyfield._version import __version__
from polyfield.errors import ConfigError


def reserved(name: str, summary: str) -> click.Command:
    """A command that accepts anything and says that it is not here yet (exit code 2)."""

    @click.command(
        name,
        short_help=summary,
        help=summary,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        raise ConfigError(f"'polyfield {name}' is not in version {__version__} yet")

    return command
