"""Lowering of sorting: the first values of an axis, and their places."""

from __future__ import annotations

from math import prod

import onnx

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Order, Shape
from export.native.rules.moves import ordered, permuted
from export.passes.graph import attribute

__all__ = ["RULES"]


def _top(low: Lowering, node: onnx.NodeProto) -> None:
    """Values and places of the k first of an axis, each by an operation of its own."""
    full = low.full(node.input[0])
    axis, count = low.axis(node, -1), low.constant(node, 1)
    if count is None or not 1 <= int(count.reshape(())) <= full[axis]:
        raise low.refused(node, "takes a number of values that the axis has not")
    if low.mixes_examples(node.input[0], [axis]):
        raise low.refused(node, "sorts the batch")
    last = [a for a in range(len(full)) if a != axis] + [axis]
    index, sizes = permuted(low, node, node.input[0], last)
    rows, chosen = prod(sizes[:-1]), int(count.reshape(()))
    source = low.reshaped(node, index, Shape(rows, 1, sizes[-1]))
    largest = bool(attribute(node, "largest", 1))
    orders = (
        (Order.LARGEST_FIRST, Order.WHERE_LARGEST)
        if largest
        else (Order.SMALLEST_FIRST, Order.WHERE_SMALLEST)
    )
    back = [*range(axis), len(full) - 1, *range(axis, len(full) - 1)]
    for name, order in zip(node.output, orders, strict=False):
        if not name:
            continue
        out = low.anonymous(Shape(rows, 1, chosen))
        low.emit(Operation(Kind.SORT_ROW, source, out, extra=int(order)))
        made = ordered(low, node, out, (*sizes[:-1], chosen), back)
        low.alias(name, made)


RULES = {"TopK": _top}
