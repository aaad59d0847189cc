"""Numba kernels of local tensors; see `polyfield.fields.local_tensors` for conventions.

A slot is one of the K places that a point has for the tensors that cover it: slot i belongs to
point i // K. slots: tensors (N K) of int32, those of a point first and -1 behind them; shares (N K)
of the weights; places (N K A), positions in node units along the axes of the tensor's box.
like: tuples whose lengths are compile-time constants: axes (1 to 4), and the ranks taken at once.
shape: nodes, ranks, density ranks, the first ranks that are used, K. Vectors are flat, a node's
ranks side by side.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from polyfield.encodings.kernels.jit import jit
from polyfield.encodings.kernels.rows import add_scaled, load_row, store_row, sum_row, zero_row

inlined = partial(jit, inline=True)
_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_EPS = np.float32(1e-6)
_FUSED = ("contract",)


@intrinsic
def _fill(typingctx, scale, row):
    """A row with `scale` in every lane."""

    def codegen(context, builder, signature, args):
        empty = ir.Constant(args[1].type, ir.Undefined)
        first = builder.insert_element(empty, args[0], ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), row.width), [0] * row.width)
        return builder.shuffle_vector(first, empty, lanes)

    return row(types.float32, row), codegen


@intrinsic
def _times(typingctx, a, b):
    """a * b, lane by lane."""

    def codegen(context, builder, signature, args):
        return builder.fmul(*args, flags=_FUSED)

    return a(a, a), codegen


@intrinsic
def _between(typingctx, low, high, share):
    """low + share * (high - low), lane by lane."""

    def codegen(context, builder, signature, args):
        step = builder.fsub(args[1], args[0], flags=_FUSED)
        return builder.fadd(args[0], builder.fmul(args[2], step, flags=_FUSED), flags=_FUSED)

    return low(low, low, low), codegen


@inlined
def _bounds(x, pitch, half, count, per_axis):
    """Voxels along one axis whose boxes may cover a coordinate."""
    first = np.int64(np.ceil((x + _ONE) / pitch - (_HALF + half / pitch)))
    return max(first, 0), min(first + per_axis, count)


@inlined
def _away(x, voxel, pitch):
    return x - ((np.float32(voxel) + _HALF) * pitch - _ONE)


@inlined
def _insert(found, capacity, distance, tensor, away, near):
    """Keep the nearest; of equally near ones those that came first. How many there are now."""
    distances, tensors, ways = near
    at = found
    if found == capacity:
        at = 0
        for j in range(1, capacity):
            at = j if distances[j] >= distances[at] else at
        if distance >= distances[at]:
            return found
    distances[at], tensors[at] = distance, tensor
    for a in range(4):
        ways[at, a] = away[a]
    return min(found + 1, capacity)


@inlined
def _nearest(point, index, box, counts, near):
    """The nearest tensors that cover a point (4,), unused axes being 0; how many there are."""
    pitch, half = box
    n0, n1, n2, n3 = counts[0]
    m0, m1, m2, m3 = counts[1]
    found, capacity = 0, len(near[0])
    l0, h0 = _bounds(point[0], pitch, half, n0, m0)
    l1, h1 = _bounds(point[1], pitch, half, n1, m1) if m1 else (0, 1)
    l2, h2 = _bounds(point[2], pitch, half, n2, m2) if m2 else (0, 1)
    l3, h3 = _bounds(point[3], pitch, half, n3, m3) if m3 else (0, 1)
    for i0 in range(l0, h0):
        a0 = _away(point[0], i0, pitch)
        for i1 in range(l1, h1):
            a1 = _away(point[1], i1, pitch) if m1 else _ZERO
            for i2 in range(l2, h2):
                a2 = _away(point[2], i2, pitch) if m2 else _ZERO
                for i3 in range(l3, h3):
                    a3 = _away(point[3], i3, pitch) if m3 else _ZERO
                    tensor = index[((i0 * n1 + i1) * n2 + i2) * n3 + i3]
                    near_01 = abs(a0) <= half and abs(a1) <= half  # never of what is no number
                    if tensor < 0 or not (near_01 and abs(a2) <= half and abs(a3) <= half):
                        continue
                    distance = a0 * a0 + a1 * a1 + a2 * a2 + a3 * a3
                    way = (a0, a1, a2, a3)
                    found = _insert(found, capacity, distance, tensor, way, near)
    return found


@inlined
def _weigh(found, half, window, nodes, near, like, slots):
    """Fill the slots of a point."""
    distances, tensors, ways = near
    ids, shares, places = slots
    axes = len(like[0])
    total = _ZERO
    for j in range(found):
        weight = _ONE / (np.sqrt(distances[j]) + _EPS)
        inside = _ONE
        for a in range(axes):
            u = ways[j, a] / half
            inside *= max(_ONE - u * u, _ZERO)
            place = (u + _ONE) * (_HALF * np.float32(nodes - 1))
            places[j * axes + a] = min(max(place, _ZERO), np.float32(nodes - 1))
        weight *= inside + _EPS if window else _ONE
        ids[j], shares[j] = tensors[j], weight
        total += weight
    for j in range(found):
        shares[j] /= total


@inlined
def _locate(place, line, nodes, ranks):
    """Where the lower of the two nodes around a place begins, and the share of the upper one."""
    node = min(np.int64(place), nodes - 2)
    return (line * nodes + node) * ranks, place - np.float32(node)


@inlined
def _value(vectors, at, upper, ranks, like):
    """A vector of a tensor between the node that begins at `at` and the next one."""
    low, high = load_row(vectors, at, like[1]), load_row(vectors, at + ranks, like[1])
    return _between(low, high, _fill(upper, low))


@inlined
def _product(vectors, starts, uppers, slot, column, ranks, like):
    """Product over the axes of the vectors of one slot."""
    axes, at = len(like[0]), slot * len(like[0])
    total = _value(vectors, starts[at] + column, uppers[at], ranks, like)
    for a in range(1, axes):
        other = _value(vectors, starts[at + a] + column, uppers[at + a], ranks, like)
        total = _times(total, other)
    return total


@inlined
def _blend(vectors, shape, found, scratch, like, out, row):
    """Write the features of one point to `out` from `row` on."""
    shares, starts, uppers = scratch
    _, ranks, density_ranks, used, _ = shape
    density = zero_row(like[1])
    for column in range(0, used, len(like[1])):
        total = density if column < density_ranks else zero_row(like[1])
        for j in range(found):
            value = _product(vectors, starts, uppers, j, column, ranks, like)
            total = add_scaled(total, shares[j], value)
        if column < density_ranks:
            density = total
        else:
            store_row(out, row + 1 + column - density_ranks, total)
    out[row] = sum_row(density)


@jit
def forward(low, high, inputs, search, shape, like, results, kept):
    """Features out (N F), flat, and covered (N,), the results, for points low to high.

    inputs: x, vectors and index; search: pitch and half; voxels of each axis and those that may
    cover a point (0 of axes that are not there); whether there is a window; kept: slots to be
    remembered for the backward pass, or empty arrays.
    """
    x, vectors, index = inputs
    box, counts, window = search
    nodes, ranks, density_ranks, used, capacity = shape
    out, covered = results
    axes, width = len(like[0]), 1 + used - density_ranks
    near = (
        np.empty(capacity, np.float32),
        np.empty(capacity, np.int32),
        np.empty((capacity, 4), np.float32),
    )
    ids = np.empty(capacity, np.int32)
    shares, places = np.empty(capacity, np.float32), np.empty(capacity * axes, np.float32)
    starts, uppers = np.empty(capacity * axes, np.int64), np.empty(capacity * axes, np.float32)
    point = np.zeros(4, np.float32)
    for i in range(low, high):
        for a in range(axes):
            point[a] = x[i, a]
        found = _nearest(point, index, box, counts, near)
        _weigh(found, box[1], window, nodes, near, like, (ids, shares, places))
        for j in range(found):
            for a in range(axes):
                at = j * axes + a
                starts[at], uppers[at] = _locate(places[at], ids[j] * axes + a, nodes, ranks)
        covered[i] = found > 0
        _blend(vectors, shape, found, (shares, starts, uppers), like, out, i * width)
        if len(kept[0]):
            for j in range(capacity):
                slot = i * capacity + j
                kept[0][slot] = ids[j] if j < found else np.int32(-1)
                kept[1][slot] = shares[j]
                for a in range(axes):
                    kept[2][slot * axes + a] = places[j * axes + a]


@jit
def sort_slots(tensors, first, order):
    """Slots by tensor, each tensor's in the order of points.

    first (M + 1,) holds zeros; afterwards tensor m has order[first[m]:first[m + 1]].
    """
    for tensor in tensors:
        if tensor >= 0:
            first[tensor + 1] += 1
    for m in range(1, len(first)):
        first[m] += first[m - 1]
    at = first.copy()
    for slot in range(len(tensors)):
        tensor = tensors[slot]
        if tensor >= 0:
            order[at[tensor]] = slot
            at[tensor] += 1


@inlined
def _add(out, at, ranks, lower, upper, row):
    """Add a vector's gradient to the two nodes that it was interpolated between."""
    like = row[1]
    store_row(out, at, add_scaled(load_row(out, at, like), lower, row[0]))
    at += ranks
    store_row(out, at, add_scaled(load_row(out, at, like), upper, row[0]))


