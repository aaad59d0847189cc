"""Families of one-dimensional functions for layers of learnable activations.

u: where the functions are taken, [-1, 1] unless said otherwise, any shape; n or k: number of a
function in its family, from 0; size: how many functions. Every family is a pure function of u
with values (size, *shape of u): functions first, so that recurrences run over whole rows.

Sources: Drokin 2024 (Kolmogorov-Arnold Convolutions) for the polynomials; Li 2024 (FastKAN,
arXiv 2405.06721); Qiu et al. 2024 (ReLU-KAN, arXiv 2406.02075); Bozorgasl and Chen 2024
(Wav-KAN, arXiv 2405.12832).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Step = tuple[float, float, float]


def _recur(u: Tensor, steps: Sequence[tuple[Any, Any, Any]], first: float) -> list[Tensor]:
    """The recurrence by plain operations, differentiable any number of times."""
    rows = [torch.full_like(u, first)]
    for a, b, c in steps:
        following = (a * u + b) * rows[-1]
        rows.append(following - c * rows[-2] if len(rows) > 1 else following)
    return rows


class _ThreeTerm(torch.autograd.Function):
    """The recurrence in place, row after row, and its adjoint, which runs from the last row."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, steps: Sequence[Step], first: float) -> Tensor:
        table = u.new_empty(len(steps) + 1, *u.shape)
        table[0] = first
        slope, scaled = 1.0, u
        for n, (a, b, c) in enumerate(steps):
            row, last = table[n + 1], table[n]
            if a != slope:
                slope, scaled = a, u * a
            if n and c:
                torch.mul(table[n - 1], -c, out=row).addcmul_(scaled, last)
            else:
                torch.mul(scaled, last, out=row)
            if b:
                row.add_(last, alpha=b)
        ctx.save_for_backward(u, table)
        ctx.steps, ctx.first = steps, first
        return table

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        u, table = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody asks for second derivatives
            rows = torch.stack(_recur(u, ctx.steps, ctx.first))
            return torch.autograd.grad(rows, u, grad, create_graph=True)[0], None, None
        grad, out = grad.clone(), torch.zeros_like(u)
        for n in reversed(range(len(ctx.steps))):
            a, b, c = ctx.steps[n]
            scaled = grad[n + 1] * a
            out.addcmul_(scaled, table[n])
            grad[n].addcmul_(scaled, u)
            if b:
                grad[n].add_(grad[n + 1], alpha=b)
            if n and c:
                grad[n - 1].sub_(grad[n + 1], alpha=c)
        return out, None, None


def three_term(
    u: Float[Tensor, "*shape"], steps: Sequence[Step], first: float = 1.0
) -> Float[Tensor, "size *shape"]:
    """b_0 = first, b_{n+1} = (A_n u + B_n) b_n - C_n b_{n-1}, with C_0 ignored.

    Args:
        u: Where; any real number.
        steps: (A_n, B_n, C_n) of every step: one fewer than there are functions.
        first: Value of b_0.
    """
    return _ThreeTerm.apply(u, tuple(steps), first)


def _chebyshev(n: int, a: float, b: float) -> Step:
    return (2.0 if n else 1.0, 0.0, 1.0)


def _chebyshev2(n: int, a: float, b: float) -> Step:
    return (2.0, 0.0, 1.0)


def _legendre(n: int, a: float, b: float) -> Step:
    return ((2 * n + 1) / (n + 1), 0.0, n / (n + 1))


def _gegenbauer(n: int, a: float, b: float) -> Step:
    return (2 * (n + a) / (n + 1), 0.0, (n + 2 * a - 1) / (n + 1))


def _jacobi(n: int, a: float, b: float) -> Step:
    if n == 0:
        return ((a + b + 2) / 2, (a - b) / 2, 0.0)
    m = n + 1
    s = 2 * m + a + b
    common = 2 * m * (m + a + b)
    return (
        s * (s - 1) / common,
        (s - 1) * (a * a - b * b) / (common * (s - 2)),
        2 * (m + a - 1) * (m + b - 1) * s / (common * (s - 2)),
    )


def _hermite(n: int, a: float, b: float) -> Step:
    return (math.sqrt(2 / (n + 1)), 0.0, math.sqrt(n / (n + 1)))


def _laguerre(n: int, a: float, b: float) -> Step:
    return (-1 / (n + 1), (2 * n + 1 + a) / (n + 1), (n + a) / (n + 1))


def _bessel(n: int, a: float, b: float) -> Step:
    return (float(2 * n + 1), 0.0 if n else 1.0, -1.0)


def _fibonacci(n: int, a: float, b: float) -> Step:
    return (1.0, 0.0, -1.0)


