"""Errors that speak to the user: what was wrong, where, what to do next.

Every error a user can cause derives from `PolyfieldError`; the command line prints its one
sentence and leaves with `exit_code`. Anything else that surfaces is a bug in Polyfield.
"""

import difflib
from collections.abc import Iterable


class PolyfieldError(Exception):
    """Base of all errors with a message meant for the user."""

    exit_code = 2


class InputError(PolyfieldError):
    """A file, folder or value given by the user cannot be used."""


class ConfigError(PolyfieldError):
    """A setting has an unknown name or an unusable value."""


class UnknownNameError(ConfigError):
    """A registry or setting name is not known; the message carries the nearest match."""

    def __init__(self, what: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}."
        super().__init__(f"unknown {what} '{name}'; {hint}")
        self.suggestion = near[0] if near else None


class RunError(PolyfieldError):
    """A run directory is missing, damaged, or was made by a newer version."""


class MissingDependencyError(PolyfieldError):
    """An optional package is needed and absent; the message holds the fix."""


class TrainingError(PolyfieldError):
    """Training cannot go on (for example a loss that is not a number)."""


class Interrupted(PolyfieldError):
    """The user or the system asked the fit to stop; the run has been saved."""

    exit_code = 130
