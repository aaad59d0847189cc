"""What an occupancy grid does with its cells: fade, remember, decide which are occupied.

Cells are numbered flat, x slowest, over [-1, 1]^3 after contraction. occupancy: opacity of one
step at each cell as last seen, -1 where no camera looks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.backend import Implementation, implement, resolve

for _op in ("remember", "mean", "grow", "points"):
    implement(
        Implementation(
            op=f"occupancy-{_op}",
            backend="torch",
            path=f"polyfield.renderers.occupancy:{_op}_torch",
            devices=None,
            dtypes=("float32", "float64"),
        )
    )
    implement(
        Implementation(
            op=f"occupancy-{_op}",
            backend="numba",
            path=f"polyfield.renderers.occupancy_numba:{_op}",
            devices=("cpu",),
            requires=("numba",),
            priority=10,
        )
    )


def _run(op: str, like: Tensor, *arguments):
    dtype = str(like.dtype).removeprefix("torch.")
    choice = resolve(f"occupancy-{op}", device=like.device.type, dtype=dtype)
    return choice.function(like, *arguments)


class Derived:
    """A function of one tensor, computed again only after the tensor was written to."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self._function = function
        self._known: tuple[Tensor, int, Tensor] | None = None

    def __deepcopy__(self, memo: dict) -> Derived:
        # A copied tensor counts its writes afresh: what is known of the old one may look current.
        return Derived(self._function)

    def __call__(self, tensor: Tensor) -> Tensor:
        """The function's value for the tensor as it is now."""
        if tensor.is_inference():  # writes to such tensors are not counted
            return self._function(tensor)
        known = self._known
        if known is None or known[0] is not tensor or known[1] != tensor._version:
            known = (tensor, tensor._version, self._function(tensor))
            self._known = known
        return known[2]


def remember(
    occupancy: Float[Tensor, "k"],
    cells: Int64[Tensor, "m"],
    values: Float[Tensor, "m"],
    decay: float,
) -> Float[Tensor, "k"]:
    """The occupancy after `values` were seen in `cells`, which may repeat.

    Cells that were looked at keep the larger of their faded old value and of the new ones; the
    others keep theirs.

    Source: Müller et al. 2022, appendix E.3.
    """
    return _run("remember", occupancy, cells, values, decay)


def remember_torch(
    occupancy: Float[Tensor, "k"],
    cells: Int64[Tensor, "m"],
    values: Float[Tensor, "m"],
    decay: float,
) -> Float[Tensor, "k"]:
    """Reference of the operation ``occupancy-remember``."""
    faded = occupancy.index_copy(0, cells, occupancy.index_select(0, cells) * decay)
    return faded.scatter_reduce(0, cells, values, "amax")


def mean_seen(occupancy: Float[Tensor, "r r r"]) -> Float[Tensor, ""]:
    """Mean over the cells that a camera sees (0 where there are none)."""
    return _run("mean", occupancy)


def mean_torch(occupancy: Float[Tensor, "r r r"]) -> Float[Tensor, ""]:
    """Reference of the operation ``occupancy-mean``."""
    seen = (occupancy >= 0).sum().clamp(min=1)
    return (occupancy.clamp(min=0).sum(dtype=torch.float64) / seen).to(occupancy.dtype)


def occupied_cells(
    occupancy: Float[Tensor, "r r r"], limit: float, dilate: bool
) -> Bool[Tensor, "r r r"]:
    """Cells of at least `limit`; dilate: their 26 neighbours, too. Unseen cells never are."""
    return _run("grow", occupancy, limit, dilate)


def grow_torch(
    occupancy: Float[Tensor, "r r r"], limit: float, dilate: bool
) -> Bool[Tensor, "r r r"]:
    """Reference of the operation ``occupancy-grow``."""
    seen = occupancy >= 0
    occupied = (occupancy >= limit) & seen
    if dilate:
        grown = torch.nn.functional.max_pool3d(occupied.float()[None, None], 3, 1, 1)
        occupied = (grown[0, 0] > 0) & seen
    return occupied


def points_in_cells(
    place: Float[Tensor, "m 3"], cells: Int64[Tensor, "m"], resolution: int
) -> Float[Tensor, "m 3"]:
    """Points of the box at a `place` in [0, 1) of each cell."""
    return _run("points", place, cells, resolution)


def points_torch(
    place: Float[Tensor, "m 3"], cells: Int64[Tensor, "m"], resolution: int
) -> Float[Tensor, "m 3"]:
    """Reference of the operation ``occupancy-points``."""
    r = resolution
    corner = torch.stack([cells // (r * r), (cells // r) % r, cells % r], -1)
    return (corner + place) * (2 / r) - 1
