"""Finding the image a scene file means: other extension, case, separators, folder.

A name that cannot be found where the file says is only looked for elsewhere when its folder
does not exist: otherwise ``train/r_0`` would happily become ``test/r_0.png``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

EXTENSIONS = ("png", "jpg", "jpeg", "bmp", "gif", "tga", "webp", "tif", "tiff", "pic", "pnm")
# where captures usually keep their pictures, tried in this order
USUAL_FOLDERS = ("images", "image", "imgs", "rgb", "input", "train", "")


@dataclass(frozen=True)
class Found:
    """An image file, and how much smaller than the original it is (``images_4``: 4)."""

    path: Path
    factor: int = 1


def natural_key(name: str) -> list:
    """Sorts ``r_2`` before ``r_10``."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def is_image(name: str) -> bool:
    """Whether a file name has the extension of an image format that can be read."""
    return name.lower().rpartition(".")[2] in EXTENSIONS and not name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder sorted by name, hidden files left out; none if it is missing."""
    return [folder / name for name in sorted(_list(folder)) if is_image(name)]


def declared_path(root: Path, text: str) -> Path:
    """The path a scene file means by `text`, with either kind of separator."""
    parts = PurePosixPath(text.strip().replace("\\", "/"))
    return Path(parts) if parts.is_absolute() else root / parts


def numbered_folders(folder: Path) -> dict[int, Path]:
    """Downscaling factor -> existing folder: ``images`` (1) and its siblings ``images_2``..."""
    pattern = re.escape(folder.name) + r"_([1-9]\d?)"
    found = {1: folder} if folder.is_dir() else {}
    siblings = sorted(folder.parent.iterdir()) if folder.parent.is_dir() and folder.name else []
    for sibling in siblings:
        match = re.fullmatch(pattern, sibling.name)
        if match and sibling.is_dir():
            found[int(match[1])] = sibling
    return found


def best_factor(factors: Iterable[int], downscale: int) -> int:
    """The largest factor that divides `downscale`, else the smallest there is."""
    factors = list(factors)
    return max((f for f in factors if downscale % f == 0), default=min(factors))


def _list(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_file()]
    except OSError:
        return []


class Finder:
    """Looks for the images of one scene; remembers folder listings for the time of a load.

    Args:
        root: Folder of the scene file.
        downscale: Ready-made ``images_K`` folders beside an image's folder are preferred whose
            K divides it; the finest is taken where the full images are absent.
    """

    def __init__(self, root: Path, downscale: int = 1):
        self.root = root
        self.downscale = downscale
        self._names: dict[Path, dict[str, str]] = {}
        self._numbered: dict[Path, dict[int, Path]] = {}

    def find(self, path: Path) -> Found | None:
        """The image that the scene means by `path`, None if there is none."""
        options = self._in_folder(path.parent, path.name)
        if not options and not path.parent.is_dir():
            options = self._elsewhere(path)
        if not options:
            return None
        factor = best_factor(options, self.downscale)
        return Found(options[factor], factor)

    def match(self, folder: Path, name: str) -> Path | None:
        """`name` in `folder`: as it is, in another case, or with a known extension."""
        files = self._listing(folder)
        if files.get(name.lower()) == name or (folder / name).is_file():
            return folder / name
        stem, dot, extension = name.lower().rpartition(".")
        if not dot or extension not in EXTENSIONS:
            stem = name.lower()
        wanted = [name.lower(), *(f"{stem}.{known}" for known in EXTENSIONS)]
        hit = next((files[w] for w in wanted if w in files and is_image(files[w])), None)
        return folder / hit if hit else None

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            self._names[folder] = {name.lower(): name for name in sorted(_list(folder))}
        return self._names[folder]

    def _in_folder(self, folder: Path, name: str) -> dict[int, Path]:
        if folder not in self._numbered:
            self._numbered[folder] = numbered_folders(folder)
        found = {k: self.match(f, name) for k, f in self._numbered[folder].items()}
        return {factor: path for factor, path in found.items() if path is not None}

    def _elsewhere(self, path: Path) -> dict[int, Path]:
        """The longest tail of `path` that exists under the root, else its name in a usual
        folder."""
        tails = [self.root.joinpath(*path.parts[i:]) for i in range(1, len(path.parts))]
        usual = [self.root / folder / path.name for folder in USUAL_FOLDERS]
        for candidate in [*tails, *usual]:
            found = self._in_folder(candidate.parent, candidate.name)
            if found:
                return found
        return {}
