"""Vector operations that LLVM does not find by itself, as numba intrinsics.

Plain loops in numba reach a tenth of these: LLVM turns a loop over |x - y| of bytes into 32-bit arithmetic,
where `psadbw` takes 64 bytes in one instruction. Everything here is written for vectors of 64 bytes; LLVM
splits them where the CPU's are shorter, and there is a generic form of each operation for any other CPU.
Integer results are the same on every CPU, and so are the floating-point ones: their order of summation is
spelled out, and no operation is contracted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dm2at_ray.neighbors.metric import SMALLEST_L2, TINY_SCALE

GROUP = 8
"""Rows whose 8-byte words stand side by side in packed codes: one vector."""
ROWS_X = 4
"""Rows of x that one call of a filter takes."""
ROWS_Y = 2 * GROUP
"""Rows of y that one call of a filter takes."""
LANES = 16
"""float32 sums kept side by side when a pair is measured."""

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_8xI64, _16xI32, _64xI8 = ir.VectorType(_I64, 8), ir.VectorType(_I32, 16), ir.VectorType(_I8, 64)
_16xF32 = ir.VectorType(_F32, LANES)

_bytes = types.CPointer(types.uint8)
_longs = types.CPointer(types.int64)
_floats = types.CPointer(types.float32)

Builder = Any
Value = Any


def _cpu_has(feature: str) -> bool:
    return bool(llvm.get_host_cpu_features().get(feature))


def _splat(builder: Builder, value: Value, vector: ir.VectorType) -> Value:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, first, zeros)


def _constant(vector: ir.VectorType, value: float) -> Value:
    return ir.Constant(vector, [value] * vector.count)


def _take(builder: Builder, x: Value, y: Value, lanes: range) -> Value:
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


def _load(builder: Builder, pointer: Value, offset: Value, what: Any, align: int) -> Value:
    return builder.load(builder.bitcast(builder.gep(pointer, [offset]), what.as_pointer()), align=align)


def _sum_of_absolute_differences(builder: Builder, accumulator: Value, x: Value, y: Value) -> Value:
    """Add, in each of 8 int64 lanes, the absolute differences of the lane's 8 unsigned bytes."""
    for feature, name, bits in (
        ("avx512bw", "llvm.x86.avx512.psad.bw.512", 512),
        ("avx2", "llvm.x86.avx2.psad.bw", 256),
        ("sse2", "llvm.x86.sse2.psad.bw", 128),
    ):
        if _cpu_has(feature):
            size = bits // 8
            signature = ir.FunctionType(ir.VectorType(_I64, bits // 64), [ir.VectorType(_I8, size)] * 2)
            psad = cgutils.get_or_insert_function(builder.module, signature, name)
            cuts = [range(at, at + size) for at in range(0, 64, size)]
            parts = [
                builder.call(psad, [_take(builder, x, x, cut), _take(builder, y, y, cut)]) for cut in cuts
            ]
            while len(parts) > 1:
                both = range(2 * parts[0].type.count)
                parts = [_take(builder, parts[at], parts[at + 1], both) for at in range(0, len(parts), 2)]
            return builder.add(accumulator, parts[0])
    greater = builder.icmp_unsigned(">", x, y)
    difference = builder.select(greater, builder.sub(x, y), builder.sub(y, x))
    total = builder.bitcast(difference, _8xI64)
    for shift, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0xFFFFFFFF)):
        kept = _constant(_8xI64, mask)
        shifted = builder.and_(builder.lshr(total, _constant(_8xI64, shift)), kept)
        total = builder.add(builder.and_(total, kept), shifted)
    return builder.add(accumulator, total)


