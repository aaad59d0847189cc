"""What a synthesised lens is set to: focus and aperture as users write them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from polyfield.data.light_field import GridGeometry
from polyfield.errors import ConfigError

RINGS = 3  # of places around the middle of the aperture: 1 + 6 + 12 + 18 = 37
_VALUE = re.compile(r"\s*(-?\d+(?:\.\d+)?|-?\.\d+)\s*(m?)\s*")
_MEANING = {"--refocus": "disparity in pixels per column", "--aperture": "columns of the grid"}


@dataclass(frozen=True)
class Lens:
    """What is in focus and through how large an opening.

    focus: a disparity, or with the suffix m a distance from the cameras in the scene's own units;
    two of them, ``FROM:TO``, for a sweep. aperture: radius in columns of the grid, or with m in the
    scene's units (None: half the grid). width, height: of the pictures (None: the views').
    """

    focus: str
    aperture: str | None = None
    frames: int = 60
    fps: int = 24
    rank: int | None = None
    width: int | None = None
    height: int | None = None


def aperture_places(rings: int = RINGS) -> Float[np.ndarray, "n 2"]:
    """Places evenly spread over the unit disc: the middle, and rings of 6, 12, 18...

    >>> len(aperture_places())
    37
    """
    places = [(0.0, 0.0)]
    for ring in range(1, rings + 1):
        # the radius that leaves every place the same area
        radius = math.sqrt((3 * ring * ring + 1) / (3 * rings * (rings + 1) + 1))
        for k in range(6 * ring):
            angle = math.pi * (2 * k + ring % 2) / (6 * ring)
            places.append((radius * math.cos(angle), radius * math.sin(angle)))
    return np.array(places)


def _measure(text: str, option: str) -> tuple[float, bool]:
    """A number, and whether it is a length."""
    match = _VALUE.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{option} takes a number ({_MEANING[option]}) or a length such as 2.5m in the scene's "
            f"units, got '{text}'"
        )
    return float(match[1]), bool(match[2])


def disparities_of(lens: Lens, geometry: GridGeometry) -> list[float]:
    """One disparity, or those of a sweep's ends.

    Args:
        lens: With lengths in the units of `geometry`.
        geometry: Of the run's cameras.

    Raises:
        ConfigError: Not one or two numbers, or a distance that is not ahead.
    """
    parts = lens.focus.split(":")
    if len(parts) > 2:
        raise ConfigError(f"--refocus takes one value or FROM:TO, got '{lens.focus}'")
    found = []
    for part in parts:
        value, is_length = _measure(part, "--refocus")
        if is_length and value <= 0:
            raise ConfigError(f"--refocus takes distances ahead of the cameras, got '{part}'")
        found.append(float(geometry.disparity(value)) if is_length else value)
    return found


def aperture_of(lens: Lens, geometry: GridGeometry) -> float:
    """Radius of the aperture in columns.

    Raises:
        ConfigError: Not a positive number.
    """
    if lens.aperture is None:
        return max(geometry.columns, geometry.rows) / 2 - 0.5
    value, is_length = _measure(lens.aperture, "--aperture")
    if value <= 0:
        raise ConfigError(f"--aperture takes a positive radius, got '{lens.aperture}'")
    return value / geometry.baseline[0] if is_length else value
