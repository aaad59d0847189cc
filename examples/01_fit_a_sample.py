"""Fit the shipped sample, score it on held-out views, and render an orbit.

Run it: python examples/01_fit_a_sample.py --minutes 2 --out runs/01
"""

import argparse

import polyfield
from polyfield.config import parse_overrides
from polyfield.training.render import RenderOptions

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="runs/01", help="run folder, must not hold a run yet")
parser.add_argument("--minutes", type=float, default=2.0)
parser.add_argument("--steps", type=int, help="a budget in steps instead of minutes")
parser.add_argument("--frames", type=int, default=24)
parser.add_argument("--size", type=int, help="width of the frames (default: the sample's)")
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")


def main(arguments: argparse.Namespace) -> None:
    """Fit, evaluate, render."""
    out = arguments.out
    result = polyfield.fit(
        "sample:orrery",
        out,
        minutes=None if arguments.steps else arguments.minutes,
        steps=arguments.steps,
        settings=parse_overrides(arguments.overrides),
        progress=lambda row: print(f"{row['fraction']:4.0%}", row.get("loss", "")),
    )
    print(f"{result.steps} steps in {result.seconds:.0f} s, {result.parameters} parameters")

    scores = polyfield.evaluate(out, every=10)
    print(f"PSNR {scores['psnr']:.2f} dB over {len(scores['views'])} test views")

    options = RenderOptions(path="orbit", frames=arguments.frames, width=arguments.size)
    video = polyfield.render(out, f"{out}/orbit.mp4", options)
    print(f"{video['frames']} frames in {video['out']}, depth in {video['depth']}")


if __name__ == "__main__":
    main(parser.parse_args())
