"""Views, other dtypes, and what only passes tensors on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.operands import layout_of, operand
from edge_sdk.program.capture.steps import expanded, reshaped, unary

__all__ = ["ROWS"]


def _view(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "self")
    before = tuple(call["self"].meta["val"].shape)
    found = layout.viewed(before, call.shape, builder.batch)
    if found is None:
        raise builder.refused(call, f"{before} as {call.shape} mixes samples")
    shape = builder.sample(call, found)
    builder.put(call, reshaped(builder, call, tensor, shape), found)


def _squeeze(builder: Builder, call: Node) -> None:
    """A view; the batch's axis is where the axes that go leave it."""
    tensor, layout = builder.value(call, "self")
    before = call["self"].meta["val"].shape
    given = call.get("dim", [*range(len(before))])
    dims = [given] if isinstance(given, int) else list(given)
    gone = sorted({d % len(before) for d in dims if before[d] == 1}, reverse=True)
    for dim in gone:
        layout = layout.without(dim)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, tensor, shape), layout)


def _unsqueeze(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "self")
    layout = layout.with_one(call["dim"] % len(call.shape))
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, tensor, shape), layout)


def _same(builder: Builder, call: Node) -> None:
    """The tensor or parameter itself."""
    own = next(iter(call.arguments.values()))
    if own in builder.parameters:
        builder.parameters[call.node] = builder.parameters[own]
    else:
        builder.alias(call, next(iter(call.arguments)))


def _to(builder: Builder, call: Node) -> None:
    """Another dtype: programs compute in one; labels may become numbers."""
    tensor, layout = builder.value(call, "self")
    before, after = call["self"].meta["val"].dtype, call.node.meta["val"].dtype
    shape = builder.tensors[tensor].shape
    if after == torch.bool != before:
        tensor = unary(builder, call, "equal", tensor)
        tensor = unary(builder, call, "affine", tensor, -1.0, 1.0)
    elif before.is_floating_point and not after.is_floating_point:
        none = (0.0, 0.0)
        tensor = builder.step(call, "trunc", (tensor,), shape, whole=True, reals=none)
    elif builder.tensors[tensor].whole and after.is_floating_point:
        tensor = builder.step(call, "view", (tensor,), shape, whole=False)
    builder.put(call, tensor, layout)


def _broadcast(builder: Builder, call: Node) -> None:
    """Give tensors one shape; losses and distributions ask for it first."""
    nodes = call["tensors"]
    shape = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
        *(node.meta["val"].shape for node in nodes)
    )
    own = Node(call.node, call.arguments, tuple(shape))
    layout = layout_of(builder, own, nodes)
    sample = builder.sample(own, layout)
    builder.many[call.node] = tuple(
        expanded(builder, own, operand(builder, own, node, layout), sample)
        for node in nodes
    )
    builder.layouts[call.node] = layout


def _item(builder: Builder, call: Node) -> None:
    source, at = call.arguments["0"], call.arguments["1"]
    if call.node in builder.place or not call.node.users:
        return  # its row has given it its place
    if source not in builder.many:
        raise builder.refused(call, "an item of what is no list of tensors")
    layout = builder.layouts.get(source)
    builder.place[call.node] = builder.many[source][at]
    if layout is not None:
        builder.layouts[call.node] = layout


def _nothing(_builder: Builder, _call: Node) -> None:
    """Take no part in a program: the call only asserts."""


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    **dict.fromkeys(("flatten", "view", "reshape", "unflatten", "_unsafe_view"), _view),
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    **dict.fromkeys(("contiguous", "clone", "alias", "lift_fresh_copy"), _same),
    **dict.fromkeys(("to", "_to_copy", "type_as"), _to),
    "broadcast_tensors": _broadcast,
    "getitem": _item,
    "_assert_tensor_metadata": _nothing,
}
