"""A model as values: tensors, parameters and the operations between them.

A program holds two graphs over one list of parameters: the training graph ends in the
loss, the evaluation graph in the predictions. Both are forward passes; what trains them
is derived where they run. Shapes are those of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Constant",
    "Graph",
    "Op",
    "Parameter",
    "Shape",
    "TensorValue",
    "TrainingProgram",
]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorValue:
    """A value with a batch axis.

    Attributes:
        shape: Of one sample.
        whole: True for labels and token ids: whole numbers, without a gradient.
    """

    shape: Shape
    whole: bool = False

    @property
    def size(self) -> int:
        """Values per sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Parameter:
    """An entry of the model's ``state_dict``.

    Attributes:
        name: Its key there.
        shape: As there.
        trained: Whether an optimizer may change it.
        counter: True for the number of batches that batch norm has seen: one more with
            each training step.
        buffer: True for state that is no parameter of torch's.
    """

    name: str
    shape: Shape
    trained: bool = True
    counter: bool = False
    buffer: bool = False

    @property
    def size(self) -> int:
        """Entries when dense."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Constant:
    """Numbers that are part of the model's code, such as weights of classes.

    Attributes:
        shape: As in the code.
        data: float32, little-endian.
    """

    shape: Shape
    data: bytes


@dataclass(frozen=True, slots=True)
class Op:
    """One call of a kernel.

    Attributes:
        name: A key of `edge_sdk.program.operations.TABLE`.
        inputs: Tensors by number.
        outputs: Tensors by number; a loss has none.
        parameters: Parameters by number, -1 where there is none (no bias); the numbers
            of constants follow those of parameters.
        ints: The attributes that the table names, in its order.
        reals: Likewise.
        layer: Name of the module it came from; "" is the whole model.
        source: File and line it came from, for messages.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[int, ...] = ()
    ints: tuple[int, ...] = ()
    reals: tuple[float, ...] = ()
    layer: str = ""
    source: str = ""

    def told(self) -> str:
        """The operation in the words of an error message."""
        layer = f"layer {self.layer}" if self.layer else "the model"
        return f"{layer}: {self.name}" + (f" ({self.source})" if self.source else "")


@dataclass(frozen=True, slots=True)
class Graph:
    """A forward pass, its operations in an order in which they can run.

    Attributes:
        tensors: All values.
        operations: In order.
        inputs: Tensors that come from outside: the batch's inputs, then its targets.
        outputs: Tensors that go outside; none for a graph that ends in a loss.
    """

    tensors: tuple[TensorValue, ...]
    operations: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainingProgram:
    """A model that trains and evaluates without the code it was written in.

    Attributes:
        parameters: Every entry of the model's ``state_dict``, in its order.
        training: Inputs and targets to the loss.
        evaluation: Inputs to predictions.
        constants: What is the same on every device and never moves.
        shared: (number, number of the first) of parameters that are an earlier one
            under a further name; operations read the first.
        returns: Names of the predictions of a model that returns a dict; of one that
            returns a tuple an empty name for each; none where it returns one tensor.
        computed: (number, groups) of each layer's weight that no operation of the
            training graph has as its own in so many groups: what operations compute
            with is made of it, or the loss does not depend on it. A mask may thin it
            out all the same.
    """

    parameters: tuple[Parameter, ...]
    training: Graph
    evaluation: Graph
    constants: tuple[Constant, ...] = ()
    shared: tuple[tuple[int, int], ...] = ()
    returns: tuple[str, ...] = ()
    computed: tuple[tuple[int, int], ...] = ()

    def returned(self, outputs: Sequence[Any]) -> Any:
        """The evaluation graph's outputs in the form in which the model has them."""
        if not self.returns:
            return outputs[0]
        if not any(self.returns):
            return tuple(outputs)
        return dict(zip(self.returns, outputs, strict=True))

    @property
    def slots(self) -> tuple[Parameter, ...]:
        """Parameters, then constants: what an operation's parameter numbers count."""
        return (
            *self.parameters,
            *(
                Parameter(f"constant {at}", c.shape, trained=False, buffer=True)
                for at, c in enumerate(self.constants)
            ),
        )
