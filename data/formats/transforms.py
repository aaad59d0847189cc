"""instant-ngp and nerfstudio scenes: one ``transforms.json``.

OpenGL cameras, OpenCV lens coefficients given once or per frame. ``applied_transform`` says how
COLMAP's world became the file's: it is information, the poses already contain it. Masks: black
means ignore in nerfstudio's ``mask_path``, anything but black means ignore in instant-ngp's
``dynamic_mask_<name>.png``. Depths are along the camera's axis, in millimetres in nerfstudio's
16-bit images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from polyfield.data.frames import FrameReader, read_frames, with_times
from polyfield.data.scene import Description, LoadOptions, Split, View
from polyfield.data.search import EXTENSIONS
from polyfield.errors import InputError
from polyfield.registry import register

NGP_SCALE, NGP_OFFSET = 0.33, 0.5  # instant-ngp's file world -> its unit cube, unless it says so
_LISTS: Mapping[str, Split] = {
    "train_filenames": "train",
    "val_filenames": "val",
    "test_filenames": "test",
}


@register(
    "transforms",
    kind="formats",
    order=20,
    paper="Mueller et al., SIGGRAPH 2022; Tancik et al., SIGGRAPH 2023",
)
class Transforms:
    """instant-ngp and nerfstudio: transforms.json with lens, masks, depth and split lists."""

    looks_for = "transforms.json"

    @staticmethod
    def detect(path: Path) -> str | None:
        """Whether there is a transforms.json, or `path` is a JSON file with frames."""
        file = _file(path)
        return f"found {file.name}" if file else None

    @staticmethod
    def load(path: Path, options: LoadOptions) -> Description:
        """Read the file.

        Raises:
            InputError: The file or a frame cannot be used.
        """
        file = _file(path) or path
        shared, frames = read_frames(file)
        reader = FrameReader(file, shared)
        made = [reader.view(frame) for frame in frames]
        views = [_with_companions(view) for view, _ in made]
        return Description(
            views=tuple(_with_splits(with_times(views), shared, file)),
            root=file.parent,
            files=(file,),
            box=_declared_box(shared),
            order="natural",
            warnings=tuple(note for _, note in made if note),
            notes={k: shared[k] for k in ("aabb_scale", "applied_transform") if k in shared},
        )


def _file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    file = path / "transforms.json"
    return file if file.is_file() else None


def _with_companions(view: View) -> View:
    """Masks and alpha that go by file name alone."""
    path = view.path
    dynamic = path.parent / f"dynamic_mask_{path.stem}.png"
    if view.mask_path is None and dynamic.is_file():
        view = replace(view, mask_path=dynamic, mask_zero_ignores=False)
    candidates = (path.parent / f"{path.stem}.alpha.{extension}" for extension in EXTENSIONS)
    alpha = next((candidate for candidate in candidates if candidate.is_file()), None)
    return replace(view, alpha_path=alpha)


def _with_splits(views: list[View], shared: Mapping[str, Any], file: Path) -> list[View]:
    """Splits from the file's lists; views in none of them are not used, as in nerfstudio."""
    given: dict[str, Split] = {}
    for key, split in _LISTS.items():
        listed = shared.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise InputError(f"{file}: {key} is no list of file paths; remove it or write it again")
        given.update({_normal(name): split for name in listed})
    if not given:
        return views
    unknown = sorted(set(given) - {view.name for view in views})
    if unknown:
        raise InputError(
            f"{file}: {len(unknown)} names in its split lists match no frame, the first is "
            f"'{unknown[0]}'; expected file paths as in 'frames'"
        )
    return [replace(v, split=given[v.name]) for v in views if v.name in given]


def _normal(name: str) -> str:
    return str(PurePosixPath(name.strip().replace("\\", "/")))


def _declared_box(shared: Mapping[str, Any]) -> tuple[tuple[float, float, float], float] | None:
    """instant-ngp's box in the file's world: a cube of side aabb_scale around its (.5, .5, .5)."""
    side, scale = shared.get("aabb_scale"), shared.get("scale", NGP_SCALE)
    if not all(isinstance(v, (int, float)) and v > 0 for v in (side, scale)):
        return None
    offset = shared.get("offset", [NGP_OFFSET] * 3)
    if not isinstance(offset, list) or len(offset) != 3:
        return None
    x, y, z = (float((NGP_OFFSET - o) / scale) for o in offset)
    return (x, y, z), 0.5 * side / scale
