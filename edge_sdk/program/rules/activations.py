"""Activations, sums and products with broadcasting, and dropout."""

from __future__ import annotations

import math
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule, nothing

__all__ = ["ACTIVATIONS", "RULES", "broadcast"]

_AXES: Final = 6
# No gradient goes through these.
FLAT: Final = ("greater", "equal", "trunc", "floor", "round", "stop")
# What the backward pass reads: the input, the output or neither (fe_elementwise.h).
ACTIVATIONS: Final = {
    "affine": "",
    "hardtanh": "output",
    "leaky_relu": "output",
    "gelu": "input",
    "gelu_tanh": "input",
    "silu": "input",
    "hardswish": "input",
    "hardsigmoid": "output",
    "sigmoid": "output",
    "tanh": "output",
    "elu": "output",
    "softplus": "input",
    "mish": "input",
    "exp": "output",
    "log": "input",
    "sqrt": "output",
    "reciprocal": "output",
    "abs": "input",
    "power": "input",
    "sin": "input",
    "cos": "input",
    "erf": "input",
    "atan": "input",
    **dict.fromkeys(FLAT, ""),
}


def _first(call: Operands) -> tuple[Shape, ...]:
    return (call.inputs[0],)


def _size(call: Operands) -> tuple[int, ...]:
    return (math.prod(call.inputs[0]),)


def broadcast(one: Shape, two: Shape) -> Shape | None:
    """The shape of both together; None where they do not go together."""
    axes = max(len(one), len(two))
    pairs = zip(_padded(one, axes), _padded(two, axes), strict=True)
    shape = []
    for a, b in pairs:
        if a != b and 1 not in {a, b}:
            return None
        shape.append(max(a, b))
    return tuple(shape)


def _padded(shape: Shape, axes: int) -> Shape:
    return (*[1] * (axes - len(shape)), *shape)


def _operand_shapes(call: Operands) -> tuple[Shape, Shape]:
    """Of both operands, per sample; a parameter's first axis of one is the batch's."""
    if len(call.inputs) == 2:
        return call.inputs[0], call.inputs[1]
    own = call.parameters[0]
    call.require(own is not None, "has no parameter")
    assert own is not None  # noqa: S101 - for mypy
    rank = len(call.inputs[0])
    if len(own) == rank + 1 and own[0] == 1:
        own = own[1:]
    return call.inputs[0], own


def _broadcast_shape(call: Operands) -> tuple[Shape, ...]:
    one, two = _operand_shapes(call)
    shape = broadcast(one, two)
    call.require(shape is not None and len(shape) <= _AXES,
                 f"shapes do not go together: {one} and {two}")  # fmt: skip
    assert shape is not None  # noqa: S101 - for mypy
    return (shape,)


def _strides(call: Operands) -> tuple[int, ...]:
    """Six sizes of the result, and six strides of each operand."""
    (shape,) = call.outputs
    out = [*_padded(shape, _AXES)]
    for own in _operand_shapes(call):
        sizes, step, steps = _padded(own, _AXES), 1, [0] * _AXES
        for axis in reversed(range(_AXES)):
            steps[axis] = step if sizes[axis] > 1 else 0
            step *= sizes[axis]
        out += steps
    return tuple(out)


def _activation(name: str, reads: str) -> Rule:
    return Rule(
        inputs=(1, 1),
        reals=("a", "b"),
        shapes=_first,
        arguments=_size,
        reads_in=(0,) if reads == "input" else (),
        reads_out=(lambda _: (0,)) if reads == "output" else nothing,
        flat=name in FLAT,
    )


def _binary(*, product: bool, parameter: bool) -> Rule:
    return Rule(
        inputs=(1, 1) if parameter else (2, 2),
        parameters=("other",) if parameter else (),
        shapes=_broadcast_shape,
        arguments=_strides,
        reads_in=((0,) if parameter else (0, 1)) if product else (),
    )


def _drawn(real: str, *, flat: bool = False) -> Rule:
    """Rule of an operation that draws with its number in the program, and one real."""
    return Rule(
        inputs=(1, 1),
        ints=("number",),
        reals=(real,),
        shapes=_first,
        arguments=lambda call: (*_size(call), call.ints["number"]),
        flat=flat,
    )


RULES: Final[dict[str, Rule]] = {
    **{name: _activation(name, reads) for name, reads in ACTIVATIONS.items()},
    "add_broadcast": _binary(product=False, parameter=False),
    "subtract": _binary(product=False, parameter=False),
    "multiply": _binary(product=True, parameter=False),
    "add_parameter": _binary(product=False, parameter=True),
    "subtract_parameter": _binary(product=False, parameter=True),
    "multiply_parameter": _binary(product=True, parameter=True),
    # "shared_": the same draws for every sample of a batch.
    **dict.fromkeys(("dropout", "shared_dropout"), _drawn("probability")),
    # Of their input only the shape counts.
    **dict.fromkeys(("uniform", "shared_uniform"), _drawn("spread", flat=True)),
}
