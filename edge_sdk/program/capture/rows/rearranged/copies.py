"""Permute, slice, split, flip, join, and one value for several places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import Layout
from edge_sdk.program.capture.rows.rearranged.batches import flipped_batch
from edge_sdk.program.capture.steps import expanded, reshaped
from edge_sdk.program.graph import Shape
from edge_sdk.program.rules.copies import AXES

__all__ = ["ROWS", "expand", "piece", "strided", "transposed"]


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
    return builder.step(call, "copy", (source,), tuple(sizes), ints=ints)


def transposed(builder: Builder, call: Node, source: int, order: Sequence[int]) -> int:
    """A tensor's own axes in another order."""
    shape = builder.tensors[source].shape
    if [*order] == [*range(len(shape))]:
        return source
    steps = _steps(shape)
    return _copy(
        builder, call, source, [shape[a] for a in order], [steps[a] for a in order]
    )


def _permuted(builder: Builder, call: Node, order: Sequence[int]) -> None:
    """`order` counts the batch, and what lies with it on one axis."""
    source, layout = builder.value(call, "self")
    axes = [layout.axis_of(d) for d in order]
    if layout.axis is not None and layout.extra:
        axes = [layout.axis if a is None else a for a in axes]
    own = [a for a in axes if a is not None]
    found = transposed(builder, call, source, own)
    builder.put(call, found, layout.permuted(order))


def _permute(builder: Builder, call: Node) -> None:
    rank = len(call.shape)
    _permuted(builder, call, [d % rank for d in call["dims"]])


def _transpose(builder: Builder, call: Node) -> None:
    rank = len(call.shape)
    order = list(range(rank))
    one, two = call.get("dim0", 0) % rank, call.get("dim1", 1) % rank
    order[one], order[two] = two, one
    _permuted(builder, call, order)


def _slice(builder: Builder, call: Node) -> None:
    before, after = tuple(call["self"].meta["val"].shape), call.shape
    if before == after:  # the whole axis
        own = call["self"]
        if own in builder.parameters:
            builder.parameters[call.node] = builder.parameters[own]
        else:
            builder.alias(call, "self")
        return
    source, layout = builder.value(call, "self")
    dim = call.get("dim", 0) % len(before)
    axis = builder.axis(call, "self", dim)
    shape, start = builder.tensors[source].shape, call.get("start") or 0
    start = max(0, start + shape[axis]) if start < 0 else start
    found = strided(
        *(builder, call, source, axis, start),
        count=after[dim],
        step=call.get("step", 1),
    )
    builder.put(call, found, layout)


def strided(
    builder: Builder, call: Node, source: int, axis: int, start: int, *,
    count: int, step: int = 1,
) -> int:  # fmt: skip
    """A part of one axis."""
    sizes = list(builder.tensors[source].shape)
    steps = _steps(tuple(sizes))
    sizes[axis] = count
    offset = start * steps[axis]
    steps[axis] *= step
    return _copy(builder, call, source, sizes, steps, offset)


def piece(builder: Builder, call: Node, source: int, axis: int, index: int) -> int:
    """One place of an axis, which is gone then."""
    shape = builder.tensors[source].shape
    steps = _steps(shape)
    offset = index % shape[axis] * steps[axis]
    sizes = [n for a, n in enumerate(shape) if a != axis]
    del steps[axis]
    return _copy(builder, call, source, sizes, steps, offset)


def _select(builder: Builder, call: Node) -> None:
    source, layout = builder.value(call, "self")
    axis = builder.axis(call, "self", call["dim"])
    found = piece(builder, call, source, axis, call["index"])
    dim = call["dim"] % (len(call.shape) + 1)
    builder.put(call, found, layout.without(dim))


def _unbind(builder: Builder, call: Node) -> None:
    source, layout = builder.value(call, "self")
    dim = call.get("dim", 0)
    axis = builder.axis(call, "self", dim)
    count = builder.tensors[source].shape[axis]
    rank = len(call["self"].meta["val"].shape)
    pieces = [piece(builder, call, source, axis, i) for i in range(count)]
    builder.many[call.node] = tuple(pieces)
    builder.layouts[call.node] = layout.without(dim % rank)


def _split(builder: Builder, call: Node) -> None:
    source, layout = builder.value(call, "self")
    dim = call.get("dim", 0)
    axis = builder.axis(call, "self", dim)
    at, pieces = 0, []
    for value in call.node.meta["val"]:
        count = value.shape[dim]
        pieces.append(strided(builder, call, source, axis, at, count=count))
        at += count
    builder.many[call.node] = tuple(pieces)
    builder.layouts[call.node] = layout


def _flip(builder: Builder, call: Node) -> None:
    if flipped_batch(builder, call):
        return
    source, layout = builder.value(call, "self")
    shape = builder.tensors[source].shape
    steps, offset = _steps(shape), 0
    for dim in call["dims"]:
        axis = builder.axis(call, "self", dim)
        offset += (shape[axis] - 1) * steps[axis]
        steps[axis] = -steps[axis]
    builder.put(call, _copy(builder, call, source, shape, steps, offset), layout)


def expand(builder: Builder, call: Node) -> None:
    """One value at several places; the batch itself may be among these."""
    own: Any = call.arguments["self"]
    before = tuple(own.meta["val"].shape)
    if own not in builder.place and builder.parameters.get(own, -1) >= 0:
        # A parameter (1, ...) for each sample is one operation.
        rest = before[1:] if len(before) == len(call.shape) else before
        first = before[0] if len(before) == len(call.shape) else 1
        if first == 1 and call.shape[0] == builder.batch and rest == call.shape[1:]:
            builder.emit(call, "repeat", (), parameters=(builder.parameters[own],))
            return
    tensor, layout = builder.value(call, "self")
    before = (*[1] * (len(call.shape) - len(before)), *before)
    if layout.axis is None:
        grown = [d for d, (a, b) in enumerate(zip(before, call.shape, strict=True))
                 if a == 1 and b == builder.batch]  # fmt: skip
        layout = Layout(grown[0]) if grown else layout
        if grown:
            shape = (*before[: grown[0]], *before[grown[0] + 1 :])
            tensor = reshaped(builder, call, tensor, shape)
    else:
        more = len(call.shape) - len(own.meta["val"].shape)
        layout = Layout(layout.axis + more, layout.outer, layout.inner)
        shape = (*[1] * more, *builder.tensors[tensor].shape)
        tensor = reshaped(builder, call, tensor, shape)
    shape = builder.sample(call, layout)
    pairs = zip(builder.tensors[tensor].shape, shape, strict=True)
    if any(a not in {1, b} for a, b in pairs):
        raise builder.refused(call, "repeats more than an axis of one")
    builder.put(call, expanded(builder, call, tensor, shape), layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "slice": _slice,
    "select": _select,
    "unbind": _unbind,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "flip": _flip,
    "expand": expand,
    "expand_as": expand,
}
