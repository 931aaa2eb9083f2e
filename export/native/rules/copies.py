"""Lowering of what copies values to other places: lookups by constants, repeats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Shape
from export.native.rules.moves import expanded, mapped, ordered, picking, repeated
from export.passes.graph import attribute

__all__ = [
    "RULES",
    "around",
    "gather_constant",
    "gather_nd_constant",
    "look_up",
    "picked",
]

_MOST_ROWS = 2**24  # of a table: numbers below it are whole in float32
_MOST_PICKED = 2**26  # numbers of the matrix that picks uneven places


def around(full: Sequence[int], axis: int) -> Shape:
    """Sizes as (before, axis, behind)."""
    return Shape(prod(full[:axis]), full[axis], prod(full[axis + 1 :]))


def picked(
    low: Lowering, node: onnx.NodeProto, index: int, seen: Shape, places: Sequence[int]
) -> int:
    """Some places of the axis of a buffer that is seen as (before, axis, behind).

    Evenly spaced ones are a part of it; others are picked by a matrix.
    """
    step = places[1] - places[0] if len(places) > 1 else 1
    even = step > 0 and all(b - a == step for a, b in pairwise(places))
    if not even:
        if len(places) * seen.height > _MOST_PICKED:
            raise low.refused(
                node, f"takes {len(places):,} uneven places of {seen.height:,}"
            )
        return mapped(low, node, index, seen, picking(places, seen.height))
    start, count = places[0], len(places)
    if seen.channels == 1 and step == 1:  # whole channels, copied at once
        rows = low.reshaped(node, index, Shape(seen.height, 1, seen.width))
        taken = low.anonymous(Shape(count, 1, seen.width))
        return low.emit(Operation(Kind.TAKE, rows, taken, extra=start))
    source = low.reshaped(node, index, low.fitting(seen, node.output[0]))
    out = low.anonymous(Shape(seen.channels, count, seen.width))
    return low.emit(Operation(Kind.CROP, source, out, stride=(step, 1), pad=(start, 0)))


def gather_constant(low: Lowering, node: onnx.NodeProto, axis: int) -> None:
    """Constant places of an axis."""
    seen = low.around(node.input[0], axis)
    places = (low.constants[node.input[1]].reshape(-1) % seen.height).tolist()
    source = low.buffer(node, node.input[0])
    low.alias(node.output[0], picked(low, node, source, seen, places))


def look_up(low: Lowering, node: onnx.NodeProto, table: NDArray[Any]) -> None:
    """Rows of a constant table, as of an embedding."""
    if len(table) > _MOST_ROWS:
        raise low.refused(
            node, f"has {len(table):,} rows: up to {_MOST_ROWS:,} are supported"
        )
    matrix = table.reshape(len(table), -1)
    count = prod(low.full(node.input[1]))
    source = low.view(node, node.input[1], Shape(count))
    rounds = node.output[0] if table.ndim > 1 else ""
    weight = low.weight(node.input[0], matrix, None, rounds)
    out = low.anonymous(low.fitting(Shape(count, 1, matrix.shape[1]), node.output[0]))
    low.emit(Operation(Kind.LOOK_UP, source, out, weight=weight))
    low.alias(node.output[0], out)


def gather_nd_constant(low: Lowering, node: onnx.NodeProto) -> None:
    """Constant indices of the leading axes, as of all of them in one."""
    indices, full = low.constant(node, 1), low.full(node.input[0])
    batch = int(attribute(node, "batch_dims", 0))
    assert indices is not None  # noqa: S101 - a constant, or refused
    if prod(full[:batch]) != 1:
        raise low.refused(node, "looks up in every example of a batch")
    count = indices.shape[-1]
    sizes = np.array(full[batch : batch + count])
    flat = np.ravel_multi_index(
        tuple((indices.reshape(-1, count) % sizes).T), tuple(sizes)
    )
    seen = Shape(1, int(sizes.prod()), prod(full[batch + count :]))
    source = low.buffer(node, node.input[0])
    low.alias(node.output[0], picked(low, node, source, seen, flat.tolist()))


def _expand(low: Lowering, node: onnx.NodeProto) -> None:
    sizes, wanted = low.full(node.input[0]), low.full(node.output[0])
    source = low.buffer(node, node.input[0])
    low.alias(node.output[0], expanded(low, node, source, sizes, wanted))


def _tile(low: Lowering, node: onnx.NodeProto) -> None:
    before, after = low.full(node.input[0]), low.full(node.output[0])
    index, now = low.buffer(node, node.input[0]), list(before)
    for axis, size in enumerate(before):
        seen = Shape(prod(now[:axis]), 1, prod(now[axis:]))
        index = repeated(low, node, index, seen, after[axis] // size)
        now[axis] = after[axis]
    low.alias(node.output[0], index)


def _depth_to_space(low: Lowering, node: onnx.NodeProto) -> None:
    _, channels, height, width = low.full(node.input[0])
    size = int(attribute(node, "blocksize", 1))
    index, rest = low.buffer(node, node.input[0]), channels // size**2
    if attribute(node, "mode", b"DCR") == b"CRD":
        full, axes = (rest, size, size, height, width), (0, 3, 1, 4, 2)
    else:
        full, axes = (size, size, rest, height, width), (2, 3, 0, 4, 1)
    low.alias(node.output[0], ordered(low, node, index, full, axes))


def _space_to_depth(low: Lowering, node: onnx.NodeProto) -> None:
    _, channels, height, width = low.full(node.input[0])
    size = int(attribute(node, "blocksize", 1))
    full = channels, height // size, size, width // size, size
    source = low.buffer(node, node.input[0])
    low.alias(node.output[0], ordered(low, node, source, full, (2, 4, 0, 1, 3)))


def _running_sum(low: Lowering, node: onnx.NodeProto) -> None:
    given, full = low.constant(node, 1), low.full(node.input[0])
    assert given is not None  # noqa: S101 - a constant, or refused
    axis = int(given.reshape(-1)[0]) % len(full)
    matrix = np.tril(
        np.ones((full[axis], full[axis])), -int(attribute(node, "exclusive", 0))
    )
    if attribute(node, "reverse", 0):
        matrix = matrix.T
    source = low.buffer(node, node.input[0])
    low.alias(node.output[0], mapped(low, node, source, around(full, axis), matrix))


def _columns_to_image(low: Lowering, node: onnx.NodeProto) -> None:
    """Col2Im: sums of the blocks that overlap, as a matrix over pixels."""
    shapes = [low.constant(node, position) for position in (1, 2)]
    image, block = (np.asarray(a).reshape(-1).tolist() for a in shapes)
    count = len(image)
    ones = [1] * count
    dilations = list(attribute(node, "dilations", ones))
    strides = list(attribute(node, "strides", ones))
    pads = list(attribute(node, "pads", [0] * 2 * count))
    padded = [n + pads[i] + pads[count + i] for i, n in enumerate(image)]
    places = np.arange(prod(padded)).reshape(padded)
    starts = [
        range(0, n - (k - 1) * d, s)
        for n, k, d, s in zip(padded, block, dilations, strides, strict=True)
    ]
    taps = [range(0, k * d, d) for k, d in zip(block, dilations, strict=True)]
    tap = np.stack(np.meshgrid(*taps, indexing="ij"), -1).reshape(-1, 1, count)
    start = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(1, -1, count)
    flat = places[tuple(np.moveaxis(tap + start, -1, 0))].reshape(-1)
    if prod(padded) * flat.size > _MOST_PICKED:
        raise low.refused(node, f"adds {flat.size:,} values to an image: too many")
    matrix = np.zeros((prod(padded), flat.size), np.float32)
    matrix[flat, np.arange(flat.size)] = 1
    inside = places[tuple(slice(pads[i], pads[i] + n) for i, n in enumerate(image))]
    channels = low.full(node.output[0])[1]
    source = low.buffer(node, node.input[0])
    seen = Shape(channels, flat.size, 1)
    made = mapped(low, node, source, seen, matrix[inside.reshape(-1)])
    low.alias(node.output[0], made)


RULES = {
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "CumSum": _running_sum,
    "Col2Im": _columns_to_image,
}
