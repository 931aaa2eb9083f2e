"""Relu, views, and what only passes tensors on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_sdk.program.capture.context import Builder, Node

__all__ = ["ROWS"]


def _relu(builder: Builder, call: Node) -> None:
    builder.emit(call, "relu", (builder.tensor(call, "self"),))


def _view(builder: Builder, call: Node) -> None:
    builder.emit(call, "view", (builder.tensor(call, "self"),))


def _same(builder: Builder, call: Node) -> None:
    builder.alias(call, next(iter(call.arguments)))


def _broadcast(builder: Builder, call: Node) -> None:
    """Pass tensors of one shape on; losses ask for it before they compare."""
    nodes = call["tensors"]
    places = [builder.place.get(node) for node in nodes]
    shapes = {builder.tensors[p].shape for p in places if p is not None}
    if None in places or len(shapes) != 1:
        raise builder.refused(call, "tensors of different shapes")
    builder.many[call.node] = tuple(p for p in places if p is not None)


def _item(builder: Builder, call: Node) -> None:
    source, at = call.arguments["0"], call.arguments["1"]
    if call.node in builder.place or call.node in builder.moved or not call.node.users:
        return  # its row has given it its place
    if source not in builder.many:
        raise builder.refused(call, "an item of what is no list of tensors")
    builder.place[call.node] = builder.many[source][at]


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "relu": _relu,
    "flatten": _view,
    "view": _view,
    "reshape": _view,
    "squeeze": _view,
    "unsqueeze": _view,
    "unflatten": _view,
    "contiguous": _same,
    "clone": _same,
    "broadcast_tensors": _broadcast,
    "getitem": _item,
}
