"""A program without the units that a mask cuts, read off the program's own graph.

A mask by units says how many output units and input columns each maskable layer keeps.
What follows from that is found here without torch: the layers that make the units which
others no longer read, and the biases and norms that have an entry for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from edge_sdk.errors import EngineError
from edge_sdk.program.graph import Graph, Op, Shape, TrainingProgram
from edge_sdk.program.narrow import narrow, narrow_operation
from edge_sdk.program.operations import operands, rule_of

__all__ = ["without_units"]

Box = tuple[int, int]


def without_units(
    program: TrainingProgram, boxes: Mapping[str, Box]
) -> TrainingProgram:
    """The program on layers that have only the units which their boxes keep.

    Args:
        program: Checked; no pass has been over it.
        boxes: Weight name -> output units and input columns that it keeps, of a mask
            in which nothing that counts reads the others.

    Raises:
        EngineError: If an operation does not fit the narrower values; names layer and
            operation.
    """
    own = {p.name: at for at, p in enumerate(program.parameters)}
    if unknown := sorted(set(boxes) - set(own)):
        raise EngineError(f"layer {unknown[0]}: the program has no such weight")
    shapes = {at: p.shape for at, p in enumerate(program.slots)}
    for name, (rows, columns) in boxes.items():
        shape = program.parameters[own[name]].shape
        shapes[own[name]] = (rows, columns, *shape[2:])
    boxed = {own[name] for name in boxes}
    for maker, rows in _makers(program, boxed, shapes):
        if maker not in boxed:
            shapes[maker] = (rows, *shapes[maker][1:])
    _follow(program, boxed, shapes)
    own_shapes = {p.name: shapes[at] for at, p in enumerate(program.parameters)}
    found = narrow(program, own_shapes)
    ends = [
        [g.tensors[t].shape for t in (*g.inputs, *g.outputs)]
        for p in (program, found)
        for g in (p.training, p.evaluation)
    ]
    if ends[:2] != ends[2:]:
        raise EngineError("units of the model's own inputs or outputs are cut")
    return found


def _makers(
    program: TrainingProgram, boxed: set[int], shapes: Mapping[int, Shape]
) -> Iterator[tuple[int, int]]:
    """Weights that make what a layer with cut columns reads, and the rows they need."""
    graph, own = program.training, program.slots
    made = {t: o for o in graph.operations for t in o.outputs}
    for operation in graph.operations:
        weight = (*operation.parameters, -1)[0]
        if weight not in boxed or _by_channel(operation, program):
            continue
        columns, whole = shapes[weight][1], own[weight].shape[1]
        if columns == whole:
            continue
        for maker in _behind(operation.inputs[0], made, graph, program):
            rows = own[maker].shape[0]
            yield maker, rows * columns // whole


def _behind(
    tensor: int, made: Mapping[int, Op], graph: Graph, program: TrainingProgram
) -> set[int]:
    """Weights of the layers whose units reach a tensor."""
    found: set[int] = set()
    todo, seen = [tensor], {tensor}
    while todo:
        operation = made.get(todo.pop())
        if operation is None:
            continue
        if rule_of(operation).weight is not None and not _by_channel(
            operation, program
        ):
            found.add(operation.parameters[0])
            continue
        further = set(operation.inputs) - seen
        seen |= further
        todo += sorted(further)
    return found


def _by_channel(operation: Op, program: TrainingProgram) -> bool:
    """Tell whether a convolution has a filter of its own for each channel."""
    rule = rule_of(operation)
    if rule.weight is None:
        return False
    call = operands(operation, program.training, program.slots)
    (_, columns, *_), groups = rule.weight(call)
    return groups > 1 and columns == 1


def _follow(
    program: TrainingProgram, boxed: set[int], shapes: dict[int, Shape]
) -> None:
    """Narrows what has an entry for each unit, from the inputs to the loss.

    Raises:
        EngineError: If an operation does not fit the narrower values.
    """
    graph, before = program.training, program.slots
    tensors = list(graph.tensors)
    for operation in graph.operations:
        old = operands(operation, graph, before)
        first = (*operation.parameters, -1)[0]
        if operation.name == "norm":
            wide, now = old.inputs[0][0], tensors[operation.inputs[0]].shape[0]
        elif rule_of(operation).weight is not None:
            wide = before[first].shape[0]
            if _by_channel(operation, program) and first not in boxed:
                channels = tensors[operation.inputs[0]].shape[0]
                rows = wide * channels // old.inputs[0][0]
                shapes[first] = (rows, *shapes[first][1:])
            now = shapes[first][0]
        else:
            wide = now = 0
        for at in operation.parameters:
            if at >= 0 and before[at].shape == (wide,):
                shapes[at] = (now,)
        after = tuple(replace(p, shape=shapes[at]) for at, p in enumerate(before))
        _, made = narrow_operation(operation, graph, tensors, before, after)
        for tensor, shape in zip(operation.outputs, made, strict=True):
            tensors[tensor] = replace(tensors[tensor], shape=shape)