def _lucas(n: int, a: float, b: float) -> Step:
    return (1.0 if n else 0.5, 0.0, -1.0)


POLYNOMIALS: Mapping[str, Callable[[int, float, float], Step]] = {
    "chebyshev": _chebyshev,
    "chebyshev2": _chebyshev2,
    "legendre": _legendre,
    "jacobi": _jacobi,
    "gegenbauer": _gegenbauer,
    "hermite": _hermite,
    "laguerre": _laguerre,
    "bessel": _bessel,
    "fibonacci": _fibonacci,
    "lucas": _lucas,
}
# Drokin's defaults, where a family has parameters.
PARAMETERS: Mapping[str, tuple[float, float]] = {
    "jacobi": (1.0, 1.0),
    "gegenbauer": (3.0, 0.0),
    "laguerre": (0.0, 0.0),
}


def polynomials(
    family: str,
    u: Float[Tensor, "*shape"],
    size: int,
    alpha: float | None = None,
    beta: float | None = None,
) -> Float[Tensor, "size *shape"]:
    """The polynomials of degree 0 to size - 1 of a family.

    Hermite polynomials (physicists') are divided by sqrt(2^n n!), without which they explode;
    Fibonacci's begin with F_1 = 1, since F_0 = 0 would be a dead coefficient. By recurrence for
    all: cos(n arccos u) has no gradient at |u| = 1, where T_n has n^2.

    Args:
        family: A name of `POLYNOMIALS`.
        u: Where.
        size: Number of functions, at least 1.
        alpha: Jacobi's a, Gegenbauer's and Laguerre's alpha (None: Drokin's).
        beta: Jacobi's b (None: Drokin's).

    >>> u = torch.tensor(0.3, dtype=torch.float64)
    >>> [round(v, 4) for v in polynomials("chebyshev", u, 5).tolist()]
    [1.0, 0.3, -0.82, -0.792, 0.3448]
    """
    a, b = PARAMETERS.get(family, (0.0, 0.0))
    a, b = a if alpha is None else alpha, b if beta is None else beta
    steps = [POLYNOMIALS[family](n, a, b) for n in range(size - 1)]
    return three_term(u, steps, 2.0 if family == "lucas" else 1.0)


def gram(
    u: Float[Tensor, "*shape"], size: int, factors: Float[Tensor, "..."]
) -> Float[Tensor, "size *shape"]:
    """Discrete Legendre polynomials for ever more points, G_{n+1} = u G_n - f_n beta_n G_{n-1}.

    beta_n = n^2 / (4 n^2 - 1): with all size - 2 factors f_1, f_2, ... = 1 these are the monic
    Legendre polynomials. Drokin's KAGN trains the factors (and two that nothing depends on); its
    own beta multiplies by 4 n^2 - 1.
    """
    steps = [(1.0, 0.0, 0.0)]
    steps += [(1.0, 0.0, factors[n - 1] * (n * n / (4 * n * n - 1))) for n in range(1, size - 1)]
    return torch.stack(_recur(u, steps[: size - 1], 1.0))


def bernstein(u: Float[Tensor, "*shape"], size: int) -> Float[Tensor, "size *shape"]:
    """C(K, k) v^k (1 - v)^(K - k) with v = (u + 1) / 2, K = size - 1: positive, sum 1."""
    v, degree = (u + 1) / 2, size - 1
    up, down = [torch.ones_like(v)], [torch.ones_like(v)]
    for _ in range(degree):
        up.append(up[-1] * v)
        down.append(down[-1] * (1 - v))
    return torch.stack([math.comb(degree, k) * up[k] * down[degree - k] for k in range(size)])


def _apart(u: Tensor, size: int, reach: float = 1.0) -> tuple[Tensor, float]:
    """u minus `size` equidistant centres on [-reach, reach], and the distance between two."""
    centres = torch.linspace(-reach, reach, size, dtype=u.dtype, device=u.device)
    return u - centres.reshape(-1, *(1,) * u.ndim), 2 * reach / (size - 1)


def rbf(u: Float[Tensor, "*shape"], size: int) -> Float[Tensor, "size *shape"]:
    """Gaussians exp(-((u - c) / h)^2) about equidistant centres h apart (FastKAN)."""
    apart, step = _apart(u, size)
    return (apart / step).square().neg().exp()


# FasterKAN: 0.33 wide with centres 4/7 apart.
RSWAF_WIDTH = 0.33 / (4 / 7)


def rswaf(u: Float[Tensor, "*shape"], size: int) -> Float[Tensor, "size *shape"]:
    """Bumps 1 - tanh^2((u - c) / w) about equidistant centres (FasterKAN)."""
    apart, step = _apart(u, size)
    return 1 - (apart / (RSWAF_WIDTH * step)).tanh().square()


