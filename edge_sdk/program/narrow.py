"""A program on narrower layers: the same graph for a model whose units are cut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edge_sdk.errors import EngineError
from edge_sdk.program.check import check
from edge_sdk.program.graph import (
    Graph,
    Op,
    Parameter,
    Shape,
    TensorValue,
    TrainingProgram,
)
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.rule import Operands

__all__ = ["narrow", "narrow_operation"]


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
        computed=(),  # masks are drawn on whole layers
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
        now, made = narrow_operation(operation, graph, tensors, before, after)
        for tensor, shape in zip(now.outputs, made, strict=True):
            tensors[tensor] = replace(tensors[tensor], shape=shape)
        operations.append(now)
    return replace(graph, tensors=tuple(tensors), operations=tuple(operations))


def narrow_operation(
    operation: Op,
    graph: Graph,
    tensors: Sequence[TensorValue],
    before: tuple[Parameter, ...],
    after: tuple[Parameter, ...],
) -> tuple[Op, tuple[Shape, ...]]:
    """An operation on narrower operands, and the shapes of its outputs.

    Args:
        operation: Of the wide graph.
        graph: The wide graph.
        tensors: Its tensors, those that the operation reads narrower.
        before: Parameters and constants of the wide program.
        after: Those of the narrower one.

    Raises:
        EngineError: If the operation does not fit the narrower values.
    """
    old = operands(operation, graph, before)
    inputs = tuple(tensors[t].shape for t in operation.inputs)
    now = replace(operation, ints=_ints(old, inputs, before, after))
    call = operands(now, replace(graph, tensors=tuple(tensors)), after)
    rule = rule_of(now)
    if rule.view:
        return now, (_viewed(old.inputs[0], old.outputs[0], call.inputs[0], now),)
    return now, rule.shapes(call)


def _ints(
    old: Operands,
    inputs: tuple[Shape, ...],
    before: tuple[Parameter, ...],
    after: tuple[Parameter, ...],
) -> tuple[int, ...]:
    """The attributes; groups shrink with the channels that they divide."""
    operation, rule = old.operation, rule_of(old.operation)
    if "groups" not in rule.ints:
        return operation.ints
    at, own = rule.ints.index("groups"), operation.parameters[0]
    if own >= 0:
        rows, whole = after[own].shape[0], before[own].shape[0]
    else:
        rows, whole = inputs[0][0], old.inputs[0][0]
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
