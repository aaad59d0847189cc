"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads (default: all cores)."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Change a setting, e.g. --set backbone.levels=12 --set fit.lr=5e-3 (repeatable).",
)  # fmt: skip


def budget_options(command: Callable) -> Callable:
    """``--minutes`` and ``--steps``."""
    command = click.option("--steps", type=click.IntRange(min=1), help="Total steps.")(command)
    return click.option(
        "--minutes",
        type=click.FloatRange(min=0, min_open=True),
        help="Total training time, wall clock (default 5).",
    )(command)


def compose(*decorators: Callable) -> Callable:
    """Several decorators as one."""
    return lambda f: functools.reduce(lambda inner, d: d(inner), reversed(decorators), f)


def prepare_process(threads: int | None) -> None:
    """Set up this process for heavy work, before torch is loaded.

    Threads of torch and of the compiled kernels; waiting threads sleep instead of spinning, or a
    second busy program on the machine slows every operation down tenfold and more.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from polyfield.training.memory import keep_freed_memory

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)


def emit(result: Mapping[str, Any] | list, as_json: bool, text: str) -> None:
    """Print a command's result: one JSON line, or text for people."""
    if as_json:
        sys.stderr.flush()
        click.echo(json.dumps(result, allow_nan=False))
    else:
        click.echo(text)
