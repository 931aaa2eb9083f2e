"""Largest and smallest values over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.rows.comparisons import larger
from edge_sdk.program.capture.rows.rearranged.copies import strided
from edge_sdk.program.capture.rows.rearranged.joins import joined
from edge_sdk.program.capture.rows.reductions import (
    axes_of,
    count_of,
    put_reduced,
    summed,
)
from edge_sdk.program.capture.steps import combined, constant, reshaped, unary

__all__ = ["ROWS"]

Row = Callable[[Builder, Node], None]
_FEWEST_BYTES = 255  # a winner's place is one byte
_MOST_RANKED = 16  # each takes a few operations of its own
_BARRED = 1e30  # what takes a value out of the race


def _largest(builder: Builder, call: Node, source: int, axes: Sequence[int]) -> int:
    """The largest value over axes, which stay as ones."""
    for axis in axes:
        shape = builder.tensors[source].shape
        kept = (*shape[:axis], 1, *shape[axis + 1 :])
        image = (count_of(shape, range(axis)), shape[axis],
                 count_of(shape, range(axis + 1, len(shape))))  # fmt: skip
        plane = reshaped(builder, call, source, image)
        window = (shape[axis], 1, 1, 1, 0, 0)
        if shape[axis] < _FEWEST_BYTES:
            name, ints = "max_pool", (*window, 0)
        else:
            name, ints = "region_max", (*window, 1, 1, 0, 0, 0, 0)  # type: ignore[assignment]
        found = builder.step(call, name, (plane,), (image[0], 1, image[2]), ints=ints)
        source = reshaped(builder, call, found, kept)
    return source


def _extreme(*, largest: bool) -> Row:
    def row(builder: Builder, call: Node) -> None:
        if "other" in call.arguments:
            larger(maximum=largest)(builder, call)
            return
        if call.get("dim") is None:
            raise builder.refused(call, "works along the batch")
        axes, source = axes_of(builder, call), builder.value(call, "self")[0]
        if not largest:
            source = unary(builder, call, "affine", source, -1.0)
        found = _largest(builder, call, source, axes)
        if not largest:
            found = unary(builder, call, "affine", found, -1.0)
        if not isinstance(call.node.meta["val"], tuple | list):
            put_reduced(builder, call, found)
            return
        values = Node(call.node, call.arguments, tuple(call.node.meta["val"][0].shape))
        places = found
        if _read(call, 1):
            own = builder.value(call, "self")[0]
            own = own if largest else unary(builder, call, "affine", own, -1.0)
            places, _ = _winner(builder, call, own, axes[0])
        builder.many[call.node] = tuple(
            _reduced_of(builder, values, t) for t in (found, places)
        )

    return row


def _reduced_of(builder: Builder, call: Node, found: int) -> int:
    """A tensor without its axes of one, where the call does not keep them."""
    put_reduced(builder, call, found)
    return builder.place.pop(call.node)


def _read(call: Node, item: int) -> bool:
    """Tell whether anything is made of an item of what the call gives."""
    return any(u.args[1] == item and u.users for u in call.node.users)


def _winner(builder: Builder, call: Node, source: int, axis: int) -> tuple[int, int]:
    """Place of the first largest value of an axis, and a row of zeros and its one."""
    shape = builder.tensors[source].shape
    size, behind = shape[axis], [1] * (len(shape) - axis - 1)
    most = _largest(builder, call, source, [axis])
    apart = combined(builder, call, "subtract", source, most)
    there = unary(builder, call, "equal", apart)
    places = torch.arange(float(size)).reshape(size, *behind)
    left = constant(builder, call, size - places)
    left = combined(builder, call, "multiply", there, left)
    left = _largest(builder, call, left, [axis])
    kept = builder.tensors[left].shape
    ends = (-1.0, float(size))
    found = builder.step(call, "affine", (left,), kept, whole=True, reals=ends)
    apart = combined(builder, call, "subtract", constant(builder, call, places), found)
    return found, unary(builder, call, "equal", apart)


def _ranked(
    builder: Builder, call: Node, axis: int, count: int, *, largest: bool
) -> tuple[int, int]:
    """The so many largest values of an axis in their order, and their places."""
    source = builder.value(call, "self")[0]
    if count > _MOST_RANKED:
        raise builder.refused(call, f"more than {_MOST_RANKED} values in their order")
    left = source if largest else unary(builder, call, "affine", source, -1.0)
    values, places = [], []
    for _ in range(count):
        place, row = _winner(builder, call, left, axis)
        own = combined(builder, call, "multiply", source, row)
        values.append(summed(builder, call, own, [axis], 1.0))
        places.append(place)
        barred = unary(builder, call, "affine", row, -_BARRED)
        left = combined(builder, call, "add", left, barred)
    return joined(builder, call, values, axis), joined(builder, call, places, axis)


def _top(builder: Builder, call: Node) -> None:
    """Topk and sort."""
    axis = builder.axis(call, "self", call.get("dim", -1))
    count = call.get("k", builder.shape(call, "self")[axis])
    largest = bool(call.get("largest", call.get("descending", False)))
    both = _ranked(builder, call, axis, count, largest=largest)
    builder.many[call.node] = both
    builder.layouts[call.node] = builder.value(call, "self")[1]


def _argument(*, largest: bool) -> Row:
    """The row of the place of the largest, or smallest, value of an axis."""

    def row(builder: Builder, call: Node) -> None:
        if call.get("dim") is None:
            raise builder.refused(call, "works along the batch")
        source, (axis,) = builder.value(call, "self")[0], axes_of(builder, call)
        if not largest:
            source = unary(builder, call, "affine", source, -1.0)
        put_reduced(builder, call, _winner(builder, call, source, axis)[0])

    return row


def _middle(builder: Builder, call: Node) -> None:
    """The median of an axis, the lower one of two."""
    if call.get("dim") is None:
        raise builder.refused(call, "works along the batch")
    (axis,) = axes_of(builder, call)
    count = (builder.shape(call, "self")[axis] + 1) // 2
    both = _ranked(builder, call, axis, count, largest=False)
    last = (strided(builder, call, t, axis, count - 1, count=1) for t in both)
    values = Node(call.node, call.arguments, tuple(call.node.meta["val"][0].shape))
    builder.many[call.node] = tuple(_reduced_of(builder, values, t) for t in last)


def _log_sum_exp(builder: Builder, call: Node) -> None:
    axes, source = axes_of(builder, call), builder.value(call, "self")[0]
    most = _largest(builder, call, source, axes)
    apart = combined(builder, call, "subtract", source, most)
    total = summed(builder, call, unary(builder, call, "exp", apart), axes, 1.0)
    logarithm = unary(builder, call, "log", total)
    put_reduced(builder, call, combined(builder, call, "add", logarithm, most))


ROWS: Final[dict[str, Row]] = {
    "amax": _extreme(largest=True),
    "amin": _extreme(largest=False),
    "max": _extreme(largest=True),
    "min": _extreme(largest=False),
    "argmax": _argument(largest=True),
    "argmin": _argument(largest=False),
    "topk": _top,
    "sort": _top,
    "median": _middle,
    "logsumexp": _log_sum_exp,
}
