"""Open a run and look at it through a camera of your own; ask the field about points.

Run it: python examples/04_render_in_python.py runs/01 --out runs/01/mine
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

import polyfield
from polyfield.renderers.cameras import pinhole_cameras
from polyfield.training.pictures import depth_map, save_picture, side_by_side

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", help="a run, for example the one example 01 made")
parser.add_argument("--out", type=Path, default=Path("pictures"))
parser.add_argument("--size", type=int, default=200, help="pixels a side")
parser.add_argument("--distance", type=float, default=2.7, help="from the box's centre, box units")


def look_at_centre(position: Tensor) -> Tensor:
    """OpenGL camera-to-box matrix (3, 4): right, up, backwards, position; z is up."""
    backwards = position / position.norm()
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), backwards)
    right = right / right.norm()
    up = torch.linalg.cross(backwards, right)
    return torch.stack([right, up, backwards, position], dim=1)


def main(arguments: argparse.Namespace) -> None:
    """A picture with its depth, and a slice of the density."""
    model = polyfield.load(arguments.run)

    size, angle = arguments.size, math.radians(40)
    focal = 0.5 * size / math.tan(0.5 * angle)
    pose = look_at_centre(arguments.distance * torch.tensor([0.6, -0.6, 0.53]))
    intrinsics = torch.tensor([focal, focal, size / 2, size / 2])  # fx, fy, cx, cy in pixels
    camera = pinhole_cameras(pose[None], intrinsics, (size, size))
    out = model.render(camera.image_rays(0), background=torch.ones(3, device=model.device))
    row = side_by_side([out["rgb"], depth_map(out["depth"], out["opacity"])])
    save_picture(arguments.out / "picture.png", row)

    s = torch.linspace(-1, 1, size, device=model.device)
    x, y = torch.meshgrid(s, -s, indexing="xy")
    with torch.no_grad():
        sigma = model.field.density(torch.stack([x, y, torch.zeros_like(x)], dim=-1))
    opacity = 1 - torch.exp(-sigma * 2 / size)  # of a slab one pixel thick
    save_picture(arguments.out / "slice.png", opacity[..., None].expand(-1, -1, 3))
    print(f"picture.png and slice.png in {arguments.out}; densest point: {sigma.max():.1f}")


if __name__ == "__main__":
    main(parser.parse_args())
