"""Which format a scene has: a folder, a file, or ``sample:NAME``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polyfield.data.search import USUAL_FOLDERS, image_files
from polyfield.errors import InputError
from polyfield.registry import Entry, entries, lookup


@dataclass(frozen=True)
class Detected:
    """The chosen format, where the scene is, and why it was chosen."""

    entry: Entry
    path: Path
    name: str
    why: str


def locate(scene: str | Path) -> tuple[Path, str]:
    """Path and name of a scene.

    Raises:
        InputError: There is nothing there.
        UnknownNameError: No such sample.
    """
    text = str(scene)
    if text.startswith("sample:"):
        name = text.removeprefix("sample:")
        return Path(lookup("samples", name).target()), name
    path = Path(scene).expanduser()
    if not path.exists():
        raise InputError(f"scene {path} does not exist; give a folder, a scene file or sample:NAME")
    resolved = path.resolve()
    return path, resolved.name if resolved.is_dir() else resolved.parent.name


def detect(scene: str | Path, forced: str | None = None) -> Detected:
    """The format of a scene; `forced` names it.

    Raises:
        InputError: No format recognises it; the message says what was looked for and found.
        UnknownNameError: No such format or sample.
    """
    path, name = locate(scene)
    candidates = sorted(entries("formats"), key=lambda entry: entry.traits.get("order", 100))
    if forced is not None:
        entry = lookup("formats", forced)
        reason = entry.target.detect(path)
        if reason is None:
            raise InputError(
                f"{path} is no {forced} scene: expected {entry.target.looks_for}; leave the format "
                "out to have it detected"
            )
        return Detected(entry, path, name, f"{reason}; format '{forced}' was asked for")
    found = [(entry, why) for entry in candidates if (why := entry.target.detect(path))]
    if not found:
        raise InputError(_nothing(path, candidates))
    (entry, why), *others = found
    if others:
        also = ", ".join(f"'{other.name}' ({reason})" for other, reason in others)
        why += f"; it could also be read as {also}: force that with --format"
    return Detected(entry, path, name, why)


def _nothing(path: Path, candidates: list[Entry]) -> str:
    wanted = "; ".join(f"{e.name}: {e.target.looks_for}" for e in candidates)
    start = f"{path} is no scene in a known format (looked for {wanted})"
    if not path.is_dir():
        return f"{start}; give the folder or one of these files"
    inside = [folder for folder in sorted(path.iterdir()) if folder.is_dir()][:50]
    scenes = [f.name for f in inside if any(entry.target.detect(f) for entry in candidates)]
    if scenes:
        return f"{start}, but it holds scenes: {', '.join(scenes[:8])}; give one of them"
    pictures = max((len(image_files(path / folder)) for folder in USUAL_FOLDERS), default=0)
    if pictures:
        return f"{start}; it holds {pictures} images without camera poses, run COLMAP on them first"
    names = sorted(entry.name for entry in path.iterdir())[:8]
    return f"{start}; found {', '.join(names) or 'an empty folder'}"
