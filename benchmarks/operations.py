"""The operations that have a fast form, each beside its torch reference: time and parity.

A new operation is one more `Case` in `CASES`. Inputs are what a fit would pass: samples of rays
through a ball, ray after ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from ceilings import gather, scale
from torch import Tensor

from polyfield import backend
from polyfield.data.pixels import Windows, centre_windows, locate_pixels, read_pixels
from polyfield.encodings.dense_grid import DenseGridConfig, DenseGridEncoding
from polyfield.encodings.grid import GridLayout, corners, hash_encode
from polyfield.encodings.hash_grid import HashGridConfig, hash_grid_layout, uniform_table
from polyfield.encodings.interpolation import interpolate
from polyfield.fields.local_tensors import Boxes, local_tensors, number_voxels
from polyfield.fields.small_mlp import small_mlp
from polyfield.fields.splines import extend, spline_sum
from polyfield.renderers.compositing import (
    accumulate,
    composite,
    visibility_from_density,
    weights_from_density,
)
from polyfield.renderers.marching import Lattice, clearance, march
from polyfield.renderers.pinhole import pinhole_rays
from polyfield.renderers.positions import positions, sample_positions
from polyfield.renderers.scans import select_packed
from polyfield.renderers.types import Intervals, Rays
from polyfield.renderers.visible import visible_samples
from polyfield.training.model import Model
from polyfield.training.optimisers import Adam
from polyfield.training.settings import resolve

SIZES = (16384, 65536)
BLOCK = 256  # samples whose rows are fetched together
TOLERANCE = 1e-3  # of the largest value: what float32 sums in another order may differ by
LINE = 16  # float32 numbers of a cache line
MOST_ROUNDS = 500
PER_ROUND = (4, 0.05)  # calls in a row, and seconds after which no more are made


@dataclass(frozen=True)
class Case:
    """One operation with its inputs.

    name: how it is called in the results; ops: what of `polyfield.backend` it is or is made of;
    make: arguments for a number of samples, always the same values; call: the operation as
    Polyfield calls it; arguments that require gradients are differentiated; work: what a forward
    call has to do, and ceiling: how much of that per second the machine can do, a name in
    `ceilings.ceilings` or a measurement of (seconds, arguments); both: forward and backward work
    in forward's, 0 where there is no backward; sizes: numbers of samples.
    """

    name: str
    ops: tuple[str, ...]
    make: Callable[[int], tuple[Any, ...]]
    call: Callable[..., Any]
    work: Callable[..., float] | None = None
    ceiling: str | Callable[..., float] = ""
    both: float = 0.0
    sizes: tuple[int, ...] = SIZES


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _ball(resolution: int, radius: float = 0.5) -> Tensor:
    """Cells of the box whose centres lie in a ball around its centre."""
    axis = (torch.arange(resolution) + 0.5) * (2 / resolution) - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x * x + y * y + z * z <= radius * radius


LATTICE = Lattice(2 * 3**0.5 / 256)
CELLS = 64  # per axis


def _rays(n: int) -> Rays:
    """Rays from all around to points in the ball."""
    draws = torch.randn(2, n, 3, generator=_generator())
    unit = draws / draws.norm(dim=-1, keepdim=True)
    origins, targets = 4 * unit[0], 0.45 * unit[1]
    along = targets - origins
    directions = along / along.norm(dim=-1, keepdim=True)
    return Rays(origins, directions, torch.full((n,), 2.0), torch.full((n,), 6.0))


@cache
def _batch(n: int) -> tuple[Rays, Intervals]:
    """The first n samples of a march through the ball, and the rays they belong to."""
    rays = _rays(n // 8)
    found = march(rays, _ball(CELLS), LATTICE)
    indices = found.ray_indices[:n]
    count = int(indices[-1]) + 1
    offsets = found.offsets[: count + 1].clamp(max=n)
    return rays[:count], Intervals(found.t0[:n], found.t1[:n], count, indices, offsets)


def _positions(n: int) -> Tensor:
    return positions(*_batch(n))


def _hash_inputs(config: HashGridConfig, n: int) -> tuple[Tensor, Tensor, GridLayout]:
    layout = hash_grid_layout(config)
    return _positions(n), uniform_table(layout, 1.0, _generator()).requires_grad_(), layout


def _dense_inputs(n: int) -> tuple[Tensor, Tensor, GridLayout]:
    encoding = DenseGridEncoding(DenseGridConfig(128, 4, 1.0), generator=_generator())
    return _positions(n), encoding.table, encoding.layout


def _grid_inputs(dims: int, n: int) -> tuple[Tensor, Tensor]:
    values = torch.rand(*(128,) * dims, 16, generator=_generator())
    return _positions(n)[:, :dims].contiguous(), values.requires_grad_()


def _tensor_inputs(n: int) -> tuple[Any, ...]:
    """Tri-vectors of 16 + 32 ranks around the ball."""
    index = number_voxels(_ball(16, 0.65))
    vectors = torch.rand(int(index.max()) + 1, 3, 13, 48, generator=_generator())
    return _positions(n), vectors.requires_grad_(), index, Boxes(1 / 8, 3 / 32, 4, 16)


def _rows_fetched(x: Tensor, table: Tensor, layout: GridLayout) -> int:
    return len(x) * layout.levels * 2**layout.in_dim


def _bare_fetch(seconds: float, x: Tensor, table: Tensor, layout: GridLayout) -> float:
    """Rows per second where somebody else has found out which: block by block, level by level."""
    u, levels = (x + 1) * 0.5, range(layout.levels)
    index = torch.stack([corners(u, layout, i)[0] + layout.offsets[i] for i in levels])
    blocks = index[:, : len(x) // BLOCK * BLOCK].unflatten(1, (-1, BLOCK)).transpose(0, 1)
    order = blocks.reshape(-1).numpy().astype(np.uint32)
    return gather(order, table.detach().numpy().reshape(-1), layout.features, seconds)


def _mlp_inputs(widths: tuple[int, ...], more: int, n: int) -> tuple[Any, ...]:
    """A network; the last `more` inputs come per ray."""
    generator = _generator()

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = draw(n, widths[0] - more).requires_grad_()
    pairs = zip(widths[:-1], widths[1:], strict=True)
    weights = [(draw(out, own) * own**-0.5).requires_grad_() for own, out in pairs]
    biases = [None] * len(weights)
    if not more:
        return x, weights, biases
    intervals = _batch(n)[1]
    return x, weights, biases, draw(intervals.n_rays, more), intervals.ray_indices


def _mlp_flop(x: Tensor, weights: list[Tensor], *_: Any) -> int:
    return 2 * len(x) * sum(w.numel() for w in weights)


def _spline_inputs(n: int) -> tuple[Tensor, ...]:
    """Sixteen inputs to sixteen outputs by cubic curves of five intervals (a hidden KAN layer)."""
    x = 2 * torch.rand(n, 16, generator=_generator()) - 1
    knots = extend(torch.linspace(-1, 1, 6).expand(16, 6), 3)
    count = knots.shape[1] - 4
    coefficients = torch.randn(16, count, 16, generator=_generator())
    return x.requires_grad_(), knots, coefficients.requires_grad_()


def _pixels(n: int) -> tuple[np.ndarray, Windows]:
    """Random pixels of a hundred images of Lego's size."""
    sizes = np.full((100, 2), 800)
    windows = centre_windows(np.arange(100), sizes, 1.0)
    number = torch.randint(int(windows.ends[-1]), (n,), generator=_generator())
    return number.numpy(), windows


