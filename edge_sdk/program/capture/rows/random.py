"""Random numbers: evenly drawn values by counter, and what is made of them.

Which numbers come depends on the task's seed, the batch, the call, the sample and the
element, as for dropout; they are not torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, PLAIN, Layout
from edge_sdk.program.capture.steps import combined, constant, unary

__all__ = ["MIDDLE_OF_NORMAL", "ROWS"]

# What a normal number is where both values that it is made of are 1/2.
MIDDLE_OF_NORMAL: Final = -math.sqrt(2 * math.log(2))


def _place(builder: Builder, call: Node) -> tuple[int, Layout]:
    """A tensor of the result's shape, and where the batch is in it."""
    own = call.arguments.get("self")
    if isinstance(own, fx.Node) and own not in builder.constants:
        tensor, layout = builder.value(call, own)
        if layout == ALONE:
            raise builder.refused(call, "draws numbers that all examples share")
        return tensor, layout
    shape = builder.sample(call, PLAIN)
    return constant(builder, call, torch.zeros(shape)), PLAIN


def _even(builder: Builder, call: Node, place: int) -> int:
    """Values between 0 and 1, none of them at an end."""
    shape, number = builder.tensors[place].shape, len(builder.operations)
    return builder.step(
        call, "uniform", (place,), shape, ints=(number,), reals=(1.0,), whole=False
    )


def _standard(builder: Builder, call: Node, place: int) -> int:
    """Normal numbers, of two even ones each (Box and Muller)."""
    radius = unary(builder, call, "log", _even(builder, call, place))
    radius = unary(builder, call, "affine", radius, -2.0)
    radius = unary(builder, call, "sqrt", radius)
    turn = unary(builder, call, "affine", _even(builder, call, place), 2 * math.pi)
    turn = unary(builder, call, "cos", turn)
    return combined(builder, call, "multiply", radius, turn)


def _drawn(
    draw: Callable[[Builder, Node, int], int],
) -> Callable[[Builder, Node], None]:
    def row(builder: Builder, call: Node) -> None:
        place, layout = _place(builder, call)
        builder.put(call, draw(builder, call, place), layout)

    return row


def _uniform(builder: Builder, call: Node, place: int) -> int:
    low, high = float(call.get("from", 0.0)), float(call.get("to", 1.0))
    drawn = _even(builder, call, place)
    return unary(builder, call, "affine", drawn, high - low, low)


def _exponential(builder: Builder, call: Node, place: int) -> int:
    drawn = unary(builder, call, "log", _even(builder, call, place))
    return unary(builder, call, "affine", drawn, -1.0 / float(call.get("lambd", 1.0)))


def _normal(builder: Builder, call: Node) -> None:
    """Numbers around a mean, each of which may be a tensor's, as may its spread."""
    mean, spread = call.get("mean", 0.0), call.get("std", 1.0)
    found = [v for v in (mean, spread) if isinstance(v, fx.Node)]
    known = [v for v in found if v not in builder.constants]
    if known:
        place, layout = builder.value(call, known[0])
        if any(builder.value(call, v)[1] != layout for v in known):
            raise builder.refused(call, "its mean and spread have the batch elsewhere")
        if layout == ALONE:
            raise builder.refused(call, "draws numbers that all examples share")
    else:
        place, layout = _place(builder, call)
    drawn = _standard(builder, call, place)
    for name, value in (("multiply", spread), ("add", mean)):
        if not isinstance(value, fx.Node):
            by = (float(value), 0.0) if name == "multiply" else (1.0, float(value))
            drawn = unary(builder, call, "affine", drawn, *by)
        elif value in builder.constants:
            held = builder.constants.tensor(value).expand(call.shape)[0]
            other = constant(builder, call, held.clone())
            drawn = combined(builder, call, name, drawn, other)
        else:
            other = builder.value(call, value)[0]
            drawn = combined(builder, call, name, drawn, other)
    if known:  # torch's own has no gradient either: that is what randn_like is for
        drawn = unary(builder, call, "stop", drawn)
    builder.put(call, drawn, layout)


def _bernoulli(builder: Builder, call: Node) -> None:
    """Ones with a probability, a number or each value's own; zeros."""
    p = call.get("p", call.arguments.get("self"))
    if not isinstance(p, fx.Node):
        place, layout = _place(builder, call)
        below = unary(
            builder, call, "affine", _even(builder, call, place), -1.0, float(p)
        )
    else:
        tensor, layout = builder.value(call, p)
        if layout == ALONE:
            raise builder.refused(call, "draws numbers that all examples share")
        even = _even(builder, call, tensor)
        below = combined(builder, call, "subtract", tensor, even)
    builder.put(call, unary(builder, call, "greater", below), layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    **dict.fromkeys(("rand", "rand_like"), _drawn(_even)),
    **dict.fromkeys(("randn", "randn_like"), _drawn(_standard)),
    "uniform": _drawn(_uniform),
    "exponential": _drawn(_exponential),
    "normal": _normal,
    "bernoulli": _bernoulli,
}
