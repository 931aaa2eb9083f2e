"""Gamma, beta and Dirichlet numbers, and others that are made of even draws by steps.

A gamma number is Marsaglia and Tsang's: of several tries the first that their test
takes. A program has no loops, so there are six tries; that none is taken has a
probability below 2e-8, less than one even draw has of its 2^23.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.rows.drawn.random import (
    MIDDLE_OF_NORMAL,
    even,
    standard,
    where_drawn,
)
from edge_sdk.program.capture.steps import combined, constant, expanded, unary

__all__ = ["ROWS", "middle_of_gamma"]

_TRIES = 6
_THIRD = 1 / 3


def middle_of_gamma(shape: torch.Tensor) -> torch.Tensor:
    """The logarithm of the gamma number that even draws of 1/2 give."""
    small = (shape < 1).to(shape.dtype)
    d = shape + small - _THIRD
    value = 1 + MIDDLE_OF_NORMAL / (3 * d.sqrt())
    return d.log() + 3 * value.log() + small * math.log(0.5) / shape


def _logarithm(builder: Builder, call: Node, shape: int, *, shared: bool) -> int:
    """Logarithms of gamma numbers, so that small ones do not become zero."""

    def affine(source: int, a: float, b: float = 0.0) -> int:
        return unary(builder, call, "affine", source, a, b)

    def both(name: str, one: int, two: int) -> int:
        return combined(builder, call, name, one, two)

    small = unary(builder, call, "greater", affine(shape, -1.0, 1.0))
    d = affine(both("add", shape, small), 1.0, -_THIRD)
    c = unary(builder, call, "reciprocal", affine(unary(builder, call, "sqrt", d), 3.0))
    tries = []
    for _ in range(_TRIES):
        x = standard(builder, call, shape, shared=shared)
        value = affine(both("multiply", c, x), 1.0, 1.0)
        above = unary(builder, call, "greater", value)
        value = both("multiply", value, above)
        value = both("add", value, affine(above, -1.0, 1.0))  # 1 where it is below 0
        logarithm = affine(unary(builder, call, "log", value), 3.0)
        cube = unary(builder, call, "exp", logarithm)
        # x^2 / 2 + d (1 - v + log v) above log u
        room = affine(both("subtract", logarithm, cube), 1.0, 1.0)
        room = both(
            "add", both("multiply", d, room), affine(both("multiply", x, x), 0.5)
        )
        u = unary(builder, call, "log", even(builder, call, shape, shared=shared))
        taken = unary(builder, call, "greater", both("subtract", room, u))
        tries.append((both("multiply", taken, above), logarithm))
    found = tries[-1][1]
    own = builder.tensors[shape].shape
    for taken, logarithm in reversed(tries[:-1]):
        found = builder.step(call, "choice", (taken, logarithm, found), own)
    found = both("add", found, unary(builder, call, "log", d))
    u = unary(builder, call, "log", even(builder, call, shape, shared=shared))
    over = unary(builder, call, "reciprocal", shape)
    return both("add", found, both("multiply", small, both("multiply", u, over)))


def _parameters(builder: Builder, call: Node) -> tuple[int, Layout]:
    """Shapes of the distributions, a tensor as the result.

    Raises:
        EngineError: If a gradient would have to go through the draw.
    """
    given = call["self"]
    if given in builder.constants:
        layout = where_drawn(builder, call)
        value = builder.constants.tensor(given).expand(call.shape)
        if layout != ALONE and layout.axis is not None:
            first = value.select(layout.axis, 0)
            if not bool((value == first.unsqueeze(layout.axis)).all()):
                raise builder.refused(call, "a constant that differs by sample")
            value = first
        return constant(builder, call, value.contiguous()), layout
    if not builder.still:
        raise builder.refused(
            call,
            "draws whose parameters are computed have no gradient in programs",
            remedy="Give numbers as parameters, or sample() in place of rsample(), "
            "which has no gradient in torch either; until then the torch engine trains "
            "this model.",
        )
    tensor, layout = builder.value(call, given)
    return expanded(builder, call, tensor, builder.sample(call, layout)), layout


def _gamma(builder: Builder, call: Node) -> None:
    shape, layout = _parameters(builder, call)
    found = _logarithm(builder, call, shape, shared=layout == ALONE)
    found = unary(builder, call, "exp", found)
    builder.put(call, unary(builder, call, "stop", found), layout)


def _dirichlet(builder: Builder, call: Node) -> None:
    """Gamma numbers over their sum."""
    shape, layout = _parameters(builder, call)
    found = _logarithm(builder, call, shape, shared=layout == ALONE)
    own = builder.tensors[found].shape
    found = builder.step(call, "softmax", (found,), own, ints=(len(own) - 1,))
    builder.put(call, unary(builder, call, "stop", found), layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "_standard_gamma": _gamma,
    "_sample_dirichlet": _dirichlet,
}
