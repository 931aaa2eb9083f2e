"""Steps that calls are made of: an operation each, its shape worked out."""

from __future__ import annotations

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.graph import Shape
from edge_sdk.program.rules.activations import broadcast

__all__ = [
    "combined",
    "constant",
    "expanded",
    "lone_loss",
    "over_batch",
    "reshaped",
    "root",
    "unary",
]


def unary(
    builder: Builder, call: Node, name: str, source: int, a: float = 0, b: float = 0
) -> int:
    """An element-wise operation of a tensor."""
    shape = builder.tensors[source].shape
    return builder.step(call, name, (source,), shape, reals=(a, b))


def root(builder: Builder, call: Node, source: int) -> int:
    """The square root of a sum of squares; where that is zero it has no gradient.

    So torch's norms, distances and deviations have it; that of a square root alone is
    infinite there.
    """
    some = unary(builder, call, "greater", source)
    none = unary(builder, call, "affine", some, -1.0, 1.0)
    found = combined(builder, call, "add", source, none)
    found = unary(builder, call, "sqrt", found)
    return combined(builder, call, "multiply", found, some)


def reshaped(builder: Builder, call: Node, source: int, shape: Shape) -> int:
    """The tensor in another shape of as many values."""
    if builder.tensors[source].shape == shape:
        return source
    return builder.step(call, "view", (source,), shape)


def combined(builder: Builder, call: Node, name: str, one: int, two: int) -> int:
    """The sum ("add"), difference or product of two tensors, broadcast."""
    shapes = builder.tensors[one].shape, builder.tensors[two].shape
    shape = broadcast(*shapes)
    if shape is None:
        raise builder.refused(call, f"shapes do not go together: {shapes}")
    if name == "add" and shapes[0] != shapes[1]:
        name = "add_broadcast"
    return builder.step(call, name, (one, two), shape)


def constant(builder: Builder, call: Node, value: torch.Tensor) -> int:
    """A tensor that is the same for every sample."""
    number = builder.constants.hold(value)
    return builder.step(call, "repeat", (), tuple(value.shape), parameters=(number,))


def expanded(builder: Builder, call: Node, source: int, shape: Shape) -> int:
    """The tensor with its axes of one repeated to a shape."""
    if builder.tensors[source].shape == shape:
        return source
    zeros = builder.constants.hold(torch.zeros(shape))
    return builder.step(call, "add_parameter", (source,), shape, parameters=(zeros,))


def over_batch(builder: Builder, call: Node, source: int, *, mean: bool) -> int:
    """Each value's sum over the samples, or its mean: the same for every sample.

    Raises:
        EngineError: If it is a prediction's: those of one sample depend on no other.
    """
    if not builder.trains:
        raise builder.refused(call, "works along the batch")
    shape = builder.tensors[source].shape
    return builder.step(call, "batch_sum", (source,), shape, ints=(int(mean),))


def lone_loss(builder: Builder, call: Node, node: fx.Node) -> None:
    """Makes a loss of a number that is the same for every sample."""
    source = reshaped(builder, call, builder.place[node], ())
    own = Node(node, {}, ())
    builder.emit_loss(own, "mean_loss", (source,), lambda _: source, reals=(1.0,))
