"""Lowering of what computes values in pairs, or over an axis."""

from __future__ import annotations

from math import prod

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
    Spread,
)
from export.native.rules.arithmetic import Arithmetic
from export.native.rules.moves import expanded, permuted
from export.passes.graph import attribute

__all__ = ["RULES", "pair", "rows_along", "together"]

# Of first and second input, and the other way round where there is one.
_PAIRS: dict[str, tuple[Binary, Binary | None]] = {
    "Add": (Binary.PLUS, Binary.PLUS),
    "Mul": (Binary.TIMES, Binary.TIMES),
    "Sub": (Binary.MINUS, Binary.FROM_SECOND),
    "Div": (Binary.OVER, Binary.UNDER_SECOND),
    "Min": (Binary.LEAST, Binary.LEAST),
    "Max": (Binary.MOST, Binary.MOST),
    "And": (Binary.LEAST, Binary.LEAST),
    "Or": (Binary.MOST, Binary.MOST),
    "Equal": (Binary.EQUAL, Binary.EQUAL),
    "Greater": (Binary.ABOVE, Binary.BELOW),
    "GreaterOrEqual": (Binary.AT_LEAST, Binary.AT_MOST),
    "Less": (Binary.BELOW, Binary.ABOVE),
    "LessOrEqual": (Binary.AT_MOST, Binary.AT_LEAST),
    "Pow": (Binary.POWER, None),
}
# What is applied to each value, how values are joined, what is applied to the result.
_REDUCTIONS: dict[
    str, tuple[ElementFunction | None, Reduction, ElementFunction | None]
] = {
    "ReduceMean": (None, Reduction.MEAN, None),
    "ReduceSum": (None, Reduction.SUM, None),
    "ReduceMax": (None, Reduction.LARGEST, None),
    "ReduceMin": (None, Reduction.SMALLEST, None),
    "ReduceL1": (ElementFunction.ABS, Reduction.SUM, None),
    "ReduceL2": (ElementFunction.SQUARE, Reduction.SUM, ElementFunction.SQRT),
    "ReduceSumSquare": (ElementFunction.SQUARE, Reduction.SUM, None),
    "ReduceLogSum": (None, Reduction.SUM, ElementFunction.LOG),
    "ArgMax": (None, Reduction.WHERE_MOST, None),
    "ArgMin": (None, Reduction.WHERE_LEAST, None),
}
_FACTORS = frozenset({Binary.PLUS, Binary.MINUS, Binary.FROM_SECOND, Binary.TIMES,
                      Binary.OVER, Binary.UNDER_SECOND})  # fmt: skip
_WIDEST = 65536  # of a buffer


def pair(low: Lowering, node: onnx.NodeProto) -> None:
    """A function of two values, or of one and a constant."""
    if len(node.input) != 2:
        raise low.refused(node, "takes more than two inputs")
    if node.op_type == "Div" and low.is_whole(node.output[0]):
        of = Arithmetic(low, node.output[0])
        dividend, divisor = together(low, node)
        quotient = of.pair(Binary.OVER, dividend, divisor)
        low.alias(node.output[0], of.each(ElementFunction.WHOLE, quotient))
        return
    first, second = node.input
    forward, turned = _PAIRS[node.op_type]
    if second in low.constants and _with_constant(low, node, first, second, forward):
        return
    if turned is not None:
        if first in low.constants and _with_constant(low, node, second, first, turned):
            return
        made = prod(low.full(node.output[0]))
        if prod(low.full(first)) < prod(low.full(second)) == made:
            first, second, forward = second, first, turned
    _spread(low, node, first, second, forward)


