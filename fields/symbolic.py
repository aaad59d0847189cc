"""Formulas for curves: which known function, moved and stretched, a curve looks like.

y = c f(a x + b) + d (Liu et al., ICLR 2025, section 2.5.1). The search, the complexities and the
ranking follow pykan, the paper's reference code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.errors import ConfigError

Function = Callable[[Tensor], Tensor]
# name -> function and complexity
FUNCTIONS: Mapping[str, tuple[Function, int]] = {
    "0": (torch.zeros_like, 0),
    "x": (lambda x: x, 1),
    "x^2": (torch.square, 2),
    "x^3": (lambda x: x**3, 3),
    "x^4": (lambda x: x**4, 3),
    "1/x": (torch.reciprocal, 2),
    "1/x^2": (lambda x: x**-2, 2),
    "sqrt": (torch.sqrt, 2),
    "exp": (torch.exp, 2),
    "log": (torch.log, 2),
    "sin": (torch.sin, 2),
    "abs": (torch.abs, 3),
    "tan": (torch.tan, 3),
    "tanh": (torch.tanh, 3),
    "gaussian": (lambda x: (-x.square()).exp(), 3),
    "arctan": (torch.atan, 4),
}
STEPS = 101
REACH = 10.0
ZOOMS = 3
SEARCHED = 50  # samples that the search looks at
MOST_SAMPLES = 1000
WEIGHT = 0.8  # of the complexity, against that of the fit


@dataclass(frozen=True)
class Suggestion:
    """y = c f(a x + b) + d, and how well it does.

    r2: share of the variance it explains; score: complexity and fit together, lower is better.
    """

    name: str
    a: float
    b: float
    c: float
    d: float
    r2: float
    complexity: int
    score: float


def fit_affine(
    x: Float[Tensor, "n"], y: Float[Tensor, "n"], function: Function
) -> tuple[tuple[float, float, float, float], float]:
    """(a, b, c, d) of the best c f(a x + b) + d, and its share of explained variance.

    a and b by a grid of 101 x 101 on [-10, 10]^2 that is laid anew around the best pair three
    times, c and d by linear regression. Pairs where f is not defined on all samples are left out.
    The search looks at 50 of the samples, the regression at all.
    """
    x, y = x.double(), y.double()
    take = torch.linspace(0, len(x) - 1, min(len(x), SEARCHED), device=x.device).round().long()
    few, of_few = x[take], y[take]
    reach, centre = REACH, (0.0, 0.0)
    unit = torch.linspace(-1, 1, STEPS, dtype=x.dtype, device=x.device)
    r2 = -1.0
    for _ in range(ZOOMS + 1):
        a, b = (m + reach * unit for m in centre)
        explained = _explained(function(a[:, None, None] * few + b[:, None]), of_few)
        best = int(explained.argmax())
        if float(explained.flatten()[best]) > r2:
            r2 = float(explained.flatten()[best])
            centre = float(a[best // STEPS]), float(b[best % STEPS])
        reach *= 2 / (STEPS - 1)
    values = function(centre[0] * x + centre[1])
    r2 = float(_explained(values, y))
    apart = values - values.mean()
    power = float(apart.square().sum())
    c = float((apart * y).sum()) / power if power > 0 else 0.0
    return (*centre, c, float(y.mean() - c * values.mean())), max(r2, 0.0)


def _explained(values: Tensor, y: Tensor) -> Tensor:
    """Squared correlation along the last axis; -1 where it has no meaning."""
    apart, target = values - values.mean(-1, keepdim=True), y - y.mean()
    power = apart.square().sum(-1) * target.square().sum()
    r2 = (apart * target).sum(-1).square() / power
    return torch.where(r2.isfinite() & (power > 0), r2, -torch.ones_like(r2))


def suggest(
    x: Float[Tensor, "n"],
    y: Float[Tensor, "n"],
    names: Sequence[str] = tuple(FUNCTIONS),
) -> list[Suggestion]:
    """Formulas for a curve given by samples, the best first.

    Ranked by 0.8 complexity + 0.2 log2(1 + 1e-5 - r2). At most 1000 samples, evenly taken from x
    in order, are looked at.

    Raises:
        ConfigError: A name is not among `FUNCTIONS`, or there is no sample.
    """
    unknown = [name for name in names if name not in FUNCTIONS]
    if unknown:
        raise ConfigError(f"no function '{unknown[0]}'; there are {', '.join(FUNCTIONS)}")
    if not len(x):
        raise ConfigError("a formula needs samples of its curve, got none")
    order = x.argsort()
    take = torch.linspace(0, len(x) - 1, min(len(x), MOST_SAMPLES), device=x.device).round().long()
    x, y = x.detach()[order[take]], y.detach()[order[take]]
    found = []
    for name in names:
        function, complexity = FUNCTIONS[name]
        affine, r2 = fit_affine(x, y, function)
        fit = float(torch.log2(torch.tensor(1 + 1e-5 - r2)))
        score = WEIGHT * complexity + (1 - WEIGHT) * fit
        found.append(Suggestion(name, *affine, r2, complexity, score))
    return sorted(found, key=lambda s: s.score)