@inlined
def _spread(vectors, starts, uppers, column, ranks, towards, like, out):
    """Add the gradient of one product, `towards`, to the vectors it is of."""
    axes, width = len(like[0]), like[1]
    one = _fill(_ONE, towards)
    a, b, c, d = one, one, one, one
    a = _value(vectors, starts[0] + column, uppers[0], ranks, like)
    if axes > 1:
        b = _value(vectors, starts[1] + column, uppers[1], ranks, like)
    if axes > 2:
        c = _value(vectors, starts[2] + column, uppers[2], ranks, like)
    if axes > 3:
        d = _value(vectors, starts[3] + column, uppers[3], ranks, like)
    ab, cd = _times(_times(a, b), towards), _times(_times(c, d), towards)
    g = _times(cd, b)
    _add(out, starts[0] + column, ranks, _ONE - uppers[0], uppers[0], (g, width))
    if axes > 1:
        g = _times(cd, a)
        _add(out, starts[1] + column, ranks, _ONE - uppers[1], uppers[1], (g, width))
    if axes > 2:
        g = _times(ab, d)
        _add(out, starts[2] + column, ranks, _ONE - uppers[2], uppers[2], (g, width))
    if axes > 3:
        g = _times(ab, c)
        _add(out, starts[3] + column, ranks, _ONE - uppers[3], uppers[3], (g, width))