def _pixel_inputs(n: int) -> tuple[Any, ...]:
    number, windows = _pixels(n)
    data = np.zeros((windows.ends[-1], 4), np.uint8)
    data[:, 0] = np.arange(len(data)) % 251
    return data, windows.ends - 800 * 800, windows.sizes[:, 0], number, windows


def _read(data: np.ndarray, starts: np.ndarray, widths: np.ndarray, *numbered: Any) -> Tensor:
    return torch.from_numpy(read_pixels(data, starts, widths, locate_pixels(*numbered)))


def _ray_inputs(n: int) -> tuple[Any, ...]:
    view, x, y = (torch.from_numpy(v) for v in locate_pixels(*_pixels(n)))
    c2w = torch.rand(100, 3, 4, generator=_generator())
    lens = torch.tensor([1111.0, 1111.0, 400.0, 400.0]).expand(100, 4)
    range_ = torch.ones(100)
    return view, torch.stack([x, y], 1) + 0.5, c2w, lens, range_, 9 * range_


def _rays_through(*arguments: Any) -> tuple[Tensor, ...]:
    rays = pinhole_rays(*arguments)
    return rays.origins, rays.directions, rays.near, rays.far, rays.radii, rays.z_scale


def _march_inputs(n: int) -> tuple[Any, ...]:
    occupied = _ball(CELLS)
    return _batch(n)[0], occupied, LATTICE, "none", None, clearance(occupied)


