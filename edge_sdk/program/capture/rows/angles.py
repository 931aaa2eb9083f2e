"""Tangents, hyperbolic functions, and angles: of a point, a sine and a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.operands import layout_of, operand
from edge_sdk.program.capture.steps import combined, expanded, unary

__all__ = ["ROWS", "angle_of"]

Row = Callable[[Builder, Node], None]


def _quotient(builder: Builder, call: Node) -> None:
    """The tangent."""
    tensor, layout = builder.value(call, "self")
    one = unary(builder, call, "reciprocal", unary(builder, call, "cos", tensor))
    two = unary(builder, call, "sin", tensor)
    builder.put(call, combined(builder, call, "multiply", two, one), layout)


def _hyperbolic(sign: float) -> Row:
    """Half the sum, or the difference, of two exponentials."""

    def row(builder: Builder, call: Node) -> None:
        tensor, layout = builder.value(call, "self")
        one = unary(builder, call, "exp", tensor)
        two = unary(builder, call, "affine", tensor, -1.0)
        two = unary(builder, call, "exp", two)
        two = unary(builder, call, "affine", two, sign)
        total = combined(builder, call, "add", one, two)
        builder.put(call, unary(builder, call, "affine", total, 0.5), layout)

    return row


def _angle(builder: Builder, call: Node) -> None:
    """Atan2 of two values."""
    both = call["self"], call["other"]
    layout = layout_of(builder, call, list(both))
    shape = builder.sample(call, layout)
    y, x = (
        expanded(builder, call, operand(builder, call, n, layout), shape) for n in both
    )
    builder.put(call, angle_of(builder, call, y, x), layout)


def angle_of(builder: Builder, call: Node, y: int, x: int) -> int:
    """The angle of a point: the smaller over the larger one, from the nearest axis."""
    shape = builder.tensors[y].shape

    def choice(which: int, one: int, two: int) -> int:
        return builder.step(call, "choice", (which, one, two), shape)

    def scaled(source: int, a: float, b: float) -> int:
        return unary(builder, call, "affine", source, a, b)

    sizes = [unary(builder, call, "abs", t) for t in (x, y)]
    apart = combined(builder, call, "subtract", *sizes)
    flat = unary(builder, call, "greater", apart)
    some = unary(builder, call, "greater", combined(builder, call, "add", *sizes))
    none = scaled(some, -1.0, 1.0)  # no angle: it is zero, and so is its gradient
    larger = combined(builder, call, "add", choice(flat, x, y), none)
    over = unary(builder, call, "reciprocal", larger)
    ratio = combined(builder, call, "multiply", choice(flat, y, x), over)
    ratio = combined(builder, call, "multiply", ratio, some)
    angle = unary(builder, call, "atan", ratio)
    below = unary(builder, call, "greater", scaled(y, -1.0, 0.0))
    turn = scaled(below, -2 * math.pi, math.pi)  # where x is below zero
    behind = unary(builder, call, "greater", scaled(x, -1.0, 0.0))
    turn = combined(builder, call, "multiply", turn, behind)
    upright = scaled(below, -math.pi, math.pi / 2)
    upright = combined(builder, call, "multiply", upright, some)
    one = combined(builder, call, "add", angle, turn)
    two = combined(builder, call, "subtract", upright, angle)
    return choice(flat, one, two)


def _inverse(*, sine: bool) -> Row:
    """The angle of a sine, or of a cosine."""

    def row(builder: Builder, call: Node) -> None:
        tensor, layout = builder.value(call, "self")
        more = unary(builder, call, "affine", tensor, 1.0, 1.0)
        less = unary(builder, call, "affine", tensor, -1.0, 1.0)
        other = combined(builder, call, "multiply", more, less)
        other = unary(builder, call, "sqrt", other)
        point = (tensor, other) if sine else (other, tensor)
        builder.put(call, angle_of(builder, call, *point), layout)

    return row


def _cardinal(builder: Builder, call: Node) -> None:
    """Sinc: the sine of pi x over pi x, and one at zero, where it is flat."""
    tensor, layout = builder.value(call, "self")
    turn = unary(builder, call, "affine", tensor, math.pi)
    some = unary(builder, call, "greater", unary(builder, call, "abs", turn))
    none = unary(builder, call, "affine", some, -1.0, 1.0)
    over = combined(builder, call, "add", turn, none)
    over = unary(builder, call, "reciprocal", over)
    found = unary(builder, call, "sin", turn)
    found = combined(builder, call, "multiply", found, over)
    builder.put(call, combined(builder, call, "add", found, none), layout)


ROWS: Final[dict[str, Row]] = {
    "tan": _quotient,
    "sinc": _cardinal,
    **dict.fromkeys(("asin", "arcsin"), _inverse(sine=True)),
    **dict.fromkeys(("acos", "arccos"), _inverse(sine=False)),
    "sinh": _hyperbolic(-1.0),
    "cosh": _hyperbolic(1.0),
    **dict.fromkeys(("atan2", "arctan2"), _angle),
}
