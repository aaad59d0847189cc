"""B-splines on one knot vector per feature: knots, bases, curves, least squares, refinement.

G: intervals of a grid; k: order (degree of the pieces, 3 = cubic); knots: the G + 1 points of the
grid and k more beyond either end, so K = G + 2k + 1 of them; M = G + k: bases. Sources: Liu et
al., ICLR 2025 (KAN, arXiv 2404.19756), sections 2.2 and 2.4; de Boor's recursion.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding

from polyfield.backend import Implementation, implement, resolve

# Points per interval at which a curve is read when it is fitted anew: more than the k + 1 that
# determine a piece, so that the fit is a projection and never under-determined.
DENSE = 8
# A feature that is constant over the samples still gets a grid of this half-width.
NARROWEST = 1e-3


def extend(grid: Float[Tensor, "*features G1"], order: int) -> Float[Tensor, "*features K"]:
    """A grid with `order` more points beyond either end, at its mean distance."""
    step = (grid[..., -1:] - grid[..., :1]) / (grid.shape[-1] - 1)
    beyond = step * torch.arange(1, order + 1, device=grid.device, dtype=grid.dtype)
    return torch.cat((grid[..., :1] - beyond.flip(-1), grid, grid[..., -1:] + beyond), -1)


def uniform_knots(
    intervals: int, order: int, low: float = -1.0, high: float = 1.0
) -> Float[Tensor, "K"]:
    """Equally spaced knots of a grid on [low, high].

    Example:
        >>> uniform_knots(2, 1)
        tensor([-2., -1.,  0.,  1.,  2.])
    """
    grid = torch.linspace(low, high, intervals + 1, dtype=torch.float64)
    return extend(grid, order).to(torch.get_default_dtype())


def inner(knots: Float[Tensor, "*features K"], order: int) -> Float[Tensor, "*features G1"]:
    """The grid inside a knot vector."""
    return knots[..., order : knots.shape[-1] - order]


def spline_basis(
    x: Float[Tensor, "*batch F"], knots: Float[Tensor, "F K"], order: int
) -> Float[Tensor, "*batch F M"]:
    """All bases at x by the recursion of Cox and de Boor: the dense reference.

    They are polynomials between knots, sum to 1 on the grid, fade over k knots beyond it and are
    0 further out. Pieces of length 0 (coincident knots) count as 0.
    """
    x = x[..., None]
    basis = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for p in range(1, order + 1):
        rise = knots[:, p:-1] - knots[:, : -p - 1]
        fall = knots[:, p + 1 :] - knots[:, 1:-p]
        up = (x - knots[:, : -p - 1]) * _inverse(rise) * basis[..., :-1]
        down = (knots[:, p + 1 :] - x) * _inverse(fall) * basis[..., 1:]
        basis = up + down
    return basis


def _inverse(length: Tensor) -> Tensor:
    return torch.where(length > 0, 1 / length, torch.zeros_like(length))


def local_basis(
    x: Float[Tensor, "*batch F"], knots: Float[Tensor, "F K"], order: int
) -> tuple[Float[Tensor, "*batch F k1"], Int64[Tensor, "*batch F"]]:
    """The k + 1 bases that can be non-zero at x, and the number of the first (de Boor).

    Beyond the grid the first number is below 0 or the last one above M - 1: those bases do not
    exist. Differentiable in x.
    """
    k, features = order, knots.shape[0]
    points = x.detach().reshape(-1, features).t().contiguous()
    cell = torch.searchsorted(knots, points, right=True).t() - 1
    inside = (cell >= 0) & (cell < knots.shape[1] - 1)
    cell = cell.clamp(0, knots.shape[1] - 2).reshape(x.shape)
    windows = _widened(knots, k).unfold(
        -1, 2 * k, 1
    )  # [f, c] = knots c - k + 1 .. c + k around cell c
    row = torch.arange(features, device=x.device) * windows.shape[1]
    near = embedding(cell + 1 + row, windows.reshape(-1, 2 * k)).unbind(-1)
    values = [inside.reshape(x.shape).to(x.dtype)]
    for j in range(1, k + 1):
        saved, new = None, []
        for r in range(j):
            left, right = near[k - j + r], near[k + r]
            part = values[r] / (right - left)
            rest = (right - x) * part
            new.append(rest if saved is None else saved + rest)
            saved = (x - left) * part
        values = [*new, saved]
    return torch.stack(values, -1), cell - k


def pieces(knots: Float[Tensor, "F K"], order: int) -> Float[Tensor, "F cells k1 k1"]:
    """The bases as polynomials: [f, c, m, p] multiplies v^p in basis c - k + m on cell c.

    v in [0, 1] is the place in the cell between knots c and c + 1. The same recursion as
    `local_basis`, on polynomials. Bases that do not exist (number below 0 or above M - 1) are 0,
    and so are those of a cell of length 0.
    """
    k, wide = order, _widened(knots.double(), order)
    cells = knots.shape[1] - 1
    near = wide.unfold(-1, 2 * k, 1)[:, 1 : cells + 1]  # knots c - k + 1 .. c + k around cell c
    low, length = near[..., k - 1 : k], near[..., k : k + 1] - near[..., k - 1 : k]
    values = [torch.zeros(*length.shape[:2], k + 1, dtype=wide.dtype, device=wide.device)]
    values[0][..., :1] = (length > 0).to(wide.dtype)

    def times_distance(polynomial: Tensor, knot: Tensor) -> Tensor:
        """(x - knot) times a polynomial in v, with x = low + v length."""
        return (low - knot) * polynomial + length * polynomial.roll(1, -1)

    for j in range(1, k + 1):
        new = [torch.zeros_like(values[0]) for _ in range(j + 1)]
        for r in range(j):
            left, right = near[..., k - j + r, None], near[..., k + r, None]
            part = values[r] * _inverse(right - left)
            new[r] = new[r] - times_distance(part, right)
            new[r + 1] = times_distance(part, left)
        values = new
    number = torch.arange(cells, device=knots.device)[:, None] - k
    number = number + torch.arange(k + 1, device=knots.device)
    exists = (number >= 0) & (number < cells - k)
    return (torch.stack(values, -2) * exists[..., None]).to(knots.dtype)


def _widened(knots: Tensor, order: int) -> Tensor:
    """`order` more knots on either side, so that the recursion may look there."""
    first, last = knots[:, 1:2] - knots[:, :1], knots[:, -1:] - knots[:, -2:-1]
    beyond = torch.arange(1, order + 1, device=knots.device, dtype=knots.dtype)
    low, high = knots[:, :1] - first * beyond.flip(0), knots[:, -1:] + last * beyond
    return torch.cat((low, knots, high), -1)


def spline_sum_torch(
    x: Float[Tensor, "n F"], knots: Float[Tensor, "F K"], coefficients: Float[Tensor, "F M out"]
) -> Float[Tensor, "n out"]:
    """Bases laid out, then one product: the reference of ``"spline-sum"``.

    Gathering the k + 1 rows of coefficients instead saves work on paper, but its backward pass
    takes torch three times as long.
    """
    features, count, out_dim = coefficients.shape
    order = knots.shape[1] - count - 1
    values, first = local_basis(x, knots, order)
    number = first[..., None] + torch.arange(order + 1, device=x.device)
    exists = (number >= 0) & (number < count)
    laid_out = values.new_zeros(*x.shape, count)
    laid_out = laid_out.scatter_add(-1, number.clamp(0, count - 1), values * exists)
    return laid_out.flatten(1) @ coefficients.reshape(features * count, out_dim)


def spline_sum(
    x: Float[Tensor, "n F"], knots: Float[Tensor, "F K"], coefficients: Float[Tensor, "F M out"]
) -> Float[Tensor, "n out"]:
    """Sum over features of one curve per feature and output, by the fastest implementation.

    Args:
        x: Where to evaluate; a curve is 0 beyond its outermost knots.
        knots: Of every feature, ascending.
        coefficients: Of every basis; M = K - k - 1 gives the order k.
    """
    same = x.dtype == knots.dtype == coefficients.dtype
    dtype = str(x.dtype).removeprefix("torch.") if same else "mixed"
    choice = resolve("spline-sum", device=x.device.type, dtype=dtype)
    return choice.function(x, knots, coefficients)


implement(
    Implementation(
        op="spline-sum",
        backend="torch",
        path="polyfield.fields.splines:spline_sum_torch",
        devices=None,
        dtypes=("float32", "float64", "float16", "bfloat16", "mixed"),
        second_order=True,
    )
)
implement(
    Implementation(
        op="spline-sum",
        backend="numba",
        path="polyfield.fields.splines_numba:spline_sum_numba",
        devices=("cpu",),
        requires=("numba",),
        second_order=True,
        priority=10,
    )
)


def curves(
    x: Float[Tensor, "n F"], knots: Float[Tensor, "F K"], coefficients: Float[Tensor, "F M out"]
) -> Float[Tensor, "n F out"]:
    """Every curve by itself, before the sum over features."""
    order = knots.shape[1] - coefficients.shape[1] - 1
    return torch.einsum("nfm,fmo->nfo", spline_basis(x, knots, order), coefficients)


def fit_coefficients(
    x: Float[Tensor, "n F"], y: Float[Tensor, "n F out"], knots: Float[Tensor, "F K"], order: int
) -> Float[Tensor, "F M out"]:
    """Coefficients of the curves closest to y at x in the least-squares sense.

    Bases without samples get the coefficients of smallest norm. Computed in double precision; no
    gradients.
    """
    with torch.no_grad():
        bases = spline_basis(x.double(), knots.double(), order).transpose(0, 1)
        found = torch.linalg.pinv(bases) @ y.double().transpose(0, 1)
    return found.to(y.dtype)


def adaptive_knots(
    x: Float[Tensor, "n F"],
    intervals: int,
    order: int,
    uniform: float = 0.02,
    span: tuple[float, float] | None = None,
) -> Float[Tensor, "F K"]:
    """Knots that follow samples: a mixture of their quantiles and an even grid.

    Args:
        x: Samples of every feature, at least one.
        intervals: G.
        order: k.
        uniform: Share of the even grid (the reference code's grid_eps).
        span: Ends of the grid (None: the lowest and the highest sample).
    """
    x = x.detach()
    at = torch.linspace(0, 1, intervals + 1, device=x.device, dtype=x.dtype)
    quantiles = torch.quantile(x, at, dim=0).t()
    if span is not None:
        quantiles = quantiles.clamp(*span)
        quantiles[:, 0], quantiles[:, -1] = span
    centre = (quantiles[:, :1] + quantiles[:, -1:]) / 2
    half = ((quantiles[:, -1:] - quantiles[:, :1]) / 2).clamp(min=NARROWEST)
    even = centre + half * (2 * at - 1)
    flat = quantiles[:, -1:] - quantiles[:, :1] < 2 * NARROWEST
    return extend(torch.where(flat, even, uniform * even + (1 - uniform) * quantiles), order)


def refined_knots(knots: Float[Tensor, "F K"], order: int, intervals: int) -> Float[Tensor, "F K2"]:
    """A finer grid that keeps every knot: each interval is cut into equal parts.

    For a multiple of the old number of intervals this is the paper's grid, resampled at equal
    percentiles. Otherwise the widest intervals are cut into one part more than the others, where
    the paper moves all knots: then no curve on the old grid is lost.

    Raises:
        ValueError: Fewer intervals than before.
    """
    grid = inner(knots, order)
    old = grid.shape[1] - 1
    if intervals < old:
        raise ValueError(f"a grid of {old} intervals cannot be refined to {intervals}")
    width = grid.diff(dim=1)
    rank = width.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    parts = intervals // old + (rank < intervals % old).long()
    ends = parts.cumsum(1)
    number = torch.arange(intervals, device=knots.device).expand(len(grid), -1).contiguous()
    cell = torch.searchsorted(ends, number, right=True)
    share = (number - (ends - parts).gather(1, cell)) / parts.gather(1, cell)
    points = grid.gather(1, cell) + share.to(grid.dtype) * width.gather(1, cell)
    return extend(torch.cat((points, grid[:, -1:]), 1), order)


def inserted(
    coefficients: Float[Tensor, "F M out"],
    knots: Float[Tensor, "F K"],
    new: Float[Tensor, "F K2"],
) -> Float[Tensor, "F M2 out"]:
    """Coefficients of the same curves on a grid that has all knots of the old one, and more.

    Each is the polar form of a piece at the k knots inside its basis (de Boor's algorithm with
    another argument at every step): exact on the grid, in time linear in its size.
    """
    k = knots.shape[1] - coefficients.shape[1] - 1
    old, t = knots.double(), new.double()
    number = torch.arange(t.shape[1] - k - 1, device=t.device)
    # any cell of the grid on which the basis is not 0: one in its middle
    near = (number + (k + 1) // 2).clamp(k, t.shape[1] - k - 2)
    middle = ((t[:, near] + t[:, near + 1]) / 2).contiguous()
    cell = (torch.searchsorted(old, middle, right=True) - 1).clamp(k, old.shape[1] - k - 2)
    feature = torch.arange(len(old), device=t.device)[:, None]
    points = [coefficients.double()[feature, cell - k + j] for j in range(k + 1)]
    for r in range(1, k + 1):
        for j in range(k, r - 1, -1):
            low, high = old.gather(1, cell - k + j), old.gather(1, cell + j + 1 - r)
            share = ((t[:, number + r] - low) / (high - low))[..., None]
            points[j] = torch.lerp(points[j - 1], points[j], share)
    return points[k].to(coefficients.dtype)


def transfer(
    coefficients: Float[Tensor, "F M out"],
    knots: Float[Tensor, "F K"],
    new: Float[Tensor, "F K2"],
) -> Float[Tensor, "F M2 out"]:
    """Coefficients on new knots of the same curves, by least squares on dense points.

    A projection onto curves on the new grid. The reference code fits at samples instead, which
    leaves bases without samples undetermined.
    """
    order = knots.shape[1] - coefficients.shape[1] - 1
    grid = inner(new.double(), order)
    at = (torch.arange(DENSE, device=new.device, dtype=grid.dtype) + 0.5) / DENSE
    points = (grid[:, :-1, None] + grid.diff(dim=1)[..., None] * at).flatten(1).t()
    with torch.no_grad():
        values = curves(points, knots.double(), coefficients.double())
    return fit_coefficients(points, values, new, order).to(coefficients.dtype)