@jit
def backward(low, high, inputs, slots, by_tensor, shape, like, out):
    """out: gradient in the vectors of tensors low to high, flat.

    inputs: vectors, and the gradient of the features (N F), flat; by_tensor: see `sort_slots`.
    Each tensor's slots are taken in the order of points, whoever does it, while it is cached.
    """
    vectors, grad = inputs
    _, shares, places = slots
    first, order = by_tensor
    nodes, ranks, density_ranks, used, capacity = shape
    axes, width = len(like[0]), 1 + used - density_ranks
    starts, uppers = np.empty(axes, np.int64), np.empty(axes, np.float32)
    size = axes * nodes * ranks
    out[low * size : high * size] = _ZERO
    for tensor in range(low, high):
        for slot in order[first[tensor] : first[tensor + 1]]:
            row, share = (slot // capacity) * width, shares[slot]
            for a in range(axes):
                place = places[slot * axes + a]
                starts[a], uppers[a] = _locate(place, tensor * axes + a, nodes, ranks)
            for column in range(0, used, len(like[1])):
                if column < density_ranks:
                    towards = _fill(share * grad[row], zero_row(like[1]))
                else:
                    at = row + 1 + column - density_ranks
                    towards = load_row(grad, at, like[1])
                    towards = _times(_fill(share, towards), towards)
                _spread(vectors, starts, uppers, column, ranks, towards, like, out)
