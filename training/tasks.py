"""From what the user names to the task of fitting it, with the complete settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from polyfield.config import from_plain, merge
from polyfield.data.lidar.load import LidarOptions, is_lidar, load_sweeps
from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.data.signal import Modality, SignalOptions
from polyfield.data.signals.load import MASK, load_signal
from polyfield.errors import ConfigError
from polyfield.registry import entries, lookup
from polyfield.training.coordinates import check_coordinates
from polyfield.training.images import ImagesTask
from polyfield.training.lidar import LidarTask
from polyfield.training.settings import rendered_fields, resolve, resolve_signal
from polyfield.training.signals import SignalTask
from polyfield.training.task import Task

LIDAR = "lidar"


def open_task(
    scene: str | Path, user: Mapping[str, Any], preset: str | None, device: torch.device
) -> tuple[Task, dict[str, Any]]:
    """The task of fitting a scene, and the complete settings for it.

    Raises:
        PolyfieldError: The scene or a setting cannot be used.
    """
    forced = user.get("data", {}).get("format")
    if forced == LIDAR or (forced is None and is_lidar(scene)):
        settings = resolve(_of_lidar(user), preset=preset, device=device.type)
        return _lidar_task(scene, settings, device), settings
    if _is_signal(scene, forced):
        return _open_signal(scene, user, preset, device)
    options = _load_options(user, preset, device)
    loaded = load_scene(scene, options)
    settings = resolve(user, preset=preset, unbounded=not loaded.bounded, device=device.type)
    _check_field(settings)
    return ImagesTask(loaded, scene, device), settings


def reopen_task(
    config: Mapping[str, Any], settings: Mapping[str, Any], device: torch.device
) -> Task:
    """The task of a stored run."""
    path = config["scene"]["path"]
    if config.get("modality") == "lidar":
        return _lidar_task(path, settings, device)
    if config.get("modality", "images") != "images":
        return _signal_task(path, settings["data"], device)
    options = from_plain(LoadOptions, settings["data"], "data")
    _check_field(settings)
    return ImagesTask(load_scene(path, options), path, device)


def _of_lidar(user: Mapping[str, Any]) -> dict[str, Any]:
    """What the user set, with the renderer that sweeps need.

    Raises:
        ConfigError: Another renderer is asked for.
    """
    asked = user.get("renderer", {}).get("type", LIDAR)
    if lookup("renderers", asked).traits.get("measures", "images") != "beams":
        raise ConfigError(f"LiDAR sweeps are fitted with renderer '{LIDAR}', not '{asked}'")
    return merge({"renderer": {"type": asked}}, user)


def _lidar_task(path: str | Path, settings: Mapping[str, Any], device: torch.device) -> LidarTask:
    _check_field(settings)
    options = from_plain(LidarOptions, settings["data"], "data")
    return LidarTask(load_sweeps(path, options), path, device)


def _open_signal(
    path: str | Path, user: Mapping[str, Any], preset: str | None, device: torch.device
) -> tuple[Task, dict[str, Any]]:
    holdout = user.get("data", {}).get("holdout")
    if isinstance(holdout, str) and holdout.startswith(MASK):  # as the scene's path is stored
        mask = Path(holdout.removeprefix(MASK)).expanduser().resolve()
        user = merge(user, {"data": {"holdout": f"{MASK}{mask}"}})
    task = _signal_task(path, user.get("data", {}), device)
    sizes = (task.signal.modality, task.signal.dims, task.signal.channels)
    return task, resolve_signal(user, *sizes, preset=preset)


def _signal_task(path: str | Path, options: Mapping[str, Any], device: torch.device) -> SignalTask:
    return SignalTask(load_signal(path, from_plain(SignalOptions, options, "data")), path, device)


def _is_signal(scene: str | Path, forced: str | None) -> bool:
    """A file that is no description of posed images, or what the user says is one."""
    if forced is not None:
        return forced in get_args(Modality)
    path = Path(scene).expanduser()
    return path.is_file() and not any(e.target.detect(path) for e in entries("formats"))


def _load_options(user: Mapping[str, Any], preset: str | None, device: torch.device) -> LoadOptions:
    """Check all settings before anything is read: the scene may or may not have an end."""
    try:
        first = resolve(user, preset=preset, device=device.type)
    except ConfigError as error:
        try:
            first = resolve(user, preset=preset, unbounded=True, device=device.type)
        except ConfigError:
            raise error from None
    return from_plain(LoadOptions, first["data"], "data")


def _check_field(settings: Mapping[str, Any]) -> None:
    renderer, field = settings["renderer"]["type"], settings["field"]["type"]
    taken = rendered_fields(renderer)
    if field not in taken:
        raise ConfigError(
            f"renderer '{renderer}' needs a field of kind {' or '.join(taken)}, got '{field}'"
        )
    check_coordinates(settings)
