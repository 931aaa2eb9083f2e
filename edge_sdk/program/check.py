"""Check of a program as if a stranger had sent it; errors name the operation."""

from __future__ import annotations

import math
from dataclasses import replace

from edge_sdk.errors import EngineError
from edge_sdk.program.graph import Graph, Op, Parameter, TrainingProgram
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.rule import Operands, Rule

__all__ = ["check"]

_MOST_VALUES = 1 << 31  # per sample; kernels count in 32 bits within a block
_BYTES = 4


def check(program: TrainingProgram) -> None:
    """Refuses a program that is not what it seems.

    Raises:
        EngineError: If an operation is unknown or its operands do not fit, a value is
            read before it is made, or a size is beyond what kernels count in.
    """
    names = [parameter.name for parameter in program.parameters]
    if len(set(names)) != len(names):
        raise EngineError("the program has two parameters of one name")
    for parameter in program.parameters:
        if not (parameter.buffer and 0 in parameter.shape):  # an empty one may travel
            _sane(parameter.shape, f"parameter {parameter.name}")
    _check_shared(program)
    told, count = program.returns, len(program.evaluation.outputs)
    if len(told or ("",)) != count or (any(told) and len({*told, ""}) <= count):
        raise EngineError("the program's predictions and their names do not fit")
    _check_computed(program)
    for constant in program.constants:
        _sane(constant.shape, "a constant")
        if len(constant.data) != _BYTES * math.prod(constant.shape):
            raise EngineError(f"a constant {constant.shape} has not its values")
    for graph, train in ((program.training, True), (program.evaluation, False)):
        _check_graph(graph, program.slots, train=train)


def _check_shared(program: TrainingProgram) -> None:
    own, further = program.parameters, [at for at, _ in program.shared]
    graphs = program.training, program.evaluation
    used = {p for g in graphs for o in g.operations for p in o.parameters}
    for at, first in program.shared:
        if (
            not 0 <= first < at < len(own)
            or replace(own[at], name="") != replace(own[first], name="")
            or at in used
            or first in further
            or further.count(at) > 1
        ):
            raise EngineError("the program's parameters of two names do not fit")


def _check_computed(program: TrainingProgram) -> None:
    own = dict(enumerate(program.parameters))
    for at, groups in program.computed:
        told = own.get(at)
        if (
            told is None
            or told.buffer
            or len(told.shape) < 2
            or groups < 1
            or told.shape[0] % groups
        ):
            raise EngineError("the program's computed weights do not fit")


def _check_graph(
    graph: Graph, parameters: tuple[Parameter, ...], *, train: bool
) -> None:
    losses, count = 0, len(graph.tensors)
    for at, tensor in enumerate(graph.tensors):
        _sane(tensor.shape, f"tensor {at}")
    if any(not 0 <= t < count for t in (*graph.inputs, *graph.outputs)):
        raise EngineError("the program's inputs or outputs are no tensors of it")
    if len(set(graph.inputs)) != len(graph.inputs) or not graph.inputs:
        raise EngineError("the program's inputs are not one tensor each")
    made = set(graph.inputs)
    for operation in graph.operations:
        rule = rule_of(operation)
        _check_places(operation, rule, made, count, len(parameters))
        call = operands(operation, graph, parameters)
        _check_attributes(call)
        shapes = _shapes_of(rule, call)
        call.require(shapes == call.outputs, f"gives {shapes}, not {call.outputs}")
        if rule.loss:
            losses += 1
        made.update(operation.outputs)
    if bool(losses) != train:
        raise EngineError("the program has not the losses that it needs")
    if not made.issuperset(graph.outputs):
        raise EngineError("the program's outputs are never made")


def _shapes_of(rule: Rule, call: Operands) -> tuple[tuple[int, ...], ...]:
    """The shapes that an operation gives; rules take its places for granted."""
    try:
        return rule.shapes(call)
    except EngineError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        told = f"{call.operation.told()}: its tensors do not fit"
        raise EngineError(told) from error


def _check_places(
    operation: Op, rule: Rule, made: set[int], tensors: int, parameters: int
) -> None:
    told = operation.told()
    fewest, most = rule.inputs
    if not fewest <= len(operation.inputs) <= most:
        raise EngineError(f"{told}: has {len(operation.inputs)} inputs")
    if not made.issuperset(operation.inputs):
        raise EngineError(f"{told}: reads a value before it is made")
    outputs = set(operation.outputs)
    if len(outputs) != len(operation.outputs) or outputs & made:
        raise EngineError(f"{told}: makes a value twice")
    if not all(0 <= t < tensors for t in outputs):
        raise EngineError(f"{told}: makes a value that is no tensor")
    if len(operation.parameters) != len(rule.parameters):
        raise EngineError(f"{told}: has {len(operation.parameters)} parameters")
    for place, parameter in zip(rule.parameters, operation.parameters, strict=True):
        if not -1 <= parameter < parameters or (
            parameter < 0 and not place.endswith("?")
        ):
            raise EngineError(f"{told}: has no parameter for its {place}")
    if len(operation.ints) != len(rule.ints) or len(operation.reals) != len(rule.reals):
        raise EngineError(f"{told}: has not the attributes of its kind")


def _check_attributes(call: Operands) -> None:
    low, high = -(1 << 31), 1 << 31
    call.require(all(low < n < high for n in call.operation.ints), "odd attributes")
    counters = [p for p in call.operation.parameters if p >= 0]
    call.require(len(set(counters)) == len(counters), "one parameter in two places")


def _sane(shape: tuple[int, ...], what: str) -> None:
    size = 1
    for n in shape:
        if n < 1:
            raise EngineError(f"{what} has the shape {shape}")
        size *= n
        if size >= _MOST_VALUES:
            raise EngineError(f"{what} has the shape {shape}: too many values")
