"""The task of fitting posed images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyfield.config import to_plain
from polyfield.data.batches import Batch, PixelSource
from polyfield.data.scene import PosedImages
from polyfield.errors import ConfigError
from polyfield.registry import lookup
from polyfield.renderers.types import Rendered
from polyfield.run import RunDirectory
from polyfield.training.cameras import write_cameras
from polyfield.training.metrics import psnr
from polyfield.training.model import Model
from polyfield.training.photos import background_colour, photo, with_background
from polyfield.training.pictures import save_picture, side_by_side
from polyfield.training.settings import FitConfig
from polyfield.training.state import FitState
from polyfield.training.task import About, Measured, stored_path

PREVIEW_PIXELS = 150 * 150
RAYS_SHOWN = 2**16  # to fields that adapt to the rays of a scene


class ImagesTask:
    """Random pixels of the training views, rendered and compared.

    Args:
        scene: The images.
        path: What the user called them, stored with the run.
        device: Where batches are wanted.
    """

    def __init__(self, scene: PosedImages, path: str | Path, device: torch.device | str = "cpu"):
        self.scene, self.path = scene, path
        self.source = PixelSource(scene, "train", device=device)

    @property
    def about(self) -> About:
        """Name, format and number of views."""
        scene = self.scene
        counts = ", ".join(f"{len(views)} {name}" for name, views in scene.splits.items() if views)
        line = f"{scene.name} ({scene.report.format}): {counts} views"
        return About(line, scene.report.warnings, {"megabytes on disk": scene.memory_bytes >> 20})

    def describe(self) -> dict[str, Any]:
        """The scene and how it lies in the world."""
        scene = self.scene
        return {
            "scene": {
                "path": stored_path(self.path),
                "format": scene.report.format,
                "content_hash": scene.content_hash,
                "splits": {name: len(views) for name, views in scene.splits.items()},
            },
            "modality": "images",
            "contraction": "none" if scene.bounded else "sphere",
            "transform": to_plain(scene.transform),
            "background": scene.background,
            "up": [float(v) for v in scene.up],
        }

    def write(self, run: RunDirectory) -> None:
        """The cameras."""
        write_cameras(run, self.scene)

    def prepare(self, state: FitState) -> None:
        """Show rays of the training views to a field that adapts to them.

        Raises:
            ConfigError: Backgrounds are random, and the field has no opacity to put before them.
        """
        if self.scene.background == "random" and getattr(state.model.field, "opaque", False):
            raise ConfigError(
                "random backgrounds cannot be learned by a light field without opacity; set "
                "data.background=white or field.opacity=true"
            )
        if hasattr(state.model.field, "adapt"):
            rays = self.source.sample(RAYS_SHOWN, state.host).rays
            state.model.field.adapt(rays.origins, rays.directions, rays.near, rays.far, state.host)

    def batch_size(self, config: FitConfig) -> int:
        """Rays of the first step."""
        return config.rays

    def measure(self, state: FitState) -> Measured:
        """Draw rays, render them and compare colours."""
        batch = self.source.sample(state.rays, state.host, centre_fraction=state.crop)
        random = state.generator if self.scene.background == "random" else None
        batch = with_background(batch, background_colour(self.scene), random)
        precision = torch.bfloat16 if state.config.precision == "bfloat16" else None
        with torch.autocast(state.model.device.type, precision, enabled=precision is not None):
            rendered = state.model(batch.rays, batch.targets["background"], state.generator)
        loss = total_loss(rendered, batch, state.model)
        with torch.no_grad():
            mse = (rendered.rgb.float() - batch.targets["rgb"]).square().mean()
        return Measured(loss, mse, len(batch.rays), int(rendered.extras.get("samples", 0)))

    def check(self, state: FitState, run: RunDirectory) -> dict[str, Any]:
        """Render a held-out view, coarsely, and keep the picture beside the photo."""
        view = next(iter(self.scene.splits["test"]), None)
        if view is None:
            return {}
        state.model.eval()
        truth, prediction = preview(state.model, self.scene, view)
        state.model.train()
        save_picture(run.renders / "preview.png", side_by_side([truth, prediction]))
        return {"check_view": self.scene.names[view], "check_psnr": psnr(prediction, truth)}


def total_loss(rendered: Rendered, batch: Batch, model: Model) -> Tensor:
    """Weighted sum of the run's losses, a scalar."""
    terms = []
    for name, weight in model.settings["losses"].items():
        if weight:
            entry = lookup("losses", name)
            given = {
                "values": (rendered.rgb, batch.targets["rgb"]),
                "rendering": (rendered, batch, model.field),
                "field": (model.field,),
            }[entry.traits["of"]]
            terms.append(weight * entry.target(*given))
    return sum(terms, rendered.rgb.new_zeros(()))


@torch.no_grad()
def preview(model: Model, scene: PosedImages, view: int) -> tuple[Tensor, Tensor]:
    """Photo and rendering of every k-th pixel of a view, (h, w, 3) each on the CPU."""
    image = photo(scene, view)
    stride = max(1, math.ceil(math.sqrt(image.shape[0] * image.shape[1] / PREVIEW_PIXELS)))
    rays = scene.cameras.image_rays(view)[::stride, ::stride]
    rendered = model.render(rays, background_colour(scene, model.device))["rgb"].cpu()
    return image[::stride, ::stride], rendered.clamp(0, 1)