def _dot_product(builder: Builder, accumulator: Value, x: Value, y: Value) -> Value:
    """Add, in each of 16 int32 lanes, the products of the lane's 4 bytes: x unsigned, y less 128."""
    signed = builder.xor(y, _constant(_64xI8, 0x80))
    if _cpu_has("avx512vnni"):
        signature = ir.FunctionType(_16xI32, [_16xI32] * 3)
        name = "llvm.x86.avx512.vpdpbusd.512"
        dot = cgutils.get_or_insert_function(builder.module, signature, name)
        words = [builder.bitcast(each, _16xI32) for each in (x, signed)]
        return builder.call(dot, [accumulator, *words])
    wide = ir.VectorType(_I32, 64)
    products = builder.mul(builder.zext(x, wide), builder.sext(signed, wide))
    for phase in range(4):
        quarter = _take(builder, products, products, range(phase, 64, 4))
        accumulator = builder.add(accumulator, quarter)
    return accumulator


def _as_sad(builder: Builder, accumulator: Value) -> Value:
    return accumulator


def _as_minus_two_dots(builder: Builder, accumulator: Value) -> Value:
    """Fold two int32 lanes into one int64 each, and double and negate them."""
    pairs = [_take(builder, accumulator, accumulator, range(half, 16, 2)) for half in (0, 1)]
    dots = builder.add(*(builder.sext(each, _8xI64) for each in pairs))
    return builder.mul(dots, _constant(_8xI64, -2))


def _filter(
    step: Callable[..., Value], finish: Callable[..., Value], lanes: ir.VectorType
) -> Callable[..., Any]:
    """Make the code of a filter over ROWS_X x ROWS_Y pairs from an operation on codes."""

    def code(_: Any, builder: Builder, signature: Any, arguments: Any) -> Value:
        x, x_places, y, words, x_reach, x_base, y_reach, y_base = arguments
        groups = ROWS_Y // GROUP
        zero = ir.Constant(lanes, [0] * lanes.count)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(groups)] for _ in range(ROWS_X)]
        for value in (each for row in sums for each in row):
            builder.store(zero, value)
        places = [_load(builder, x_places, ir.Constant(_I64, row), _I64, 8) for row in range(ROWS_X)]
        with cgutils.for_range(builder, words) as loop:
            at = builder.mul(loop.index, ir.Constant(_I64, 64))
            x_words = []
            for row in range(ROWS_X):
                word = _load(builder, x, builder.add(at, places[row]), _I64, 8)
                x_words.append(builder.bitcast(_splat(builder, word, _8xI64), _64xI8))
            for group in range(groups):
                offset = builder.mul(words, ir.Constant(_I64, 64 * group))
                y_words = _load(builder, y, builder.add(offset, at), _64xI8, 8)
                for row in range(ROWS_X):
                    total = step(builder, builder.load(sums[row][group]), x_words[row], y_words)
                    builder.store(total, sums[row][group])
        mask = ir.Constant(_I64, 0)
        for group in range(groups):
            eight = ir.Constant(_I64, GROUP * group)
            reach_y, base_y = (_load(builder, each, eight, _8xI64, 8) for each in (y_reach, y_base))
            for row in range(ROWS_X):
                reach_x, base_x = (
                    _splat(builder, _load(builder, each, ir.Constant(_I64, row), _I64, 8), _8xI64)
                    for each in (x_reach, x_base)
                )
                total = finish(builder, builder.load(sums[row][group]))
                hit = builder.or_(
                    builder.icmp_signed("<=", total, builder.add(reach_x, base_y)),
                    builder.icmp_signed("<=", total, builder.add(base_x, reach_y)),
                )
                bits = builder.zext(builder.bitcast(hit, _I8), _I64)
                shift = ir.Constant(_I64, ROWS_Y * row + GROUP * group)
                mask = builder.or_(mask, builder.shl(bits, shift))
        return mask

    return code


_filter_signature = types.uint64(_bytes, _longs, _bytes, types.int64, _longs, _longs, _longs, _longs)


@intrinsic
def within_sad(  # type: ignore[no-untyped-def]
    typing_context, x, x_places, y, words, x_reach, x_base, y_reach, y_base
):
    """Bit ROWS_Y * r + c: SAD(x_r, y_c) <= max(x_reach[r] + y_base[c], x_base[r] + y_reach[c]).

    Row x_r stands x_places[r] bytes into the packed codes x; y points at the first of two groups of them;
    words is ceil(D / 8).
    """
    return _filter_signature, _filter(_sum_of_absolute_differences, _as_sad, _8xI64)


