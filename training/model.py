"""A field with what it takes to render it: the thing that is trained, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield import backend
from polyfield.config import Spec, merge
from polyfield.errors import ConfigError, RunError
from polyfield.registry import build, configure, lookup
from polyfield.renderers.types import Rays, Rendered
from polyfield.run import RunDirectory
from polyfield.training.coordinates import coordinates, takes_several
from polyfield.training.memory import in_chunks

FIRST_CHUNK = 512  # rays, to see how many samples they take
RENDER_SAMPLES = 2**18
# Further figures of a ray that renderers may give.
PER_RAY = ("median_depth", "intensity", "drop", "second_range")


class Model(nn.Module):
    """Field, sampler and renderer of a run.

    Args:
        settings: Complete settings (`polyfield.training.settings.resolve`).
        contraction: ``"none"`` for scenes that end at their box, else ``"sphere"``.
        generator: CPU generator of the initial values.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        contraction: str,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.settings = settings
        self.contraction = contraction
        self.field = self._make_field(settings["backbone"], generator)
        if "renderer" in settings:  # a signal has none
            entry = lookup("renderers", settings["renderer"]["type"])
            self._renderer: Callable[..., Rendered] = entry.target
            self._options = configure("renderers", settings["renderer"])
        self.sampler: nn.Module | None = None
        if "sampler" in settings:
            self.sampler = build(
                "samplers",
                settings["sampler"],
                contraction=contraction,
                make_field=lambda spec: self._make_field(spec or settings["backbone"], generator),
                generator=generator,
            )

    def _make_field(self, backbone: Spec, generator: torch.Generator | None) -> nn.Module:
        field = self.settings["field"]
        made = [
            build("backbones", backbone, in_dim=in_dim, generator=generator)
            for in_dim in coordinates(field)
        ]
        return build(
            "fields",
            field,
            backbone=made if takes_several(field) else made[0],
            contraction=self.contraction,
            generator=generator,
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def forward(
        self,
        rays: Rays,
        background: Float[Tensor, "*n 3"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Rendered:
        """Render rays (one leading dimension); jittered samples with a generator."""
        with backend.using(self.settings["backend"]):
            return self._renderer(
                self.field, rays, self.sampler, self._options,
                background=background, generator=generator,
            )  # fmt: skip

    def values(self, x: Float[Tensor, "*n dims"]) -> Float[Tensor, "*n channels"]:
        """Values of a signal's field at coordinates in [-1, 1]."""
        with backend.using(self.settings["backend"]):
            return self.field(x)

    @torch.no_grad()
    def look(
        self, x: Float[Tensor, "*n dims"], block: int = 1 << 15
    ) -> Float[Tensor, "*n channels"]:
        """`values` without gradients, a block of points at a time, as float32 on the CPU.

        Some backbones need kilobytes per point, so that large pictures must not go in one piece.
        """
        flat = x.reshape(-1, x.shape[-1])
        parts = [self.values(part.to(self.device)).float().cpu() for part in flat.split(block)]
        values = torch.cat(parts) if parts else self.values(flat.to(self.device)).float().cpu()
        return values.reshape(*x.shape[:-1], values.shape[-1])

    def grid(self, axes: list[Float[Tensor, "_"]]) -> Float[Tensor, "*shape channels"] | None:
        """Values on a grid of coordinates per axis, if the field has a separable way to them."""
        with backend.using(self.settings["backend"]):
            return self.field.grid(axes)

    @torch.no_grad()
    def render(
        self,
        rays: Rays,
        background: Float[Tensor, "3"] | None = None,
        chunk: int = 8192,
        first: int = FIRST_CHUNK,
    ) -> dict[str, Tensor]:
        """Render any number of rays in chunks, without gradients.

        Chunks hold at most `chunk` rays and about `RENDER_SAMPLES` samples; they are halved, with
        a note, when memory runs out.

        Args:
            rays: In any shape; their order hardly matters for speed.
            background: Colour behind the scene (None: black).
            chunk: Most rays at once.
            first: Rays of the first chunk, which shows how many samples a ray takes.

        Returns:
            ``rgb (*batch, 3)``, ``depth``, ``opacity`` and, where the renderer gives them, those
            of `PER_RAY`, on the model's device. Depths are distances t of the rays.
            ``samples``: their number, 0-d, on the CPU.
        """
        flat = rays.flatten()

        def render_chunk(start: int, stop: int) -> tuple[dict[str, Tensor], int, int]:
            out = self(flat[start:stop].to(self.device), background)
            parts = {"rgb": out.rgb, "depth": out.depth, "opacity": out.opacity}
            parts |= {name: out.extras[name] for name in PER_RAY if name in out.extras}
            samples = int(out.extras.get("samples", 0))
            return parts, samples, int(out.extras.get("marched", samples))

        def resize(done: tuple[dict[str, Tensor], int, int], size: int) -> int:
            return min(chunk, RENDER_SAMPLES * size // max(1, done[2]))

        done = in_chunks(render_chunk, len(flat), min(chunk, first), resize)
        names = done[0][0]
        rendered = {
            name: torch.cat([part[0][name] for part in done]).reshape(
                *rays.shape, *names[name].shape[1:]
            )
            for name in names
        }
        return {**rendered, "samples": torch.tensor(sum(part[1] for part in done))}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups of field and sampler."""
        groups = list(self.field.parameter_groups(lr))
        return groups + (self.sampler.parameter_groups(lr) if self.sampler is not None else [])

    def sizes(self) -> dict[str, Any]:
        """Sizes of parts whose shapes differ from the config, by module name."""
        parts = [(n, m) for n, m in self.named_modules() if m is not self]
        found = {n: m.sizes() for n, m in parts if hasattr(m, "sizes")}
        return {name: value for name, value in found.items() if value}

    def load_tensors(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> None:
        """Take weights, after the parts have taken the sizes they were saved with.

        Raises:
            RunError: Names or shapes do not match the config.
        """
        modules = dict(self.named_modules())
        for name, value in sizes.items():
            if name in modules:
                modules[name].resize(value)
        own = self.state_dict()
        missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        wrong = [
            f"{n}: {tuple(tensors[n].shape)} instead of {tuple(own[n].shape)}"
            for n in own.keys() & tensors.keys()
            if own[n].shape != tensors[n].shape
        ]
        problems = [f"missing {n}" for n in missing] + [f"unknown {n}" for n in extra] + wrong
        if problems:
            raise RunError(
                f"the weights do not match the run's config ({'; '.join(problems[:3])}"
                f"{', ...' if len(problems) > 3 else ''}); "
                "config.json and the weights are of different runs"
            )
        self.load_state_dict(dict(tensors))


def pick_device(device: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a torch device.

    Raises:
        ConfigError: Unknown, or CUDA is asked for and absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{device}'; use auto, cpu, cuda or cuda:N") from error
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device '{device}' was asked for but torch sees no CUDA device; use --device cpu, "
            "or see 'polyfield doctor'"
        )
    return picked


def load(
    run: str | Path,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    rank: int | None = None,
) -> Model:
    """Open a fitted run for rendering; needs neither the images nor the machine it was made on.

    Args:
        run: The run directory.
        device: Where to put it.
        settings: Settings laid over the stored ones (a sampler's resolution, say).
        rank: Keep this many components of a factored backbone only (None: all).

    Raises:
        RunError: Not a run, damaged, or made by a newer version.
        ConfigError: The backbone has no ranks, or not so many.
    """
    directory = RunDirectory(run)
    config = directory.read_config()
    tensors, sizes = directory.read_weights()
    try:
        chosen = merge(config["settings"], settings or {})
        model = Model(chosen, config["contraction"])
    except KeyError as error:
        raise RunError(f"{run}/config.json lacks {error}; it was edited or cut short") from error
    model.load_tensors(tensors, sizes)
    if rank is not None:
        model.field.slim(rank)
    return model.to(pick_device(device)).eval()
