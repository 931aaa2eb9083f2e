"""Nodes of an ONNX graph that are lowered as one: a written-out GELU, a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose, sqrt
from typing import Any

import onnx
from numpy.typing import NDArray

__all__ = ["JoinedSteps", "find_joined"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class JoinedSteps:
    """Nodes that others stand for.

    Attributes:
        gelus: Output of a GELU's last node to the GELU's input.
        biases: Output of a MatMul to (what its Add makes, the Add's constant).
        inside: Outputs of nodes that need no lowering of their own.
    """

    gelus: Mapping[str, str]
    biases: Mapping[str, tuple[str, str]]
    inside: frozenset[str]


class _Graph:
    """A graph's values: the node that makes each, and its one reader."""

    def __init__(self, graph: onnx.GraphProto, constants: Arrays) -> None:
        self.constants = constants
        self.makers = {name: n for n in graph.node for name in n.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}

    def reader(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """The one node that reads a value, if it is of these kinds."""
        found = self._readers.get(name, [])
        if len(found) != 1 or name in self._outputs or found[0].op_type not in kinds:
            return None
        return found[0]

    def times(self, node: onnx.NodeProto | None, kind: str, value: float) -> str | None:
        """The other input of a node of this kind with a constant of one value."""
        if node is None or node.op_type != kind or len(node.input) != 2:
            return None
        order = (0,) if kind == "Div" else (0, 1)
        for i in order:
            array = self.constants.get(node.input[1 - i])
            if array is not None and array.size == 1 and array.ndim <= 1:
                return node.input[i] if _near(array, value) else None
        return None


def _near(array: NDArray[Any], value: float) -> bool:
    return isclose(float(array.reshape(())), value, rel_tol=1e-6)


def find_joined(graph: onnx.GraphProto, constants: Arrays) -> JoinedSteps:
    """Nodes of a graph that are lowered together with others.

    Args:
        graph: In its order.
        constants: Its initializers.
    """
    seen = _Graph(graph, constants)
    gelus: dict[str, str] = {}
    biases: dict[str, tuple[str, str]] = {}
    inside: set[str] = set()
    for node in graph.node:
        if node.op_type == "Erf":
            found = _gelu(seen, node)
            if found is not None:
                x, last, between = found
                gelus[last] = x
                inside |= between
        if node.op_type == "MatMul" and node.input[1] in constants:
            add = seen.reader(node.output[0], "Add")
            bias = None if add is None else _bias(seen, node, add)
            if add is not None and bias is not None:
                biases[node.output[0]] = add.output[0], bias
                inside.add(add.output[0])
    return JoinedSteps(gelus, biases, frozenset(inside))


def _gelu(seen: _Graph, erf: onnx.NodeProto) -> tuple[str, str, set[str]] | None:
    """0.5 x (1 + erf(x / sqrt 2)) from its Erf: input, last output, what is between."""
    first = seen.makers.get(erf.input[0])
    x = seen.times(first, "Div", sqrt(2)) or seen.times(first, "Mul", sqrt(0.5))
    if first is None or x is None or seen.reader(erf.input[0], "Erf") is None:
        return None
    more = seen.reader(erf.output[0], "Add")
    if more is None or seen.times(more, "Add", 1.0) is None:
        return None
    between = {erf.input[0], erf.output[0]}
    last, missing = more.output[0], {"x", "half"}
    while missing:  # the factors x and 0.5, in any order, or their product
        between.add(last)
        product = seen.reader(last, "Mul")
        if product is None:
            return None
        other = next((i for i in product.input if i != last), "")
        half = seen.makers.get(other)
        if other == x and "x" in missing:
            missing.remove("x")
        elif seen.times(product, "Mul", 0.5) == last and "half" in missing:
            missing.remove("half")
        elif len(missing) == 2 and seen.times(half, "Mul", 0.5) == x:
            if seen.reader(other, "Mul") is None:
                return None
            between.add(other)
            missing.clear()
        else:
            return None
        last = product.output[0]
    return x, last, between


def _bias(seen: _Graph, node: onnx.NodeProto, add: onnx.NodeProto) -> str | None:
    """The name of a MatMul's bias in the Add behind it."""
    matrix = seen.constants[node.input[1]]
    for name in add.input:
        array = seen.constants.get(name)
        if array is not None and matrix.ndim == 2 and array.shape == matrix.shape[1:]:
            return str(name)
    return None
