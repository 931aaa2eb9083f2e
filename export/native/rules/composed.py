"""Lowering of operations that are made of others: remainders, products, bits."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import (
    Binary,
    ElementFunction,
    Kind,
    Operation,
    Reduction,
    Shape,
)
from export.native.rules.arithmetic import Arithmetic
from export.native.rules.values import rows_along, together
from export.passes.graph import attribute

__all__ = ["RULES"]

_MOST_FACTORS = 256  # each is an operation of its own
_BITS = (
    24  # of a whole number in float32, and one for its sign, which counts as all above
)


def _remainder(low: Lowering, node: onnx.NodeProto) -> None:
    """A - b * floor(a / b), of the divisor's sign; with fmod of the dividend's."""
    of = Arithmetic(low, node.output[0])
    first, second = together(low, node)
    quotient = of.pair(Binary.OVER, first, second)
    fmod = bool(attribute(node, "fmod", 0))
    whole = ElementFunction.WHOLE if fmod else ElementFunction.FLOOR
    product = of.pair(Binary.TIMES, of.each(whole, quotient), second)
    low.alias(node.output[0], of.pair(Binary.MINUS, first, product))


def _other_truth(low: Lowering, node: onnx.NodeProto) -> None:
    of = Arithmetic(low, node.output[0])
    first, second = together(low, node)
    apart = of.pair(Binary.MINUS, first, second)
    low.alias(node.output[0], of.each(ElementFunction.ABS, apart))


def _reduced(low: Lowering, source: int, reduction: Reduction) -> int:
    out = low.anonymous(Shape(low.shapes[source].channels))
    return low.emit(Operation(Kind.REDUCE_ROW, source, out, extra=int(reduction)))


def _log_sum_exp(low: Lowering, node: onnx.NodeProto) -> None:
    """The largest, and the logarithm of the sum of powers beside it."""
    of, source = Arithmetic(low, node.output[0]), rows_along(low, node)
    rows = low.shapes[source]
    largest = _reduced(low, source, Reduction.LARGEST)
    out = low.anonymous(rows)
    stride = (1, rows.width)
    spread = low.emit(Operation(Kind.UPSAMPLE, largest, out, stride=stride))
    powers = of.each(ElementFunction.EXP, of.pair(Binary.MINUS, source, spread))
    found = of.each(ElementFunction.LOG, _reduced(low, powers, Reduction.SUM))
    low.alias(node.output[0], of.pair(Binary.PLUS, found, largest))


def _product(low: Lowering, node: onnx.NodeProto) -> None:
    """Column by column: a sum of logarithms would lose signs, zeros and digits."""
    of, source = Arithmetic(low, node.output[0]), rows_along(low, node)
    rows = low.shapes[source]
    if rows.width > _MOST_FACTORS:
        raise low.refused(
            node, f"has {rows.width:,} factors: up to {_MOST_FACTORS} are supported"
        )
    made = -1
    for column in range(rows.width):
        out = low.anonymous(Shape(rows.channels))
        one = low.emit(Operation(Kind.CROP, source, out, pad=(0, column)))
        made = one if made < 0 else of.pair(Binary.TIMES, made, one)
    low.alias(node.output[0], made)


def _triangle(low: Lowering, node: onnx.NodeProto) -> None:
    """Values beside the triangle become 0, infinities too."""
    full, given = low.full(node.input[0]), low.constant(node, 1)
    off = 0 if given is None else int(given.reshape(()))
    upper = bool(attribute(node, "upper", 1))
    ones = np.ones(full[-2:], np.float32)
    mask = np.triu(ones, off) if upper else np.tril(ones, off)
    name = f"{node.output[0]} triangle"
    low.constants[name] = np.broadcast_to(mask, full)
    seen = low.view(node, node.input[0])
    kept = low.view(node, name, low.shapes[seen])
    of = Arithmetic(low, node.output[0])
    low.alias(node.output[0], of.pair(Binary.KEEP, seen, kept))


def _infinite(low: Lowering, node: onnx.NodeProto) -> None:
    """1 for infinities of the signs that are looked for."""
    of, source = Arithmetic(low, node.output[0]), low.buffer(node, node.input[0])
    above = bool(attribute(node, "detect_positive", 1))
    below = bool(attribute(node, "detect_negative", 1))
    if not above and not below:
        raise low.refused(node, "looks for infinities of no sign")
    if below:
        source = (
            of.each(ElementFunction.ABS, source) if above else of.line(source, -1.0)
        )
    seen = low.shapes[source]
    name = f"{node.output[0]} largest"
    count = seen.channels * seen.pixels
    low.constants[name] = np.full(count, np.finfo(np.float32).max)
    largest = low.view(node, name, seen)
    low.alias(node.output[0], of.pair(Binary.ABOVE, source, largest))


def _bitwise(low: Lowering, node: onnx.NodeProto) -> None:
    """And, bit by bit: a | b is a + (b - (a & b)), a ^ b takes it off both."""
    of = Arithmetic(low, node.output[0])
    for name in node.input:
        if name in low.constants:
            low.constants[name] = _small(low.constants[name])
    first, second = together(low, node)
    both = of.pair(Binary.BIT_AND, first, second)
    if node.op_type != "BitwiseAnd":  # what each has alone stays exact
        own = of.pair(Binary.MINUS, second, both)
        if node.op_type == "BitwiseXor":
            first = of.pair(Binary.MINUS, first, both)
        both = of.pair(Binary.PLUS, first, own)
    low.alias(node.output[0], both)


def _small(constant: NDArray[np.generic]) -> NDArray[np.float32]:
    """A constant's lowest bits and its sign, as a number that float32 holds."""
    whole = constant.astype(np.uint64, casting="unsafe").view(np.int64)
    if constant.dtype.kind != "u":
        whole = constant.astype(np.int64)
    sign = (whole < 0).astype(np.int64)
    found: NDArray[np.float32] = ((whole & (2**_BITS - 1)) - (sign << _BITS)).astype(
        np.float32
    )
    return found


def _not(low: Lowering, node: onnx.NodeProto) -> None:
    of = Arithmetic(low, node.output[0])
    source = low.view(node, node.input[0])
    low.alias(node.output[0], of.line(source, -1.0, -1.0))


def _shift(low: Lowering, node: onnx.NodeProto) -> None:
    """Times a power of two, or over it and rounded down."""
    of = Arithmetic(low, node.output[0])
    left = attribute(node, "direction", b"").decode() == "LEFT"
    source, by = together(low, node)
    base = of.line(of.line(by, 0.0), 1.0, 2.0 if left else 0.5)
    made = of.pair(Binary.TIMES, source, of.pair(Binary.POWER, base, by))
    low.alias(node.output[0], made if left else of.each(ElementFunction.FLOOR, made))


RULES = {
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), _bitwise),
    "BitwiseNot": _not,
    "BitShift": _shift,
    "IsInf": _infinite,
    "Mod": _remainder,
    "Xor": _other_truth,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceProd": _product,
    "Trilu": _triangle,
}
