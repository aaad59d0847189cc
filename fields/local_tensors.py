"""Local tensors in overlapping boxes: where they stand, which cover a point, what they say.

Strivec's tri-vectors (Gao et al., ICCV 2023, arXiv 2307.13226, section 3): a cloud of small CP
tensors, here of one scale and in any number of coordinates. A: axes; M: tensors; n: nodes along an
axis of a box; R: ranks, those of the density first, then those of the appearance.

Space is cut into voxels of one pitch from the lower corner of the box [-1, 1]^A on, and a tensor
stands in the centre of its voxel. `index` (r, ..., r) holds the number of the tensor of each voxel
or -1; tensors are numbered in the order of their voxels, the last axis fastest. That is all there
is to a placement, and a point finds its neighbours by looking at the few voxels around it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.functional import embedding
from torch.nn.functional import interpolate as resample

from polyfield.backend import Implementation, implement, resolve
from polyfield.encodings.base import Cells
from polyfield.errors import ConfigError

implement(
    Implementation(
        op="local-tensors",
        backend="torch",
        path="polyfield.fields.local_tensors:local_tensors_torch",
        devices=None,
        dtypes=("float32", "float64", "float16", "bfloat16", "mixed"),
        second_order=True,
    )
)
implement(
    Implementation(
        op="local-tensors",
        backend="numba",
        path="polyfield.fields.local_tensors_numba:local_tensors_numba",
        devices=("cpu",),
        requires=("numba",),
        second_order=True,
        priority=10,
    )
)
EPS = 1e-6  # the paper's, beside distances
MOST_AXES = 4  # of the kernels
MOST_VOXELS = 2**24
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Boxes:
    """One scale of tensors.

    pitch: side of a voxel; half: half the side of a box; neighbours: tensors that a point takes at
    most, the nearest ones; density_ranks: ranks that are summed to the density feature; window:
    whether the weight of a tensor falls to zero towards the border of its box; density_only: leave
    the other ranks out.
    """

    pitch: float
    half: float
    neighbours: int
    density_ranks: int
    window: bool = False
    density_only: bool = False

    @property
    def per_axis(self) -> int:
        """Voxels along an axis whose boxes can cover one point."""
        return math.floor(2 * self.half / self.pitch + _ROUNDING) + 1


def voxels_per_axis(pitch: float, dims: int) -> int:
    """Voxels of this pitch from -1 to 1; the last one may reach beyond.

    Raises:
        ConfigError: There are too many voxels in `dims` dimensions to keep a number for each.
    """
    count = math.ceil(2 / pitch - _ROUNDING)
    if count**dims > MOST_VOXELS:
        raise ConfigError(
            f"tensors at a pitch of {pitch:g} have {count}**{dims} places, at most {MOST_VOXELS} "
            f"are possible; set a pitch of {2 / MOST_VOXELS ** (1 / dims):.2g} or more"
        )
    return count


def occupied_voxels(cells: Cells, pitch: float) -> Bool[Tensor, "*voxels"]:
    """The voxels that some occupied cell reaches into, as a mask with an axis per coordinate."""
    dims = cells.centres.shape[1]
    count = voxels_per_axis(pitch, dims)
    low = ((cells.centres - cells.half + 1) / pitch + _ROUNDING).floor().long()
    high = ((cells.centres + cells.half + 1) / pitch - _ROUNDING).ceil().long() - 1
    steps = range(int((high - low).max()) + 1 if len(low) else 0)
    found = torch.zeros((count,) * dims, dtype=torch.bool, device=low.device)
    for step in itertools.product(steps, repeat=dims):
        voxel = low + torch.tensor(step, device=low.device)
        voxel = voxel[((voxel <= high) & (voxel >= 0) & (voxel < count)).all(1)]
        found[tuple(voxel.unbind(1))] = True
    return found


def number_voxels(occupied: Bool[Tensor, "*voxels"]) -> Int[Tensor, "*voxels"]:
    """The placement with a tensor in each of these voxels, int32."""
    flat = occupied.flatten().int()
    return (flat.cumsum(0, dtype=torch.int32) * flat - 1).view(occupied.shape)


def centres(index: Int[Tensor, "*voxels"], pitch: float) -> Float[Tensor, "M A"]:
    """Where the tensors of a placement stand."""
    return ((index >= 0).nonzero() + 0.5) * pitch - 1


def upsample(
    vectors: Float[Tensor, "M A n R"], intervals: int
) -> Float[Tensor, "M A {intervals}+1 R"]:
    """The vectors at more nodes, by linear interpolation."""
    lines = vectors.flatten(0, 1).transpose(1, 2)
    lines = resample(lines, intervals + 1, mode="linear", align_corners=True)
    return lines.transpose(1, 2).unflatten(0, vectors.shape[:2]).contiguous()


def cover_pairs(
    x: Float[Tensor, "N A"], index: Int[Tensor, "*voxels"], boxes: Boxes
) -> tuple[Int64[Tensor, "P"], Int64[Tensor, "P"], Float[Tensor, "P A"]]:
    """Every point with each of the nearest tensors that cover it, at most `boxes.neighbours`.

    Of tensors that are equally far the one that comes first in the order of voxels is taken.

    Returns:
        Point and tensor of each pair, sorted by point and then by distance, and the way from the
        tensor's centre to the point, differentiable in x.
    """
    count, dims = len(index), index.dim()
    first = ((x.detach() + 1) / boxes.pitch - (0.5 + boxes.half / boxes.pitch)).ceil().long()
    steps = torch.cartesian_prod(*[torch.arange(boxes.per_axis, device=x.device)] * dims)
    voxel = first[:, None] + steps.view(-1, dims)
    away = x[:, None] - ((voxel.to(x.dtype) + 0.5) * boxes.pitch - 1)
    inside = ((voxel >= 0) & (voxel < count) & (away.detach().abs() <= boxes.half)).all(-1)
    tensor = index[tuple(voxel.clamp(0, count - 1).unbind(-1))].long()
    inside &= tensor >= 0
    distance = away.detach().square().sum(-1).where(inside, math.inf)
    nearest = distance.sort(dim=-1, stable=True).indices[:, : boxes.neighbours]
    point, slot = inside.gather(1, nearest).nonzero(as_tuple=True)
    chosen = nearest[point, slot]
    return point, tensor[point, chosen], away[point, chosen]


def tensor_values(
    vectors: Float[Tensor, "M A n R"],
    tensor: Int64[Tensor, "P"],
    u: Float[Tensor, "P A"],
) -> Float[Tensor, "P R"]:
    """Products over the axes of a tensor's vectors at u in [-1, 1], its box (not summed)."""
    _, axes, nodes, ranks = vectors.shape
    position = ((u + 1) * (0.5 * (nodes - 1))).clamp(0, nodes - 1)
    low = position.detach().floor().clamp(max=nodes - 2)
    upper = (position - low)[..., None]
    row = (tensor[:, None] * axes + torch.arange(axes, device=u.device)) * nodes + low.long()
    entries = vectors.reshape(-1, ranks)
    # embedding's backward is the fast one, but its second fails on empty batches
    below, above = (embedding(i, entries) if len(i) else entries[i] for i in (row, row + 1))
    return ((1 - upper) * below + upper * above).prod(1)