def _with_constant(
    low: Lowering, node: onnx.NodeProto, name: str, constant: str, kind: Binary
) -> bool:
    """Value * factor + shift: one of each for all, per channel, column or value."""
    array = np.asarray(low.constants[constant], np.float64)
    full = low.full(name)
    if full != low.full(node.output[0]) or kind not in _FACTORS:
        return False
    sizes = (1,) * (len(full) - array.ndim) + array.shape
    nothing = np.zeros_like(array)
    factor, shift = {
        Binary.PLUS: (nothing + 1, array),
        Binary.MINUS: (nothing + 1, -array),
        Binary.FROM_SECOND: (nothing - 1, array),
        Binary.TIMES: (array, nothing),
        Binary.OVER: (1 / np.where(array == 0, np.nan, array), nothing),
        Binary.UNDER_SECOND: (array, nothing),
    }[kind]
    if not np.isfinite(factor).all():
        raise low.refused(node, "divides by zero")
    source = low.buffer(node, name)
    if kind is Binary.UNDER_SECOND:
        over = int(ElementFunction.RECIPROCAL)
        have = low.anonymous(low.shapes[source])
        source = low.emit(Operation(Kind.FUNCTION, source, have, extra=over))
    _affine(low, node, source, full, sizes, factor, shift)
    return True


