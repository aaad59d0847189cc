"""The cameras a run remembers of its scene."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from polyfield.data.scene import PosedImages
from polyfield.errors import RunError
from polyfield.renderers.cameras import Cameras
from polyfield.renderers.cameras_plain import cameras_from_plain, cameras_to_plain
from polyfield.run import RunDirectory

FILE = "cameras.json"


@dataclass(frozen=True)
class StoredCameras:
    """All cameras of the scene in its box, their names, and view indices per split."""

    cameras: Cameras
    names: tuple[str, ...]
    splits: dict[str, tuple[int, ...]]

    def in_run_coordinates(self, cameras: Cameras) -> Cameras:
        """`cameras` of the same world, in normalised device coordinates if the run's are."""
        own = self.cameras
        return replace(cameras, ndc=own.ndc, ndc_scale=own.ndc_scale, ndc_near=own.ndc_near)


def write_cameras(run: RunDirectory, scene: PosedImages) -> None:
    """Store a scene's cameras with the run."""
    plain: dict[str, Any] = {"cameras": cameras_to_plain(scene.cameras), "names": list(scene.names)}
    plain["splits"] = {name: list(views) for name, views in scene.splits.items()}
    run.write_json(FILE, plain)


def read_cameras(run: RunDirectory) -> StoredCameras:
    """The cameras stored with a run.

    Raises:
        RunError: The file is not what a fit writes.
    """
    plain = run.read_json(FILE)
    try:
        splits = {name: tuple(views) for name, views in plain["splits"].items()}
        return StoredCameras(cameras_from_plain(plain["cameras"]), tuple(plain["names"]), splits)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{run.path / FILE} is not usable (no {error}); fit anew") from error
