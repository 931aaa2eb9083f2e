"""Values that are changed in place: of a tensor, and of what is a view of it.

A program changes nothing in place. The call's result takes the place of what it
changed; where that is a view, such as a slice, its source is made anew around it, and
so are other views of it.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import Layout
from edge_sdk.program.capture.operands import layout_of, number_of, operand
from edge_sdk.program.capture.rows.drawn.random import where_drawn
from edge_sdk.program.capture.rows.rearranged.copies import ROWS as COPIES
from edge_sdk.program.capture.rows.rearranged.copies import strided
from edge_sdk.program.capture.rows.rearranged.joins import joined
from edge_sdk.program.capture.rows.spectra.transforms import along
from edge_sdk.program.capture.steps import constant, expanded, reshaped
from edge_sdk.program.capture.table import ROWS

__all__ = ["change_in_place", "note_view"]

_RESHAPED = ("view", "squeeze", "unsqueeze", "alias", "detach")
_MOVED = ("transpose", "permute", "t")
_VIEWS: Final = frozenset(("slice", "select", *_RESHAPED, *_MOVED))


def note_view(builder: Builder, call: Node, name: str) -> None:
    """Remembers that a call's result lies within that of another."""
    source = call.arguments.get("self")
    if name in _VIEWS and isinstance(source, fx.Node):
        builder.views[call.node] = (source, name, call)


def change_in_place(builder: Builder, call: Node, name: str) -> None:
    """Emits a call that changes its first argument.

    Args:
        builder: Takes it.
        call: The call.
        name: Of its operator, without the "_" at its end.

    Raises:
        EngineError: If programs have no such operation, or cannot follow the change.
    """
    changed: fx.Node = next(iter(call.arguments.values()))
    root = _root(builder, changed)
    if root in builder.parameters and root not in builder.place:
        raise builder.refused(
            call,
            "changes a parameter or buffer of the model",
            remedy="In programs only batch norms move statistics of their own: compute "
            "the value of the batch, or use a BatchNorm layer; until then the torch "
            "engine trains this model.",
        )
    _made_known(builder, call, root)
    if name in {"copy", "fill", "zero"}:
        _written(builder, call, changed, name)
    elif (row := ROWS.get(name)) is not None:
        row(builder, call)
    else:
        raise builder.refused(call, "programs have no such operation")
    if call.node not in builder.place:
        raise builder.refused(call, "changes a value in place as programs cannot")
    _put(builder, changed, *builder.value(call, call.node))
    _follow(builder, call, changed)


def _root(builder: Builder, node: fx.Node) -> fx.Node:
    while node in builder.views:
        node = builder.views[node][0]
    return node


def _put(builder: Builder, node: fx.Node, tensor: int, layout: Layout) -> None:
    builder.place[node], builder.layouts[node] = tensor, layout


def _made_known(builder: Builder, call: Node, root: fx.Node) -> None:
    """A constant that is written to becomes a tensor, and so do its views."""
    if root not in builder.constants:
        return
    value = builder.constants.tensor(root)
    own = Node(root, {}, tuple(value.shape))
    layout = where_drawn(builder, own)
    if layout.axis is not None:
        first = value.select(layout.axis, 0)
        if not bool((value == first.unsqueeze(layout.axis)).all()):
            raise builder.refused(call, "changes a constant that differs by sample")
        value = first
    _put(builder, root, constant(builder, call, value), layout)
    del builder.constants.values[root]
    for view in _views_of(builder, root):
        builder.constants.values.pop(view, None)
        _again(builder, view)


def _views_of(builder: Builder, root: fx.Node) -> list[fx.Node]:
    """Views of a tensor and of its views, in their order."""
    return [v for v in builder.views if _root(builder, v) == root]


def _again(builder: Builder, view: fx.Node) -> None:
    """Emits a view once more, of what its source is now."""
    _, name, call = builder.views[view]
    builder.place.pop(view, None)
    builder.layouts.pop(view, None)
    ROWS[name](builder, call)


def _written(builder: Builder, call: Node, changed: fx.Node, name: str) -> None:
    """Copy, fill and zero: values of another tensor, or a number, in all places."""
    given = {"copy": "src", "fill": "value"}.get(name, "")
    source: Any = call[given] if given else 0.0
    _, layout = builder.value(call, changed)
    shape = builder.sample(call, layout)
    number = number_of(builder, source)
    if number is not None:
        _put(
            builder,
            call.node,
            constant(builder, call, torch.full(shape, number)),
            layout,
        )
        return
    if layout_of(builder, call, [changed, source]) != layout:
        raise builder.refused(call, "writes what differs by sample to what does not")
    found = operand(builder, call, source, layout)
    _put(builder, call.node, expanded(builder, call, found, shape), layout)


def _follow(builder: Builder, call: Node, changed: fx.Node) -> None:
    """Makes what the changed value is a view of anew, and that one's other views."""
    node, path = changed, {changed}
    while node in builder.views:
        node = _around(builder, call, node)
        path.add(node)
    for view in _views_of(builder, node):
        if view not in path:
            _again(builder, view)


def _around(builder: Builder, call: Node, view: fx.Node) -> fx.Node:
    """The source of a view with the view's values in their places."""
    source, name, own = builder.views[view]
    value, _ = builder.value(call, view)
    whole, layout = builder.value(call, source)
    shape = builder.tensors[whole].shape
    if name in _RESHAPED:
        _put(builder, source, reshaped(builder, call, value, shape), layout)
    elif name in _MOVED:
        rank = len(own.shape)
        order = [d % rank for d in own.arguments.get("dims", ())]
        if name != "permute":
            order = [*range(rank)]
            one, two = own.get("dim0", 0) % rank, own.get("dim1", 1) % rank
            order[one], order[two] = two, one
        back = [order.index(d) for d in range(rank)]
        form = tuple(source.meta["val"].shape)
        turned = Node(source, {"self": view, "dims": back}, form)
        COPIES["permute"](builder, turned)
    else:
        axis = builder.axis(own, "self", own["dim"])
        size = shape[axis]
        if name == "select":
            first = own["index"] % size
            places = range(first, first + 1)
        else:
            bounds = slice(own.get("start"), own.get("end"), own.get("step", 1))
            places = range(size)[bounds]
        part = (*shape[:axis], len(places), *shape[axis + 1 :])
        value = reshaped(builder, call, value, part)
        found = _at(builder, call, whole, value, axis, places)
        _put(builder, source, found, layout)
    return source


def _at(
    builder: Builder, call: Node, whole: int, value: int, axis: int, places: range
) -> int:
    """A tensor with other values at places of an axis."""
    shape = builder.tensors[whole].shape
    size = shape[axis]
    if places.step == 1:
        pieces = [value]
        if places.start:
            pieces.insert(0, strided(builder, call, whole, axis, 0, count=places.start))
        if rest := size - places.stop:
            pieces.append(strided(builder, call, whole, axis, places.stop, count=rest))
        return joined(builder, call, pieces, axis)
    rows = torch.zeros(size, len(places))
    rows[torch.tensor(places), torch.arange(len(places))] = 1.0
    spread = along(builder, call, value, axis, rows)
    which = rows.sum(1).reshape(size, *[1] * (len(shape) - axis - 1))
    chosen = expanded(builder, call, constant(builder, call, which), shape)
    return builder.step(call, "choice", (chosen, spread, whole), shape)
