"""Products of two tensors' matrices, and the choice between two values."""

from __future__ import annotations

import math
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]


def _product(call: Operands) -> tuple[Shape, ...]:
    a, b = call.inputs
    fits = len(a) == len(b) >= 2 and a[:-2] == b[:-2] and a[-1] == b[-2]
    call.require(fits, f"{a} and {b} have no product")
    return ((*a[:-1], b[-1]),)


def _sizes(call: Operands) -> tuple[int, ...]:
    a, b = call.inputs
    return math.prod(a[:-2]), a[-2], a[-1], b[-1]


def _choice(call: Operands) -> tuple[Shape, ...]:
    which = call.inputs[0]
    call.require(set(call.inputs) == {which}, f"shapes differ: {call.inputs}")
    return (which,)


RULES: Final[dict[str, Rule]] = {
    "product": Rule(inputs=(2, 2), shapes=_product, arguments=_sizes, reads_in=(0, 1)),
    # Inputs: which (0 or not), what it is where that is not 0, and where it is.
    "choice": Rule(
        inputs=(3, 3),
        shapes=_choice,
        arguments=lambda call: (math.prod(call.inputs[0]),),
        reads_in=(0,),
    ),
}
