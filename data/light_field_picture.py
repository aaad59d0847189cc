"""A light field at a glance: its centre view, with the epipolar planes beside and below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from polyfield.data.light_field import (
    LightFieldGrid,
    horizontal_epi,
    light_field_grid,
    vertical_epi,
)
from polyfield.data.scene import PosedImages
from polyfield.files import make_folder, replacing

THICK = 8  # picture rows per row of an epipolar plane, at most
GAP = 4
LARGEST = 1600  # pixels a side


def epi_picture(grid: LightFieldGrid) -> UInt8[np.ndarray, "height width 3"]:
    """The centre view; right of it the epipolar plane of its middle column, below that of its
    middle row, views magnified. Straight lines that lean are what a light field is."""
    (u, v), (height, width) = grid.geometry.centre, grid.views.shape[2:4]
    zoom = max(1, min(THICK, 384 // max(height, width)))
    centre = _magnified(grid.view(u, v)[..., :3], zoom, zoom)
    across = horizontal_epi(grid.views, v, height // 2)[..., :3]
    down = vertical_epi(grid.views, u, width // 2)[..., :3].swapaxes(0, 1)
    across, down = _magnified(across, zoom, THICK), _magnified(down, THICK, zoom)
    rows, columns = centre.shape[:2]
    out = np.full((rows + GAP + len(across), columns + GAP + down.shape[1], 3), 255, np.uint8)
    out[:rows, :columns] = centre
    out[rows + GAP :, :columns] = across
    out[:rows, columns + GAP :] = down
    return out


def _magnified(image: np.ndarray, across: int, down: int) -> np.ndarray:
    return image.repeat(down, axis=0).repeat(across, axis=1)


def draw_light_field(scene: PosedImages, path: Path) -> None:
    """Write `epi_picture` of a loaded light field as PNG.

    Raises:
        InputError: The scene is no full grid of views, or the file cannot be written.
    """
    picture = Image.fromarray(epi_picture(light_field_grid(scene)))
    picture.thumbnail((LARGEST, LARGEST))
    make_folder(path.parent)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
