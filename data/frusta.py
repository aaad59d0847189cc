"""A picture of the cameras and the scene box, from above and from the side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from polyfield.data.scene import PosedImages
from polyfield.files import replacing

PANEL, MARGIN = 560, 40  # pixels
PAPER, INK, FAINT = (255, 255, 255), (40, 40, 40), (205, 205, 205)
BOX = (20, 120, 60)
COLOURS = {"train": (40, 90, 200), "val": (150, 100, 190), "test": (210, 80, 30)}
_CORNERS = ((0, 1), (1, 2), (2, 3), (3, 0))


def draw_cameras(scene: PosedImages, path: Path) -> None:
    """Write a PNG of the camera frusta with the box [-1, 1]^3, from above and from the side.

    "Above" looks down along the scene's up direction. Axes are the box's; the length of an axis
    arrow is one box unit.

    Raises:
        InputError: The picture cannot be written.
    """
    side, up, across = _basis(np.array(scene.up))
    frusta = _frusta(scene)
    picture = Image.new("RGB", (2 * PANEL, PANEL + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    extent = _extent(frusta)
    for column, (plane, title) in enumerate(
        [((side, across), "from above"), ((side, up), "from the side")]
    ):
        offset = (column * PANEL + PANEL // 2, MARGIN + PANEL // 2)
        panel = _Panel(draw, np.stack(plane), offset, (PANEL / 2 - MARGIN) / extent)
        draw.text((column * PANEL + 12, 10), title, fill=INK)
        panel.axes()
        panel.box()
        panel.cameras(frusta, _split_of_views(scene))
    _legend(draw, scene)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def _basis(up: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and away for a viewer who keeps `up` upright."""
    start = np.eye(3)[np.argmin(np.abs(up))]
    side = start - (start @ up) * up
    side /= np.linalg.norm(side)
    return side, up, np.cross(up, side)


def _frusta(scene: PosedImages) -> np.ndarray:
    """(V, 5, 3): position and the four corners of the image on a plane before the camera."""
    cameras = scene.cameras
    if cameras.ndc:  # draw them where they stand, not where their rays enter the NDC box
        poses = cameras.c2w.cpu().numpy()
        tangent = (cameras.sizes / cameras.intrinsics[:, :2] / 2).cpu().numpy()
        local = np.array([[-1, 1, -1], [1, 1, -1], [1, -1, -1], [-1, -1, -1]], float)
        local = local[None] * np.insert(tangent, 2, 1.0, axis=1)[:, None]
        corners = local @ poses[:, :, :3].swapaxes(1, 2)
        position = poses[:, None, :, 3]
        return np.concatenate([position, position + 0.2 * corners], axis=1)
    positions = cameras.c2w[:, :, 3]
    unit = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], device=positions.device)
    views = torch.arange(len(cameras), device=positions.device)[:, None].expand(-1, 4)
    rays = cameras.rays(views, unit * cameras.sizes[:, None, :])
    depth = 0.15 * positions.norm(dim=1).median().clamp_min(0.2)
    corners = rays.origins + rays.directions * depth
    return torch.cat([positions[:, None], corners], dim=1).double().cpu().numpy()


def _extent(frusta: np.ndarray) -> float:
    return max(1.2, float(np.quantile(np.abs(frusta), 0.995)) * 1.05)


def _split_of_views(scene: PosedImages) -> list[str]:
    names = ["train"] * len(scene)
    for split in ("train", "val", "test"):
        for view in scene.splits.get(split, ()):
            names[view] = split
    return names


class _Panel:
    """One orthographic view: `plane` holds the directions that go right and up on paper."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        plane: np.ndarray,
        offset: tuple[int, int],
        scale: float,
    ):
        self.draw = draw
        self.plane = plane
        self.offset = offset
        self.scale = scale

    def at(self, points: Sequence[np.ndarray] | np.ndarray) -> list[tuple[float, float]]:
        flat = np.asarray(points) @ self.plane.T * self.scale
        return [(self.offset[0] + x, self.offset[1] - y) for x, y in flat]

    def box(self) -> None:
        """The twelve edges of [-1, 1]^3."""
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        for a, b in combinations(corners, 2):
            if np.abs(a - b).sum() == 2:
                self.draw.line(self.at([a, b]), fill=BOX, width=2)

    def axes(self) -> None:
        """Arrows of length 1 along the box's axes, with their names."""
        for axis, name in enumerate("xyz"):
            tip = np.eye(3)[axis]
            if np.linalg.norm(self.plane @ tip) < 0.1:
                continue  # it points at the viewer
            start, end = self.at([np.zeros(3), tip])
            self.draw.line([start, end], fill=INK, width=1)
            self.draw.text((end[0] + 3, end[1] - 11), name, fill=INK)

    def cameras(self, frusta: np.ndarray, splits: Sequence[str]) -> None:
        """Each frustum as a pyramid whose tip is the camera."""
        for frustum, split in zip(frusta, splits, strict=True):
            points = self.at(frustum)
            colour = COLOURS[split]
            for a, b in _CORNERS:
                self.draw.line([points[a + 1], points[b + 1]], fill=colour)
                self.draw.line([points[0], points[a + 1]], fill=colour)


def _legend(draw: ImageDraw.ImageDraw, scene: PosedImages) -> None:
    text = f"{scene.name}: box of half side {1 / scene.transform.scale:.4g} in the scene's units"
    draw.text((120, 10), text, fill=INK)
    x = 2 * PANEL - 230
    for split, colour in COLOURS.items():
        count = len(scene.splits.get(split, ()))
        if count:
            draw.text((x, 10), f"{split} {count}", fill=colour)
            x += 75
    draw.line([(PANEL, MARGIN), (PANEL, PANEL + MARGIN)], fill=FAINT)
