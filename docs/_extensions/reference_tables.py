"""Two Sphinx directives that keep the pages true to the code.

``components KIND`` lists what the registry knows of a kind; ``settings MODULE:CLASS`` lists the
fields of a config dataclass with their defaults and their docstring lines.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from polyfield.config import field_help, to_plain
from polyfield.registry import entries

Cell = nodes.Node | str


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> nodes.table:
    """A table of text and inline nodes."""
    body = nodes.tbody("", *[_row(row) for row in rows])
    columns = [nodes.colspec(colwidth=1) for _ in head]
    group = nodes.tgroup("", *columns, nodes.thead("", _row(head)), body, cols=len(head))
    return nodes.table("", group)


def _row(cells: Sequence[Cell]) -> nodes.row:
    inline = [nodes.Text(cell) if isinstance(cell, str) else cell for cell in cells]
    return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", cell)) for cell in inline])


def _code(text: str) -> nodes.literal:
    return nodes.literal(text, text)


class Components(SphinxDirective):
    """``components KIND``: names, summaries and sources of the registered components."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        rows = [(_code(e.name), e.summary, e.paper) for e in entries(self.arguments[0])]
        return [table(("Name", "What it is", "Source"), rows)]


class Settings(SphinxDirective):
    """``settings MODULE:CLASS``: fields, defaults and meaning of a config dataclass."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        module, _, name = self.arguments[0].partition(":")
        config = getattr(importlib.import_module(module), name)
        meaning = field_help(config)
        rows = [
            (_code(f.name), _code(default(f)), meaning.get(f.name, "").replace("``", ""))
            for f in dataclasses.fields(config)
        ]
        return [table(("Setting", "Default", "Meaning"), rows)]


def default(field: dataclasses.Field[Any]) -> str:
    """A field's default as ``--set`` takes it."""
    made = field.default_factory is not dataclasses.MISSING
    return json.dumps(to_plain(field.default_factory() if made else field.default))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("components", Components)
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True}