def _march(*arguments: Any) -> tuple[Tensor, ...]:
    found = march(*arguments)
    return found.t0, found.t1, found.offsets


def _packed(n: int) -> tuple[Tensor, Tensor, Tensor, tuple[Any, ...]]:
    """Densities, interval lengths, colours and the layout of packed samples."""
    intervals, generator = _batch(n)[1], _generator()
    sigma = 4 * torch.rand(n, generator=generator)
    rgb = torch.rand(n, 3, generator=generator)
    return sigma, intervals.t1 - intervals.t0, rgb, intervals.layout


def _weights_inputs(n: int) -> tuple[Any, ...]:
    sigma, delta, _, layout = _packed(n)
    return sigma.requires_grad_(), delta, *layout


def _visible_inputs(n: int) -> tuple[Any, ...]:
    sigma, delta, _, layout = _packed(n)
    return sigma, delta, *layout


def _first_look_inputs(n: int) -> tuple[Any, ...]:
    return _cheap_density, *_batch(n), 0.01, 1e-3


def _cheap_density(x: Tensor) -> Tensor:
    """A field that costs nothing."""
    return 20 * x[:, 0].abs()


def _composite_inputs(n: int) -> tuple[Any, ...]:
    sigma, delta, rgb, layout = _packed(n)
    weights = weights_from_density(sigma, delta, *layout)
    return weights.requires_grad_(), rgb.requires_grad_(), _batch(n)[1].mid, *layout


def _accumulate_inputs(n: int) -> tuple[Any, ...]:
    weights, rgb, _, *layout = _composite_inputs(n)
    return weights, rgb, *layout


def _select_inputs(n: int) -> tuple[Tensor, Tensor]:
    return torch.rand(n, generator=_generator()) < 0.5, _batch(n)[1].offsets


def _position_inputs(n: int) -> tuple[Any, ...]:
    rays, intervals = _batch(n)
    return rays.origins, rays.directions, intervals.t0, intervals.t1, intervals.ray_indices


def _side(cells: int) -> int:
    return round(cells ** (1 / 3))


def _occupancy_inputs(cells: int) -> tuple[Any, ...]:
    settings = resolve({"sampler": {"resolution": _side(cells)}}, preset="cpu")
    generator = _generator()
    model = Model(settings, "none", generator)
    model.sampler.occupied.copy_(_ball(_side(cells)))
    config = model.sampler.config
    late = 4 * config.warmup * config.update_every  # a step that updates, on any schedule
    return model.sampler, model.field, late, generator


def _update_occupancy(sampler: Any, field: Any, step: int, generator: torch.Generator) -> Tensor:
    sampler.update(field, step, generator)
    return sampler.occupancy


def _adam_inputs(sparse: bool, n: int) -> tuple[Adam, Tensor]:
    """A table with the gradient that n samples leave in it."""
    x, table, layout = _hash_inputs(CPU_GRID, n)
    hash_encode(x, table, layout).sum().backward()
    return Adam([table], lr=1e-2, betas=(0.9, 0.99), eps=1e-15, sparse=sparse), table


def _step(optimiser: Adam, table: Tensor) -> Tensor:
    optimiser.step()
    return table.detach()


def _bare_update(seconds: float, optimiser: Adam, table: Tensor) -> float:
    """Bytes per second of multiplying as much memory in place."""
    return scale(4 * 4 * table.numel(), seconds)


