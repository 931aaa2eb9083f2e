"""Element-wise operations, views and means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import fx

from edge_sdk.program.capture.context import Builder, Node

__all__ = ["ROWS"]


def _relu(builder: Builder, call: Node) -> None:
    builder.emit(call, "relu", (builder.tensor(call, "self"),))


def _add(builder: Builder, call: Node) -> None:
    if call.get("alpha", 1) != 1 or not isinstance(call["other"], fx.Node):
        raise builder.refused(call, "a sum with a number or a factor")
    both = builder.tensor(call, "self"), builder.tensor(call, "other")
    if builder.shape(call, "self") != builder.shape(call, "other"):
        raise builder.refused(call, "a sum of different shapes")
    builder.emit(call, "add", both)


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
    if source not in builder.many:
        raise builder.refused(call, "an item of what is no list of tensors")
    builder.place[call.node] = builder.many[source][at]


def _mean(builder: Builder, call: Node) -> None:
    axes = call.get("dim")
    rank = len(builder.shape(call, "self")) + 1
    wanted = sorted(a % rank for a in axes or ())
    count = len(wanted)
    if not count or wanted != list(range(rank - count, rank)) or wanted[0] == 0:
        raise builder.refused(call, f"a mean over the axes {axes}")
    keep = int(call.get("keepdim", False))
    builder.emit(call, "mean", (builder.tensor(call, "self"),), ints=(count, keep))


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "relu": _relu,
    "add": _add,
    "flatten": _view,
    "view": _view,
    "reshape": _view,
    "squeeze": _view,
    "unsqueeze": _view,
    "unflatten": _view,
    "contiguous": _same,
    "clone": _same,
    "mean": _mean,
    "broadcast_tensors": _broadcast,
    "getitem": _item,
}
