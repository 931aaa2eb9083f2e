"""Weight norm: a layer by its direction, and what that gives times length over norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.rows.reductions import summed
from edge_sdk.program.capture.steps import combined, reshaped, unary

__all__ = ["ROWS", "by_direction"]

Row = Callable[[Builder, Node], None]
_WHOLE = -1  # torch's axis of one norm for all values


@dataclass(frozen=True)
class _Normed:
    """A weight that is a direction over its norm, times a length.

    Attributes:
        direction: Of the weight's shape.
        length: One, or one for each place along the axis.
        axis: Of the weight; `_WHOLE` for one norm.
    """

    direction: fx.Node
    length: fx.Node
    axis: int

    def scale(self, builder: Builder, call: Node) -> int:
        """Length over norm as (n,); zero where the direction has none."""
        if self.direction in builder.parameters:
            shape = self.direction.meta["val"].shape
            count = 1 if self.axis == _WHOLE else shape[self.axis]
            own = builder.parameters[self.direction]
            over = builder.step(
                *(call, "lengths", (), (count,)), parameters=(own,), ints=(self.axis,)
            )
        else:
            found = builder.value(call, self.direction)[0]
            shape = builder.tensors[found].shape
            square = combined(builder, call, "multiply", found, found)
            along = [a for a in range(len(shape)) if a != self.axis]
            whole = summed(builder, call, square, along, 1.0)
            over = unary(
                builder, call, "reciprocal", unary(builder, call, "sqrt", whole)
            )
            count = builder.tensors[over].size
            over = reshaped(builder, call, over, (count,))
        length = reshaped(builder, call, builder.value(call, self.length)[0], (count,))
        return combined(builder, call, "multiply", over, length)

    def tensor(self, builder: Builder, call: Node) -> int:
        """The weight itself, for whoever reads it beside its layer."""
        found = builder.value(call, self.direction)[0]
        rank = len(builder.tensors[found].shape)
        scale = _at(builder, call, self.scale(builder, call), self.axis, rank)
        return combined(builder, call, "multiply", found, scale)


def _at(builder: Builder, call: Node, source: int, axis: int, rank: int) -> int:
    """A row of values along an axis of so many; a lone one along all."""
    (size,) = builder.tensors[source].shape
    shape = [1] * rank
    shape[axis] = size
    return reshaped(builder, call, source, tuple(shape))


def _weight_norm(builder: Builder, call: Node) -> None:
    builder.normed[call.node] = _Normed(call["v"], call["g"], call.get("dim", 0))


def by_direction(row: Row, *, transposed: bool = False) -> Row:
    """A layer's row that takes a weight-normed weight as well.

    What each norm belongs to is a channel of the output, or of the input of a
    transposed convolution: scaling it scales the weight. So the layer stays a sparse
    one, by the direction that a mask has thinned out.
    """

    def scaled(builder: Builder, call: Node) -> None:
        weight: Any = call.get("weight")
        normed = builder.normed.get(weight)
        if normed is None or normed.direction not in builder.parameters:
            row(builder, call)
            return
        axis = normed.axis
        if axis not in {0, _WHOLE} and not (
            transposed and axis == 1 and call["groups"] == 1
        ):
            row(builder, call)
            return
        scale = normed.scale(builder, call)
        arguments = {**call.arguments, "weight": normed.direction, "bias": None}
        inner, source = Node(call.node, arguments, call.shape), call["input"]
        before, layout = builder.value(call, "input")
        if transposed and axis == 0:
            builder.place[source] = _scaled(builder, call, before, scale, layout)
        row(builder, inner)
        builder.place[source] = before
        found, layout = builder.place[call.node], builder.layouts[call.node]
        if not (transposed and axis == 0):
            found = _scaled(builder, call, found, scale, layout)
        if call.get("bias") is not None:
            bias = builder.value(call, "bias")[0]
            at = _channels(builder, call, found, layout)
            bias = _at(builder, call, bias, at, len(builder.tensors[found].shape))
            found = combined(builder, call, "add", found, bias)
        builder.put(call, found, layout)

    return scaled


def _scaled(builder: Builder, call: Node, source: int, scale: int, layout: Any) -> int:
    at = _channels(builder, call, source, layout)
    own = _at(builder, call, scale, at, len(builder.tensors[source].shape))
    return combined(builder, call, "multiply", source, own)


def _channels(builder: Builder, call: Node, source: int, layout: Any) -> int:
    """The axis of a sample's channels, before or behind a layer."""
    if "linear" in call.target:
        return len(builder.tensors[source].shape) - 1
    found: int = layout.axis_of(1)
    return found


ROWS: Final[dict[str, Row]] = {"_weight_norm": _weight_norm}
