"""Values of a graph as a loop over steps makes and reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from export.passes.graph import attribute, producers, static_shape

__all__ = ["GraphValues", "StepsRead", "live", "sorted_nodes"]

_SAME = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}  # values stay in their order


@dataclass(frozen=True)
class StepsRead:
    """Steps of one value, taken one after the other.

    Attributes:
        source: The value.
        axis: Of its steps.
        size: How many it has.
        first: The first that is taken, by place.
        back: Whether the loop takes the last one first.
    """

    source: str
    axis: int
    size: int
    first: int
    back: bool


class GraphValues:
    """Values of a graph and what each is made of, as the graph was at first."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        every = (*inferred.input, *inferred.value_info, *inferred.output)
        self._shapes = {value.name: static_shape(value) for value in every}
        self._made = producers(model)
        self._constants = {t.name: t for t in model.graph.initializer}

    def shape(self, name: str) -> list[int]:
        """Axes of a computed value; empty if they are not known."""
        return list(self._shapes.get(name, []))

    def origin(self, name: str) -> str:
        """The value whose numbers these are, in the same order."""
        while name in self._made and self._made[name].op_type in _SAME:
            name = self._made[name].input[0]
        return name

    def zero(self, name: str) -> bool:
        """Tell a constant, or one of a free batch, that is zero throughout."""
        if not name:
            return True
        name = self.origin(name)
        node = self._made.get(name)
        if node is not None and node.op_type == "Expand":
            return self.zero(node.input[0])
        if node is not None and node.op_type == "ConstantOfShape":
            value = attribute(node, "value", None)
            return value is None or not numpy_helper.to_array(value).any()
        tensor = self._constants.get(name)
        return tensor is not None and not numpy_helper.to_array(tensor).any()

    def upstream(self, name: str) -> set[str]:
        """The value and all that it is computed from."""
        stack, seen = [name], {name}
        while stack:
            node = self._made.get(stack.pop())
            for source in node.input if node is not None else ():
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
        return seen

    def selected(self, names: Sequence[str]) -> StepsRead | None:
        """The value that these are neighbouring steps of, if they are."""
        taken = [self._taken(name) for name in names]
        if any(one is None for one in taken):
            return None
        found = [one for one in taken if one is not None]
        if len({(source, axis) for source, axis, _ in found}) > 1:
            return None
        source, axis, _ = found[0]
        places = [place for _, _, place in found]
        steps = set(np.diff(places).tolist())
        if steps not in (set(), {1}, {-1}):
            return None
        shape = self.shape(source)
        size = shape.pop(axis)
        if any(self.shape(name)[1:] != shape for name in names):
            return None  # reshaped in between
        return StepsRead(source, axis, size, min(places), steps == {-1})

    def _taken(self, name: str) -> tuple[str, int, int] | None:
        """Source, axis and place of one step of a value with three axes."""
        node = self._made.get(self.origin(name))
        if node is None or node.op_type != "Gather":
            return None
        index, shape = self._constants.get(node.input[1]), self.shape(node.input[0])
        if index is None or len(shape) != 3:
            return None
        axis = int(attribute(node, "axis", 0)) % 3
        numbers = numpy_helper.to_array(index).reshape(-1)
        if len(numbers) != 1 or not shape[axis]:
            return None
        return node.input[0], axis, int(numbers[0]) % shape[axis]

    def stacks(self, node: onnx.NodeProto, place: Mapping[str, int]) -> int | None:
        """The axis along which a node puts all these states together, in order."""
        if node.op_type != "Concat" or len(node.input) != len(place):
            return None
        if [place.get(self.origin(name), -1) for name in node.input] != [
            *range(len(place))
        ]:
            return None
        shape = self.shape(node.input[0])
        axis = int(attribute(node, "axis", 0))
        axis += len(shape) if axis < 0 else 0
        if len(shape) != 3 or axis > 1 or shape.pop(axis) != 1:
            return None
        return axis if shape == self.shape(next(iter(place)))[1:] else None


def live(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]
) -> list[onnx.NodeProto]:
    """Nodes that an output depends on."""
    made = {name: node for node in nodes for name in node.output if name}
    stack, kept = list(outputs), set()
    while stack:
        node = made.get(stack.pop())
        if node is not None and id(node) not in kept:
            kept.add(id(node))
            stack.extend(node.input)
    return [node for node in nodes if id(node) in kept]


def sorted_nodes(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes with makers before readers, as near to their order as can be."""
    made = {name: node for node in nodes for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    for first in nodes:
        stack = [first]
        while stack:
            node = stack[-1]
            waits = [
                made[name]
                for name in node.input
                if name in made and id(made[name]) not in done
            ]
            if waits:
                stack.append(waits[0])
                continue
            stack.pop()
            if id(node) not in done:
                done.add(id(node))
                ordered.append(node)
    return ordered
