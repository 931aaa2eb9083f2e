"""Random numbers: evenly drawn values by counter, and what is made of them.

Which numbers come depends on the task's seed, the batch, the call, the sample and the
element, as for dropout; they are not torch's. What has no batch axis is drawn once for
all samples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.steps import combined, constant, unary

__all__ = ["MIDDLE_OF_NORMAL", "ROWS", "even", "standard", "where_drawn"]

# What a normal number is where both values that it is made of are 1/2.
MIDDLE_OF_NORMAL: Final = -math.sqrt(2 * math.log(2))
_MOST_WHOLE = 1 << 23  # numbers among which an even draw chooses


def where_drawn(builder: Builder, call: Node) -> Layout:
    """The batch's place in a result of which only the shape is known."""
    return next(
        (Layout(at) for at, n in enumerate(call.shape) if n == builder.batch), ALONE
    )


def _place(builder: Builder, call: Node) -> tuple[int, Layout]:
    """A tensor of the result's shape, and where the batch is in it."""
    own = call.arguments.get("self")
    if isinstance(own, fx.Node) and own not in builder.constants:
        return builder.value(call, own)
    layout = where_drawn(builder, call)
    shape = builder.sample(call, layout)
    return constant(builder, call, torch.zeros(shape)), layout


def even(builder: Builder, call: Node, place: int, *, shared: bool) -> int:
    """Values between 0 and 1, none of them at an end; the same for every sample."""
    shape, number = builder.tensors[place].shape, len(builder.operations)
    name = "shared_uniform" if shared else "uniform"
    return builder.step(
        call, name, (place,), shape, ints=(number,), reals=(1.0,), whole=False
    )


def standard(builder: Builder, call: Node, place: int, *, shared: bool) -> int:
    """Normal numbers, of two even ones each (Box and Muller)."""
    radius = unary(builder, call, "log", even(builder, call, place, shared=shared))
    radius = unary(builder, call, "affine", radius, -2.0)
    radius = unary(builder, call, "sqrt", radius)
    turn = even(builder, call, place, shared=shared)
    turn = unary(builder, call, "affine", turn, 2 * math.pi)
    turn = unary(builder, call, "cos", turn)
    return combined(builder, call, "multiply", radius, turn)


# (builder, call, a tensor of the result's shape, one for all samples) -> the numbers
_Draw = Callable[[Builder, Node, int, bool], int]


def _drawn(draw: _Draw) -> Callable[[Builder, Node], None]:
    def row(builder: Builder, call: Node) -> None:
        place, layout = _place(builder, call)
        builder.put(call, draw(builder, call, place, layout == ALONE), layout)

    return row


def _even(builder: Builder, call: Node, place: int, shared: bool) -> int:  # noqa: FBT001
    return even(builder, call, place, shared=shared)


def _standard(builder: Builder, call: Node, place: int, shared: bool) -> int:  # noqa: FBT001
    return standard(builder, call, place, shared=shared)


def _uniform(builder: Builder, call: Node, place: int, shared: bool) -> int:  # noqa: FBT001
    low, high = float(call.get("from", 0.0)), float(call.get("to", 1.0))
    drawn = even(builder, call, place, shared=shared)
    return unary(builder, call, "affine", drawn, high - low, low)


def _exponential(builder: Builder, call: Node, place: int, shared: bool) -> int:  # noqa: FBT001
    drawn = unary(builder, call, "log", even(builder, call, place, shared=shared))
    return unary(builder, call, "affine", drawn, -1.0 / float(call.get("lambd", 1.0)))


def _whole(builder: Builder, call: Node, place: int, shared: bool) -> int:  # noqa: FBT001
    """Whole numbers from `low` to below `high`."""
    low, high = call.get("low", call.get("from", 0)), call.get("high", call.get("to"))
    count = int(high) - int(low)
    if not 1 <= count <= _MOST_WHOLE:
        raise builder.refused(call, f"draws among {count} whole numbers")
    drawn = even(builder, call, place, shared=shared)
    drawn = unary(builder, call, "affine", drawn, float(count))
    drawn = unary(builder, call, "floor", drawn)
    drawn = unary(builder, call, "hardtanh", drawn, 0.0, count - 1.0)
    drawn = unary(builder, call, "affine", drawn, 1.0, float(low))
    shape = builder.tensors[drawn].shape
    return builder.step(call, "trunc", (drawn,), shape, whole=True, reals=(0.0, 0.0))


