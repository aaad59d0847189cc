"""Unbounded space -> the box (mip-NeRF 360; Barron et al., CVPR 2022, arXiv 2111.12077, eq. 10).

x: scene-box positions, unbounded; y: what encodings see.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.errors import UnknownNameError

Contraction = Literal["none", "sphere"]
KINDS = ("none", "sphere")


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownNameError("contraction", kind, KINDS)


def contract(x: Float[Tensor, "*batch D"], kind: Contraction) -> Float[Tensor, "*batch D"]:
    """Positions as encodings see them.

    ``"none"``: x itself. ``"sphere"``: the unit ball is kept and everything else folded into the
    shell around it, then all is halved so that the result lies in the unit ball.

    Raises:
        UnknownNameError: `kind` is neither.

    Example:
        >>> contract(torch.tensor([2.0, 0.0]), "sphere")
        tensor([0.7500, 0.0000])
    """
    _check(kind)
    if kind == "none":
        return x
    # maximum(norm, 1) gives both branches finite gradients everywhere, the centre included
    square = (x * x).sum(-1, keepdim=True)
    norm = torch.where(square > 1, square, torch.ones_like(square)).sqrt()
    return x * ((2 - 1 / norm) / norm / 2)


def uncontract(y: Float[Tensor, "*batch D"], kind: Contraction) -> Float[Tensor, "*batch D"]:
    """The inverse of `contract`; infinite where y lies on the unit sphere (``"sphere"``).

    Raises:
        UnknownNameError: `kind` is neither ``"none"`` nor ``"sphere"``.
    """
    _check(kind)
    if kind == "none":
        return y
    square = (y * y).sum(-1, keepdim=True) * 4
    norm = torch.where(square > 1, square, torch.ones_like(square)).sqrt()
    return y * 2 / (norm * (2 - norm))
