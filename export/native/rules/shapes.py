"""Lowering of what moves values: reshapes, transposes, slices, pads and resizes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import ElementFunction, Kind, Operation, Shape
from export.native.rules.copies import around, picked
from export.native.rules.moves import mapped, permuted, picking, repeated
from export.native.rules.resize import resize_matrix
from export.passes.graph import attribute, attributes

__all__ = ["RULES"]

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
_SHORT = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def _alias(low: Lowering, node: onnx.NodeProto) -> None:
    """The same values in another shape: read in it by whoever needs it."""
    low.full(node.output[0])
    low.alias(node.output[0], low.buffer(node, node.input[0]))


def _transpose(low: Lowering, node: onnx.NodeProto) -> None:
    rank = len(low.full(node.input[0]))
    axes = list(attribute(node, "perm", list(range(rank))[::-1]))
    index, _ = permuted(low, node, node.input[0], axes)
    low.alias(node.output[0], index)


def _slice(low: Lowering, node: onnx.NodeProto) -> None:
    full = list(low.full(node.input[0]))
    lists = [low.constant(node, position) for position in range(1, 5)]
    starts, ends = (np.asarray(a).reshape(-1).tolist() for a in lists[:2])
    axes = range(len(starts)) if lists[2] is None else lists[2].reshape(-1).tolist()
    steps = [1] * len(starts) if lists[3] is None else lists[3].reshape(-1).tolist()
    index = low.buffer(node, node.input[0])
    for given, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = given % len(full)
        places = range(full[axis])[slice(start, end, step)]
        if not places:
            raise low.refused(node, "takes nothing")
        if places == range(full[axis]):
            continue
        index = picked(low, node, index, around(full, axis), places)
        full[axis] = len(places)
    low.alias(node.output[0], index)


def _split(low: Lowering, node: onnx.NodeProto) -> None:
    axis, at = low.axis(node, 0), 0
    source = low.buffer(node, node.input[0])
    seen = low.around(node.input[0], axis)
    for name in node.output:
        count = low.full(name)[axis]
        low.alias(name, picked(low, node, source, seen, range(at, at + count)))
        at += count


def _concat(low: Lowering, node: onnx.NodeProto) -> None:
    axis, at = low.axis(node, 0, node.output[0]), 0
    seen = low.around(node.output[0], axis)
    turned = seen.channels > 1
    middle = Shape(seen.height, seen.channels, seen.width)
    own = low.shape(node.output[0])
    if own.channels != seen.height:  # else its channels are joined as they lie
        own = Shape(seen.height, 1, seen.width)
    out = low.anonymous(middle) if turned else low.new(node.output[0], own)
    for name in node.input:
        around = low.around(name, axis)
        if turned:
            part = low.transposed(low.view(node, name, around), (1, 0, 2))
        else:
            part = low.view(node, name, Shape(around.height, own.height, own.width))
        low.emit(Operation(Kind.PLACE, part, out, extra=at))
        at += low.shapes[part].channels
    if turned:
        low.alias(node.output[0], low.transposed(out, (1, 0, 2)))


def _pad(low: Lowering, node: onnx.NodeProto) -> None:
    given, pads = low.constant(node, 2), low.constant(node, 1)
    mode = attribute(node, "mode", b"constant").decode()
    value = 0.0 if given is None or not given.size else float(given.reshape(-1)[0])
    full = list(low.full(node.input[0]))
    axes = low.constant(node, 3)
    named = range(len(full)) if axes is None else np.asarray(axes).reshape(-1).tolist()
    ends = np.asarray(pads).reshape(2, -1).T.tolist()
    index = low.buffer(node, node.input[0])
    for number, (before, behind) in zip(named, ends, strict=True):
        axis = number % len(full)
        outer, inner = prod(full[:axis]), prod(full[axis + 1 :])
        if (mode != "constant" or value) and max(before, behind) > 0:
            places = _padded(full[axis], before, behind, mode)
            matrix = picking(places, full[axis])
            bias = np.where(places < 0, value, 0.0) if value else None
            index = mapped(low, node, index, around(full, axis), matrix, bias)
            full[axis] = len(places)
            continue
        for start, count, kind in (
            (max(-before, 0), full[axis] + min(before, 0) + min(behind, 0), Kind.CROP),
            (max(before, 0), full[axis] + before + behind, Kind.SPREAD),
        ):
            if count == full[axis]:
                continue
            source = low.reshaped(node, index, Shape(outer, full[axis], inner))
            out = low.anonymous(Shape(outer, count, inner))
            index = low.emit(Operation(kind, source, out, pad=(start, 0)))
            full[axis] = count
    low.alias(node.output[0], index)


def _padded(size: int, before: int, behind: int, mode: str) -> NDArray[np.int64]:
    """The places that a padded axis shows; -1 where it has the pad's value."""
    places = np.arange(-before, size + behind)
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    if mode == "reflect" and size > 1:
        turn = 2 * (size - 1)
        return (size - 1) - np.abs(places % turn - (size - 1))
    inside = (places >= 0) & (places < size)
    return np.where(inside, places, -1)


