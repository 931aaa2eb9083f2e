"""Lowering of lookups at computed places, and of writing to computed places."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx

from export.native.lowering import Lowering
from export.native.program import Binary, Shape
from export.native.rules.arithmetic import Arithmetic
from export.native.rules.copies import gather_constant, gather_nd_constant, look_up
from export.native.rules.copies import picked as part
from export.native.rules.moves import ordered
from export.passes.graph import attribute

__all__ = ["RULES", "plane"]

_MOST = 2**24  # places of a plane that float32 counts exactly
_WIDEST = 65536


def plane(channels: int, pixels: int) -> Shape:
    """Channels of so many pixels, however wide a buffer may be."""
    if pixels <= _WIDEST:
        return Shape(channels, 1, pixels)
    least = -(-pixels // _WIDEST)
    height = next(h for h in range(least, pixels + 1) if pixels % h == 0)
    return Shape(channels, height, pixels // height)


def _check_size(low: Lowering, node: onnx.NodeProto, count: int) -> None:
    if count > _MOST:
        raise low.refused(
            node, f"looks up among {count:,} places: up to {_MOST:,} are supported"
        )


def _gather(low: Lowering, node: onnx.NodeProto) -> None:
    """Places of an axis: constant ones, rows of a constant table, or any."""
    axis, table = low.axis(node, 0), low.constants.get(node.input[0])
    if node.input[1] in low.constants:
        gather_constant(low, node, axis)
        return
    if table is not None and not axis and table.dtype.kind == "f":
        look_up(low, node, table)
        return
    full, places = low.full(node.input[0]), low.full(node.input[1])
    behind = [a for a in range(len(full)) if a != axis]
    index = ordered(
        *(low, node, low.buffer(node, node.input[0]), full, [*behind, axis])
    )
    rows, count = prod(full[a] for a in behind), prod(places)
    _picked(low, node, index, rows, full[axis], node.input[1], count)
    made = (*(full[a] for a in behind), count)
    back = [*range(axis), len(full) - 1, *range(axis, len(full) - 1)]
    out = low.buffer(node, node.output[0])
    low.alias(node.output[0], ordered(low, node, out, made, back))


def _picked(
    low: Lowering,
    node: onnx.NodeProto,
    index: int,
    rows: int,
    size: int,
    places: str | int,
    count: int,
    own: int = 1,
) -> None:
    """Gives the node places of rows, which share one row of them or have `own`."""
    _check_size(low, node, size)
    source = low.reshaped(node, index, plane(rows, size))
    wanted = plane(own, count)
    at = (
        low.view(node, places, wanted)
        if isinstance(places, str)
        else low.reshaped(node, places, wanted)
    )
    made = Arithmetic(low, node.output[0]).picked(source, at, plane(rows, count))
    low.alias(node.output[0], made)


def _gather_nd(low: Lowering, node: onnx.NodeProto) -> None:
    """Rows by places of the leading axes, which are one then."""
    if node.input[1] in low.constants:
        gather_nd_constant(low, node)
        return
    full, places = low.full(node.input[0]), low.full(node.input[1])
    if prod(full[: int(attribute(node, "batch_dims", 0))]) != 1:
        raise low.refused(node, "looks up in every example of a batch")
    first, flat, size = _flat(low, node, full, places)
    rest = prod(full[first:])
    index = ordered(
        low, node, low.buffer(node, node.input[0]), (1, size, rest), (0, 2, 1)
    )
    count = prod(places[:-1])
    _picked(low, node, index, rest, size, flat, count)
    out = low.buffer(node, node.output[0])
    low.alias(node.output[0], ordered(low, node, out, (rest, count), (1, 0)))


def _flat(
    low: Lowering, node: onnx.NodeProto, full: Sequence[int], places: Sequence[int]
) -> tuple[int, int, int]:
    """Axes named by rows of places, their places in all of them, and how many."""
    batch = int(attribute(node, "batch_dims", 0)) if node.op_type == "GatherND" else 0
    names, count = places[-1], prod(places[:-1])
    sizes = full[batch : batch + names]
    given = low.view(node, node.input[1], Shape(count, 1, names))
    made, of = -1, Arithmetic(low, node.output[0])
    for axis, size in enumerate(sizes):
        column = part(low, node, given, Shape(count, names, 1), range(axis, axis + 1))
        column = low.reshaped(node, column, plane(1, count))
        below = of.pair(Binary.BELOW, column, of.line(column, 0.0))
        column = of.pair(Binary.PLUS, column, of.line(below, float(size)))
        step = of.line(column, float(prod(sizes[axis + 1 :])))
        made = step if made < 0 else of.pair(Binary.PLUS, made, step)
    return batch + names, made, prod(sizes)


def _gather_elements(low: Lowering, node: onnx.NodeProto) -> None:
    """A place for each value: rows along the axis, each with places of its own."""
    axis = low.axis(node, 0)
    full, places = low.full(node.input[0]), low.full(node.input[1])
    index, sizes = low.buffer(node, node.input[0]), list(full)
    for other, size in enumerate(places):  # only the first of other axes are read
        if other != axis and size != sizes[other]:
            seen = Shape(prod(sizes[:other]), sizes[other], prod(sizes[other + 1 :]))
            index = part(low, node, index, seen, range(size))
            sizes[other] = size
    order = [*(a for a in range(len(full)) if a != axis), axis]
    rows = prod(n for a, n in enumerate(sizes) if a != axis)
    source = ordered(low, node, index, sizes, order)
    at = ordered(low, node, low.buffer(node, node.input[1]), places, order)
    _picked(low, node, source, rows, full[axis], at, places[axis], own=rows)
    _back(low, node, node.output[0], [places[a] for a in order], axis)


def _back(
    low: Lowering, node: onnx.NodeProto, name: str, sizes: Sequence[int], axis: int
) -> None:
    """Puts the last axis of a value back to its place."""
    last = len(sizes) - 1
    order = [*range(axis), last, *range(axis, last)]
    low.alias(name, ordered(low, node, low.buffer(node, name), sizes, order))


def _written(
    low: Lowering,
    node: onnx.NodeProto,
    before: int,
    given: int,
    places: int,
    rows: int,
    size: int,
) -> int:
    """Rows with values written into them, or added to them."""
    _check_size(low, node, size)
    how = attribute(node, "reduction", b"none").decode()
    if how not in {"none", "add"}:
        raise low.refused(node, f"joins values by {how}: none and add are supported")
    of, seen = Arithmetic(low, node.output[0]), plane(rows, size)
    before = low.reshaped(node, before, seen)
    new = of.put(given, places, seen, adds=how == "add")
    if how == "none":
        ones = of.line(given, 0.0, 1.0)
        there = of.put(ones, places, seen, adds=False)
        before = of.pair(Binary.DROP, before, there)
    return of.pair(Binary.PLUS, before, new)


def _scatter_elements(low: Lowering, node: onnx.NodeProto) -> None:
    axis = low.axis(node, 0)
    full, places = low.full(node.input[0]), low.full(node.input[1])
    order = [*(a for a in range(len(full)) if a != axis), axis]
    if any(full[a] != places[a] for a in order[:-1]):
        raise low.refused(node, "writes to a part of the other axes: slice them first")
    rows, count = prod(full[a] for a in order[:-1]), places[axis]
    before = ordered(low, node, low.buffer(node, node.input[0]), full, order)
    at, given = (
        low.reshaped(
            node,
            ordered(low, node, low.buffer(node, node.input[i]), places, order),
            plane(rows, count),
        )
        for i in (1, 2)
    )
    made = _written(low, node, before, given, at, rows, full[axis])
    low.alias(node.output[0], made)
    _back(low, node, node.output[0], [full[a] for a in order], axis)


def _scatter_nd(low: Lowering, node: onnx.NodeProto) -> None:
    """Whole rows, named by places of the leading axes."""
    full, places = low.full(node.input[0]), low.full(node.input[1])
    first, flat, size = _flat(low, node, full, places)
    rest, count = prod(full[first:]), prod(places[:-1])
    before = ordered(low, node, low.buffer(node, node.input[0]), (size, rest), (1, 0))
    given = ordered(low, node, low.buffer(node, node.input[2]), (count, rest), (1, 0))
    given = low.reshaped(node, given, plane(rest, count))
    made = _written(low, node, before, given, flat, rest, size)
    low.alias(node.output[0], ordered(low, node, made, (rest, size), (1, 0)))


RULES = {
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": _gather_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
