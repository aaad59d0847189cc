"""Pictures of results: side by side, error maps, depth maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from polyfield.files import make_folder, replacing

# Control points of a perceptually even dark-to-bright ramp (dark blue, purple, orange, yellow).
_RAMP = np.array([[4, 3, 22], [66, 15, 109], [147, 38, 103], [221, 81, 58], [252, 165, 10],
                  [252, 255, 164]], dtype=np.float32) / 255  # fmt: skip


def to_8_bit(image: Float[Tensor, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Values in [0, 1] as bytes."""
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def colour_map(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Values in [0, 1] as colours, dark for 0 and bright for 1."""
    x = values.detach().cpu().float().clamp(0, 1).numpy() * (len(_RAMP) - 1)
    low = np.minimum(x.astype(np.int64), len(_RAMP) - 2)
    part = (x - low)[..., None]
    return torch.from_numpy(_RAMP[low] * (1 - part) + _RAMP[low + 1] * part)


def error_map(
    prediction: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"], full_scale: float = 0.25
) -> Float[Tensor, "h w 3"]:
    """Mean absolute colour error as colours; `full_scale` is the error shown brightest."""
    return colour_map((prediction - truth).abs().mean(-1) / full_scale)


def depth_range(
    depth: Float[Tensor, "h w"], opacity: Float[Tensor, "h w"]
) -> tuple[float, float] | None:
    """2nd and 98th percentile of the depth of what is hit; None where nothing is."""
    values = depth[opacity > 0.5].detach().cpu().float().numpy()
    if not values.size:
        return None
    low, high = np.percentile(values, [2, 98])
    return float(low), float(high)


def depth_map(
    depth: Float[Tensor, "h w"],
    opacity: Float[Tensor, "h w"],
    span: tuple[float, float] | None = None,
) -> Float[Tensor, "h w 3"]:
    """Depth as colours, near bright, nothing black.

    Args:
        depth: Distances.
        opacity: What is above a half counts as hit.
        span: Depths shown brightest and darkest (None: this picture's own range); frames of a
            video share one, or they flicker.
    """
    span = span or depth_range(depth, opacity)
    if span is None:
        return torch.zeros(*depth.shape, 3)
    relative = (depth.cpu().float() - span[0]) / max(span[1] - span[0], 1e-6)
    return colour_map((1 - relative).clamp(0.02, 1) * (opacity.cpu() > 0.5))


def side_by_side(
    images: Sequence[Float[Tensor, "h _w 3"]], gap: int = 4
) -> Float[Tensor, "h wide 3"]:
    """Images of one height in a row with white gaps."""
    white = torch.ones(images[0].shape[0], gap, 3)
    row: list[Tensor] = []
    for image in images:
        row += [image.detach().cpu().float(), white]
    return torch.cat(row[:-1], dim=1)


def stacked(
    images: Sequence[Float[Tensor, "_h _w 3"]], gap: int = 4
) -> Float[Tensor, "tall wide 3"]:
    """Images above each other with white gaps, padded with white to the widest."""
    width = max(image.shape[1] for image in images)
    rows: list[Tensor] = []
    for image in images:
        pad = torch.ones(image.shape[0], width - image.shape[1], 3)
        rows += [torch.cat([image.cpu(), pad], dim=1), torch.ones(gap, width, 3)]
    return torch.cat(rows[:-1])


def save_picture(path: Path, image: Float[Tensor, "h w 3"]) -> None:
    """Write an image in [0, 1] as an 8-bit file, atomically, making its folder.

    Raises:
        InputError: The place cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    with replacing(path) as temporary:
        iio.imwrite(temporary, to_8_bit(image))
