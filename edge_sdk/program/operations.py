"""The table of operations, by name.

To add one: a `Rule` in one of the families of `edge_sdk/program/rules`, a row of
`edge_sdk/program/capture/table.py` that makes it from torch's, and a row with its
kernels in `edge_sdk/kernels/src/program_*.cpp`. Rule and C++ row must name the same
sizes: the runtime checks a plan by its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge_sdk.errors import EngineError
from edge_sdk.program.graph import Graph, Op, Parameter
from edge_sdk.program.rule import Operands, Rule
from edge_sdk.program.rules import (
    activations,
    batch,
    copies,
    depthwise,
    elements,
    images,
    layers,
    losses,
    matrices,
    norms,
    pools,
    recurrent,
    sequences,
)

__all__ = ["TABLE", "groups_of_weights", "operands", "rule_of"]

TABLE: Final[Mapping[str, Rule]] = {
    **layers.RULES,
    **norms.RULES,
    **pools.RULES,
    **elements.RULES,
    **losses.RULES,
    **images.RULES,
    **depthwise.RULES,
    **activations.RULES,
    **sequences.RULES,
    **copies.RULES,
    **recurrent.RULES,
    **matrices.RULES,
    **batch.RULES,
}


def rule_of(operation: Op) -> Rule:
    """The operation's row.

    Raises:
        EngineError: If this version has none; names layer, operation and source.
    """
    rule = TABLE.get(operation.name)
    if rule is None:
        raise EngineError(
            f"{operation.told()}: this version has no such operation",
            remedy="Update flash-edge on the device, or train with the torch engine.",
        )
    return rule


def groups_of_weights(
    graph: Graph, parameters: tuple[Parameter, ...]
) -> dict[int, int]:
    """Groups of each parameter that an operation of a graph has as its own weight."""
    found: dict[int, int] = {}
    for operation in graph.operations:
        rule = rule_of(operation)
        if rule.weight is not None:
            call = operands(operation, graph, parameters)
            found[operation.parameters[0]] = rule.weight(call)[1]
    return found


def operands(
    operation: Op, graph: Graph, parameters: tuple[Parameter, ...]
) -> Operands:
    """The shapes around an operation of a graph."""
    rule = rule_of(operation)
    return Operands(
        operation,
        tuple(graph.tensors[t].shape for t in operation.inputs),
        tuple(graph.tensors[t].shape for t in operation.outputs),
        tuple(parameters[p].shape if p >= 0 else None for p in operation.parameters),
        dict(zip(rule.ints, operation.ints, strict=True)),
    )
