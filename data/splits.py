"""Which views are kept for evaluation: ``2``, ``2,7``, ``every:8``, ``0.1``."""

from __future__ import annotations

import re

from polyfield.errors import ConfigError

EXPECTED = "expected indices such as '2' or '2,7', 'every:8', or a fraction such as '0.1'"


def held_out(spec: str, count: int) -> tuple[int, ...]:
    """Indices of `count` items (views, sweeps) that `spec` keeps for evaluation.

    ``every:K`` keeps 0, K, 2K...; a fraction keeps that share, equally spaced, never random.

    >>> held_out("every:8", 20), held_out("0.25", 8), held_out("2,7", 8)
    ((0, 8, 16), (2, 6), (2, 7))

    Raises:
        ConfigError: `spec` cannot be read, names an item that does not exist, or leaves
            nothing to fit.
    """
    chosen = _parse(spec.strip(), count)
    if chosen and chosen[-1] >= count:
        raise ConfigError(
            f"holdout '{spec}' names item {chosen[-1]}, but there are {count} (0 to {count - 1})"
        )
    if len(chosen) >= count:
        raise ConfigError(f"holdout '{spec}' leaves none of {count} items to fit; keep fewer")
    return chosen


def _parse(spec: str, count: int) -> tuple[int, ...]:
    if re.fullmatch(r"\d+(\s*,\s*\d+)*", spec):
        return tuple(sorted({int(part) for part in spec.split(",")}))
    every = re.fullmatch(r"every:(\d+)", spec)
    if every and int(every[1]) > 0:
        return tuple(range(0, count, int(every[1])))
    if re.fullmatch(r"0?\.\d+", spec) and float(spec) > 0:
        kept = max(1, round(float(spec) * count))
        return tuple(int((i + 0.5) * count / kept) for i in range(kept))
    raise ConfigError(f"holdout '{spec}' cannot be read; {EXPECTED}")