def spline(u: Float[Tensor, "*shape"], size: int) -> Float[Tensor, "size *shape"]:
    """Cubic B-splines of `size` - 3 equal intervals on [-1, 1]; sum 1 there, at least 4."""
    step = 2 / (size - 3)
    z = (_apart(u, size, 1 + step)[0] / step).abs()
    return ((2 - z).relu() ** 3 - 4 * (1 - z).relu() ** 3) / 6


# ReLU-KAN's k: bumps reach over k + 1 intervals.
RELU_ORDER = 3


def relu_ends(size: int) -> Float[Tensor, "2 size"]:
    """Where ReLU-KAN's bumps begin and end on [0, 1], for size - 3 intervals."""
    intervals = size - RELU_ORDER
    start = (torch.arange(size, dtype=torch.float64) - RELU_ORDER) / intervals
    return torch.stack([start, start + (RELU_ORDER + 1) / intervals])


def relu_bumps(
    u: Float[Tensor, "*shape"], start: Float[Tensor, "size ..."], end: Float[Tensor, "size ..."]
) -> Float[Tensor, "size *shape"]:
    """[r relu(v - start) relu(end - v)]^2 with v = (u + 1) / 2 (ReLU-KAN).

    r = 4 / width^2 with the width before training, so that peaks are 1 then. `start` and `end`
    have the size first and broadcast over u behind.
    """
    v, intervals = (u + 1) / 2, start.shape[0] - RELU_ORDER
    height = 4 * intervals**2 / (RELU_ORDER + 1) ** 2
    return (height * (v - start).relu() * (end - v).relu()).square()


def _mexican_hat(z: Tensor) -> Tensor:
    square = z.square()
    return 2 / (math.sqrt(3) * math.pi**0.25) * (1 - square) * (-square / 2).exp()


def _morlet(z: Tensor) -> Tensor:
    return (5 * z).cos() * (-z.square() / 2).exp()


def _dog(z: Tensor) -> Tensor:
    return -z * (-z.square() / 2).exp()


def _meyer(z: Tensor) -> Tensor:
    v = z.abs()
    t = (2 * v - 1).clamp(0, 1)
    smooth = t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)
    return (math.pi * v).sin() * (math.pi / 2 * smooth).cos()


def _shannon(z: Tensor) -> Tensor:
    return torch.sinc(z / math.pi) * (-z.square() / 18).exp()


# Wav-KAN's mother functions of z = (u - shift) / scale. Meyer's is cut off smoothly at |z| = 1.
# Shannon's window is a Gaussian of z: a window over features would mix them.
WAVELETS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mexican-hat": _mexican_hat,
    "morlet": _morlet,
    "dog": _dog,
    "meyer": _meyer,
    "shannon": _shannon,
}


def wavelet_frame(size: int) -> Float[Tensor, "2 size"]:
    """Shifts and scales of `size` wavelets on [-1, 1]: 1, 2, 4, ... per level, the rest last."""
    levels = int(math.log2(size + 1))
    counts = [2**j for j in range(levels - 1)]
    counts.append(size - sum(counts))
    shifts = [-1 + (2 * i + 1) / m for m in counts for i in range(m)]
    scales = [1 / m for m in counts for _ in range(m)]
    return torch.tensor([shifts, scales], dtype=torch.float64)


class _Harmonics(torch.autograd.Function):
    """cos(k u) and sin(k u) by doubling: k = m + j from the rows m and j that are there."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, count: int) -> Tensor:
        table = u.new_empty(2, count, *u.shape)
        cosines, sines = table
        torch.cos(u, out=cosines[0])
        torch.sin(u, out=sines[0])
        done = 1
        while done < count:
            more = min(done, count - done)
            new, c, s = slice(done, done + more), cosines[done - 1], sines[done - 1]
            torch.mul(cosines[:more], c, out=cosines[new])
            cosines[new].addcmul_(sines[:more], s, value=-1)
            torch.mul(sines[:more], c, out=sines[new])
            sines[new].addcmul_(cosines[:more], s)
            done += more
        ctx.save_for_backward(table)
        return table

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (table,) = ctx.saved_tensors
        count = table.shape[1]
        k = torch.arange(1, count + 1, dtype=table.dtype, device=table.device)
        slopes = grad[1] * table[0] - grad[0] * table[1]
        return torch.tensordot(k, slopes, 1), None


def fourier(u: Float[Tensor, "*shape"], size: int) -> Float[Tensor, "size *shape"]:
    """cos(k u) for k = 1 to size / 2, then sin(k u): raw integer harmonics, period 2 pi."""
    return _Harmonics.apply(u, size // 2).flatten(0, 1)
