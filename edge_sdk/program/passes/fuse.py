"""Fusion of what follows a normalisation or precedes a pool into one kernel.

A tensor disappears only if one operation reads it and it does not go outside. A fused
operation stands where the last of its parts stood, so all that it reads is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edge_sdk.program.graph import Graph, Op
from edge_sdk.program.passes.rewrite import ACTIVATIONS, activation_of

__all__ = ["fuse_activations", "fuse_residuals"]

_RELU = 1  # the place of ``relu`` among the attributes of a norm
_POOL_RELU = 6  # and of a max pool


def fuse_residuals(graph: Graph) -> Graph:
    """A norm and the sum that is all that reads it: y = norm(x) + residual."""
    operations = list(graph.operations)
    for norm, at in _pairs(graph, operations, "norm", "add"):
        total = operations[at]
        if len(norm.inputs) == 2 or norm.ints[_RELU]:
            continue
        left, right = total.inputs
        other = right if left == norm.outputs[0] else left
        operations[at] = replace(
            norm, inputs=(norm.inputs[0], other), outputs=total.outputs
        )
        operations.remove(norm)
    return replace(graph, operations=tuple(operations))


def fuse_activations(graph: Graph) -> Graph:
    """A norm and its ReLU or ReLU6; a ReLU and the max pool behind it: they commute."""
    operations = list(graph.operations)
    for kind in ACTIVATIONS:
        for norm, at in _pairs(graph, operations, "norm", kind):
            after = operations[at]
            if norm.ints[_RELU] or not activation_of(after):
                continue
            ints = _set(norm.ints, _RELU, activation_of(after))
            operations[at] = replace(norm, ints=ints, outputs=after.outputs)
            operations.remove(norm)
    for relu, at in _pairs(graph, operations, "relu", "max_pool"):
        pool = operations[at]
        operations[at] = replace(
            pool, ints=_set(pool.ints, _POOL_RELU), inputs=relu.inputs
        )
        operations.remove(relu)
    return replace(graph, operations=tuple(operations))


def _pairs(
    graph: Graph, operations: list[Op], first: str, second: str
) -> Iterator[tuple[Op, int]]:
    """Each (operation, place of the one operation that reads its only output).

    The list may change meanwhile: every pair is looked for anew.
    """
    for before in [o for o in operations if o.name == first]:
        if before not in operations:
            continue
        (output,) = before.outputs
        readers = [at for at, o in enumerate(operations) if output in o.inputs]
        if len(readers) != 1 or output in graph.outputs:
            continue
        after = operations[readers[0]]
        if after.name == second and after.inputs.count(output) == 1:
            yield before, readers[0]


def _set(ints: tuple[int, ...], place: int, value: int = 1) -> tuple[int, ...]:
    return (*ints[:place], value, *ints[place + 1 :])