def _affine(
    low: Lowering,
    node: onnx.NodeProto,
    source: int,
    full: tuple[int, ...],
    sizes: tuple[int, ...],
    factor: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> None:
    """By the axes on which the constants vary: leading ones, trailing ones, or any."""
    varies = [axis for axis, size in enumerate(sizes) if size > 1]
    first, last = (varies[0], varies[-1] + 1) if varies else (0, 0)
    whole = sizes[first:last] == full[first:last]
    outer, inner = prod(full[:first]), prod(full[last:])
    kind, count = Kind.AFFINE, prod(full[first:last])
    if not varies:  # one number for all: whatever shape they have
        seen = low.shapes[source]
        count = seen.channels
    elif whole and outer == 1:
        seen = Shape(count, 1, inner)
        canonical = low.shapes[source]
        if canonical.channels == count and canonical.pixels == inner:
            seen = canonical
    elif whole and inner == 1 and count <= 65536:
        kind, seen = Kind.COLUMN_AFFINE, Shape(outer, 1, count)
    else:
        seen, count = Shape(prod(full)), prod(full)
        factor, shift = (
            np.broadcast_to(a.reshape(sizes), full) for a in (factor, shift)
        )
    if seen.width > 65536:  # of one channel's pixels
        seen, count = Shape(prod(full)), prod(full)
        factor, shift = (
            np.broadcast_to(a.reshape(sizes), full) for a in (factor, shift)
        )
    index = low.reshaped(node, source, seen)
    matrix, bias = (
        np.broadcast_to(a.reshape(-1), (count,)).reshape(count, 1)
        for a in (factor, shift)
    )
    weight = low.weight(node.output[0], matrix, bias)
    low.emit(Operation(kind, index, low.new(node.output[0], seen), weight=weight))


def _spread(
    low: Lowering, node: onnx.NodeProto, first: str, second: str, kind: Binary
) -> None:
    """Two computed values, of which either may be repeated along axes."""
    made = low.full(node.output[0])
    full, other = low.full(first), low.full(second)
    if prod(full) != prod(made):
        a = expanded(low, node, low.buffer(node, first), full, made)
        b = expanded(low, node, low.buffer(node, second), other, made)
        _each(low, node, a, b, kind)
        return
    full = made
    sizes = (1,) * (len(full) - len(other)) + other
    varies = [axis for axis, size in enumerate(sizes) if size > 1]
    begin, end = (varies[0], varies[-1] + 1) if varies else (0, 0)
    outer, count, inner = prod(full[:begin]), prod(full[begin:end]), prod(full[end:])
    wide = not varies and inner > _WIDEST
    if sizes[begin:end] != full[begin:end] or wide:
        b = expanded(low, node, low.buffer(node, second), sizes, full)
        _each(low, node, low.buffer(node, first), b, kind)
        return
    if outer == inner == 1:
        a = low.view(node, first, low.shape(node.output[0]))
        b, spread = low.view(node, second, low.shapes[a]), Spread.EACH
    elif outer == 1:
        a = low.buffer(node, first)
        have = low.shapes[a]
        if (have.channels, have.pixels) != (count, inner):
            a = low.view(node, first, Shape(count, 1, inner))
        b, spread = low.view(node, second, Shape(count)), Spread.PER_CHANNEL
    elif inner == 1:
        a = low.view(node, first, Shape(outer, 1, count))
        b, spread = low.view(node, second, Shape(1, 1, count)), Spread.PER_COLUMN
    else:
        a = low.view(node, first, Shape(outer, count, inner))
        turned = low.transposed(a, (1, 0, 2))
        b = low.view(node, second, Shape(count))
        many = low.anonymous(low.shapes[turned])
        extra = int(kind) + 16 * int(Spread.PER_CHANNEL)
        out = low.emit(Operation(Kind.BINARY, turned, many, b, extra=extra))
        low.alias(node.output[0], low.transposed(out, (1, 0, 2)))
        return
    _write(low, node, a, b, kind, spread)


def _each(low: Lowering, node: onnx.NodeProto, a: int, b: int, kind: Binary) -> None:
    """Of two buffers with as many values, a pair after the other."""
    seen = low.shape(node.output[0])
    a, b = low.reshaped(node, a, seen), low.reshaped(node, b, seen)
    _write(low, node, a, b, kind, Spread.EACH)


def _write(
    low: Lowering, node: onnx.NodeProto, a: int, b: int, kind: Binary, spread: Spread
) -> None:
    out = low.new(node.output[0], low.shapes[a])
    if kind is Binary.PLUS and spread is Spread.EACH:
        low.emit(Operation(Kind.ADD, a, out, b))
        return
    extra = int(kind) + 16 * int(spread)
    low.emit(Operation(Kind.BINARY, a, out, b, extra=extra))


def together(low: Lowering, node: onnx.NodeProto) -> list[int]:
    """All inputs of a node, each repeated to the shape of its output."""
    made, seen = low.full(node.output[0]), low.shape(node.output[0])
    buffers = []
    for name in node.input:
        index = low.buffer(node, name)
        index = expanded(low, node, index, low.full(name), made)
        buffers.append(low.reshaped(node, index, seen))
    return buffers


def _where(low: Lowering, node: onnx.NodeProto) -> None:
    """The second input where the first is not 0, and the third elsewhere."""
    seen = low.shape(node.output[0])
    chosen, *values = together(low, node)
    parts = [
        low.emit(
            Operation(
                Kind.BINARY, value, low.anonymous(seen), chosen, extra=int(function)
            )
        )
        for value, function in zip(values, (Binary.KEEP, Binary.DROP), strict=True)
    ]
    low.emit(Operation(Kind.ADD, parts[0], low.new(node.output[0], seen), parts[1]))


def _axes(low: Lowering, node: onnx.NodeProto, rank: int) -> list[int]:
    """A reduction's axes: an input or, before opset 18, an attribute, or all."""
    if node.op_type.startswith("Arg"):
        return [int(attribute(node, "axis", 0))]
    given = low.constant(node, 1)
    found = attribute(node, "axes", None) if given is None else given.reshape(-1)
    return list(range(1, rank)) if found is None else [int(axis) for axis in found]


def rows_along(low: Lowering, node: onnx.NodeProto) -> int:
    """A reduction's input as rows of the values that become one."""
    rank = len(low.full(node.input[0]))
    if attribute(node, "select_last_index", 0):
        raise low.refused(node, "takes the last of equal values")
    chosen = sorted({axis % rank for axis in _axes(low, node, rank)})
    rest = [axis for axis in range(rank) if axis not in chosen]
    if low.mixes_examples(node.input[0], chosen):
        raise low.refused(node, "reduces the batch")
    index, sizes = permuted(low, node, node.input[0], rest + chosen)
    seen = Shape(prod(sizes[: len(rest)]), 1, prod(sizes[len(rest) :]))
    return low.reshaped(node, index, low.fitting(seen, node.output[0]))


def _reduce(low: Lowering, node: onnx.NodeProto) -> None:
    source = rows_along(low, node)
    before, reduction, behind = _REDUCTIONS[node.op_type]
    if before is not None:
        source = _function(low, source, before)
    out = low.anonymous(Shape(low.shapes[source].channels))
    low.emit(Operation(Kind.REDUCE_ROW, source, out, extra=int(reduction)))
    if behind is not None:
        out = _function(low, out, behind)
    low.alias(node.output[0], out)


def _function(low: Lowering, source: int, function: ElementFunction) -> int:
    out = low.anonymous(low.shapes[source])
    return low.emit(Operation(Kind.FUNCTION, source, out, extra=int(function)))


RULES = {
    **{kind: pair for kind in _PAIRS if kind != "Pow"},
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Where": _where,
}