@intrinsic
def within_dot(  # type: ignore[no-untyped-def]
    typing_context, x, x_places, y, words, x_reach, x_base, y_reach, y_base
):
    """As `within_sad` for -2 * dot(x_r, y_c - 128)."""
    return _filter_signature, _filter(_dot_product, _as_minus_two_dots, _16xI32)


@intrinsic
def pair_distance(typing_context, x, y, dims, l1_weight, l2_weight):  # type: ignore[no-untyped-def]
    """D of two rows of float32, their length a multiple of LANES.

    LANES partial sums, added pairwise at the end: the same bits wherever the pair is met. Where squares might
    vanish in float32 they are summed once more of differences TINY_SCALE times as large, which loses nothing:
    a power of two changes no digit.
    """

    def code(_: Any, builder: Builder, signature: Any, arguments: Any) -> Value:
        x, y, dims, l1_weight, l2_weight = arguments
        absolute = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_16xF32, [_16xF32]), "llvm.fabs.v16f32"
        )
        root = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_F32, [_F32]), "llvm.sqrt.f32")
        zero = ir.Constant(_16xF32, [0.0] * LANES)

        def sums(scale: float | None = None) -> tuple[Value, Value]:
            l1, squares = (cgutils.alloca_once(builder, _16xF32) for _ in range(2))
            builder.store(zero, l1)
            builder.store(zero, squares)
            with cgutils.for_range(builder, builder.sdiv(dims, ir.Constant(_I64, LANES))) as loop:
                at = builder.mul(loop.index, ir.Constant(_I64, LANES))
                difference = builder.fsub(*(_load(builder, each, at, _16xF32, 4) for each in (x, y)))
                if scale is not None:
                    difference = builder.fmul(difference, _constant(_16xF32, scale))
                builder.store(builder.fadd(builder.load(l1), builder.call(absolute, [difference])), l1)
                square = builder.fmul(difference, difference)
                builder.store(builder.fadd(builder.load(squares), square), squares)
            return _sum_of_lanes(builder, builder.load(l1)), _sum_of_lanes(builder, builder.load(squares))

        total_l1, total_squares = sums()
        l2 = cgutils.alloca_once_value(builder, builder.call(root, [total_squares]))
        tiny = builder.fcmp_ordered("<", total_squares, ir.Constant(_F32, SMALLEST_L2**2))
        apart = builder.fcmp_ordered(">", total_l1, ir.Constant(_F32, 0.0))
        with cgutils.if_unlikely(builder, builder.and_(tiny, apart)):
            scaled = builder.call(root, [sums(TINY_SCALE)[1]])
            builder.store(builder.fmul(scaled, ir.Constant(_F32, 1 / TINY_SCALE)), l2)
        weighted_l1 = builder.fmul(l1_weight, total_l1)
        return builder.fadd(weighted_l1, builder.fmul(l2_weight, builder.load(l2)))

    return types.float32(_floats, _floats, types.int64, types.float32, types.float32), code


def _sum_of_lanes(builder: Builder, vector: Value) -> Value:
    while vector.type.count > 1:
        half = vector.type.count // 2
        low, high = (_take(builder, vector, vector, range(at, at + half)) for at in (0, half))
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


@intrinsic
def address(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """Pointer to an element of a contiguous array."""

    def code(context: Any, builder: Builder, signature: Any, arguments: Any) -> Value:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.gep(made.data, [arguments[1]])

    return types.CPointer(array.dtype)(array, types.int64), code


@intrinsic
def lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    """Position of the lowest bit that is set; the mask must not be 0."""

    def code(_: Any, builder: Builder, signature: Any, arguments: Any) -> Value:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code


@intrinsic
def bits_of(typing_context, value):  # type: ignore[no-untyped-def]
    """Return the bits of a float32 >= 0 as an int64: they order as the values do."""

    def code(_: Any, builder: Builder, signature: Any, arguments: Any) -> Value:
        return builder.zext(builder.bitcast(arguments[0], _I32), _I64)

    return types.int64(types.float32), code
