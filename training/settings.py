"""The settings of a run: layers of plain data, resolved once and stored whole.

Layers, later ones win: dataclass defaults, the presets of the components (``paper`` or
``cpu``, then ``unbounded`` for scenes without a box), what the user set. Sections:
``data, renderer, field, backbone, sampler, fit, losses`` and the values ``backend, seed, threads``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from polyfield.config import from_plain, merge, to_plain
from polyfield.data.lidar.load import LidarOptions
from polyfield.data.scene import LoadOptions
from polyfield.data.signal import SignalOptions
from polyfield.errors import ConfigError, UnknownNameError
from polyfield.registry import configure, lookup, names

DEFAULT_BACKBONE = "hash-grid"
DEFAULT_RENDERER = "volume"
DEFAULT_SAMPLER = "occupancy-grid"
UNBOUNDED_SAMPLER = "proposal"
SECTIONS = ("data", "renderer", "field", "backbone", "sampler", "fit", "losses")
COMPONENTS = ("renderer", "field", "backbone", "sampler")
VALUES = {"backend": "auto", "seed": 0, "threads": None}
BACKENDS = ("auto", "torch", "numba")
# What is compared -> its data settings, and what losses of it may be `of`.
DATA = {"values": SignalOptions, "images": LoadOptions, "beams": LidarOptions}
COMPARED = {
    "values": ("values", "field"),
    "images": ("values", "rendering", "field"),
    "beams": ("beams", "field"),
}


@dataclass(frozen=True)
class FitConfig:
    """How a field is fitted."""

    steps: int | None = None
    """Total optimisation steps (exactly one of steps and minutes)."""
    minutes: float | None = None
    """Total training time in minutes by `clock`; schedules anneal to it."""
    clock: Literal["wall", "processor"] = "wall"
    """What time is counted by: the clock on the wall, or the time processors spend on the program,
    all threads together (cpu only), which other programs on the machine hardly change."""
    rays: int = 4096
    """Rays per step at the start."""
    points: int = 16384
    """Points per step, of signals."""
    target_samples: int | None = None
    """Samples per step to hold by adapting the number of rays (None: rays stay as they are)."""
    target_samples_final: int | None = None
    """Samples per step at the end, approached exponentially (None, or fewer: as at the start;
    without target_samples it has no effect)."""
    max_rays: int = 65536
    """Upper bound of the adapted number of rays."""
    lr: float = 1e-2
    """Base learning rate (Adam)."""
    lr_final: float = 0.1
    """Factor on the learning rate at the end, reached exponentially."""
    lr_hold: float = 0.0
    """Fraction of the budget during which the rate stays at its base."""
    warmup: int = 0
    """Steps of linear warm-up from a hundredth of the rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's moment decays."""
    eps: float = 1e-15
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """L2 penalty added by Adam to groups that do not set their own."""
    clip: float | None = None
    """Largest norm of the whole gradient (None: no clipping)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the field's matrix products."""
    crop_steps: int = 0
    """Steps at the start that only see the centre half of the images."""
    log_every: int = 25
    """Steps between rows of metrics.jsonl."""
    checks: int = 4
    """Held-out checks with a preview picture, spread evenly over the budget."""
    save_minutes: float = 2.0
    """Minutes of wall clock between saves."""

    def __post_init__(self) -> None:
        positive = {
            "rays": self.rays,
            "points": self.points,
            "max_rays": self.max_rays,
            "lr": self.lr,
            "log_every": self.log_every,
            "save_minutes": self.save_minutes,
        }
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        for name in ("eps", "weight_decay", "warmup", "crop_steps", "checks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("steps", "minutes", "target_samples", "target_samples_final", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")


