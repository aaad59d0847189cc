"""Small ReLU networks without activation after the last layer: reference and dispatch.

Nearly every field ends in one, so they have an operation of their own, ``"small-mlp"``, with a
fast form that keeps a block of rows in the cache through all layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import linear, relu

from polyfield.backend import Implementation, implement, resolve
from polyfield.errors import ConfigError

implement(
    Implementation(
        op="small-mlp",
        backend="torch",
        path="polyfield.fields.small_mlp:small_mlp_torch",
        devices=None,
        dtypes=("float32", "float64", "float16", "bfloat16", "mixed"),
        second_order=True,
    )
)
implement(
    Implementation(
        op="small-mlp",
        backend="numba",
        path="polyfield.fields.small_mlp_numba:small_mlp_numba",
        devices=("cpu",),
        requires=("numba",),
        second_order=True,
        priority=10,
    )
)
# Beyond this the matrices leave the cache, and torch's own products are as fast.
WIDEST = 128


def small_mlp_torch(
    x: Float[Tensor, "n in_dim"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    extra: Float[Tensor, "m more"] | None = None,
    index: Int64[Tensor, "n"] | None = None,
) -> Float[Tensor, "n out_dim"]:
    """The network in plain torch: the reference of ``"small-mlp"``."""
    if extra is not None:
        x = torch.cat((x, extra[index].to(x.dtype)), -1)
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = relu(linear(x, weight, bias))
    return linear(x, weights[-1], biases[-1])


def _check(
    x: Tensor, weights: Sequence[Tensor], extra: Tensor | None, index: Tensor | None
) -> None:
    """Refuse what kernels would read beyond the end of."""
    width = x.shape[1] + (0 if extra is None else extra.shape[1])
    if width != weights[0].shape[1]:
        raise ConfigError(f"the network takes {weights[0].shape[1]} inputs, got {width}")
    if extra is None:
        return
    if index is None or len(index) != len(x):
        found = "none" if index is None else len(index)
        raise ConfigError(f"extra inputs need an index for each of {len(x)} rows, got {found}")
    if x.device.type == "cpu" and len(index):
        low, high = (int(v) for v in index.aminmax())
        if low < 0 or high >= len(extra):
            raise IndexError(f"index goes from {low} to {high}, but there are {len(extra)} rows")


def small_mlp(
    x: Float[Tensor, "*batch in_dim"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    extra: Float[Tensor, "m more"] | None = None,
    index: Int64[Tensor, "n"] | None = None,
) -> Float[Tensor, "*batch out_dim"]:
    """Linear layers with ReLU between them, by the fastest implementation for these tensors.

    Args:
        x: Inputs.
        weights: (out, in) of every layer.
        biases: (out,) of every layer, or None.
        extra: More inputs, shared by many rows (the code of a ray's direction): row
            ``index[i]`` is appended to row i of x, which then has one leading dimension.
        index: Rows of `extra`.

    Raises:
        ConfigError: Widths or numbers of rows do not fit together.
        IndexError: `index` names a row that `extra` has not.
    """
    rows = x.reshape(-1, x.shape[-1])
    _check(rows, weights, extra, index)
    dtypes = {t.dtype for t in (x, *weights)}
    dtype = str(x.dtype).removeprefix("torch.") if len(dtypes) == 1 else "mixed"
    device = x.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    if autocast or max(w.shape[0] for w in weights) > WIDEST:
        function = small_mlp_torch
    else:
        function = resolve("small-mlp", device=device, dtype=dtype).function
    out = function(rows, weights, biases, extra, index)
    return out.reshape(*x.shape[:-1], out.shape[-1])
