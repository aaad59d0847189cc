"""Measured views as colours over a background."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.data.batches import Batch
from polyfield.data.scene import PosedImages

BACKGROUNDS = {"white": 1.0, "black": 0.0, "random": 1.0}


def background_colour(scene: PosedImages, device: torch.device | str = "cpu") -> Float[Tensor, "3"]:
    """Colour behind the scene; a scene with random training backgrounds is shown on white."""
    return torch.full((3,), BACKGROUNDS[scene.background], device=device)


def photo(scene: PosedImages, view: int) -> Float[Tensor, "h w 3"]:
    """A view as float colour in [0, 1] over the scene's background, on the CPU."""
    pixels = torch.from_numpy(scene.images.image(view).copy()).float() / 255
    if pixels.shape[-1] == 3:
        return pixels
    return over(pixels[..., :3], pixels[..., 3:], background_colour(scene))


def over(
    rgb: Float[Tensor, "*b 3"], alpha: Float[Tensor, "*b 1"], background: Float[Tensor, "*c 3"]
) -> Float[Tensor, "*b 3"]:
    """Straight-alpha colour over a background."""
    return rgb * alpha + background * (1 - alpha)


def with_background(
    batch: Batch, background: Float[Tensor, "3"], generator: torch.Generator | None
) -> Batch:
    """Add targets ``rgb, alpha, background``; a random background per ray with a generator."""
    rgba = batch.targets["rgba"]
    if generator is not None:
        shape = (rgba.shape[0], 3)
        background = torch.rand(shape, generator=generator, device=rgba.device)
    else:
        background = background.to(rgba.device).expand(rgba.shape[0], 3)
    alpha = rgba[:, 3:]
    targets = {
        "rgb": over(rgba[:, :3], alpha, background),
        "alpha": alpha[:, 0],
        "background": background,
    }
    return replace(batch, targets={**batch.targets, **targets})