def _resize(low: Lowering, node: onnx.NodeProto) -> None:
    """Whole multiples by copies of pixels; the rest as a matrix along each axis."""
    before, after = low.full(node.input[0]), low.full(node.output[0])
    if before[:2] != after[:2]:
        raise low.refused(node, "resizes batch or channels")
    a = attributes(node)
    scales = low.constant(node, 2)
    index, full = low.view(node, node.input[0]), list(before)
    matrices = []
    for axis in range(2, len(full)):
        given = None if scales is None or not scales.size else float(scales[axis])
        try:
            matrices.append(resize_matrix(before[axis], after[axis], given, a))
        except ValueError as error:
            raise low.refused(node, str(error)) from error
    factors = [_copies(matrix) for matrix in matrices]
    if all(factors) and len(factors) <= 2:
        stride = (1, factors[0]) if len(factors) == 1 else (factors[0], factors[1])
        out = low.new(node.output[0])
        low.emit(Operation(Kind.UPSAMPLE, index, out, stride=stride))
        return
    for axis, (matrix, times) in enumerate(zip(matrices, factors, strict=True), 2):
        seen = around(full, axis)
        if times:
            one = Shape(seen.channels * seen.height, 1, seen.width)
            index = repeated(low, node, index, one, times)
        else:
            index = mapped(low, node, index, seen, matrix)
        full[axis] = after[axis]
    low.alias(node.output[0], index)


def _copies(matrix: NDArray[np.float32]) -> int:
    """Copies that the matrix makes of each pixel; 0 where it is another matrix."""
    out, size = (int(n) for n in matrix.shape)
    times = out // size
    if out % size or not (matrix == np.repeat(np.eye(size), times, axis=0)).all():
        return 0
    return times


def _cast(low: Lowering, node: onnx.NodeProto) -> None:
    """To whole numbers and truth values, which are float32 as well."""
    to = attribute(node, "to", 0)
    if to in _FLOATS:
        _alias(low, node)
        return
    if to in _SHORT:
        raise low.refused(
            node, "rounds to a float of 16 bits, and every value is one of 32"
        )
    if to != onnx.TensorProto.BOOL:
        low.each(node, node.input[0], Kind.FUNCTION, int(ElementFunction.WHOLE))
        return
    source = low.buffer(node, node.input[0])
    seen = low.shapes[source]
    size, sign = low.anonymous(seen), low.anonymous(seen)
    function = int(ElementFunction.ABS)
    low.emit(Operation(Kind.FUNCTION, source, size, extra=function))
    function = int(ElementFunction.SIGN)
    low.emit(Operation(Kind.FUNCTION, size, sign, extra=function))
    low.alias(node.output[0], sign)


RULES: dict[str, Callable[[Lowering, onnx.NodeProto], None]] = {
    **dict.fromkeys(
        ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"), _alias
    ),
    "Cast": _cast,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Pad": _pad,
    "Resize": _resize,
}
