"""Order of kernel calls of one step: a graph's forward pass, and its backward pass.

Backward passes come in reverse order. A gradient that two operations contribute to is
added out of place, because a sum's inputs share one gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from edge_sdk.program.graph import Graph, Op, Parameter
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.rule import Operands, Rule
from edge_sdk.program.rules.copies import copied_places

__all__ = ["Schedule", "Step", "schedule"]

_NONE = -1


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call; tensors by number, -1 where absent.

    Attributes:
        kernel: Name of the row in C++.
        operation: What it is for; None for ways in and out and for sums of gradients.
        backward: Which of the row's two kernels.
        inputs: Forward: read. Backward: those that it needs.
        outputs: Forward: written. Backward: those that it needs.
        stash: Likewise.
        d_outputs: Gradients of the outputs, read.
        d_inputs: Gradients of the inputs, written.
        parameters: By number.
        ints: What the row takes.
        reals: Likewise.
    """

    kernel: str
    operation: Op | None = None
    backward: bool = False
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    stash: tuple[int, ...] = ()
    d_outputs: tuple[int, ...] = ()
    d_inputs: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    ints: tuple[int, ...] = ()
    reals: tuple[float, ...] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        """Tensors that must be there before."""
        if self.backward:
            found = (*self.inputs, *self.outputs, *self.stash, *self.d_outputs)
        else:
            found = self.inputs
        return tuple(t for t in found if t >= 0)

    @property
    def writes(self) -> tuple[int, ...]:
        """Tensors that it makes."""
        found = self.d_inputs if self.backward else (*self.outputs, *self.stash)
        return tuple(t for t in found if t >= 0)


