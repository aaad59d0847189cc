"""Names -> components. One file per method: importing that file registers it.

`register` marks a class or function with the name users type; `lookup`, `names` and `build`
find it again. The modules of a kind are imported on the first look-up of that kind, so adding
a method is adding a file. Third-party packages add theirs through the entry-point group
``polyfield.<kind>`` whose entries name a module to import.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeVar

from polyfield.config import from_plain
from polyfield.errors import ConfigError, UnknownNameError

T = TypeVar("T")

# kind -> (singular, used in messages; module or package imported on first look-up)
KINDS: Mapping[str, tuple[str, str]] = {
    "backbones": ("backbone", "polyfield.fields.backbones"),
    "encodings": ("encoding", "polyfield.encodings"),
    "ray-codes": ("ray code", "polyfield.encodings.ray_codes"),
    "fields": ("field", "polyfield.fields"),
    "renderers": ("renderer", "polyfield.renderers"),
    "samplers": ("sampler", "polyfield.renderers.samplers"),
    "losses": ("loss", "polyfield.training.losses"),
    "formats": ("format", "polyfield.data.formats"),
    "samples": ("sample", "polyfield.data.samples"),
    "signals": ("signal format", "polyfield.data.signals"),
}


@dataclass(frozen=True)
class Entry:
    """What is known of one registered component.

    `target` is the class or function; `config` its frozen dataclass (None if it has no
    settings); `presets` maps preset names to nested plain settings of the whole run;
    `traits` holds what a kind wants to know of its members (a renderer's field kind, say).
    """

    kind: str
    name: str
    target: Any
    config: type | None
    summary: str
    paper: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    traits: Mapping[str, Any] = field(default_factory=dict)


_ENTRIES: dict[tuple[str, str], Entry] = {}
_DISCOVERED: set[str] = set()
_LOCK = threading.RLock()  # reentrant: a component may look others up while it is imported


def register(
    name: str,
    *,
    kind: str | None = None,
    config: type | None = None,
    paper: str = "",
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    **traits: Any,
) -> Callable[[T], T]:
    """Register a class or function under `name`.

    Args:
        name: What the user types, lower case with hyphens.
        kind: One of `KINDS`; taken from the class attribute `kind` when not given.
        config: Frozen dataclass of settings; None for a component that has none.
        paper: Short citation shown by ``polyfield list``.
        presets: Preset name -> nested plain settings (sections of the run configuration).
        **traits: Facts that other parts may ask for.

    Raises:
        ConfigError: The name is already taken by another component of that kind.
    """

    def decorate(target: T) -> T:
        actual = kind or getattr(target, "kind", None)
        if actual not in KINDS:
            raise ConfigError(
                f"cannot register '{name}': kind {actual!r} is not one of {list(KINDS)}"
            )
        old = _ENTRIES.get((actual, name))
        if old is not None and _origin(old.target) != _origin(target):
            raise ConfigError(
                f"{KINDS[actual][0]} '{name}' is registered twice: "
                f"{_origin(old.target)} and {_origin(target)}"
            )
        summary = (getattr(target, "__doc__", None) or "").strip().split("\n")[0]
        _ENTRIES[actual, name] = Entry(
            actual, name, target, config, summary, paper, dict(presets or {}), traits
        )
        return target

    return decorate


def _origin(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _discover(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    if kind in _DISCOVERED:
        return
    with _LOCK:
        if kind not in _DISCOVERED:
            _import_all(kind)
            _DISCOVERED.add(kind)


def _import_all(kind: str) -> None:
    package = importlib.import_module(KINDS[kind][1])
    for module in pkgutil.iter_modules(getattr(package, "__path__", []), package.__name__ + "."):
        if not module.ispkg:
            importlib.import_module(module.name)
    for point in entry_points(group=f"polyfield.{kind}"):
        try:
            point.load()
        except ImportError as error:
            raise ConfigError(
                f"the {KINDS[kind][0]} plug-in '{point.name}' ({point.value}) cannot be imported: "
                f"{error}; repair or uninstall that package"
            ) from error


def names(kind: str) -> list[str]:
    """Sorted names of a kind."""
    _discover(kind)
    return sorted(name for k, name in _ENTRIES if k == kind)


def entries(kind: str) -> list[Entry]:
    """All components of a kind, sorted by name."""
    return [_ENTRIES[kind, name] for name in names(kind)]


def lookup(kind: str, name: str) -> Entry:
    """The component registered as `name`.

    Raises:
        UnknownNameError: With the nearest match.
    """
    _discover(kind)
    if (kind, name) not in _ENTRIES:
        raise UnknownNameError(KINDS[kind][0], name, names(kind))
    return _ENTRIES[kind, name]


def configure(kind: str, spec: Mapping[str, Any]) -> Any:
    """The config dataclass of a plain spec ``{"type": name, **settings}`` (None if it has none)."""
    if not isinstance(spec.get("type"), str):
        raise ConfigError(
            f"a {KINDS[kind][0]} needs a 'type' beside its settings, got {dict(spec)}; "
            f"known: {', '.join(names(kind))}"
        )
    entry = lookup(kind, spec["type"])
    settings = {key: value for key, value in spec.items() if key != "type"}
    if entry.config is None:
        if settings:
            raise ConfigError(f"{KINDS[kind][0]} '{entry.name}' has no settings, got {settings}")
        return None
    return from_plain(entry.config, settings, where=f"{KINDS[kind][0]} {entry.name}")


def build(kind: str, spec: Mapping[str, Any], **runtime: Any) -> Any:
    """Construct a component from a plain spec: ``target(config, **runtime)``."""
    config = configure(kind, spec)
    return lookup(kind, spec["type"]).target(config, **runtime)
