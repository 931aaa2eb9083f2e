"""Element-wise operations, views and means over pixels."""

from __future__ import annotations

import math
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]


def _same(call: Operands) -> tuple[Shape, ...]:
    first = call.inputs[0]
    call.require(all(other == first for other in call.inputs),
                 f"shapes differ: {call.inputs}")  # fmt: skip
    return (first,)


def _size(call: Operands) -> tuple[int, ...]:
    return (math.prod(call.inputs[0]),)


def _view(call: Operands) -> tuple[Shape, ...]:
    """The shape is the output's own: what counts is that no value is lost."""
    (shape,) = call.outputs
    call.require(math.prod(shape) == math.prod(call.inputs[0]),
                 f"{call.inputs[0]} has not the values of {shape}")  # fmt: skip
    return (shape,)


def _mean(call: Operands) -> tuple[Shape, ...]:
    """The mean over the last ``axes`` axes, which stay as ones where ``keep`` says."""
    shape, axes = call.inputs[0], call.ints["axes"]
    call.require(0 < axes <= len(shape), f"{shape} has no {axes} axes")
    kept = shape[: len(shape) - axes]
    return ((*kept, *([1] * axes if call.ints["keep"] else [])),)


def _planes(call: Operands) -> tuple[int, ...]:
    shape, axes = call.inputs[0], call.ints["axes"]
    return math.prod(shape[:-axes]), math.prod(shape[-axes:])


RULES: Final[dict[str, Rule]] = {
    "view": Rule(inputs=(1, 1), shapes=_view, arguments=_size, view=True),
    "relu": Rule(
        inputs=(1, 1), shapes=_same, arguments=_size, reads_out=lambda _: (0,)
    ),
    "add": Rule(inputs=(2, 2), shapes=_same, arguments=_size, passes=True),
    "mean": Rule(inputs=(1, 1), ints=("axes", "keep"), shapes=_mean, arguments=_planes),
}
