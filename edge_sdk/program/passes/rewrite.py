"""`Rewrite`: a graph's operations while a pass merges some of them into others."""

from __future__ import annotations

from dataclasses import replace

from edge_sdk.program.graph import Graph, Op

__all__ = ["ACTIVATIONS", "Rewrite", "activation_of"]

# Operations that may be what a norm's kernel does after it.
ACTIVATIONS = ("relu", "hardtanh", "activation")

_RELU, _RELU6 = 1, 2


def activation_of(operation: Op) -> int:
    """The number that a norm's kernel gives it: 1 ReLU, 2 ReLU6, 0 any other."""
    if operation.name == "relu":
        return _RELU
    bounds = operation.name in {"hardtanh", "activation"}
    clamped = bounds and tuple(operation.reals[:2]) == (0.0, 6.0)
    return _RELU6 if clamped else 0


class Rewrite:
    """Operations in their order; a merged one leaves a gap.

    Attributes:
        operations: None where an operation has gone into another.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.operations: list[Op | None] = list(graph.operations)

    def maker(self, tensor: int) -> int:
        """Place of the operation that makes a tensor; -1 for an input."""
        for at, operation in enumerate(self.operations):
            if operation is not None and tensor in operation.outputs:
                return at
        return -1

    def only_user(self, tensor: int) -> int:
        """Place of the one operation that reads a tensor, once; -1 if there is none."""
        users = [
            at
            for at, operation in enumerate(self.operations)
            if operation is not None
            for read in operation.inputs
            if read == tensor
        ]
        alone = len(users) == 1 and tensor not in self._graph.outputs
        return users[0] if alone else -1

    def at(self, place: int, name: str = "") -> Op | None:
        """The operation at a place; None for -1, a gap, or another name."""
        found = self.operations[place] if place >= 0 else None
        return found if found is not None and name in {"", found.name} else None

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Of a tensor, per sample."""
        return self._graph.tensors[tensor].shape

    def merge(self, parts: tuple[int, ...], operation: Op) -> None:
        """Puts an operation in the place of its last part; the others are gaps."""
        for at in parts:
            self.operations[at] = None
        self.operations[max(parts)] = operation

    def graph(self) -> Graph:
        """The graph of what is left."""
        left = tuple(o for o in self.operations if o is not None)
        return replace(self._graph, operations=left)
