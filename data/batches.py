"""Random pixels of a split as rays and targets, straight from the memory-mapped images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.data.pixels import Windows, centre_windows, locate_pixels
from polyfield.data.scene import PosedImages, Split
from polyfield.errors import ConfigError, InputError
from polyfield.renderers.types import Rays


@dataclass(frozen=True)
class Batch:
    """Rays and what was measured along them.

    targets: ``rgba`` (n, 4) in [0, 1], straight alpha, 1 for images without; ``depth`` (n,) as
    distance t along the ray in box units, 0 where unknown, where the scene has depths.
    views: index into the scene's views; xy: pixel coordinates, centres at +0.5.
    """

    rays: Rays
    targets: dict[str, Tensor]
    views: Int64[Tensor, "n"]
    xy: Float[Tensor, "n 2"]


class PixelSource:
    """Draws pixels uniformly over all usable pixels of the chosen views.

    Args:
        scene: Where the pixels come from; nothing is copied.
        split: Name of a split, or view indices.
        device: Where batches are wanted.

    Raises:
        InputError: The split has no views, or masks hide all its pixels.
    """

    def __init__(
        self,
        scene: PosedImages,
        split: Split | Sequence[int] = "train",
        device: torch.device | str = "cpu",
    ):
        chosen = scene.splits[split] if isinstance(split, str) else tuple(split)
        if not chosen:
            raise InputError(f"scene '{scene.name}' has no views to draw from in split '{split}'")
        self.scene = scene
        self.views = np.array(chosen, np.int64)
        self.device = torch.device(device)
        self._cameras = scene.cameras.to(self.device)
        self._known: tuple[float, Windows] | None = None
        self._times = None if scene.times is None else scene.times.to(self.device)
        if scene.masks is not None and scene.masks.figures:
            if not sum(scene.masks.figures[view]["used"] for view in chosen):
                raise InputError(f"the masks of scene '{scene.name}' ignore every pixel of {split}")

    def sample(self, n: int, generator: torch.Generator, centre_fraction: float = 1.0) -> Batch:
        """`n` random pixels, with replacement; masked-out pixels are never drawn.

        Args:
            generator: The only source of randomness, on any device.
            centre_fraction: Draw from the central part of each image, this share of its width
                and height (NeRF's start on synthetic scenes).

        Raises:
            ConfigError: `centre_fraction` is not in (0, 1].
            InputError: Masks hide all of the central part.
        """
        if not 0 < centre_fraction <= 1:
            raise ConfigError(f"centre_fraction must be in (0, 1], got {centre_fraction}")
        view, x, y = self._draw(n, generator, centre_fraction)
        return self.at(view, x, y)

    def at(
        self,
        view: Int64[np.ndarray, "n"],
        x: Int64[np.ndarray, "n"],
        y: Int64[np.ndarray, "n"],
    ) -> Batch:
        """The given pixels: view, column and row."""
        views = torch.from_numpy(view).to(self.device)
        xy = torch.from_numpy(np.stack([x, y], axis=1)).to(self.device).float() + 0.5
        rays = self._cameras.rays(views, xy)
        if self._times is not None:
            rays = replace(rays, times=self._times[views])
        return Batch(rays, self._targets(view, x, y, rays), views, xy)

    def _targets(self, view, x, y, rays: Rays) -> dict[str, Tensor]:
        rgba = torch.from_numpy(self.scene.images.colours(view, x, y)).to(self.device)
        targets = {"rgba": rgba}
        if self.scene.depths is not None and rays.z_scale is not None:
            z = torch.from_numpy(self.scene.depths.pixels(view, x, y)[:, 0]).to(self.device)
            distance = z * self.scene.transform.scale / rays.z_scale.clamp_min(1e-6)
            targets["depth"] = torch.where(z > 0, distance, torch.zeros_like(distance))
        return targets

    def _draw(
        self, n: int, generator: torch.Generator, fraction: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Views, columns and rows of `n` usable pixels; rejected ones are drawn again."""
        if self.scene.masks is None:
            return self._draw_any(n, generator, fraction)
        parts, kept = [], 0
        for _ in range(1000):
            drawn = self._draw_any(max(n - kept, 64), generator, fraction)
            used = self.scene.masks.pixels(*drawn)[:, 0] > 0
            parts.append([values[used] for values in drawn])
            kept += int(used.sum())
            if kept >= n:
                view, x, y = (np.concatenate(values)[:n] for values in zip(*parts, strict=True))
                return view, x, y
        raise InputError(
            f"the masks of scene '{self.scene.name}' leave next to nothing to draw from "
            f"(centre_fraction {fraction}); invert them or draw from the whole image"
        )

    def _draw_any(
        self, n: int, generator: torch.Generator, fraction: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        windows = self._windows(fraction)
        last = int(windows.ends[-1])
        number = torch.randint(last, (n,), generator=generator, device=generator.device)
        return locate_pixels(number.cpu().numpy(), windows)

    def _windows(self, fraction: float) -> Windows:
        """What is drawn from, kept until another part of the images is."""
        if self._known is None or self._known[0] != fraction:
            sizes = self.scene.images.sizes[self.views]
            self._known = fraction, centre_windows(self.views, sizes, fraction)
        return self._known[1]
