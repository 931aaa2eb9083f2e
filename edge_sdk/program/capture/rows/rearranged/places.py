"""Values by their places: lists known beforehand, and numbers that the batch brings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, PLAIN
from edge_sdk.program.capture.operands import number_of, operand
from edge_sdk.program.capture.rows.matrices import multiplied
from edge_sdk.program.capture.rows.rearranged.batches import ordered_by
from edge_sdk.program.capture.rows.rearranged.copies import strided, transposed
from edge_sdk.program.capture.rows.rearranged.joins import joined
from edge_sdk.program.capture.rows.rearranged.listed import (
    add_listed,
    listed_places,
    row_of_table,
)
from edge_sdk.program.capture.rows.reductions import summed
from edge_sdk.program.capture.steps import combined, reshaped, unary
from edge_sdk.program.graph import Shape

__all__ = ["ROWS"]

_MOST_PIECES = 64  # of a list of places: each is a copy of its own
_MOST_CLASSES = 2048  # that a table of ones and zeros is made for
_MOST_CHOSEN = 1 << 20  # entries of a table of places by values


def _index(builder: Builder, call: Node) -> None:
    """Places along axes that lie beside each other, known beforehand."""
    given: list[fx.Node | None] = list(call["indices"])
    if ordered_by(builder, call, given):
        return
    named = [(d, n) for d, n in enumerate(given) if n is not None]
    alone = len(given) == len(named) == 1
    if alone and row_of_table(builder, call, named[0][1]):
        return
    if _by_label(builder, call, named):
        return
    if not named or any(n not in builder.constants for _, n in named):
        raise builder.refused(call, "places that are computed")
    lists: list[torch.Tensor] = []
    for _, node in named:
        own = builder.constants.tensor(node)
        lists += own.nonzero(as_tuple=True) if own.dtype == torch.bool else [own]
    first = named[0][0]
    beside = [d for d, _ in named] == [*range(first, first + len(named))]
    if not beside or (len(lists) > len(named) > 1):
        raise builder.refused(call, "places along axes that lie apart")
    dims = [*range(first, first + len(lists))]
    _at(builder, call, dims, lists)


def _index_select(builder: Builder, call: Node) -> None:
    if not call["dim"] and ordered_by(builder, call, [call["index"]]):
        return
    if call["index"] not in builder.constants:
        raise builder.refused(call, "places that are computed")
    rank = len(call["self"].meta["val"].shape)
    own = builder.constants.tensor(call["index"])
    _at(builder, call, [call["dim"] % rank], [own])


def _at(
    builder: Builder, call: Node, dims: Sequence[int], lists: Sequence[torch.Tensor]
) -> None:
    """The values at places, whose own shape takes the place of the axes."""
    chosen = torch.broadcast_tensors(*lists)  # type: ignore[no-untyped-call]
    sizes = [call["self"].meta["val"].shape[d] for d in dims]
    places = torch.zeros_like(chosen[0])
    for own, size in zip(chosen, sizes, strict=True):
        places = places * size + own % size
    flat, form = [int(p) for p in places.flatten()], tuple(places.shape)
    if not flat:
        raise builder.refused(call, "no places at all")
    table = builder.parameters.get(call["self"], -1)
    is_table = call["self"].meta["val"].dim() == 2 and dims == [0]
    if call["self"] not in builder.place and table >= 0 and is_table:
        _rows(builder, call, table, places)
        return
    source, layout = builder.value(call, "self")
    axes = [builder.axis(call, "self", d) for d in dims]
    shape, axis = builder.tensors[source].shape, axes[0]
    count = 1
    for n in sizes:
        count *= n
    behind = shape[axis + len(axes) :]
    source = reshaped(builder, call, source, (*shape[:axis], count, *behind))
    found = _chosen(builder, call, source, axis, flat)
    for _ in dims[1:]:
        layout = layout.without(dims[0])
    for _ in form[1:]:
        layout = layout.with_one(dims[0])
    if not form:
        layout = layout.without(dims[0])
    found = reshaped(builder, call, found, (*shape[:axis], *form, *behind))
    builder.put(call, found, layout)


def _rows(builder: Builder, call: Node, table: int, places: torch.Tensor) -> None:
    """Rows of a parameter, such as a table of relative positions."""
    number = builder.constants.hold(places)
    tokens = builder.step(
        call, "repeat", (), tuple(places.shape), whole=True, parameters=(number,)
    )
    found = builder.step(
        *(call, "embedding", (tokens,), call.shape), parameters=(table,), ints=(-1,)
    )
    builder.put(call, found, ALONE)


def _chosen(
    builder: Builder, call: Node, source: int, axis: int, places: Sequence[int]
) -> int:
    """Some values of an axis, in the order in which they are named."""
    step = places[1] - places[0] if len(places) > 1 else 1
    if step > 0 and [*places] == [*range(places[0], places[-1] + 1, step)]:
        return strided(
            builder, call, source, axis, places[0], count=len(places), step=step
        )
    if len(places) <= _MOST_PIECES:
        parts = [strided(builder, call, source, axis, p, count=1) for p in places]
        return joined(builder, call, parts, axis)
    shape = builder.tensors[source].shape
    if len(places) * shape[axis] > _MOST_CHOSEN or builder.tensors[source].whole:
        raise builder.refused(call, f"{len(places)} places one by one")
    rank = len(shape)
    order = [*(a for a in range(rank) if a != axis), axis]
    last = transposed(builder, call, source, order)
    rows = torch.zeros(len(places), shape[axis])
    rows[torch.arange(len(places)), torch.tensor(places)] = 1.0
    found = builder.step(
        *(call, "linear", (last,), (*builder.tensors[last].shape[:-1], len(places))),
        parameters=(builder.constants.hold(rows), -1),
    )
    back = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return transposed(builder, call, found, back)


def _by_label(builder: Builder, call: Node, named: Sequence[tuple[int, Any]]) -> bool:
    """Takes x[arange(batch), y]: a value, or a row, of each sample by its number."""
    if len(named) != 2 or [d for d, _ in named] != [0, 1]:
        return False
    (_, first), (_, second) = named
    if first not in builder.constants or second in builder.constants:
        return False
    own = builder.constants.tensor(first)
    counted = own.dim() == 1 and own.tolist() == [*range(builder.batch)]
    places, layout = builder.value(call, second)
    single = layout == PLAIN and builder.tensors[places].shape == ()
    source, whose = builder.value(call, "self")
    if not counted or not single or whose != PLAIN:
        return False
    count, *rest = builder.tensors[source].shape
    places = reshaped(builder, call, places, (1,))
    if count > _MOST_CLASSES:
        raise builder.refused(call, f"one of {count} values by its place")
    rows = reshaped(builder, call, source, (count, math.prod(rest)))
    found = multiplied(builder, call, _rows_of(builder, call, places, count), rows)
    builder.put(call, reshaped(builder, call, found, call.shape[1:]))
    return True


def _gather(builder: Builder, call: Node) -> None:
    dim = call["dim"] % len(call.shape)
    if (listed := listed_places(builder, call["index"], dim)) is not None:
        alike = [n for d, n in enumerate(call["self"].meta["val"].shape) if d != dim]
        if alike == [n for d, n in enumerate(call.shape) if d != dim]:
            _at(builder, call, [dim], [torch.tensor(listed)])
            return
    source, layout = builder.value(call, "self")
    axis = builder.axis(call, "self", call["dim"])
    places, own = builder.value(call, "index")
    shape, wanted = builder.tensors[source].shape, builder.tensors[places].shape
    if own != layout:
        raise builder.refused(call, "places of another shape than the values")
    _check_alike(builder, call, shape, wanted, axis)
    builder.put(call, _numbered(builder, call, source, places, axis), layout)


def _numbered(builder: Builder, call: Node, source: int, places: int, axis: int) -> int:
    """Values of an axis by number, each picked by its row of ones and zeros."""
    shape, wanted = builder.tensors[source].shape, builder.tensors[places].shape
    count, rank = shape[axis], len(shape)
    if count > _MOST_CLASSES:
        raise builder.refused(call, f"one of {count} values by its place")
    alike = [n for a, n in enumerate(shape) if a != axis]
    order = [*(a for a in range(rank) if a != axis), axis]
    source = transposed(builder, call, source, order)
    source = reshaped(builder, call, source, (*alike, 1, count))
    rows = _rows_of(builder, call, transposed(builder, call, places, order), count)
    found = combined(builder, call, "multiply", source, rows)
    found = summed(builder, call, found, [rank], 1.0)
    found = reshaped(builder, call, found, (*alike, wanted[axis]))
    back = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return transposed(builder, call, found, back)


def _rows_of(builder: Builder, call: Node, places: int, count: int) -> int:
    """Each place as a row of zeros and a one, on a further axis."""
    return builder.step(
        *(call, "embedding", (places,), (*builder.tensors[places].shape, count)),
        parameters=(builder.constants.hold(torch.eye(count)),),
        ints=(-1,),
    )


def _scattered(builder: Builder, call: Node, *, adds: bool = False) -> None:
    """Scatter: a number, or a tensor's values, to places that the batch brings.

    Of several values for one place their sum stands there; torch takes any one of them.
    """
    reduced = call.get("reduce")
    if reduced not in {None, "add"}:
        raise builder.refused(call, f"puts values by {reduced}")
    adds = adds or reduced == "add"
    source = call.get("src")
    listed = listed_places(builder, call["index"], call["dim"]) if source else None
    if (
        adds
        and listed is not None
        and source.meta["val"].shape == (call["index"].meta["val"].shape)
    ):
        add_listed(builder, call, source, listed)
        return
    places, layout = builder.value(call, "index")
    axis = builder.axis(call, "index", call["dim"])
    shape, wanted = builder.sample(call, layout), builder.tensors[places].shape
    _check_alike(builder, call, shape, wanted, axis)
    if shape[axis] > _MOST_CLASSES:
        raise builder.refused(call, f"one of {shape[axis]} values by its place")
    order = [*(a for a in range(len(shape)) if a != axis), axis]
    turned = transposed(builder, call, places, order)
    rows = _rows_of(builder, call, turned, shape[axis])
    marks = _summed_rows(builder, call, rows, axis)
    if wanted[axis] > 1 and not adds:  # a place may be named twice
        marks = unary(builder, call, "greater", marks)
    given = call.get("value", call.get("src"))
    value = number_of(builder, given)
    found = marks
    if value is None:
        own = operand(builder, call, given, layout)
        _check_alike(builder, call, builder.tensors[own].shape, wanted, -1)
        own = transposed(builder, call, own, order)
        own = reshaped(builder, call, own, (*builder.tensors[own].shape, 1))
        own = combined(builder, call, "multiply", own, rows)
        found = _summed_rows(builder, call, own, axis)
    elif value != 1:
        found = unary(builder, call, "affine", found, value)
    before = call["self"]
    if before not in builder.constants or builder.constants.tensor(before).any():
        base = operand(builder, call, before, layout)
        if not adds:
            free = unary(builder, call, "affine", marks, -1.0, 1.0)
            base = combined(builder, call, "multiply", base, free)
        found = combined(builder, call, "add", base, found)
    builder.put(call, found, layout)


def _summed_rows(builder: Builder, call: Node, rows: int, axis: int) -> int:
    """Sums of rows of places, their axis back at its place."""
    rank = len(builder.tensors[rows].shape) - 1
    found = summed(builder, call, rows, [rank - 1], 1.0)
    alike, count = (
        builder.tensors[rows].shape[: rank - 1],
        builder.tensors[rows].shape[rank],
    )
    found = reshaped(builder, call, found, (*alike, count))
    back = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return transposed(builder, call, found, back)


def _check_alike(
    builder: Builder, call: Node, one: Shape, two: Shape, axis: int
) -> None:
    """Refuses two shapes that differ along another axis than one."""
    own = [n for a, n in enumerate(one) if a != axis]
    if len(one) != len(two) or own != [n for a, n in enumerate(two) if a != axis]:
        raise builder.refused(call, "places of another shape than the values")


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
    "scatter": _scattered,
    "scatter_add": partial(_scattered, adds=True),
}
