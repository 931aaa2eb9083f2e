"""Copies of copies become one: a slice of a permuted tensor reads the tensor itself.

Attention's queries, keys and values are such slices. Read one by one from what makes
them, nothing is moved twice, and their gradients lie side by side in one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from edge_sdk.program.graph import Graph, Op
from edge_sdk.program.rules.copies import AXES, copied_places

__all__ = ["join_copies"]

_VIEWS: Final = ("view",)


def join_copies(graph: Graph) -> Graph:
    """The graph in which no copy reads another one, where six steps say as much."""
    operations = list(graph.operations)
    for first in graph.operations:
        if first.name == "copy":
            operations = _joined(graph, operations, first)
    return replace(graph, operations=tuple(operations))


def _joined(graph: Graph, operations: list[Op], first: Op) -> list[Op]:
    """The operations without `first`, if all that read it are copies that can."""
    held = {first.outputs[0]}  # its values, under every shape
    gone = [first]
    for each in operations:
        if each.name in _VIEWS and held & set(each.inputs):
            held |= set(each.outputs)
            gone.append(each)
    readers = [o for o in operations if held & set(o.inputs) and o not in gone]
    if held & set(graph.outputs) or any(o.name != "copy" for o in readers):
        return operations
    first = operations[_place(operations, first.outputs)]
    source = copied_places(first).reshape(-1)
    made: dict[int, Op] = {}
    for reader in readers:
        steps = _steps(source[copied_places(reader)])
        made[reader.outputs[0]] = replace(
            reader,
            inputs=first.inputs,
            ints=(*reader.ints[:AXES], *steps, reader.ints[-1]),
        )
        if not steps:
            return operations
    return [
        made.get(o.outputs[0], o) if o.outputs else o
        for o in operations
        if not (o.outputs and o.outputs[0] in held)
    ]


def _place(operations: Iterable[Op], outputs: tuple[int, ...]) -> int:
    return next(at for at, o in enumerate(operations) if o.outputs == outputs)


def _steps(places: np.ndarray) -> tuple[int, ...]:
    """Six steps and an offset that give these places; none where there are no such."""
    offset = int(places.flat[0])
    steps, expected = [0] * AXES, np.array(offset, np.int64)
    for axis, size in enumerate(places.shape):
        along = places[
            (0,) * axis + (min(1, size - 1),) + (0,) * (places.ndim - axis - 1)
        ]
        step = int(along) - offset
        steps[AXES - places.ndim + axis] = step
        expected = expected[..., None] + np.arange(size, dtype=np.int64) * step
    return (*steps, offset) if np.array_equal(places, expected) else ()
