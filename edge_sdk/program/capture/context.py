"""The graph under construction, as the rows of the capture table see it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx

from edge_sdk.errors import EngineError
from edge_sdk.program.graph import Graph, Op, TensorValue

__all__ = ["Builder", "Node"]

# Of a stack trace the last line that is not torch's own says where the user's call is.
_NOT_THE_USERS = (f"{torch.__path__[0]}/", str(Path(__file__).parent))
_LINE = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(eq=False)
class Node:
    """One call of torch's, with its arguments by name.

    Attributes:
        node: The call in the exported graph.
        arguments: Name in torch's schema -> value, defaults included.
        shape: Of the result, with the batch axis; () where it has no one shape.
    """

    node: fx.Node
    arguments: dict[str, Any]
    shape: tuple[int, ...]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that not every overload has."""
        found = self.arguments.get(name)
        return default if found is None else found

    @property
    def target(self) -> str:
        """The overload, such as ``aten.conv1d.default``."""
        return str(self.node.target)


@dataclass(eq=False)
class Builder:
    """Collects the tensors and operations of one graph.

    Attributes:
        batch: Samples in the example batch.
        parameters: Placeholder of the exported graph -> number of the parameter.
        prefix: Path of the user's model within what was exported.
        place: Call -> the tensor that it gives.
        many: Call that gives several -> its tensors, in order.
        moved: Call whose batch axis is not in front -> its tensor, and the axis.
    """

    batch: int
    parameters: dict[fx.Node, int]
    prefix: str
    tensors: list[TensorValue] = field(default_factory=list)
    operations: list[Op] = field(default_factory=list)
    place: dict[fx.Node, int] = field(default_factory=dict)
    many: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    moved: dict[fx.Node, tuple[int, int]] = field(default_factory=dict)

    def input(self, node: fx.Node) -> int:
        """A tensor that comes from outside."""
        value = node.meta["val"]
        self.place[node] = self._new(tuple(value.shape[1:]), whole=_whole(value))
        return self.place[node]

    def tensor(self, call: Node, name: str) -> int:
        """The number of a tensor argument.

        Raises:
            EngineError: If it is none that depends on the batch.
        """
        found = call[name]
        if found not in self.place:
            raise self.refused(call, f"its {name} does not come from the batch")
        return self.place[found]

    def shape(self, call: Node, name: str) -> tuple[int, ...]:
        """Of a tensor argument, per sample."""
        return self.tensors[self.tensor(call, name)].shape

    def parameter(self, call: Node, name: str) -> int:
        """The number of a parameter argument, -1 where there is none.

        Raises:
            EngineError: If it is computed and not a parameter of the model.
        """
        found = call.arguments.get(name)
        if found is None:
            return -1
        if found not in self.parameters:
            raise self.refused(call, f"its {name} is computed, not a parameter")
        return self.parameters[found]

    def emit(
        self,
        call: Node,
        name: str,
        inputs: tuple[int, ...],
        *,
        parameters: tuple[int, ...] = (),
        ints: tuple[int, ...] = (),
        reals: tuple[float, ...] = (),
    ) -> None:
        """Adds an operation whose result is the call's."""
        output = self._new(self._per_sample(call), whole=self._moved(name, inputs))
        self.place[call.node] = output
        self._operation(call, name, inputs, (output,), parameters, ints, reals)

    def emit_many(
        self,
        call: Node,
        name: str,
        inputs: tuple[int, ...],
        shapes: tuple[tuple[int, ...], ...],
        *,
        parameters: tuple[int, ...] = (),
        ints: tuple[int, ...] = (),
        reals: tuple[float, ...] = (),
    ) -> None:
        """Adds an operation with several results, of these shapes per sample."""
        whole = self._moved(name, inputs)
        outputs = tuple(self._new(shape, whole=whole) for shape in shapes)
        self.many[call.node] = outputs
        self._operation(call, name, inputs, outputs, parameters, ints, reals)

    def emit_loss(
        self,
        call: Node,
        name: str,
        inputs: tuple[int, ...],
        *,
        ints: tuple[int, ...] = (),
        reals: tuple[float, ...] = (),
    ) -> None:
        """Adds a loss, which must be what the graph returns."""
        users = list(call.node.users)
        if len(users) != 1 or users[0].op != "output":
            raise self.refused(call, "something is computed from the loss")
        self._operation(call, name, inputs, (), (), ints, reals)

    def alias(self, call: Node, name: str) -> None:
        """Makes the call's result the same tensor as an argument."""
        self.place[call.node] = self.tensor(call, name)

    def external(self, tensor: int) -> int:
        """The place among the batch's arrays it comes from unchanged, or -1."""
        made = {t: o for o in self.operations for t in o.outputs}
        while tensor in made and made[tensor].name == "view":
            tensor = made[tensor].inputs[0]
        return -1 if tensor in made else tensor

    def refused(self, call: Node, why: str) -> EngineError:
        """The error for a call that has no place in a program."""
        layer, source = self.origin(call.node)
        at = f"layer {layer}" if layer else "the model"
        return EngineError(
            f"{at}: {call.target.removeprefix('aten.')} "
            f"({source or 'source unknown'}): {why}",
            remedy="The torch engine trains this model.",
        )

    def origin(self, node: fx.Node) -> tuple[str, str]:
        """Layer and source line of a call."""
        stack = [*(node.meta.get("nn_module_stack") or {}).values()]
        layer = str(stack[-1][0]) if stack else ""
        layer = layer.removeprefix(self.prefix).removeprefix(".")
        found = _LINE.findall(node.meta.get("stack_trace") or "")
        own = [(f, n) for f, n in found if not f.startswith(_NOT_THE_USERS)] or found
        return layer, f"{own[-1][0].rpartition('/')[2]}:{own[-1][1]}" if own else ""

    def graph(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Graph:
        """The graph of all that has been collected."""
        return Graph(tuple(self.tensors), tuple(self.operations), inputs, outputs)

    def _operation(
        self, call: Node, name: str, inputs: tuple[int, ...], outputs: tuple[int, ...],
        parameters: tuple[int, ...], ints: tuple[int, ...], reals: tuple[float, ...],
    ) -> None:  # fmt: skip
        layer, source = self.origin(call.node)
        self.operations.append(
            Op(
                *(name, inputs, outputs, parameters),
                *(tuple(map(int, ints)), tuple(map(float, reals)), layer, source),
            )
        )

    def _moved(self, name: str, inputs: tuple[int, ...]) -> bool:
        """True where whole numbers are only moved, and stay whole."""
        return name in {"view", "copy"} and self.tensors[inputs[0]].whole

    def _per_sample(self, call: Node) -> tuple[int, ...]:
        if not call.shape or call.shape[0] != self.batch:
            raise self.refused(
                call, f"its result {call.shape} has no batch axis in front"
            )
        return call.shape[1:]

    def _new(self, shape: tuple[int, ...], *, whole: bool) -> int:
        self.tensors.append(TensorValue(shape, whole))
        return len(self.tensors) - 1


def _whole(value: torch.Tensor) -> bool:
    return not value.dtype.is_floating_point