def _cauchy(builder: Builder, call: Node, place: int, shared: bool) -> int:  # noqa: FBT001
    """The tangent of an even angle."""
    turn = even(builder, call, place, shared=shared)
    turn = unary(builder, call, "affine", turn, math.pi, -math.pi / 2)
    over = unary(builder, call, "reciprocal", unary(builder, call, "cos", turn))
    found = combined(builder, call, "multiply", unary(builder, call, "sin", turn), over)
    spread, middle = float(call.get("sigma", 1.0)), float(call.get("median", 0.0))
    return unary(builder, call, "affine", found, spread, middle)


def _log_normal(builder: Builder, call: Node, place: int, shared: bool) -> int:  # noqa: FBT001
    found = standard(builder, call, place, shared=shared)
    spread, mean = float(call.get("std", 2.0)), float(call.get("mean", 1.0))
    found = unary(builder, call, "affine", found, spread, mean)
    return unary(builder, call, "exp", found)


def _normal(builder: Builder, call: Node) -> None:
    """Numbers around a mean, each of which may be a tensor's, as may its spread."""
    mean, spread = call.get("mean", 0.0), call.get("std", 1.0)
    found = [v for v in (mean, spread) if isinstance(v, fx.Node)]
    known = [v for v in found if v not in builder.constants]
    if known:
        place, layout = builder.value(call, known[0])
        if any(builder.value(call, v)[1] != layout for v in known):
            raise builder.refused(call, "its mean and spread have the batch elsewhere")
    else:
        place, layout = _place(builder, call)
    drawn = standard(builder, call, place, shared=layout == ALONE)
    for name, value in (("multiply", spread), ("add", mean)):
        if not isinstance(value, fx.Node):
            by = (float(value), 0.0) if name == "multiply" else (1.0, float(value))
            drawn = unary(builder, call, "affine", drawn, *by)
        elif value in builder.constants:
            other = constant(builder, call, _held(builder, call, value, layout))
            drawn = combined(builder, call, name, drawn, other)
        else:
            other = builder.value(call, value)[0]
            drawn = combined(builder, call, name, drawn, other)
    if known:  # torch's own has no gradient either: that is what randn_like is for
        drawn = unary(builder, call, "stop", drawn)
    builder.put(call, drawn, layout)


def _held(builder: Builder, call: Node, node: Any, layout: Layout) -> torch.Tensor:
    """A constant of the result's shape, of one sample."""
    whole = builder.constants.tensor(node).expand(call.shape)
    own = whole if layout.axis is None else whole.select(layout.axis, 0)
    return own.clone()


def _bernoulli(builder: Builder, call: Node) -> None:
    """Ones with a probability, a number or each value's own; zeros."""
    p = call.get("p", call.arguments.get("self"))
    if not isinstance(p, fx.Node):
        place, layout = _place(builder, call)
        drawn = even(builder, call, place, shared=layout == ALONE)
        below = unary(builder, call, "affine", drawn, -1.0, float(p))
    elif p in builder.constants:
        layout = where_drawn(builder, call)
        tensor = constant(builder, call, _held(builder, call, p, layout))
        drawn = even(builder, call, tensor, shared=layout == ALONE)
        below = combined(builder, call, "subtract", tensor, drawn)
    else:
        tensor, layout = builder.value(call, p)
        drawn = even(builder, call, tensor, shared=layout == ALONE)
        below = combined(builder, call, "subtract", tensor, drawn)
    builder.put(call, unary(builder, call, "greater", below), layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    **dict.fromkeys(("rand", "rand_like"), _drawn(_even)),
    **dict.fromkeys(("randn", "randn_like"), _drawn(_standard)),
    **dict.fromkeys(("randint", "randint_like", "random"), _drawn(_whole)),
    "uniform": _drawn(_uniform),
    "exponential": _drawn(_exponential),
    "cauchy": _drawn(_cauchy),
    "log_normal": _drawn(_log_normal),
    "normal": _normal,
    "bernoulli": _bernoulli,
}
