"""The graph under construction, as the rows of the capture table see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from edge_sdk.errors import EngineError
from edge_sdk.program.capture.call import Node, origin
from edge_sdk.program.capture.constants import Constants
from edge_sdk.program.capture.layout import ALONE, PLAIN, Layout
from edge_sdk.program.capture.loss_terms import LossTerms, Worth
from edge_sdk.program.graph import Graph, Op, Shape, TensorValue

__all__ = ["Builder", "Node"]


@dataclass(eq=False)
class Builder:
    """Collects the tensors and operations of one graph.

    Attributes:
        batch: Samples in the example batch.
        parameters: Placeholder of the exported graph -> number of the parameter.
        prefix: Path of the user's model within what was exported.
        constants: What depends on neither the batch nor a parameter.
        trains: Whether it ends in a loss.
        loss: File and first line of the loss, of whose calls torch keeps no line.
        place: Call -> the tensor that it gives.
        layouts: Call -> where the batch is in it, if not in front.
        many: Call that gives several -> its tensors, in order.
        losses: What the graph ends in, if it trains.
        pairs: Call -> the products of all pairs of examples that it is.
        normed: Call that gives a weight by its direction and length -> what it is.
        spectra: Call that gives complex numbers -> their real and imaginary parts, and
            where the batch is in these.
        instead: Call of a smaller operation -> the call that it is a part of.
        views: Call that gives a view -> its source, the operator's name, the call.
        orders: Call that draws an order of the batch -> what it is.
        still: Whether nothing trains through what is emitted now (`no_grad`).
    """

    batch: int
    parameters: dict[fx.Node, int]
    prefix: str
    constants: Constants
    trains: bool
    loss: str = ""
    tensors: list[TensorValue] = field(default_factory=list)
    operations: list[Op] = field(default_factory=list)
    place: dict[fx.Node, int] = field(default_factory=dict)
    layouts: dict[fx.Node, Layout] = field(default_factory=dict)
    many: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    losses: LossTerms = field(default_factory=LossTerms)
    pairs: dict[fx.Node, Any] = field(default_factory=dict)
    normed: dict[fx.Node, Any] = field(default_factory=dict)
    spectra: dict[fx.Node, tuple[int, int, Layout]] = field(default_factory=dict)
    instead: dict[fx.Node, fx.Node] = field(default_factory=dict)
    orders: dict[fx.Node, tuple[int, int, int]] = field(default_factory=dict)
    still: bool = False
    views: dict[fx.Node, tuple[fx.Node, str, Node]] = field(default_factory=dict)

    def input(self, node: fx.Node) -> int:
        """A tensor that comes from outside."""
        value = node.meta["val"]
        whole = not value.dtype.is_floating_point
        self.place[node] = self.new(tuple(value.shape[1:]), whole=whole)
        return self.place[node]

    def new(self, shape: Shape, *, whole: bool = False) -> int:
        """A further tensor, by its shape per sample."""
        self.tensors.append(TensorValue(shape, whole))
        return len(self.tensors) - 1

    # ------------------------------------------------------------- what goes in

    def value(self, call: Node, name: str | fx.Node) -> tuple[int, Layout]:
        """The tensor of an argument, and where the batch is in it.

        A parameter or constant becomes a tensor that is the same for every sample.

        Raises:
            EngineError: If it is no tensor.
        """
        found = name if isinstance(name, fx.Node) else call[name]
        told = f"its {name}" if isinstance(name, str) else "what it takes"
        if not isinstance(found, fx.Node):
            raise self.refused(call, f"{told} is no tensor")
        if found in self.losses.scalars and found not in self.place:
            self.place[found] = self.losses.value(self, call, found)
            self.layouts[found] = ALONE
        if found in self.normed and found not in self.place:
            self.place[found] = self.normed[found].tensor(self, call)
            self.layouts[found] = ALONE
        if found in self.spectra:
            raise self.refused(
                call, f"{told} is complex: take abs, real, imag or view_as_real of it"
            )
        if found not in self.place:
            number = self.parameters.get(found, -1)
            if found in self.constants:
                number = self.constants.number(found)
            if number < 0:
                raise self.refused(call, f"{told} does not come from the batch")
            self.place[found] = self.new(tuple(found.meta["val"].shape))
            self.layouts[found] = ALONE
            self._append(
                call, Op("repeat", (), (self.place[found],), (number,)), (), ()
            )
        return self.place[found], self.layouts.get(found, PLAIN)

    def tensor(self, call: Node, name: str | fx.Node) -> int:
        """The number of a tensor argument with the batch in front.

        Raises:
            EngineError: If it is none that depends on the batch, or the batch is not
                its first axis.
        """
        tensor, layout = self.value(call, name)
        if layout == ALONE:
            raise self.refused(call, f"its {name} does not come from the batch")
        if layout != PLAIN:
            raise self.refused(call, "the batch is not the first axis of its input")
        return tensor

    def shape(self, call: Node, name: str) -> Shape:
        """Of a tensor argument, per sample."""
        return self.tensors[self.value(call, name)[0]].shape

    def parameter(self, call: Node, name: str) -> int:
        """The number of a parameter argument, -1 where there is none.

        Raises:
            EngineError: If it is computed and neither a parameter nor a constant.
        """
        found = call.arguments.get(name)
        if found is None:
            return -1
        if found in self.constants:
            return self.constants.number(found)
        if found not in self.parameters:
            raise self.refused(call, f"its {name} is computed, not a parameter")
        return self.parameters[found]

    def axis(self, call: Node, name: str, dim: int) -> int:
        """The axis per sample that a `dim` of torch's is.

        Raises:
            EngineError: If it is the batch's.
        """
        layout = self.value(call, name)[1]
        found = layout.axis_of(dim % len(call[name].meta["val"].shape))
        if found is None:
            raise self.refused(call, "works along the batch")
        return found

    # ------------------------------------------------------------ what comes out

    def emit(
        self,
        call: Node,
        name: str,
        inputs: tuple[int, ...],
        *,
        layout: Layout = PLAIN,
        **attributes: Any,
    ) -> None:
        """Adds an operation whose result is the call's."""
        shape = self.sample(call, layout)
        self.put(call, self.step(call, name, inputs, shape, **attributes), layout)

    def step(
        self,
        call: Node,
        name: str,
        inputs: tuple[int, ...],
        shape: Shape,
        *,
        whole: bool | None = None,
        parameters: tuple[int, ...] = (),
        ints: Sequence[int] = (),
        reals: Sequence[float] = (),
        more: tuple[int, ...] = (),
    ) -> int:
        """Adds an operation, one of several that a call stands for; its result.

        `more` are its further results, by `new`.
        """
        if whole is None:  # whole numbers that are only moved stay whole
            whole = name in {"view", "copy", "join"} and self.tensors[inputs[0]].whole
        output = self.new(shape, whole=whole)
        own = Op(name, inputs, (output, *more), parameters)
        self._append(call, own, ints, reals)
        return output

    def put(self, call: Node, tensor: int, layout: Layout = PLAIN) -> None:
        """Makes a tensor the result of the call; whole numbers of torch's are such."""
        if _whole(call.node.meta.get("val")):
            self.tensors[tensor] = TensorValue(self.tensors[tensor].shape, whole=True)
        self.place[call.node] = tensor
        self.layouts[call.node] = layout

    def sample(self, call: Node, layout: Layout) -> Shape:
        """The shape of one sample of the call's result.

        Raises:
            EngineError: If the result has no batch there.
        """
        shape = layout.sample(call.shape, self.batch)
        if shape is None:
            raise self.refused(
                call, f"its result {call.shape} has no batch axis in front"
            )
        return shape

    def emit_loss(
        self,
        call: Node,
        name: str,
        inputs: tuple[int, ...],
        worth: Worth,
        *,
        parameters: tuple[int, ...] = (),
        ints: tuple[int, ...] = (),
        reals: tuple[float, ...] = (),
    ) -> None:
        """Adds a loss; the last of its reals is its factor, told by `finish`."""
        self.losses.add(call.node, len(self.operations), worth)
        self._append(call, Op(name, inputs, (), parameters), ints, (*reals, 1.0))

    def take(self, node: fx.Node, source: fx.Node) -> None:
        """Makes a call's result that of another call."""
        kinds: tuple[dict[fx.Node, Any], ...] = (
            *(self.place, self.layouts, self.many, self.losses.scalars, self.pairs),
            *(self.parameters, self.constants.values, self.spectra),
        )
        for kept in kinds:
            if source in kept:
                kept[node] = kept[source]

    def finish(self, call: Node, terms: dict[int, float]) -> None:
        """Gives each loss its factor in the sum that the graph returns.

        Raises:
            EngineError: If a loss grows with the batch.
        """
        self.operations = self.losses.finish(self, call, terms)

    def alias(self, call: Node, name: str) -> None:
        """Makes the call's result the same tensor as an argument."""
        self.put(call, *self.value(call, name))

    def external(self, tensor: int) -> int:
        """The place among the batch's arrays it comes from unchanged, or -1."""
        made = {t: o for o in self.operations for t in o.outputs}
        while tensor in made and made[tensor].name == "view":
            tensor = made[tensor].inputs[0]
        return -1 if tensor in made else tensor

    def refused(self, call: Node, why: str, *, remedy: str = "") -> EngineError:
        """The error for a call that has no place in a program, and the next best."""
        node = self.instead.get(call.node, call.node)
        layer, source = self.origin(node)
        at = f"layer {layer}" if layer else "the model"
        return EngineError(
            f"{at}: {str(node.target).removeprefix('aten.')} "
            f"({source or 'source unknown'}): {why}",
            remedy=remedy or "The torch engine trains this model.",
        )

    def origin(self, node: fx.Node) -> tuple[str, str]:
        """Layer and source line of a call."""
        layer, source = origin(self.instead.get(node, node))
        source = source or (self.loss if layer == "loss" else "")
        return layer.removeprefix(self.prefix).removeprefix("."), source

    def graph(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Graph:
        """The graph of all that has been collected."""
        return Graph(tuple(self.tensors), tuple(self.operations), inputs, outputs)

    def _append(
        self, call: Node, operation: Op, ints: Sequence[int], reals: Sequence[float]
    ) -> None:
        layer, source = self.origin(call.node)
        own = operation
        self.operations.append(
            Op(
                *(own.name, own.inputs, own.outputs, own.parameters),
                *(tuple(map(int, ints)), tuple(map(float, reals)), layer, source),
            )
        )


def _whole(value: object) -> bool:
    kind = value.dtype if isinstance(value, torch.Tensor) else torch.bool
    return not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
