"""Sizes of backbones: the largest that keeps within a number of parameters.

Every backbone says by its registry trait `size` how: the names of the settings that are
multiplied by one common factor (``log2_`` begins an exponent; dots lead into nested settings), or
a function of its settings and the factor that gives the new ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.registry import configure, lookup
from polyfield.training.model import Model

Size = Sequence[str] | Callable[[dict[str, Any], float], dict[str, Any]]
SMALLEST, LARGEST = 2.0**-10, 2.0**10  # factors tried
LOSS = 16  # of parameters that a fit may prune
STEPS = 9  # of the bisection: to a seventieth of an octave


def within(settings: Mapping[str, Any], contraction: str, parameters: int) -> dict[str, Any]:
    """Settings whose model has at most, and if possible nearly, a number of parameters.

    Fields that grow while they are fitted are counted at their final size. Where what they
    become depends on the scene (tri-vector's tensors) the count is that of a full box.

    Args:
        settings: Complete settings (`polyfield.training.settings`).
        contraction: As for `Model`.
        parameters: The most there may be, heads and samplers included.

    Raises:
        ConfigError: The backbone has no size to change, its smallest is too large, or it cannot
            be built at all.
    """
    name = settings["backbone"]["type"]
    size = lookup("backbones", name).traits.get("size")
    if not size:
        raise ConfigError(f"backbone {name} does not say which of its settings make it smaller")

    # at its own size it must build; what is wrong there is wrong at any size
    least, best = final_parameters(settings, contraction, parameters), None

    def fits(octaves: float) -> bool:
        nonlocal least, best
        try:
            made = scaled(settings, size, 2.0**octaves)
            count = final_parameters(made, contraction, parameters)
        except ConfigError:  # sizes that the backbone refuses
            return False
        least = min(least, count)
        if count <= parameters:
            best = made
        return count <= parameters

    low = 0.0
    while not fits(low):
        low -= 1.0
        if low < math.log2(SMALLEST):
            raise ConfigError(
                f"backbone {name} with its heads has at least {least:,} parameters, however small "
                "its sizes; allow more, or choose another"
            )
    high = low + 1.0
    while high < math.log2(LARGEST) and fits(high):
        low, high = high, high + 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return best


def scaled(settings: Mapping[str, Any], size: Size, factor: float) -> dict[str, Any]:
    """Settings with the backbone's sizes multiplied by a factor; numbers stay at least 1.

    Example:
        >>> made = scaled({"backbone": {"width": 8, "log2_n": 4}}, ["width", "log2_n"], 2.0)
        >>> made["backbone"]
        {'width': 16, 'log2_n': 5}
    """
    backbone = copy.deepcopy(dict(settings["backbone"]))
    if callable(size):
        return {**settings, "backbone": size(backbone, factor)}
    for name in size:
        *path, last = name.split(".")
        place = backbone
        for part in path:
            place = (place or {}).get(part)
        if place and place.get(last) is not None:
            place[last] = _times(place[last], factor, last.startswith("log2_"))
    return {**settings, "backbone": backbone}


def _times(value: Any, factor: float, exponent: bool) -> Any:
    if isinstance(value, (list, tuple)):
        return [_times(v, factor, exponent) for v in value]
    changed = value + math.log2(factor) if exponent else value * factor
    return max(1, math.floor(changed + 1e-9))


def final_parameters(settings: Mapping[str, Any], contraction: str, most: float) -> int:
    """Parameters of the model at the end of its fit.

    What is far too large at the start already is not grown.

    Raises:
        ConfigError: The backbone refuses these sizes.
    """
    configure("backbones", settings["backbone"])
    model = Model(settings, contraction, torch.Generator().manual_seed(0))
    if model.sizes() and model.parameter_count <= LOSS * most:
        for fraction in (0.0, 1.0):
            model.field.grow(Progress(step=0, fraction=fraction, mse=None, occupied=None))
    return model.parameter_count
