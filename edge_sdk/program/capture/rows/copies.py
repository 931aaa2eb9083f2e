"""Permute, slice, split, flip, concatenate, and parameters for each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.rows.sequences import axis_of
from edge_sdk.program.graph import Shape
from edge_sdk.program.rules.copies import AXES

__all__ = ["ROWS"]


def _steps(shape: Shape) -> list[int]:
    step, found = 1, []
    for n in reversed(shape):
        found.append(step)
        step *= n
    return found[::-1]


def _copy(
    builder: Builder, call: Node, source: int, sizes: Sequence[int],
    steps: Sequence[int], offset: int = 0,
) -> int:  # fmt: skip
    """Adds a copy of a part of a tensor; returns the copy."""
    missing = AXES - len(sizes)
    if missing < 0:
        raise builder.refused(call, f"a tensor of {len(sizes) + 1} axes")
    ints = (*[1] * missing, *sizes, *[0] * missing, *steps, offset, len(sizes))
    builder.emit_many(call, "copy", (source,), (tuple(sizes),), ints=ints)
    return builder.many[call.node][0]


def _permuted(builder: Builder, call: Node, order: Sequence[int]) -> None:
    """`order` counts the batch; where it moves, only an unbind or select can follow."""
    source = builder.tensor(call, "self")
    shape = builder.tensors[source].shape
    steps = _steps(shape)
    batch = order.index(0)
    axes = [d - 1 for d in order if d]
    done = _copy(
        builder, call, source, [shape[a] for a in axes], [steps[a] for a in axes]
    )
    if batch:
        builder.moved[call.node] = (done, batch)
    else:
        builder.place[call.node] = done


def _permute(builder: Builder, call: Node) -> None:
    rank = len(builder.shape(call, "self")) + 1
    _permuted(builder, call, [d % rank for d in call["dims"]])


def _transpose(builder: Builder, call: Node) -> None:
    rank = len(builder.shape(call, "self")) + 1
    order = list(range(rank))
    one, two = call["dim0"] % rank, call["dim1"] % rank
    order[one], order[two] = two, one
    _permuted(builder, call, order)


def _same(builder: Builder, call: Node) -> None:
    """The tensor or parameter itself."""
    own = call["self"]
    if own in builder.parameters:
        builder.parameters[call.node] = builder.parameters[own]
    else:
        builder.alias(call, "self")


def _slice(builder: Builder, call: Node) -> None:
    before, after = tuple(call["self"].meta["val"].shape), call.shape
    if before == after:  # the whole axis
        _same(builder, call)
        return
    source = builder.tensor(call, "self")
    shape = builder.tensors[source].shape
    axis = axis_of(builder, call, "self", call.get("dim", 0))
    start, size = call.get("start") or 0, shape[axis]
    start = max(0, start + size) if start < 0 else start
    steps = _steps(shape)
    offset = start * steps[axis]
    steps[axis] *= call.get("step", 1)
    builder.place[call.node] = _copy(builder, call, source, after[1:], steps, offset)


def _select(builder: Builder, call: Node) -> None:
    own = call["self"]
    if own in builder.moved and call["dim"] == 0:
        source, batch = builder.moved[own]
        _place(
            builder, call, _piece(builder, call, source, 0, call["index"]), batch - 1
        )
        return
    source = builder.tensor(call, "self")
    axis = axis_of(builder, call, "self", call["dim"])
    builder.place[call.node] = _piece(builder, call, source, axis, call["index"])


def _piece(builder: Builder, call: Node, source: int, axis: int, index: int) -> int:
    shape = builder.tensors[source].shape
    steps = _steps(shape)
    offset = index % shape[axis] * steps[axis]
    sizes = [n for a, n in enumerate(shape) if a != axis]
    del steps[axis]
    return _copy(builder, call, source, sizes, steps, offset)


def _place(builder: Builder, call: Node, tensor: int, batch: int) -> None:
    if batch:
        builder.moved[call.node] = (tensor, batch)
    else:
        builder.place[call.node] = tensor


def _unbind(builder: Builder, call: Node) -> None:
    own, dim = call["self"], call.get("dim", 0)
    if own in builder.moved and dim == 0:
        source, batch = builder.moved[own]
        if batch != 1:
            raise builder.refused(call, "the batch is not the next axis")
        axis = 0
    else:
        source = builder.tensor(call, "self")
        axis = axis_of(builder, call, "self", dim)
    count = builder.tensors[source].shape[axis]
    pieces = [_piece(builder, call, source, axis, i) for i in range(count)]
    builder.many[call.node] = tuple(pieces)


def _split(builder: Builder, call: Node) -> None:
    source = builder.tensor(call, "self")
    shape = builder.tensors[source].shape
    axis = axis_of(builder, call, "self", call.get("dim", 0))
    steps, at, pieces = _steps(shape), 0, []
    for value in call.node.meta["val"]:
        sizes = tuple(value.shape)[1:]
        pieces.append(_copy(builder, call, source, sizes, steps, at * steps[axis]))
        at += sizes[axis]
    builder.many[call.node] = tuple(pieces)


def _flip(builder: Builder, call: Node) -> None:
    source = builder.tensor(call, "self")
    shape = builder.tensors[source].shape
    steps, offset = _steps(shape), 0
    for dim in call["dims"]:
        axis = axis_of(builder, call, "self", dim)
        offset += (shape[axis] - 1) * steps[axis]
        steps[axis] = -steps[axis]
    builder.place[call.node] = _copy(builder, call, source, shape, steps, offset)


def _cat(builder: Builder, call: Node) -> None:
    nodes: Sequence[fx.Node] = call["tensors"]
    if any(node not in builder.place for node in nodes):
        raise builder.refused(call, "joins what does not come from the batch")
    axis = call.get("dim", 0) % len(call.shape) - 1
    if axis < 0:
        raise builder.refused(call, "works along the batch")
    whole = builder.place[nodes[0]]
    for node in nodes[1:]:
        part = builder.place[node]
        shape = list(builder.tensors[whole].shape)
        shape[axis] += builder.tensors[part].shape[axis]
        builder.emit_many(call, "join", (whole, part), (tuple(shape),), ints=(axis,))
        whole = builder.many[call.node][0]
    builder.place[call.node] = whole


def _expand(builder: Builder, call: Node) -> None:
    """A parameter (1, ...) for each sample; of the batch's tensors only what stays."""
    own = call["self"]
    before = tuple(own.meta["val"].shape)
    if own in builder.place and before == call.shape:
        builder.alias(call, "self")
        return
    rest = before[1:] if len(before) == len(call.shape) else before
    first = before[0] if len(before) == len(call.shape) else 1
    if own not in builder.parameters or first != 1 or rest != call.shape[1:]:
        raise builder.refused(call, "only a parameter can be the same for each sample")
    builder.emit(call, "repeat", (), parameters=(builder.parameters[own],))


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "alias": _same,
    "permute": _permute,
    "transpose": _transpose,
    "slice": _slice,
    "select": _select,
    "unbind": _unbind,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "flip": _flip,
    "cat": _cat,
    "concat": _cat,
    "expand": _expand,
    "repeat": _expand,
}
