"""Tensors one behind the other, and what is made of parts: roll, windows, gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.rows.rearranged.batches import rolled_batch
from edge_sdk.program.capture.rows.rearranged.copies import expand, strided, transposed
from edge_sdk.program.capture.steps import constant, reshaped

__all__ = ["ROWS", "joined"]

_MOST_PIECES = 64  # windows or repetitions: each is a copy of its own


def joined(builder: Builder, call: Node, parts: Sequence[int], axis: int) -> int:
    """Tensors one behind the other along an axis."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    one = joined(builder, call, parts[:half], axis)
    two = joined(builder, call, parts[half:], axis)
    shape = list(builder.tensors[one].shape)
    shape[axis] += builder.tensors[two].shape[axis]
    return builder.step(call, "join", (one, two), tuple(shape), ints=(axis,))


def _parts(
    builder: Builder, call: Node, dim: int, *, stacked: bool
) -> tuple[list[int], int, Layout]:
    """Tensors to join, the axis per sample, and the layout of the whole.

    What is the same for every sample counts as one that is not.
    """
    nodes: Sequence[fx.Node] = call["tensors"]
    known = [n for n in nodes if n not in builder.constants]
    found = {builder.value(call, n)[1] for n in known} - {ALONE} or {ALONE}
    if len(found) > 1:
        raise builder.refused(call, "the batch is at another axis of each")
    layout = found.pop()
    axis = dim if layout.axis is None or dim < layout.axis else dim - 1
    axis += len(layout.extra) if layout.axis is not None and dim > layout.axis else 0
    if stacked:
        axis = layout.with_one(dim).axis_of(dim) or 0
    elif dim == layout.axis:
        raise builder.refused(call, "works along the batch")
    return [_part(builder, call, n, layout) for n in nodes], axis, layout


def _part(builder: Builder, call: Node, node: fx.Node, layout: Layout) -> int:
    at = layout.axis
    if node in builder.constants and at is not None:
        value = builder.constants.tensor(node)
        first = value.select(at, 0)
        if layout.extra or not bool((value == first.unsqueeze(at)).all()):
            raise builder.refused(call, "a constant that differs by sample")
        return constant(builder, call, first)
    tensor, own = builder.value(call, node)
    if own == layout:
        return tensor
    raise builder.refused(call, "joins what does not come from the batch")


def _cat(builder: Builder, call: Node) -> None:
    dim = call.get("dim", 0) % len(call.shape)
    if _behind(builder, call, dim):
        return
    parts, axis, layout = _parts(builder, call, dim, stacked=False)
    builder.put(call, joined(builder, call, parts, axis), layout)


def _behind(builder: Builder, call: Node, dim: int) -> bool:
    """Puts several of each sample one batch behind the other, if that is what it is."""
    nodes: Sequence[fx.Node] = call["tensors"]
    if any(n in builder.constants for n in nodes):
        return False
    found = [builder.value(call, n) for n in nodes]
    shapes = {builder.tensors[t].shape for t, _ in found}
    if {own for _, own in found} != {Layout(dim)} or len(shapes) != 1:
        return False
    shape = shapes.pop()
    one = (*shape[:dim], 1, *shape[dim:])
    parts = [reshaped(builder, call, t, one) for t, _ in found]
    whole = joined(builder, call, parts, dim)
    builder.put(call, whole, Layout(dim, outer=len(parts)))
    return True


def _stack(builder: Builder, call: Node) -> None:
    dim = call.get("dim", 0) % len(call.shape)
    parts, axis, layout = _parts(builder, call, dim, stacked=True)
    shape = list(builder.tensors[parts[0]].shape)
    shape.insert(axis, 1)
    parts = [reshaped(builder, call, part, tuple(shape)) for part in parts]
    builder.put(call, joined(builder, call, parts, axis), layout.with_one(dim))


def _roll(builder: Builder, call: Node) -> None:
    if rolled_batch(builder, call):
        return
    found, layout = builder.value(call, "self")
    if len(call["dims"] or ()) != len(call["shifts"]):
        raise builder.refused(call, "a roll over all axes at once")
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        axis = builder.axis(call, "self", dim)
        size = builder.tensors[found].shape[axis]
        if by := shift % size:
            last = strided(builder, call, found, axis, size - by, count=by)
            first = strided(builder, call, found, axis, 0, count=size - by)
            found = joined(builder, call, [last, first], axis)
    builder.put(call, found, layout)


def _repeat(builder: Builder, call: Node) -> None:
    """Copies one behind the other along axes; axes of one are expanded."""
    before = tuple(call["self"].meta["val"].shape)
    counts = call["repeats"][len(call["repeats"]) - len(before) :]
    grown = [d for d, (n, c) in enumerate(zip(before, counts, strict=True)) if c > 1]
    if len(call["repeats"]) != len(before) or all(before[d] == 1 for d in grown):
        expand(builder, call)
        return
    found, layout = builder.value(call, "self")
    for dim in grown:
        axis = builder.axis(call, "self", dim)
        if counts[dim] > _MOST_PIECES:
            raise builder.refused(call, f"{counts[dim]} copies of an axis")
        found = joined(builder, call, [found] * counts[dim], axis)
    builder.put(call, found, layout)


def _glu(builder: Builder, call: Node) -> None:
    source, layout = builder.value(call, "self")
    axis = builder.axis(call, "self", call.get("dim", -1))
    half = builder.tensors[source].shape[axis] // 2
    one, two = (
        strided(builder, call, source, axis, at, count=half) for at in (0, half)
    )
    shape = builder.tensors[one].shape
    gate = builder.step(call, "sigmoid", (two,), shape, reals=(0, 0))
    builder.put(call, builder.step(call, "multiply", (one, gate), shape), layout)


def _windows(builder: Builder, call: Node) -> None:
    """Tensor.unfold: windows of one axis, whose values become a last axis."""
    source, layout = builder.value(call, "self")
    dim = call["dimension"] % len(call["self"].meta["val"].shape)
    axis = builder.axis(call, "self", dim)
    size, step, shape = call["size"], call["step"], builder.tensors[source].shape
    count = (shape[axis] - size) // step + 1
    order = [*(a for a in range(len(shape)) if a != axis), axis]
    if count > _MOST_PIECES:
        last = transposed(builder, call, source, order)
        outer = builder.tensors[last].shape[:-1]
        found = builder.step(
            call, "windows", (last,), (*outer, count, size), ints=(size, step)
        )
        back = [*range(axis), len(shape) - 1, *range(axis, len(shape) - 1), len(shape)]
        builder.put(call, transposed(builder, call, found, back), layout)
        return
    own = (*shape[:axis], 1, *shape[axis + 1 :], size)
    parts = []
    for at in range(count):
        part = strided(builder, call, source, axis, at * step, count=size)
        part = transposed(builder, call, part, order)
        parts.append(reshaped(builder, call, part, own))
    builder.put(call, joined(builder, call, parts, axis), layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "roll": _roll,
    "repeat": _repeat,
    "glu": _glu,
    "unfold": _windows,
}
