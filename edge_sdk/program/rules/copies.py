"""Operations that move values: permute, slice, flip, join, windows, repeat."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_sdk.program.graph import Op, Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["AXES", "RULES", "copied_places"]

AXES: Final = 6
_SIZES = tuple(f"size_{i}" for i in range(AXES))
_STRIDES = tuple(f"stride_{i}" for i in range(AXES))


def _copied(call: Operands) -> tuple[Shape, ...]:
    """The result's axes are the last `axes` of the six; each stays within the input."""
    sizes = [call.ints[name] for name in _SIZES]
    steps = [call.ints[name] for name in _STRIDES]
    axes, values = call.ints["axes"], math.prod(call.inputs[0])
    call.require(0 <= axes <= AXES and all(n == 1 for n in sizes[: AXES - axes]),
                 "has odd axes")  # fmt: skip
    call.require(all(n >= 1 for n in sizes), "has an empty axis")
    reach = [(n - 1) * step for n, step in zip(sizes, steps, strict=True)]
    low = call.ints["offset"] + sum(r for r in reach if r < 0)
    high = call.ints["offset"] + sum(r for r in reach if r > 0)
    call.require(low >= 0 and high < values, f"leaves {call.inputs[0]}")
    return (tuple(sizes[AXES - axes :]),)


def _copy_arguments(call: Operands) -> tuple[int, ...]:
    """The last one: a gradient begins at zero where the result has no value of it."""
    own = [call.ints[name] for name in (*_SIZES, *_STRIDES, "offset")]
    return (*own, math.prod(call.inputs[0]), 1)


def copied_places(operation: Op) -> NDArray[np.int64]:
    """Places in its input of each value of a copy, in the shape of the result."""
    sizes, rest = operation.ints[:AXES], operation.ints[AXES:]
    steps, (offset, axes) = rest[:AXES], rest[AXES:]
    places = np.array(offset, np.int64)
    for size, step in zip(sizes, steps, strict=True):
        places = places[..., None] + np.arange(size, dtype=np.int64) * step
    return places.reshape(sizes[AXES - axes :])


def _joined(call: Operands) -> tuple[Shape, ...]:
    one, two = call.inputs
    axis = call.ints["axis"]
    call.require(0 <= axis < len(one) and len(one) == len(two), "has no such axis")
    call.require(one[:axis] == two[:axis] and one[axis + 1 :] == two[axis + 1 :],
                 f"{one} and {two} cannot be joined")  # fmt: skip
    return ((*one[:axis], one[axis] + two[axis], *one[axis + 1 :]),)


def _join_arguments(call: Operands) -> tuple[int, ...]:
    axis = call.ints["axis"]
    one, two = call.inputs
    return math.prod(one[:axis]), math.prod(one[axis:]), math.prod(two[axis:])


def _repeated(call: Operands) -> tuple[Shape, ...]:
    """A parameter (1, ...), or without that axis, for each sample."""
    own, (shape,) = call.parameters[0], call.outputs
    call.require(own is not None and math.prod(own) == math.prod(shape),
                 f"a parameter {own} for {shape}")  # fmt: skip
    return (shape,)


def _lengths(call: Operands) -> tuple[Shape, ...]:
    own, axis = call.parameters[0], call.ints["axis"]
    call.require(own is not None and -1 <= axis < len(own), "has no such axis")
    return (_around(call)[1:2],)


def _around(call: Operands) -> tuple[int, ...]:
    """Sizes before the axis, of it, behind it; of -1 all of them are one part."""
    own, axis = call.parameters[0] or (), call.ints["axis"]
    if axis < 0:
        return 1, 1, math.prod(own)
    return math.prod(own[:axis]), own[axis], math.prod(own[axis + 1 :])


def _windows(call: Operands) -> tuple[Shape, ...]:
    """Windows of the last axis, each of which is the values of a further one."""
    *outer, length = call.inputs[0] or (0,)
    size, hop = call.ints["size"], call.ints["hop"]
    call.require(1 <= size <= length and hop >= 1, f"has no windows of {length} values")
    return ((*outer, (length - size) // hop + 1, size),)


def _added_up(call: Operands) -> tuple[Shape, ...]:
    """Windows and their values are the last two axes; places in a row become one."""
    call.require(len(call.inputs[0]) >= 2, "has no windows")
    *outer, count, size = call.inputs[0]
    length, hop = call.ints["length"], call.ints["hop"]
    fits = hop >= 1 and length >= size and (length - size) // hop + 1 == count
    call.require(fits, f"{count} windows of {size} do not make {length} values")
    return ((*outer, length),)


RULES: Final[dict[str, Rule]] = {
    "copy": Rule(
        inputs=(1, 1),
        ints=(*_SIZES, *_STRIDES, "offset", "axes"),
        shapes=_copied,
        arguments=_copy_arguments,
    ),
    "join": Rule(
        inputs=(2, 2), ints=("axis",), shapes=_joined, arguments=_join_arguments
    ),
    "repeat": Rule(
        inputs=(0, 0),
        parameters=("value",),
        shapes=_repeated,
        arguments=lambda call: (math.prod(call.outputs[0]),),
    ),
    # One over the length of each part of a parameter along an axis, for each sample;
    # zero where there is none.
    "lengths": Rule(
        inputs=(0, 0),
        parameters=("value",),
        ints=("axis",),
        shapes=_lengths,
        arguments=_around,
        reads_out=lambda _: (0,),
    ),
    # Pieces of rows, `hop` apart, which may overlap; and what such pieces add up to.
    # Each is the backward pass of the other.
    "windows": Rule(
        inputs=(1, 1),
        ints=("size", "hop"),
        shapes=_windows,
        arguments=lambda call: (
            *(math.prod(call.inputs[0][:-1]), call.inputs[0][-1]),
            *(call.ints["size"], call.ints["hop"]),
        ),
    ),
    "overlap_add": Rule(
        inputs=(1, 1),
        ints=("length", "hop"),
        shapes=_added_up,
        arguments=lambda call: (
            *(math.prod(call.inputs[0][:-2]), call.ints["length"]),
            *(call.inputs[0][-1], call.ints["hop"]),
        ),
    ),
}
