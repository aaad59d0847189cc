"""Fit the sweeps of a drive, score them, and drive another sensor through the same street.

Run it: python examples/06_drive_a_lidar.py --minutes 2
"""

import argparse
from pathlib import Path

import polyfield
from polyfield.config import parse_overrides
from polyfield.training.render_lidar import render_lidar

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--scene", default="sample:street-lidar", help="a folder of sweeps")
parser.add_argument("--out", type=Path, default=Path("runs/06"))
parser.add_argument("--minutes", type=float, default=2.0)
parser.add_argument("--steps", type=int, help="instead of minutes")
parser.add_argument("--sensor", default="vlp-16", help="another sensor than the drive's")
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")


def main(arguments: argparse.Namespace) -> None:
    """Errors of the sweeps that were held out, and what the other sensor would have seen."""
    minutes = None if arguments.steps else arguments.minutes
    settings = parse_overrides(arguments.overrides)
    polyfield.fit(
        arguments.scene, arguments.out, minutes=minutes, steps=arguments.steps, settings=settings
    )
    scores = polyfield.evaluate(arguments.out)
    for name in ("range_medae_m", "range_mae_m", "chamfer_m", "drop_accuracy"):
        print(f"{name:15} field {scores[name]:.3f}   points {scores['baseline'][name]:.3f}")
    drive = arguments.out / arguments.sensor
    done = render_lidar(arguments.out, drive, path="test", sensor_name=arguments.sensor)
    print(f"{done['points']} points of a {arguments.sensor} in {drive}")


if __name__ == "__main__":
    main(parser.parse_args())