def local_tensors_torch(
    x: Float[Tensor, "N A"],
    vectors: Float[Tensor, "M A n R"],
    index: Int[Tensor, "*voxels"],
    boxes: Boxes,
) -> tuple[Float[Tensor, "N F"], Bool[Tensor, "N"]]:
    """The reference of ``"local-tensors"``; differentiable twice in x and vectors."""
    point, tensor, away = cover_pairs(x, index, boxes)
    u = away / boxes.half
    used = vectors[..., : boxes.density_ranks] if boxes.density_only else vectors
    values = tensor_values(used, tensor, u)
    density = values[:, : boxes.density_ranks].sum(1, keepdim=True)
    values = torch.cat((density, values[:, boxes.density_ranks :]), 1)
    weight = 1 / (away.norm(dim=1) + EPS)
    if boxes.window:
        weight = weight * ((1 - u.square()).clamp(min=0).prod(1) + EPS)
    total = weight.new_zeros(len(x)).index_add(0, point, weight)
    share = (weight / total[point])[:, None]
    out = values.new_zeros(len(x), values.shape[1])
    return out.index_add(0, point, (share * values).to(out.dtype)), total.detach() > 0


def local_tensors(
    x: Float[Tensor, "*batch A"],
    vectors: Float[Tensor, "M A n R"],
    index: Int[Tensor, "*voxels"],
    boxes: Boxes,
) -> tuple[Float[Tensor, "*batch F"], Bool[Tensor, "*batch"]]:
    """What the tensors around points say of them, by the fastest implementation.

    A tensor's value is the product over the axes of its vectors, interpolated linearly between the
    nodes, the first and last of which lie on the border of its box. The nearest tensors that cover
    a point are averaged with weights 1 / (distance + 1e-6). (The published code divides by
    max(1, sum of weights), which is not an average where boxes are large.) With a window the
    weights also carry the factor prod_a (1 - u_a^2) + 1e-6, u: the point in the tensor's box from
    -1 to 1; there are then no seams where a box begins. Which tensors are taken, and how many, is
    not differentiable.

    Args:
        x: Points, any leading shape.
        vectors: Of M tensors.
        index: Their placement.
        boxes: Their sizes, and how they are blended.

    Returns:
        F = 1 + R - density_ranks features: the sum over the density's ranks, then the others, or
        the first alone; and whether any tensor covers the point (where none does, they are 0).
    """
    rows, axes = x.reshape(-1, x.shape[-1]), index.dim()
    assert x.shape[-1] == axes == vectors.shape[1]
    if axes > MOST_AXES:
        function = local_tensors_torch
    else:
        dtype = str(x.dtype).removeprefix("torch.") if x.dtype == vectors.dtype else "mixed"
        function = resolve("local-tensors", device=x.device.type, dtype=dtype).function
    out, covered = function(rows, vectors, index, boxes)
    return out.reshape(*x.shape[:-1], out.shape[-1]), covered.reshape(x.shape[:-1])
