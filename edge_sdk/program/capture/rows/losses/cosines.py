"""Cosines of vectors, also of all pairs of examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.operands import layout_of, operand
from edge_sdk.program.capture.rows.losses.pairs import Pairs
from edge_sdk.program.capture.rows.reductions import summed
from edge_sdk.program.capture.steps import combined, reshaped, root, unary

__all__ = ["ROWS"]


def _of_length_one(builder: Builder, call: Node, source: int, axis: int) -> int:
    """Vectors along an axis, divided by their lengths or by a least one."""
    square = combined(builder, call, "multiply", source, source)
    length = root(builder, call, summed(builder, call, square, [axis], 1.0))
    least = float(call.get("eps", 1e-8))
    length = unary(builder, call, "hardtanh", length, least, float("inf"))
    return combined(
        builder, call, "multiply", source, unary(builder, call, "reciprocal", length)
    )


def _cosine(builder: Builder, call: Node) -> None:
    """The cosine of vectors; (N, 1, width) beside (1, N, width) are all pairs."""
    nodes = call["x1"], call["x2"]
    (one, left), (two, right) = (builder.value(call, n) for n in nodes)
    dim = call.get("dim", 1) % (len(call.shape) + 1)
    apart = {left.axis, right.axis} == {0, 1} and len(call.shape) == dim == 2
    width = call["x1"].meta["val"].shape[-1]
    if apart and builder.trains:
        sides = [
            (_of_length_one(builder, call, tensor, 1), layout)
            for tensor, layout in (
                (reshaped(builder, call, t, (own.outer * own.inner, width)), own)
                for t, own in ((one, left), (two, right))
            )
        ]
        (rows, first), (columns, second) = sides if left.axis == 0 else sides[::-1]
        builder.pairs[call.node] = Pairs(rows, columns, first, replace(second, axis=1))
        return
    whole = Node(call.node, call.arguments, (*call.shape[:dim], 1, *call.shape[dim:]))
    layout = layout_of(builder, whole, list(nodes))
    axis = layout.axis_of(dim)
    if axis is None:
        raise builder.refused(call, "works along the batch")
    parts = [operand(builder, whole, n, layout) for n in nodes]
    ranks = max(len(builder.tensors[t].shape) for t in parts)
    parts = [
        reshaped(
            builder, call, t,
            (*[1] * (ranks - len(builder.tensors[t].shape)), *builder.tensors[t].shape),
        )
        for t in parts
    ]  # fmt: skip
    parts = [_of_length_one(builder, call, t, axis) for t in parts]
    found = summed(
        builder, call, combined(builder, call, "multiply", *parts), [axis], 1.0
    )
    layout = layout.without(dim)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found, shape), layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {"cosine_similarity": _cosine}
