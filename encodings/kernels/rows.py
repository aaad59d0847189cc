"""Short vectors in kernels: the features of one node, held in one or a few CPU registers.

Numba leaves loops over a handful of features scalar (its second vectoriser is off), which costs
more than the memory they read. These operations say what is meant: a `Row` is loaded, scaled,
added and stored as a whole. Their width is the length of a tuple, a compile-time constant.
Arithmetic is strict: the roundings are those of the same loop over single numbers.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

_INT32 = ir.IntType(32)


class Row(types.Type):
    """The type of `width` float32 side by side."""

    def __init__(self, width: int):
        super().__init__(name=f"Row({width})")
        self.width = width


def _vector(width):
    return ir.VectorType(ir.FloatType(), width)


@register_model(Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager, row):
        super().__init__(manager, row, _vector(row.width))


def _address(context, builder, array_type, array, start, width):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [start]), ir.PointerType(_vector(width)))


def _lanes(builder, vector, first, count):
    """`count` lanes of a vector; the first one, `count` times, where `first` is None."""
    picked = range(first, first + count) if first is not None else [0] * count
    mask = ir.Constant(ir.VectorType(_INT32, count), list(picked))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


@intrinsic
def zero_row(typingctx, like):
    """A row of len(like) zeros."""
    row = Row(like.count)

    def codegen(context, builder, signature, args):
        return ir.Constant(_vector(row.width), [0.0] * row.width)

    return row(like), codegen


@intrinsic
def load_row(typingctx, array, start, like):
    """len(like) elements of a flat contiguous float32 array from `start` on (not checked)."""
    row = Row(like.count)

    def codegen(context, builder, signature, args):
        at = _address(context, builder, array, args[0], args[1], row.width)
        return builder.load(at, align=4)

    return row(array, types.intp, like), codegen


@intrinsic
def store_row(typingctx, array, start, row):
    """Write a row to a flat contiguous float32 array from `start` on (not checked)."""

    def codegen(context, builder, signature, args):
        at = _address(context, builder, array, args[0], args[1], row.width)
        builder.store(args[2], at, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, row), codegen


@intrinsic
def add_scaled(typingctx, total, scale, row):
    """total + scale * row."""

    def codegen(context, builder, signature, args):
        one = ir.Constant(_vector(1), ir.Undefined)
        one = builder.insert_element(one, args[1], ir.Constant(_INT32, 0))
        scales = _lanes(builder, one, None, row.width)
        return builder.fadd(args[0], builder.fmul(scales, args[2]))

    return row(row, types.float32, row), codegen


@intrinsic
def add_product(typingctx, total, a, b):
    """total + a * b, lane by lane."""

    def codegen(context, builder, signature, args):
        return builder.fadd(args[0], builder.fmul(args[1], args[2]))

    return total(total, total, total), codegen


@intrinsic
def sum_row(typingctx, row):
    """Sum of the lanes: halves are added while they are equal, then one lane after the other."""

    def codegen(context, builder, signature, args):
        vector, width = args[0], row.width
        while width % 2 == 0:
            width //= 2
            low, high = (_lanes(builder, vector, first, width) for first in (0, width))
            vector = builder.fadd(low, high)
        lanes = [builder.extract_element(vector, ir.Constant(_INT32, k)) for k in range(width)]
        total = lanes[0]
        for lane in lanes[1:]:
            total = builder.fadd(total, lane)
        return total

    return types.float32(row), codegen
