"""Which implementation of an operation runs: one dispatcher, torch as the complete reference.

An operation (``"hash-encode"``, ...) has a torch implementation that works everywhere and
optional fast ones with the same signature and parameter layout. `resolve` picks one for a
device and returns it with the reason; `using` forces one for a block of code; `choices` says
what has been picked so far (stored with a run).
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from polyfield.errors import ConfigError, MissingDependencyError, UnknownNameError


@dataclass(frozen=True)
class Implementation:
    """One way to run an operation.

    `path` is ``"module:function"``, imported when first used; `requires` are the packages it
    needs; `devices` are the kinds of device it runs on (None: all of them); `priority` orders
    the automatic choice (highest first); `second_order` tells whether its backward can itself be
    differentiated; `dtypes` are names of supported torch dtypes.
    """

    op: str
    backend: str
    path: str
    devices: tuple[str, ...] | None = ("cpu", "cuda")
    dtypes: tuple[str, ...] = ("float32",)
    requires: tuple[str, ...] = ()
    second_order: bool = False
    priority: int = 0


@dataclass(frozen=True)
class Choice:
    """An implementation that was picked, and why."""

    op: str
    backend: str
    reason: str
    function: Callable[..., Any]


_IMPLEMENTATIONS: dict[str, list[Implementation]] = {}
_CHOSEN: dict[str, tuple[str, str]] = {}
_REQUESTED: contextvars.ContextVar[str] = contextvars.ContextVar("backend", default="auto")


def implement(implementation: Implementation) -> None:
    """Add an implementation of an operation (idempotent)."""
    known = _IMPLEMENTATIONS.setdefault(implementation.op, [])
    if implementation not in known:
        known.append(implementation)
        known.sort(key=lambda i: -i.priority)


@contextlib.contextmanager
def using(backend: str) -> Iterator[None]:
    """Force ``auto``, ``torch``, ``numba``, ... for the operations inside the block.

    An operation that has no implementation of the forced backend uses torch.
    """
    token = _REQUESTED.set(backend)
    try:
        yield
    finally:
        _REQUESTED.reset(token)


def requested() -> str:
    """The backend asked for in the current context (``auto`` unless `using` says otherwise)."""
    return _REQUESTED.get()


def resolve(op: str, *, device: str, dtype: str = "float32", second_order: bool = False) -> Choice:
    """Pick the implementation of `op` for tensors of this device and dtype.

    Raises:
        UnknownNameError: No such operation.
        MissingDependencyError: The forced backend exists but its package is not installed.
    """
    choice = _resolve(op, device, dtype, second_order, requested())
    _CHOSEN[op] = (choice.backend, choice.reason)
    return choice


@cache
def _resolve(op: str, device: str, dtype: str, second_order: bool, want: str) -> Choice:
    if op not in _IMPLEMENTATIONS:
        raise UnknownNameError("operation", op, _IMPLEMENTATIONS)
    rejected = []
    for implementation in _IMPLEMENTATIONS[op]:
        forced = want == implementation.backend
        if want != "auto" and not forced and implementation.backend != "torch":
            continue
        why_not = _unfit(implementation, device, dtype, second_order)
        if why_not is None:
            reason = "forced" if forced else "; ".join(rejected) or "fastest available"
            return Choice(op, implementation.backend, reason, _load(implementation.path))
        if forced and "not installed" in why_not:
            raise MissingDependencyError(f"backend '{want}' for {op}: {why_not}")
        rejected.append(f"{implementation.backend}: {why_not}")
    raise ConfigError(f"no implementation of {op} for {device} {dtype} ({'; '.join(rejected)})")


def _unfit(implementation: Implementation, device: str, dtype: str, second: bool) -> str | None:
    if implementation.devices is not None and device not in implementation.devices:
        return f"no {device} support"
    if dtype not in implementation.dtypes:
        return f"no {dtype} support"
    if second and not implementation.second_order:
        return "no second derivatives"
    for package in implementation.requires:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed (pip install {package})"
    return None


def _load(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def operations() -> dict[str, tuple[Implementation, ...]]:
    """Operation -> its implementations, the automatic choice first; of what is imported so far."""
    return {op: tuple(known) for op, known in sorted(_IMPLEMENTATIONS.items())}


def choices() -> dict[str, dict[str, str]]:
    """Operation -> backend and reason, for every operation used so far in this process."""
    return {op: {"backend": b, "reason": r} for op, (b, r) in sorted(_CHOSEN.items())}
