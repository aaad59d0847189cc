"""Sphinx settings: Markdown pages, the command line and the API taken from the code."""

import re
import sys
from pathlib import Path

from polyfield._version import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Polyfield"
author = "The Polyfield authors"
copyright = "The Polyfield authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "reference_tables",
]
exclude_patterns = ["_build", "_extensions"]

html_theme = "furo"
html_title = f"Polyfield {__version__}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings write `name` for code, and shapes such as (*batch, 3) in their signatures.
default_role = "code"
smartquotes_action = "qe"  # quotes and ellipses; --options keep their dashes
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def escape_formulas(app, what, name, obj, options, lines):
    """Bars and stars of docstrings are mathematics, never reStructuredText (code apart)."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        parts[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def setup(app):
    """Escape before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", escape_formulas, priority=400)
