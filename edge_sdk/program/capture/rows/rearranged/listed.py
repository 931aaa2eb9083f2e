"""Places known beforehand that several values go to, and rows of tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE
from edge_sdk.program.capture.operands import layout_of, operand
from edge_sdk.program.capture.rows.matrices import multiplied
from edge_sdk.program.capture.rows.spectra.transforms import along
from edge_sdk.program.capture.steps import combined, expanded, reshaped, unary

__all__ = ["ROWS", "add_listed", "listed_places", "row_of_table"]

_MOST_ROWS = 2048  # of a table: each place is a row of so many ones and zeros
_MOST_ENTRIES = 1 << 20


def listed_places(builder: Builder, node: fx.Node, dim: int) -> list[int] | None:
    """Places along one axis, the same along all others; None if they are not."""
    if node not in builder.constants:
        return None
    value = builder.constants.tensor(node).movedim(dim, -1)
    rows = value.reshape(-1, value.shape[-1])
    if not len(rows) or not bool((rows == rows[0]).all()):
        return None
    return [int(n) for n in rows[0]]


def _matrix(builder: Builder, call: Node, size: int, places: list[int]) -> torch.Tensor:
    """(size, places): a one where a value goes."""
    if size * len(places) > _MOST_ENTRIES:
        raise builder.refused(call, f"{len(places)} places among {size}")
    rows = torch.zeros(size, len(places))
    rows[torch.tensor(places) % size, torch.arange(len(places))] = 1.0
    return rows


def add_listed(
    builder: Builder, call: Node, values: fx.Node, places: list[int]
) -> None:
    """Adds values to places of an axis; of several for one place their sum."""
    dim = call["dim"] % len(call.shape)
    layout = layout_of(builder, call, [call["self"], values])
    axis = layout.axis_of(dim)
    if axis is None:
        raise builder.refused(call, "works along the batch")
    shape = builder.sample(call, layout)
    given = operand(builder, call, values, layout)
    given = expanded(
        builder, call, given, (*shape[:axis], len(places), *shape[axis + 1 :])
    )
    found = along(
        builder, call, given, axis, _matrix(builder, call, shape[axis], places)
    )
    if call.get("alpha", 1) != 1:
        found = unary(builder, call, "affine", found, float(call["alpha"]))
    base = operand(builder, call, call["self"], layout)
    builder.put(call, combined(builder, call, "add", base, found), layout)


def _index_add(builder: Builder, call: Node) -> None:
    if call["index"] not in builder.constants:
        raise builder.refused(
            call,
            "adds to computed places",
            remedy="Programs add to listed places; for computed ones use scatter_add, "
            "or a product with one-hot rows; until then the torch engine trains this "
            "model.",
        )
    places = [int(n) for n in builder.constants.tensor(call["index"]).flatten()]
    add_listed(builder, call, call["source"], places)


def row_of_table(builder: Builder, call: Node, places: fx.Node) -> bool:
    """Takes table[places]: rows of what is no sample's, by computed number."""
    table: fx.Node = call["self"]
    own = table.meta["val"]
    known = table in builder.constants or (
        table in builder.parameters and table not in builder.place
    )
    if not known or places in builder.constants or own.dim() < 1:
        return False
    if places.meta["val"].dtype == torch.bool:
        return False
    count, width = own.shape[0], math.prod(own.shape[1:])
    tensor, layout = builder.value(call, places)
    if layout == ALONE or count > _MOST_ROWS:
        return False
    shape = builder.tensors[tensor].shape
    size = math.prod(shape)
    flat = reshaped(builder, call, tensor, (size,))
    if table in builder.constants:
        value = builder.constants.tensor(table).reshape(count, width)
        found = builder.step(
            *(call, "embedding", (flat,), (size, width)),
            parameters=(builder.constants.hold(value),),
            ints=(-1,),
        )
    else:
        rows = builder.step(
            *(call, "embedding", (flat,), (size, count)),
            parameters=(builder.constants.hold(torch.eye(count)),),
            ints=(-1,),
        )
        whole = reshaped(builder, call, builder.value(call, table)[0], (count, width))
        found = multiplied(builder, call, rows, whole)
    sample = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found, sample), layout)
    return True


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {"index_add": _index_add}
