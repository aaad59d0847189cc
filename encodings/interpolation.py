"""Multilinear interpolation in regular grids of features: lines, planes, volumes.

x: coordinates in [-1, 1]; n_d: nodes along axis d; p = (x + 1) / 2 * (n_d - 1): position in node
units, so the outer nodes lie on the border of the box (torch's ``align_corners=True``).
"""

from __future__ import annotations

from functools import reduce
from operator import mul

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding

from polyfield.backend import Implementation, implement, resolve


def interpolate_torch(
    x: Float[Tensor, "n D"], values: Float[Tensor, "*resolution F"]
) -> Float[Tensor, "n F"]:
    """Interpolated features: the reference of ``"interpolate"``; differentiable twice."""
    resolution = values.shape[:-1]
    counts = torch.tensor(resolution, device=x.device)
    position = (x + 1) * 0.5 * (counts - 1)
    cell = position.detach().floor()
    fraction = position - cell
    axes = torch.arange(len(resolution), device=x.device)
    upper = torch.arange(2 ** len(resolution), device=x.device)[:, None] >> axes & 1
    nodes = cell.nan_to_num().long()[:, None] + upper
    nodes = torch.minimum(nodes.clamp(min=0), counts - 1)
    index = torch.zeros_like(nodes[..., 0])
    for axis, count in enumerate(resolution):
        index = index * count + nodes[..., axis]
    sides = torch.where(upper.bool(), fraction[:, None], 1 - fraction[:, None]).unbind(-1)
    entries = values.reshape(-1, values.shape[-1])
    # embedding's backward is the fast one, but its second fails on empty batches
    entries = embedding(index, entries) if len(x) else entries[index]
    return (entries * reduce(mul, sides)[..., None]).sum(-2)


def interpolate(
    x: Float[Tensor, "*batch D"], values: Float[Tensor, "*resolution F"]
) -> Float[Tensor, "*batch F"]:
    """Features at x, multilinear between the nodes of a grid, by the fastest implementation.

    ``values[i_0, i_1, ..., :]`` belongs to ``x[..., d] = -1 + 2 i_d / (n_d - 1)``: the first axis
    of `values` goes with the first coordinate, features come last. Beyond the box the border
    continues, so the gradient in x is zero there (and from the last node on: at 1 itself); the
    gradient in `values` goes to the border. An axis of one node is constant along its coordinate.

    Args:
        x: D = 1 to 4 coordinates in [-1, 1].
        values: Grid with D axes of any lengths, and features; of the dtype and device of x.

    Example:
        >>> interpolate(torch.tensor([[-1.0], [0.5]]), torch.tensor([[0.0], [1.0], [3.0]]))
        tensor([[0.],
                [2.]])
    """
    dims, features = values.dim() - 1, values.shape[-1]
    assert 1 <= dims <= 4 and x.shape[-1] == dims
    dtype = str(x.dtype).removeprefix("torch.") if x.dtype == values.dtype else "mixed"
    choice = resolve("interpolate", device=x.device.type, dtype=dtype)
    return choice.function(x.reshape(-1, dims), values).reshape(*x.shape[:-1], features)


implement(
    Implementation(
        op="interpolate",
        backend="torch",
        path="polyfield.encodings.interpolation:interpolate_torch",
        devices=None,
        dtypes=("float32", "float64", "float16", "bfloat16", "mixed"),
        second_order=True,
    )
)
implement(
    Implementation(
        op="interpolate",
        backend="numba",
        path="polyfield.encodings.interpolation_numba:interpolate_numba",
        devices=("cpu",),
        requires=("numba",),
        second_order=True,
        priority=10,
    )
)