def _bytes_moved(optimiser: Adam, table: Tensor) -> int:
    """Gradients are read, and where they are not 0, parameter and moments read and written."""
    lines = table.grad.reshape(-1, LINE)
    sparse = optimiser.param_groups[0]["sparse"]
    moving = int((lines != 0).any(1).sum()) if sparse else len(lines)
    return 4 * LINE * (len(lines) + 6 * moving)


CPU_GRID = HashGridConfig(levels=8, features=4, log2_entries=17, max_resolution=512)
PAPER_GRID = HashGridConfig()
OCCUPANCY = tuple(f"occupancy-{name}" for name in ("remember", "mean", "grow", "points"))
BACKBONE, COLOUR = (32, 64, 16), (32, 64, 3)  # widths of the networks of the preset `cpu`

CASES = (
    Case("hash grid 8x4, 2^17", ("hash-encode",), partial(_hash_inputs, CPU_GRID),
         hash_encode, _rows_fetched, _bare_fetch, both=2.0),
    Case("hash grid 16x2, 2^19", ("hash-encode",), partial(_hash_inputs, PAPER_GRID),
         hash_encode, _rows_fetched, _bare_fetch, both=2.0),
    Case("dense grid 128, 4", ("hash-encode",), _dense_inputs,
         hash_encode, _rows_fetched, _bare_fetch, both=2.0),
    Case("plane 128 x 128, 16", ("interpolate",), partial(_grid_inputs, 2), interpolate, both=1.0),
    Case("line 128, 16", ("interpolate",), partial(_grid_inputs, 1), interpolate, both=1.0),
    Case("curves 16-16, 5 intervals", ("spline-sum",), _spline_inputs, spline_sum, both=1.0),
    Case("local tensors, 16 + 32", ("local-tensors",), _tensor_inputs,
         lambda *inputs: local_tensors(*inputs)[0], both=1.0),
    Case("network 32-64-16", ("small-mlp",), partial(_mlp_inputs, BACKBONE, 0),
         small_mlp, _mlp_flop, "gemm", both=3.0),
    Case("network 16+16-64-3", ("small-mlp",), partial(_mlp_inputs, COLOUR, 16),
         small_mlp, _mlp_flop, "gemm", both=3.0),
    Case("pixels", ("locate-pixels", "read-pixels"), _pixel_inputs, _read),
    Case("pinhole rays", ("pinhole-rays",), _ray_inputs, _rays_through),
    Case("march", ("march",), _march_inputs, _march),
    Case("clearance", ("clearance",), lambda cells: (_ball(_side(cells)),), clearance,
         sizes=(CELLS**3,)),
    Case("occupancy update", OCCUPANCY, _occupancy_inputs, _update_occupancy, sizes=(CELLS**3,)),
    Case("sample positions", ("sample-positions",), _position_inputs, sample_positions),
    Case("packed weights", ("packed-weights",), _weights_inputs, weights_from_density, both=1.0),
    Case("packed visible", ("packed-visible",), _visible_inputs, visibility_from_density),
    Case("first look", ("next-wave", "absorb"), _first_look_inputs, visible_samples),
    Case("packed select", ("packed-select",), _select_inputs, select_packed),
    Case("packed accumulate", ("packed-accumulate",), _accumulate_inputs, accumulate, both=1.0),
    Case("packed composite", ("packed-composite",), _composite_inputs, composite, both=1.0),
    Case("adam, sparse", ("adam",), partial(_adam_inputs, True), _step, _bytes_moved, _bare_update),
    Case("adam, dense", ("adam",), partial(_adam_inputs, False), _step, _bytes_moved, _bare_update,
         sizes=SIZES[-1:]),
)  # fmt: skip


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a tensor, or in a list or tuple of anything."""
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []


class _Call:
    """A case by one backend, forward or forward and backward; calling it gives all results."""

    def __init__(self, case: Case, n: int, name: str, backward: bool):
        self.case, self.name, self.backward = case, name, backward
        self.arguments = case.make(n)
        self.inputs = [t for t in _tensors(self.arguments) if t.requires_grad]
        self.cotangents: list[Tensor] = []

    def __call__(self) -> list[Tensor]:
        with backend.using(self.name), torch.set_grad_enabled(self.backward):
            outputs = _tensors(self.case.call(*self.arguments))
            if not self.backward:
                return outputs
            if not self.cotangents:
                generator = _generator()
                self.cotangents = [torch.randn(o.shape, generator=generator) for o in outputs]
            return outputs + list(torch.autograd.grad(outputs, self.inputs, self.cotangents))

    def seconds(self) -> float:
        """The shortest time of some calls in a row."""
        taken: list[float] = []
        while len(taken) < PER_ROUND[0] and sum(taken) < PER_ROUND[1]:
            start = time.perf_counter()
            self()
            taken.append(time.perf_counter() - start)
        return min(taken)


def _difference(reference: list[Tensor], fast: list[Tensor]) -> float:
    """Largest difference as a share of the largest value; of masks and sizes, the share of them."""
    worst = 0.0
    for a, b in zip(reference, fast, strict=True):
        if a.shape != b.shape:
            worst = max(worst, abs(a.numel() - b.numel()) / max(1, a.numel()))
        elif a.dtype == torch.bool:
            worst = max(worst, float((a != b).double().mean()))
        elif a.numel():
            scale = float(a.detach().abs().max()) or 1.0
            worst = max(worst, float((a.detach() - b.detach()).abs().max()) / scale)
    return worst


def _compare(case: Case, n: int, backward: bool, seconds: float) -> dict[str, Any]:
    """Best times of reference and fast form, called in turn, and how far they are apart."""
    reference, fast = (_Call(case, n, name, backward) for name in ("torch", "auto"))
    difference = _difference(reference(), fast())
    chosen = backend.choices()
    best, rounds, end = [float("inf")] * 2, 0, time.perf_counter() + seconds
    while rounds < 3 or (time.perf_counter() < end and rounds < MOST_ROUNDS):
        best = [min(best[0], reference.seconds()), min(best[1], fast.seconds())]
        rounds += 1
    return {
        "name": case.name,
        "implementations": {op: chosen[op]["backend"] for op in case.ops},
        "samples": n,
        "pass": "forward+backward" if backward else "forward",
        "reference_ms": round(1e3 * best[0], 4),
        "fast_ms": round(1e3 * best[1], 4),
        "ratio": round(best[0] / best[1], 2),
        "samples_per_second": round(n / best[1]),
        "max_error": float(f"{difference:.1e}"),
        "parity": difference <= TOLERANCE,
        "work": case.work(*fast.arguments) if case.work else 0,
    }


def measure(
    cases: tuple[Case, ...], ceilings: dict[str, float], seconds: float, largest: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of figures, one per case, size and pass.

    Args:
        cases: What to measure.
        ceilings: Rates per second, see `ceilings.ceilings`.
        seconds: Time to spend on each row, at least; three rounds are made in any case.
        largest: Smaller sizes for a quick look.
    """
    for case in cases:
        for n in sorted({min(n, largest or n) for n in case.sizes}):
            limit = _ceiling(case, n, ceilings, seconds)
            for backward in (False, True)[: 2 if case.both else 1]:
                row = _compare(case, n, backward, seconds)
                work = row.pop("work") * (case.both if backward else 1.0)
                if limit:
                    row["of_ceiling"] = round(work / (row["fast_ms"] / 1e3) / limit, 3)
                yield row


def _ceiling(case: Case, n: int, ceilings: dict[str, float], seconds: float) -> float:
    if callable(case.ceiling):
        return case.ceiling(seconds, *case.make(n))
    return ceilings.get(case.ceiling, 0.0)


HEADER = (
    f"{'operation':22} {'samples':>7} {'':5} {'torch ms':>9} {'fast ms':>9} {'ratio':>7} "
    f"{'M/s':>8} {'of ceiling':>10} {'error':>8}"
)


def as_line(row: dict[str, Any]) -> str:
    """A row of the table under `HEADER`."""
    both = "f+b" if row["pass"] != "forward" else "f"
    share = f"{row['of_ceiling']:.0%}" if "of_ceiling" in row else ""
    return (
        f"{row['name']:22} {row['samples']:7} {both:5} {row['reference_ms']:9.3f} "
        f"{row['fast_ms']:9.3f} {row['ratio']:7.1f} {row['samples_per_second'] / 1e6:8.2f} "
        f"{share:>10} {row['max_error']:8.1e}{'' if row['parity'] else '  DIFFERS'}"
    )
