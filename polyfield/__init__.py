"""Polyfield: a workbench for neural fields. One scene, any field.

The verbs of a notebook user live here and load what they need on first use, so that importing
the package costs nothing: ``fit``, ``resume``, ``load``, ``render``, ``evaluate``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polyfield._version import __version__

if TYPE_CHECKING:
    from polyfield.training.evaluate import evaluate
    from polyfield.training.fit import fit, resume
    from polyfield.training.model import load
    from polyfield.training.render import render

_VERBS = {
    "fit": "polyfield.training.fit",
    "load": "polyfield.training.model",
    "render": "polyfield.training.render",
    "resume": "polyfield.training.fit",
    "evaluate": "polyfield.training.evaluate",
}

__all__ = ["__version__", "evaluate", "fit", "load", "render", "resume"]


def __getattr__(name: str) -> Any:
    """Load a verb on first use (PEP 562)."""
    if name in _VERBS:
        return getattr(import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'polyfield' has no attribute {name!r}")
