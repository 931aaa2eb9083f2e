"""A program on narrower layers: the same graph for a model whose units are cut."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from edge_sdk.errors import EngineError
from edge_sdk.program.check import check
from edge_sdk.program.graph import Graph, Op, Parameter, Shape, TrainingProgram
from edge_sdk.program.operations import operands, rule_of

__all__ = ["narrow"]


def narrow(program: TrainingProgram, shapes: Mapping[str, Shape]) -> TrainingProgram:
    """The program with parameters of these shapes; everything else follows from them.

    Args:
        program: Checked; no pass has been over it.
        shapes: Entry of the ``state_dict`` to its shape, for every entry.

    Raises:
        EngineError: If an entry is missing, or an operation does not fit the narrower
            values; names layer and operation.
    """
    missing = [p.name for p in program.parameters if p.name not in shapes]
    if missing or len(shapes) != len(program.parameters):
        raise EngineError("the program is of a model with other entries")
    parameters = tuple(replace(p, shape=shapes[p.name]) for p in program.parameters)
    found = replace(
        program,
        parameters=parameters,
    )
    slots = program.slots, found.slots
    found = replace(
        found,
        training=_graph(program.training, *slots),
        evaluation=_graph(program.evaluation, *slots),
    )
    check(found)
    return found


def _graph(
    graph: Graph, before: tuple[Parameter, ...], after: tuple[Parameter, ...]
) -> Graph:
    tensors, operations = list(graph.tensors), []
    for operation in graph.operations:
        old = operands(operation, graph, before)
        now = replace(operation, ints=_ints(operation, before, after))
        call = operands(now, replace(graph, tensors=tuple(tensors)), after)
        rule = rule_of(now)
        if rule.view:
            made: tuple[Shape, ...] = (
                _viewed(old.inputs[0], old.outputs[0], call.inputs[0], now),
            )
        else:
            made = rule.shapes(call)
        for tensor, shape in zip(now.outputs, made, strict=True):
            tensors[tensor] = replace(tensors[tensor], shape=shape)
        operations.append(now)
    return replace(graph, tensors=tuple(tensors), operations=tuple(operations))


def _ints(
    operation: Op, before: tuple[Parameter, ...], after: tuple[Parameter, ...]
) -> tuple[int, ...]:
    """The attributes; groups shrink with the channels that they divide."""
    rule = rule_of(operation)
    if "groups" not in rule.ints or operation.parameters[0] < 0:
        return operation.ints
    at, own = rule.ints.index("groups"), operation.parameters[0]
    rows, whole = after[own].shape[0], before[own].shape[0]
    groups = operation.ints[at]
    narrower = groups if groups < 2 else groups * rows // whole
    return (*operation.ints[:at], narrower, *operation.ints[at + 1 :])


def _viewed(before: Shape, made: Shape, now: Shape, operation: Op) -> Shape:
    """The view of a narrower value: flat, or with axes of one put in or taken out."""
    if before == now:
        return made
    if len(made) == 1:
        return (math.prod(now),)
    wide = [n for old, n in zip(before, now, strict=True) if old != 1]
    if [n for n in before if n != 1] != [n for n in made if n != 1]:
        raise EngineError(f"{operation.told()}: a view of a fixed width")
    left = iter(wide)
    return tuple(1 if n == 1 else next(left) for n in made)