@dataclass(slots=True)
class Schedule:
    """Steps in their order, over tensors of so many values per sample.

    Attributes:
        steps: In order.
        sizes: Values per sample of each tensor.
        shared: True where two operations have a parameter in common: gradients begin
            at zero and every step adds to them.
        mixes: The layer of the first norm that takes the batch's statistics, or "".
        whole: The first operation that only the whole batch gives, in words, or "".
    """

    steps: list[Step] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    shared: bool = False
    mixes: str = ""
    whole: str = ""

    def new(self, size: int) -> int:
        """A further tensor of so many values per sample."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def splits(self, *, ghost_norm: bool) -> bool:
        """Tell whether a batch may go through in parts, given what a user accepts."""
        return not self.whole and (ghost_norm or not self.mixes)


def schedule(
    graph: Graph, parameters: tuple[Parameter, ...], *, train: bool
) -> Schedule:
    """The kernel calls of a graph.

    Args:
        graph: Checked.
        parameters: The program's.
        train: Whether gradients follow.

    Raises:
        EngineError: If an operation is unknown.
    """
    return _Scheduler(graph, parameters, train=train).run()


class _Scheduler:
    def __init__(
        self, graph: Graph, parameters: tuple[Parameter, ...], *, train: bool
    ) -> None:
        self.graph, self.parameters, self.train = graph, parameters, train
        self.done = Schedule()
        self.place: dict[int, int] = {}  # tensor of the graph -> tensor of the schedule
        self.moved: set[int] = set()  # tensors that a trained parameter has a part in
        self.stash: dict[int, tuple[int, ...]] = {}
        self.gradient: dict[int, int] = {}
        self.parts: set[int] = set()  # tensors whose gradient copies fill side by side

    def run(self) -> Schedule:
        for at, tensor in enumerate(self.graph.inputs):
            size = self.graph.tensors[tensor].size
            self.place[tensor] = self.done.new(size)
            self._add(Step("input", outputs=(self.place[tensor],), ints=(at, size)))
        for at, operation in enumerate(self.graph.operations):
            self._forward(at, operation)
        for at, tensor in enumerate(self.graph.outputs):
            own = self.place[tensor]
            place = len(self.graph.inputs) + at
            self._add(Step("output", inputs=(own,), ints=(place, self.done.sizes[own])))
        if self.train:
            used = [p for o in self.graph.operations for p in o.parameters if p >= 0]
            self.done.shared = len(used) != len(set(used))
            self.parts = self._side_by_side()
            for at, operation in reversed([*enumerate(self.graph.operations)]):
                self._backward(at, operation)
            self._begin_parts()
        return self.done

    def _side_by_side(self) -> set[int]:
        """Tensors that only copies read, no value twice: their gradients make one."""
        readers: dict[int, list[Op]] = {}
        for operation in self.graph.operations:
            if not rule_of(operation).view:
                for tensor in self._places(operation.inputs):
                    readers.setdefault(tensor, []).append(operation)
        found = set()
        for tensor, of in readers.items():
            if tensor not in self.moved or len(of) < 2:
                continue
            if any(o.name != "copy" for o in of):
                continue
            places = np.concatenate([copied_places(o).ravel() for o in of])
            if len(np.unique(places)) == len(places):
                found.add(tensor)
        return found

    def _begin_parts(self) -> None:
        """The first copy into a gradient writes zeros where none of them does."""
        for tensor in self.parts & set(self.gradient):
            gradient = self.gradient[tensor]
            steps = [
                at for at, s in enumerate(self.done.steps) if gradient in s.d_inputs
            ]
            filled = sum(
                self.done.sizes[self.done.steps[at].d_outputs[0]] for at in steps
            )
            for at in steps[filled < self.done.sizes[tensor] :]:
                own = self.done.steps[at]
                self.done.steps[at] = replace(own, ints=(*own.ints[:-1], 0))

    def _add(self, step: Step) -> None:
        self.done.steps.append(step)

    def _forward(self, at: int, operation: Op) -> None:
        rule, call = self._rule(operation)
        if rule.view:
            self.place[operation.outputs[0]] = self.place[operation.inputs[0]]
            return
        if rule.mixes(call):
            self.done.mixes = self.done.mixes or operation.layer or operation.name
        if rule.whole(call):
            self.done.whole = self.done.whole or operation.told()
        for tensor in operation.outputs:
            self.place[tensor] = self.done.new(self.graph.tensors[tensor].size)
        self.stash[at] = tuple(self.done.new(size) for size in rule.stash(call))
        inputs = self._places(operation.inputs)
        outputs = self._places(operation.outputs)
        moving = any(
            p >= 0 and self.parameters[p].trained for p in operation.parameters
        )
        if not rule.flat and (moving or any(t in self.moved for t in inputs)):
            self.moved.update(outputs)
        self._add(
            Step(
                operation.name,
                operation,
                inputs=inputs,
                outputs=outputs,
                stash=self.stash[at],
                parameters=operation.parameters,
                ints=rule.arguments(call),
                reals=operation.reals,
            )
        )

    def _backward(self, at: int, operation: Op) -> None:
        rule, call = self._rule(operation)
        if rule.view or rule.flat:
            return
        inputs = self._places(operation.inputs)
        outputs = self._places(operation.outputs)
        above = tuple(self.gradient.get(t, _NONE) for t in outputs)
        if not rule.loss and set(above) == {_NONE}:
            return  # nothing that counts is made of it
        if rule.passes:
            for tensor in inputs:
                self._contribute(tensor, above[0])
            return
        below = tuple(
            _NONE if t not in self.moved
            else self.gradient[t] if t in self.parts and t in self.gradient
            else self.done.new(self.done.sizes[t])
            for t in inputs
        )  # fmt: skip
        moving = any(
            p >= 0 and self.parameters[p].trained for p in operation.parameters
        )
        if not moving and set(below) <= {_NONE}:
            return
        self._add(
            Step(
                operation.name,
                operation,
                backward=True,
                inputs=_only(inputs, rule.reads_in),
                outputs=_only(outputs, rule.reads_out(call)),
                stash=_only(self.stash[at], rule.stash_read(call)),
                d_outputs=above,
                d_inputs=below,
                parameters=operation.parameters,
                ints=rule.arguments(call),
                reals=operation.reals,
            )
        )
        for tensor, gradient in zip(inputs, below, strict=True):
            self._contribute(tensor, gradient)

    def _contribute(self, tensor: int, gradient: int) -> None:
        if gradient < 0 or tensor not in self.moved:
            return
        before = self.gradient.get(tensor)
        if before is not None and before != gradient:
            size = self.done.sizes[tensor]
            both = self.done.new(size)
            self._add(
                Step("add", inputs=(before, gradient), outputs=(both,), ints=(size,))
            )
            gradient = both
        self.gradient[tensor] = gradient

    def _rule(self, operation: Op) -> tuple[Rule, Operands]:
        return rule_of(operation), operands(operation, self.graph, self.parameters)

    def _places(self, tensors: Iterable[int]) -> tuple[int, ...]:
        return tuple(self.place[t] for t in tensors)


def _only(tensors: tuple[int, ...], places: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(t if k in places else _NONE for k, t in enumerate(tensors))
