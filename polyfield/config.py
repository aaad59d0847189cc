"""Frozen dataclass <-> plain data, and ``--set KEY=VALUE`` overrides.

Plain data is what JSON holds: dicts, lists, strings, numbers, booleans, None. A component
inside a config is a *spec*: a dict with the key ``type`` and its settings.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from polyfield.errors import ConfigError, UnknownNameError

T = TypeVar("T")
Spec = Mapping[str, Any]


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON-ready plain data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"not plain data: {type(value).__name__}")


def from_plain(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from plain data, checking names and types.

    Raises:
        UnknownNameError: A key is no field of `cls` (with the nearest match).
        ConfigError: A value has the wrong type; the dataclass' own checks
            (`__post_init__` raising ValueError) are reported the same way.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in data.items():
        if key not in known:
            raise UnknownNameError(f"setting of {where or cls.__name__}:", key, known)
        values[key] = _coerce(hints[key], value, f"{where or cls.__name__}.{key}")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where or cls.__name__}: {error}") from error


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in args:
            raise UnknownNameError(f"value of {where}:", str(value), map(str, args))
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(args, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_plain(hint, value, where)
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        return _coerce_tuple(args, value, where)
    if origin in (dict, Mapping, typing.get_origin(Spec)) and isinstance(value, Mapping):
        return dict(value)
    if _is_plain(hint, value):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where} must be a finite number, got {value}")
        return float(value) if hint is float else value
    name = getattr(hint, "__name__", None) or str(hint)
    raise ConfigError(f"{where} must be {name}, got {value!r}")


def _coerce_union(args: tuple, value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [a for a in args if a is not type(None)]
    if len(choices) == 1:  # Optional[X]: the message of X itself is the clearest
        return _coerce(choices[0], value, where)
    for choice in choices:
        try:
            return _coerce(choice, value, where)
        except ConfigError:
            continue
    raise ConfigError(
        f"{where} has no use for {value!r}; it takes {' or '.join(map(str, choices))}"
    )


def _coerce_tuple(args: tuple, value: Sequence, where: str) -> tuple:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_coerce(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{where} takes {len(args)} values, got {len(value)}")
    return tuple(_coerce(a, v, where) for a, v in zip(args, value, strict=True))


def _is_plain(hint: Any, value: Any) -> bool:
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint in (bool, str) and isinstance(value, hint)


def merge(base: Mapping[str, Any], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts laid over each other, later layers win.

    A layer that changes the ``type`` of a spec replaces the whole spec: settings of one
    component make no sense for another.
    """
    out = dict(base)
    for layer in layers:
        for key, value in layer.items():
            old = out.get(key)
            same = isinstance(old, Mapping) and isinstance(value, Mapping)
            if same and value.get("type", old.get("type")) == old.get("type"):
                out[key] = merge(old, value)
            else:
                out[key] = dict(value) if isinstance(value, Mapping) else value
    return out


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """``["fit.rays=4096", "backbone.levels=8"]`` as nested plain data.

    Values are read as JSON where they parse (numbers, booleans, null, lists), else as text.

    Raises:
        ConfigError: A pair has no ``=`` or an empty key.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set takes KEY=VALUE with dots between names, got '{pair}'")
        value = _parse_value(text)
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        out = merge(out, value)
    return out


def _parse_value(text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"--set takes finite numbers, got '{text}'")
    return value


def field_help(cls: type) -> dict[str, str]:
    """The docstring line under each field of a dataclass (its help text), by field name.

    A field whose default alone a subclass changes keeps its line.
    """
    bases = [base for base in cls.__mro__ if dataclasses.is_dataclass(base)]
    found: dict[str, str] = {}
    for base in reversed(bases):
        found.update(_own_help(base))
    return found


def _own_help(cls: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    found, last = {}, None
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            last = node.target.id
        elif last and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[last] = inspect.cleandoc(str(node.value.value))
            last = None
        else:
            last = None
    return found
