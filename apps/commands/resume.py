"""``polyfield resume``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from polyfield.apps.commands.fit import describe
from polyfield.apps.options import (
    budget_options,
    compose,
    device_option,
    emit,
    json_option,
    prepare_process,
    set_option,
    threads_option,
)


def changes(options: dict[str, Any]) -> dict[str, Any]:
    """What the options change in the run's settings."""
    from polyfield.config import parse_overrides

    threads = {} if options["threads"] is None else {"threads": options["threads"]}
    return {**threads, **parse_overrides(options["overrides"])}


@click.command("resume", short_help="Go on with an interrupted fit.")
@click.argument("run", type=click.Path(path_type=Path))
@compose(budget_options, set_option, device_option, threads_option, json_option)
def command(run: Path, **options: Any) -> None:
    """Go on with RUN exactly where it was stopped.

    A larger total --minutes or --steps extends a finished run; --set takes fit.* and losses.*.
    """
    prepare_process(options["threads"])
    from polyfield.apps.progress import FitProgress
    from polyfield.training.fit import resume

    with FitProgress() as progress:
        result = resume(
            run, minutes=options["minutes"], steps=options["steps"],
            settings=changes(options),
            device=options["device"], progress=progress,
        )  # fmt: skip
    emit(asdict(result), options["as_json"], describe(result))
