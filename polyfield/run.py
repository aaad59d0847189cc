"""The run directory: everything a fit writes, and nothing that can execute.

    config.json          every setting, names, versions, seed, scene, transforms (plain data)
    cameras.json         the cameras the scene had, so that a run renders without its images
    weights.safetensors  the model
    state.safetensors    the model, optimiser and generators at a step: enough to go on exactly
    state.json           the plain part of that state, for reading
    metrics.jsonl        one row per log interval
    eval.json, renders/, log.txt

Files are replaced atomically. `state.safetensors` carries its plain part in its header, so
that weights, optimiser and step can never be from different moments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyfield._version import __version__
from polyfield.errors import InputError, RunError
from polyfield.files import make_folder, read_json, replacing, write_json

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KEYS = ("scene", "settings", "contraction")
# What the modalities need on top; signals have several.
NEEDED = {"images": ("transform", "background", "up"), "lidar": ("transform", "sensor", "sweeps")}
OF_SIGNALS = ("signal",)


class RunDirectory:
    """Paths, atomic writes and checked reads of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.renders = self.path / "renders"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.path / "config.json").is_file()

    def create(self) -> None:
        """Make the folder.

        Raises:
            InputError: The place cannot be written.
        """
        make_folder(self.path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Store the settings, stamped with the format and version that wrote them."""
        stamp = {"polyfield": __version__, "format": FORMAT}
        write_json(self.path / "config.json", {**config, **stamp})

    def read_config(self) -> dict[str, Any]:
        """The settings.

        Raises:
            RunError: Not a run, or made by a newer version.
        """
        if not self.exists:
            raise RunError(
                f"{self.path} is not a run (it has no config.json); "
                "a run is the folder given to --out of 'polyfield fit'"
            )
        config = read_json(self.path / "config.json", "run configuration")
        made = config.get("format") if isinstance(config, dict) else None
        if not isinstance(made, int):
            raise RunError(f"{self.path / 'config.json'} has no format number; is it a run's?")
        if made > FORMAT:
            raise RunError(
                f"{self.path} was made by Polyfield {config.get('polyfield')} (run format {made}); "
                f"this is {__version__} (format {FORMAT}): upgrade Polyfield to open it"
            )
        modality = config.get("modality", "images")  # runs of 0.1 had nothing else
        needed = (*KEYS, *NEEDED.get(modality, OF_SIGNALS))
        lacking = [key for key in needed if key not in config]
        if lacking:
            raise RunError(
                f"{self.path / 'config.json'} lacks '{lacking[0]}'; it was edited or cut short: "
                "copy the run again or fit anew"
            )
        return config

    def write_json(self, name: str, data: Any) -> None:
        """Store plain data as `name`."""
        write_json(self.path / name, data)

    def read_json(self, name: str) -> Any:
        """Plain data stored as `name`."""
        return read_json(self.path / name, "run file")

    def write_weights(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> None:
        """Store the model's tensors and the sizes they were built with."""
        _save(self.path / "weights.safetensors", tensors, {"sizes": sizes})

    def read_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The model's tensors (CPU) and sizes.

        Raises:
            RunError: Missing or damaged.
        """
        tensors, plain = _load(self.path / "weights.safetensors")
        return tensors, plain.get("sizes", {})

    def write_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Store the complete training state of one step."""
        _save(self.path / "state.safetensors", tensors, plain)
        write_json(self.path / "state.json", plain)

    def read_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The training state (CPU tensors, plain data).

        Raises:
            RunError: Missing or damaged.
        """
        return _load(self.path / "state.safetensors")

    @property
    def has_state(self) -> bool:
        """Whether there is something to resume."""
        return (self.path / "state.safetensors").is_file()

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl."""
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise InputError(
                f"cannot write {self.path / 'metrics.jsonl'}: {error.strerror}"
            ) from error

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows of metrics.jsonl; a last line cut short by a crash is left out."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return

    def truncate_metrics(self, step: int) -> None:
        """Drop rows after `step` (they are from beyond the state that is resumed)."""
        if not (self.path / "metrics.jsonl").is_file():
            return
        rows = [row for row in self.metrics() if row["step"] <= step]
        with replacing(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _save(path: Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    values = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(values, str(temporary), metadata={"polyfield": json.dumps(plain)})
        except SafetensorError as error:
            raise OSError(f"{error}") from error


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RunError(
            f"{path} does not exist: the fit was stopped before its first save, or the file was "
            "removed; fit again with the same --out"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            plain = json.loads((file.metadata() or {}).get("polyfield", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, plain  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); copy the run again or fit anew") from error