def resolve(
    user: Mapping[str, Any],
    *,
    preset: str | None = None,
    unbounded: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Complete plain settings from what the user gave.

    Args:
        user: Nested plain data; component sections may hold only settings, their ``type``
            then is the default one.
        preset: Name of a preset of the backbone (None: ``cpu`` on a CPU, else ``paper``).
        unbounded: Whether the scene goes on outside its box.
        device: Device type the fit will run on.

    Raises:
        UnknownNameError, ConfigError: A name or value is wrong.
    """
    _check_sections(user)
    types = _component_types(user)
    chosen = [preset or ("cpu" if device == "cpu" else "paper"), *(["unbounded"] * unbounded)]
    known = lookup("backbones", types["backbone"]).presets
    if preset is not None and preset not in known:
        raise UnknownNameError(f"preset of backbone {types['backbone']}:", preset, known)
    renderer = lookup("renderers", types["renderer"])
    own_names = chosen if preset else renderer.traits.get("backbone_presets", chosen)
    sections = renderer.traits.get("backbone_sections", SECTIONS)
    layers = [
        {section: value for section, value in known[name].items() if section in sections}
        for name in own_names
        if name in known
    ]
    for entry in (lookup("fields", types["field"]), renderer):
        layers = [entry.presets[name] for name in chosen if name in entry.presets] + layers
    if renderer.traits.get("sampled", False):
        default = UNBOUNDED_SAMPLER if unbounded else DEFAULT_SAMPLER
        types["sampler"] = _sampler_type(user, layers, default)
        own = lookup("samplers", types["sampler"]).presets
        layers = [own[name] for name in chosen if name in own] + layers
    base = {kind: {"type": name} for kind, name in types.items()}
    losses = renderer.traits.get("losses", {"mse": 1.0})
    base |= {"fit": {}, "data": {}, "losses": dict(losses), **VALUES}
    return complete(merge(base, *[_fitting(layer, types) for layer in layers], user))


def resolve_signal(
    user: Mapping[str, Any], modality: str, dims: int, channels: int, *, preset: str | None = None
) -> dict[str, Any]:
    """Complete plain settings for fitting a signal: no rays, so no renderer and no sampler.

    Args:
        user: As in `resolve`.
        modality: Of the signal: the backbone's presets ``signal`` and then this one are layers.
        dims: Number of coordinates.
        channels: Number of values.
        preset: Another preset of the backbone instead, of which only what concerns backbone,
            fit and losses is taken.

    Raises:
        UnknownNameError, ConfigError: A name or value is wrong.
    """
    _check_sections(user)
    for section in ("renderer", "sampler"):
        if section in user:
            raise ConfigError(
                f"a signal is fitted without a {section}; leave out what sets '{section}'"
            )
    asked = _type(user, "field", "signal")
    if asked != "signal":
        raise ConfigError(f"a signal is fitted with field 'signal', not '{asked}'")
    types = {"field": "signal", "backbone": _type(user, "backbone", DEFAULT_BACKBONE)}
    known = lookup("backbones", types["backbone"]).presets
    if preset is not None and preset not in known:
        raise UnknownNameError(f"preset of backbone {types['backbone']}:", preset, known)
    chosen = ["signal", modality] if preset is None else [preset]
    layers = [_of_signals(known[name]) for name in chosen if name in known]
    base: dict[str, Any] = {
        "field": {"type": "signal", "dims": dims, "channels": channels},
        "backbone": {"type": types["backbone"]},
        **{"fit": {}, "data": {}, "losses": {"mse": 1.0}, **VALUES},
    }
    settings = complete(merge(base, *[_fitting(layer, types) for layer in layers], user))
    for name, value in (("dims", dims), ("channels", channels)):
        if settings["field"][name] != value:
            raise ConfigError(f"field.{name} is {value} in this signal; leave it out")
    return settings


def _of_signals(layer: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset says to signals: nothing of scenes, nor of how many rays to take."""
    kept = {section: value for section, value in layer.items() if section != "data"}
    of_rays = ("rays", "max_rays", "target_samples", "target_samples_final", "crop_steps")
    if "fit" in kept:
        kept["fit"] = {name: v for name, v in kept["fit"].items() if name not in of_rays}
    return kept


def _check_sections(user: Mapping[str, Any]) -> None:
    for key in user:
        if key not in SECTIONS and key not in VALUES:
            raise UnknownNameError("settings section", key, [*SECTIONS, *VALUES])
        if key in SECTIONS and not isinstance(user[key], Mapping):
            raise ConfigError(
                f"'{key}' holds settings, got {user[key]!r}; use --set {key}.NAME=VALUE "
                f"(a component's name is {key}.type)"
            )


def rendered_fields(renderer: str) -> tuple[str, ...]:
    """Names of the fields that a renderer takes (its trait ``field``), the usual one first."""
    named = lookup("renderers", renderer).traits["field"]
    return (named,) if isinstance(named, str) else tuple(named)


def _component_types(user: Mapping[str, Any]) -> dict[str, Any]:
    renderer = _type(user, "renderer", DEFAULT_RENDERER)
    return {
        "renderer": renderer,
        "field": _type(user, "field", rendered_fields(renderer)[0]),
        "backbone": _type(user, "backbone", DEFAULT_BACKBONE),
    }


def _type(user: Mapping[str, Any], section: str, default: str) -> str:
    return user.get(section, {}).get("type", default)


def _sampler_type(user: Mapping[str, Any], layers: list, default: str) -> str:
    for layer in layers:
        default = layer.get("sampler", {}).get("type", default)
    return _type(user, "sampler", default)


def _fitting(layer: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """The layer without settings of components that the user replaced."""
    return {
        section: value
        for section, value in layer.items()
        if section not in COMPONENTS
        or (section in types and value.get("type", types[section]) == types[section])
    }


def complete(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with every default filled in and every name and value checked.

    Raises:
        UnknownNameError, ConfigError: A name or value is wrong.
    """
    kinds = {
        "renderer": "renderers",
        "field": "fields",
        "backbone": "backbones",
        "sampler": "samplers",
    }
    for section, kind in kinds.items():
        if section in settings:
            spec = settings[section]
            config = configure(kind, spec)
            settings[section] = {"type": spec["type"], **(to_plain(config) if config else {})}
    settings["fit"] = to_plain(from_plain(FitConfig, settings["fit"], "fit"))
    measured = _measured(settings)
    settings["data"] = to_plain(from_plain(DATA[measured], settings["data"], "data"))
    _check_losses(settings["losses"], measured)
    if settings["backend"] not in BACKENDS:
        raise UnknownNameError("backend", str(settings["backend"]), BACKENDS)
    if not isinstance(settings["seed"], int) or settings["seed"] < 0:
        raise ConfigError(f"seed must be a whole number >= 0, got {settings['seed']!r}")
    threads = settings["threads"]
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ConfigError(f"threads must be a whole number from 1 up, got {threads!r}")
    return settings


def _measured(settings: Mapping[str, Any]) -> str:
    """What a fit compares: ``values`` of a signal, ``images``, or LiDAR ``beams``."""
    if "renderer" not in settings:
        return "values"
    return lookup("renderers", settings["renderer"]["type"]).traits.get("measures", "images")


def _check_losses(losses: Mapping[str, Any], measured: str) -> None:
    known = names("losses")
    for name, weight in losses.items():
        if name not in known:
            raise UnknownNameError("loss", name, known)
        if lookup("losses", name).traits["of"] not in COMPARED[measured]:
            usable = [n for n in known if lookup("losses", n).traits["of"] in COMPARED[measured]]
            raise ConfigError(
                f"loss '{name}' does not compare {measured}, which this fit is about; use some of "
                f"{', '.join(usable)}"
            )
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not 0 <= weight < math.inf:
            raise ConfigError(f"losses.{name} must be a weight >= 0, got {weight!r}")
    if not any(losses.values()):
        raise ConfigError("every loss has weight 0, so nothing would be learned; set losses.mse=1")
