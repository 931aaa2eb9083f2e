"""Joins operations that only move values, one after the other, into one copy.

torch takes attention's queries, keys and values out of one result by a reshape, a
transpose and three slices. Each of them is a copy here, and all of them together are
one view of the floats of one buffer: a first value and a step for each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from export.native.fuse import used
from export.native.program import INFINITY, Kind, Operation, Program, Shape

__all__ = ["join_moves"]

_MOVES = {Kind.TAKE, Kind.TRANSPOSE, Kind.RESHAPE, Kind.FLATTEN, Kind.CROP}
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True)
class _Axis:
    """Values, and floats from each to the next; one value has the step 0."""

    size: int
    step: int


_Axes = tuple[_Axis, ...]


@dataclass(frozen=True)
class _View:
    """Values of a buffer in an order.

    Attributes:
        root: The buffer whose floats they are.
        first: Place of the first one among the floats of its planes.
        axes: Of the values in their order, outermost first.
        moves: Operations that it stands for.
        factor: What each value is multiplied by.
    """

    root: int
    first: int
    axes: _Axes
    moves: int = 0
    factor: float = 1.0


def join_moves(program: Program) -> Program:
    """The same program with one copy for each run of operations that move values.

    A move whose own input is no other move stays what it is: the runtime knows it. A
    product of all values with one factor, as of queries, joins moves as well.
    """
    views: dict[int, _View] = {}
    operations: list[Operation] = []
    for operation in program.operations:
        source, out = operation.source, operation.out
        found = None
        view = views.get(source) or _whole(source, program.shapes[source])
        if operation.kind in _MOVES:
            found = _moved(view, operation, program)
        elif (factor := _factor(operation, program)) is not None:
            found = replace(view, moves=view.moves + 1, factor=view.factor * factor)
        if found is not None:
            views[out] = found
        operations.append(
            operation
            if found is None or found.moves < 2
            else _copy(found, out, program.shapes[out]) or operation
        )
    return _without_products(replace(program, operations=tuple(operations)))


def _factor(operation: Operation, program: Program) -> float | None:
    """The factor of an operation that multiplies every value by it and no more."""
    if operation.kind is not Kind.AFFINE:
        return None
    weight = program.weights[operation.weight]
    factor = float(weight.matrix.flat[0])
    clipped = (operation.low, operation.high) != (-INFINITY, INFINITY)
    if clipped or weight.bias.any() or (weight.matrix != factor).any():
        return None
    return factor if 1e-15 < abs(factor) < 1e15 else None


def _without_products(program: Program) -> Program:
    """Without moves and products that nothing reads any more, and their weights."""
    read = {buffer for o in program.operations for buffer in o.reads()}
    read.add(program.output)
    kept = [
        o for o in program.operations if o.out in read or _factor(o, program) is None
    ]
    operations = used(kept, program)
    numbers = sorted({o.weight for o in operations if o.weight >= 0})
    number = {old: new for new, old in enumerate(numbers)} | {-1: -1}
    return replace(
        program,
        operations=tuple(replace(o, weight=number[o.weight]) for o in operations),
        weights=tuple(program.weights[i] for i in numbers),
    )


def _whole(buffer: int, shape: Shape) -> _View:
    plane = 1 if shape.pixels == 1 else -(-shape.pixels // 16) * 16
    axes = (
        _Axis(shape.channels, plane),
        _Axis(shape.height, shape.width),
        _Axis(shape.width, 1),
    )
    return _View(buffer, 0, axes)


def _moved(view: _View, operation: Operation, program: Program) -> _View | None:
    """A view through an operation; None where that has no steps."""
    if operation.kind in {Kind.RESHAPE, Kind.FLATTEN}:
        return replace(view, moves=view.moves + 1)
    parts = _as_shape(view.axes, program.shapes[operation.source])
    if parts is None:
        return None
    if operation.kind is Kind.TRANSPOSE:
        order = _ORDERS[operation.extra]
        return _seen(view, view.first, [parts[i] for i in order])
    out = program.shapes[operation.out]
    change = _cropped if operation.kind is Kind.CROP else _taken
    return change(view, operation, out, parts)


def _cropped(
    view: _View, operation: Operation, out: Shape, parts: Sequence[_Axes]
) -> _View | None:
    rows, columns = _one(parts[1]), _one(parts[2])
    if rows is None or columns is None:
        return None
    first = view.first
    first += operation.pad[0] * rows.step + operation.pad[1] * columns.step
    cut = _Axis(out.height, rows.step * operation.stride[0])
    thinned = _Axis(out.width, columns.step * operation.stride[1])
    return _seen(view, first, [parts[0], (cut,), (thinned,)])


def _taken(
    view: _View, operation: Operation, out: Shape, parts: Sequence[_Axes]
) -> _View | None:
    channels = _one(parts[0])
    if channels is None:
        return None
    per = out.channels // operation.groups
    groups = _Axis(operation.groups, channels.step * per)
    first = view.first + operation.extra * channels.step
    return _seen(view, first, [(_Axis(per, channels.step), groups), parts[1], parts[2]])


def _seen(view: _View, first: int, parts: Sequence[_Axes]) -> _View:
    axes = tuple(axis for part in parts for axis in part)
    return replace(view, first=first, axes=axes, moves=view.moves + 1)


def _one(axes: _Axes) -> _Axis | None:
    """An axis that stands for several."""
    axes = _merged(axes)
    if len(axes) > 1:
        return None
    return axes[0] if axes else _Axis(1, 0)


def _merged(axes: _Axes) -> _Axes:
    """The same values with as few axes as can be, none of one value."""
    merged: list[_Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        outer = merged[-1] if merged else None
        if outer is not None and outer.step == axis.size * axis.step:
            merged[-1] = _Axis(outer.size * axis.size, axis.step)
        else:
            merged.append(axis)
    return tuple(merged)


def _as_shape(axes: _Axes, shape: Shape) -> list[_Axes] | None:
    """The axes of each of a shape's three; None where one of them is not whole."""
    left = list(reversed(_merged(axes)))
    parts: list[_Axes] = []
    for size in (shape.channels, shape.height, shape.width):
        part: list[_Axis] = []
        wanted = size
        while wanted > 1:
            axis = left.pop()
            if wanted % axis.size == 0:
                part.append(axis)
                wanted //= axis.size
            elif axis.size % wanted == 0:  # the rest belongs to the next of the three
                rest = axis.size // wanted
                part.append(_Axis(wanted, axis.step * rest))
                left.append(_Axis(rest, axis.step))
                wanted = 1
            else:
                return None
        parts.append(tuple(part))
    return parts


def _copy(view: _View, out: int, shape: Shape) -> Operation | None:
    """One operation for a view; None where it takes more axes than that has."""
    parts = _as_shape(view.axes, shape)
    if parts is None:
        return None
    channels = _merged(parts[0])
    rows, columns = _one(parts[1]), _one(parts[2])
    if len(channels) > 2 or rows is None or columns is None:
        return None
    outer = channels[0] if len(channels) == 2 else _Axis(1, 0)
    inner = channels[-1] if channels else _Axis(1, 0)
    return Operation(
        Kind.VIEW,
        view.root,
        out,
        groups=outer.size,
        pad=(outer.step, inner.step),
        stride=(rows.step, columns.step),
        extra=view.first,
        input_scale=0.0 if view.factor == 1 else view.factor,
    )
