"""The program ``polyfield``: sub-commands loaded when called, errors in one sentence.

Nothing here imports torch; a command's module imports only click at its top, so that
``polyfield --help`` answers at once.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence

import click

from polyfield._version import __version__
from polyfield.errors import PolyfieldError, UnknownNameError

COMMANDS = (
    "fit",
    "resume",
    "eval",
    "render",
    "data",
    "list",
    "doctor",
    "distill",
    "export",
    "view",
)


class LazyGroup(click.Group):
    """A group whose commands live in ``polyfield.apps.commands``, one module each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of a user's day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command's module."""
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"polyfield.apps.commands.{name}").command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        """Answer unknown names with the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(str(UnknownNameError("command", args[0], COMMANDS)), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="polyfield")
def cli() -> None:
    """Polyfield: fit a scene, try another representation, look at the result.

    Start with: polyfield fit sample:orrery --out runs/first --minutes 2
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0, 2 (bad usage or input) or 130 (interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Until a fit takes it over, SIGTERM ends like Ctrl-C: temporary files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        cli(arguments, prog_name="polyfield", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = f"; see '{context.command_path} --help'" if context else ""
        _fail(error.format_message() + where, 2, arguments)
    except PolyfieldError as error:
        _fail(str(error), error.exit_code, arguments)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130, arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(message: str, code: int, arguments: Sequence[str]) -> None:
    click.echo(f"polyfield: {message}", err=True)
    if "--json" in arguments:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    sys.exit(code)


if __name__ == "__main__":
    main()
