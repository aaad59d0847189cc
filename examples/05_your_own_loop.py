"""The parts without the program: scene, backbone, field, sampler, renderer, and a loop of your own.

Run it: python examples/05_your_own_loop.py --steps 300
"""

import argparse
from pathlib import Path

import torch

from polyfield.data.batches import PixelSource
from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.registry import build
from polyfield.renderers.volume import VolumeConfig, render_volume
from polyfield.training.metrics import psnr
from polyfield.training.photos import background_colour, photo, with_background
from polyfield.training.pictures import save_picture, side_by_side

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--rays", type=int, default=1024, help="rays per step")
parser.add_argument("--downscale", type=int, default=4)
parser.add_argument("--out", type=Path, default=Path("picture.png"))


def main(arguments: argparse.Namespace) -> None:
    """Fit for some steps, then show a test view."""
    scene = load_scene("sample:orrery", LoadOptions(downscale=arguments.downscale))
    generator = torch.Generator().manual_seed(0)  # every random number comes from here
    grid = {"type": "hash-grid", "levels": 6, "log2_entries": 14, "max_resolution": 128}
    backbone = build("backbones", grid, in_dim=3, generator=generator)
    field = build("fields", {"type": "radiance"}, backbone=backbone, generator=generator)
    sampler = build("samplers", {"type": "stratified", "samples": 48}, contraction="none")
    config, background = VolumeConfig(), background_colour(scene)

    source = PixelSource(scene, "train")
    optimiser = torch.optim.Adam(field.parameter_groups(lr=1e-2), eps=1e-15)
    for step in range(arguments.steps):
        batch = with_background(source.sample(arguments.rays, generator), background, None)
        rendered = render_volume(
            field, batch.rays, sampler, config, background=background, generator=generator
        )
        loss = (rendered.rgb - batch.targets["rgb"]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0 or step == arguments.steps - 1:
            print(f"step {step}  loss {float(loss.detach()):.5f}")

    view = scene.splits["test"][0]
    rays, truth = scene.cameras.image_rays(view), photo(scene, view)
    with torch.no_grad():
        flat = render_volume(field, rays.flatten(), sampler, config, background=background)
    picture = flat.rgb.reshape(truth.shape)
    save_picture(arguments.out, side_by_side([truth, picture]))
    print(f"PSNR of {scene.names[view]}: {psnr(picture, truth):.2f} dB, see {arguments.out}")


if __name__ == "__main__":
    main(parser.parse_args())
