"""NeRF-synthetic ("Blender") scenes and D-NeRF, which adds a time per frame.

``transforms_{train,val,test}.json`` hold one horizontal angle of view and, per frame, a path
without extension and a camera-to-world matrix in OpenGL axes. Objects fit in a box of +-1.5
around the origin, seen from a distance of 4 (near 2, far 6), on transparent ground that papers
composite over white.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polyfield.data.frames import FrameReader, read_frames, with_times
from polyfield.data.scene import Description, LoadOptions, Split, View
from polyfield.registry import register

SPLITS: tuple[Split, ...] = ("train", "val", "test")
HALF_SIDE = 1.5
NEAR, FAR = 2.0, 6.0
USUAL_DISTANCE = (3.4, 4.6)  # of the cameras, for which the papers' near and far are right


@register(
    "nerf-synthetic",
    kind="formats",
    order=10,
    paper="Mildenhall et al., ECCV 2020; Pumarola et al., CVPR 2021",
)
class NerfSynthetic:
    """NeRF-synthetic and D-NeRF: transforms_train.json, _val.json and _test.json."""

    looks_for = "transforms_train.json, _val.json or _test.json"

    @staticmethod
    def detect(path: Path) -> str | None:
        """Which of the split files there are; None without any."""
        found = [file.name for file in _files(path).values()]
        return f"found {', '.join(found)}" if found else None

    @staticmethod
    def load(path: Path, options: LoadOptions) -> Description:
        """Read every split file there is.

        Raises:
            InputError: A file or frame cannot be used.
        """
        files = _files(path)
        views: list[View] = []
        notes: list[str] = []
        for split, file in files.items():
            shared, frames = read_frames(file)
            reader = FrameReader(file, shared)
            made = [reader.view(frame, split) for frame in frames]
            views += with_times([view for view, _ in made])
            notes += [note for _, note in made if note]
        return Description(
            views=tuple(views),
            root=next(iter(files.values())).parent,
            files=tuple(files.values()),
            box=((0.0, 0.0, 0.0), HALF_SIDE),
            depth_range=_depth_range(np.stack([view.c2w for view in views])),
            bounded=True,
            background="white",
            up=(0.0, 0.0, 1.0),
            warnings=tuple(notes),
        )


def _depth_range(c2w: np.ndarray) -> tuple[float, float]:
    """The papers' near and far, or what reaches the whole box from cameras placed otherwise."""
    distance = np.linalg.norm(c2w[:, :3, 3], axis=1)
    if USUAL_DISTANCE[0] <= distance.min() and distance.max() <= USUAL_DISTANCE[1]:
        return NEAR, FAR
    reach = HALF_SIDE * 3**0.5
    return max(distance.min() - reach, 0.01 * distance.min()), distance.max() + reach


def _files(path: Path) -> dict[Split, Path]:
    candidates = {split: path / f"transforms_{split}.json" for split in SPLITS}
    if path.is_file():
        candidates = {s: path for s in SPLITS if path.name == f"transforms_{s}.json"}
    return {split: file for split, file in candidates.items() if file.is_file()}
