"""What a backbone has learned, as data: curves, pictures and boxes, for others to draw.

A backbone's `insights` returns them; they hold float32 tensors on the CPU, without gradients.
Methods keep theirs to a few lines with the functions here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SIDE = 128  # points per side of a slice
POINTS = 257  # of a curve
MOST = 12  # curves or channels shown, where nobody says how many


@dataclass(frozen=True)
class Curves:
    """Functions of one variable: edges of a KAN, lines of a factored tensor, activations.

    name: what they are; x: where they were evaluated, ascending; lines: values by label.
    """

    name: str
    x: Float[Tensor, "n"]
    lines: dict[str, Float[Tensor, "n"]]


@dataclass(frozen=True)
class Picture:
    """Values over two axes: planes, slices, levels of a grid.

    name: what they are; values: rows from top to bottom; of two coordinates the first runs to the
    right and the second down as in images, of more up; labels: of the channels, if there are any.
    """

    name: str
    values: Float[Tensor, "h w *channels"]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Boxes:
    """Parts of space: boxes of local tensors, reach of kernels.

    name: what they are; boxes: lowest and highest corner of each, in [-1, 1]^D or a little
    beyond; values: how much is in each (None: unknown).
    """

    name: str
    boxes: Float[Tensor, "n 2 D"]
    values: Float[Tensor, "n"] | None = None


Insight = Curves | Picture | Boxes


def axis_names(dims: int) -> str:
    """A letter for each of up to six coordinates; the fourth is time."""
    return "xyztuv"[:dims]


def plain(values: Tensor) -> Tensor:
    """Float32, on the CPU, without gradients."""
    return values.detach().float().cpu()


def strongest(values: Float[Tensor, "*n c"], limit: int) -> list[int]:
    """Channels that vary most, at most `limit`, in their own order."""
    spread = values.flatten(0, -2).std(0, correction=0)
    return sorted(spread.topk(min(limit, len(spread))).indices.tolist())


def curves(
    name: str,
    x: Float[Tensor, "n"],
    values: Float[Tensor, "n c"],
    limit: int = MOST,
    labels: Sequence[str] | None = None,
) -> Curves:
    """The strongest columns of `values` as curves, by default labelled from 1."""
    values = plain(values)
    labels = labels or [str(c + 1) for c in range(values.shape[1])]
    return Curves(name, plain(x), {labels[c]: values[:, c] for c in strongest(values, limit)})


def edge_curves(
    name: str,
    x: Float[Tensor, "n"],
    edges: Float[Tensor, "n i o"],
    limit: int = MOST,
    inputs: Sequence[str] | None = None,
) -> Curves:
    """The strongest of the curves between a layer's inputs and outputs, labelled "1 to 2"."""
    inputs = inputs or [str(i + 1) for i in range(edges.shape[1])]
    labels = [f"{i} to {o + 1}" for i in inputs for o in range(edges.shape[2])]
    return curves(name, x, edges.flatten(1), limit, labels)


def picture(
    name: str,
    values: Float[Tensor, "a b c"],
    limit: int = MOST,
    dims: int = 2,
    labels: Sequence[str] | None = None,
) -> Picture:
    """The strongest channels of values along two axes, the first to run to the right.

    Args:
        name: What they are.
        values: First axis, second axis, channels.
        limit: Most channels.
        dims: Coordinates of the backbone: of more than two the second axis runs up.
        labels: Of the channels (None: numbers from 1).
    """
    values = plain(values).transpose(0, 1)
    values = values.flip(0) if dims > 2 else values
    chosen = strongest(values, limit)
    labels = labels or [str(c + 1) for c in range(values.shape[2])]
    return Picture(name, values[..., chosen].contiguous(), tuple(labels[c] for c in chosen))


@torch.no_grad()
def middle(
    name: str,
    function: Callable[[Float[Tensor, "n D"]], Float[Tensor, "n c"]],
    dims: int,
    like: Tensor,
    *,
    axes: Sequence[int] | None = None,
    limit: int = MOST,
    labels: Sequence[str] | None = None,
) -> Curves | Picture:
    """Any function of coordinates on the slice through the middle of the box.

    Args:
        name: What it is; the axes are put behind it.
        function: Values at points in [-1, 1].
        dims: Coordinates.
        like: Tells number type and device.
        axes: One or two coordinates that vary, the others being 0 (None: the first two).
        limit: Most channels.
        labels: Of the channels (None: numbers from 1).

    Returns:
        A picture, or curves over a single coordinate.
    """
    axes = (tuple(range(dims)) if axes is None else tuple(axes))[:2]
    count = SIDE if len(axes) > 1 else POINTS
    line = torch.linspace(-1, 1, count, dtype=like.dtype, device=like.device)
    points = line.new_zeros(*(count,) * len(axes), dims)
    for axis, values in zip(axes, torch.meshgrid(*[line] * len(axes), indexing="ij"), strict=True):
        points[..., axis] = values
    found = function(points.reshape(-1, dims)).reshape(*points.shape[:-1], -1)
    along = f"{name} over {''.join(axis_names(dims)[axis] for axis in axes)}"
    if len(axes) == 1:
        return curves(along, line, found, limit, labels)
    return picture(along, found, limit, dims, labels)
