"""The same scene, budget and seed with different backbones; one setting changes.

Run it: python examples/02_swap_the_backbone.py --steps 1000 --out runs/02
"""

import argparse

import polyfield
from polyfield.config import merge, parse_overrides

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="runs/02", help="one run per backbone is made in here")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--backbones", nargs="+", default=["hash-grid", "mlp"])
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")


def main(arguments: argparse.Namespace) -> None:
    """Fit and score each backbone, and print a table."""
    print(f"{'backbone':12} {'PSNR':>8} {'parameters':>12} {'seconds':>8}")
    shared = parse_overrides(arguments.overrides)
    for name in arguments.backbones:
        run, settings = f"{arguments.out}/{name}", merge(shared, {"backbone": {"type": name}})
        fitted = polyfield.fit("sample:orrery", run, steps=arguments.steps, settings=settings)
        psnr = polyfield.evaluate(run, every=10)["psnr"]
        print(f"{name:12} {psnr:8.2f} {fitted.parameters:12,} {fitted.seconds:8.1f}")


if __name__ == "__main__":
    main(parser.parse_args())
