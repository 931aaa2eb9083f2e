"""Layer norm, softmax, sums along axes, and attention."""

from __future__ import annotations

import math
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]


def _norm_shape(call: Operands) -> tuple[Shape, ...]:
    shape, axes = call.inputs[0], call.ints["axes"]
    call.require(0 < axes <= len(shape), f"{shape} has no {axes} axes")
    for own in call.parameters:
        call.require(own in {None, shape[-axes:]}, f"{own} does not fit {shape}")
    return (shape,)


def _rows(call: Operands) -> tuple[int, ...]:
    shape, axes = call.inputs[0], call.ints["axes"]
    return math.prod(shape[:-axes]), math.prod(shape[-axes:])


def _along(call: Operands) -> tuple[Shape, ...]:
    shape, axis = call.inputs[0], call.ints["axis"]
    call.require(0 <= axis < len(shape), f"{shape} has no axis {axis}")
    return (shape,)


def _around(call: Operands) -> tuple[int, ...]:
    shape, axis = call.inputs[0], call.ints["axis"]
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _summed(call: Operands) -> tuple[Shape, ...]:
    """Axes ``first`` to ``last`` away, or left as ones where ``keep`` says."""
    shape, at = call.inputs[0], call.ints
    call.require(
        0 <= at["first"] <= at["last"] < len(shape), f"{shape} has no such axes"
    )
    ones = (1,) * (at["last"] + 1 - at["first"]) if at["keep"] else ()
    return ((*shape[: at["first"]], *ones, *shape[at["last"] + 1 :]),)


def _sum_arguments(call: Operands) -> tuple[int, ...]:
    shape, first, end = call.inputs[0], call.ints["first"], call.ints["last"] + 1
    return tuple(map(math.prod, (shape[:first], shape[first:end], shape[end:])))


def _attended(call: Operands) -> tuple[Shape, ...]:
    q, k, v = call.inputs
    call.require(
        len(q) >= 2
        and len(q) == len(k) == len(v)
        and q[:-2] == k[:-2] == v[:-2]
        and q[-1] == k[-1]
        and k[-2] == v[-2],
        f"queries {q}, keys {k} and values {v} do not go together",
    )
    return ((*q[:-1], v[-1]),)


def _attention_arguments(call: Operands) -> tuple[int, ...]:
    q, _, v = call.inputs
    return (
        *(math.prod(q[:-2]), q[-2], v[-2], q[-1], v[-1]),
        *(call.ints["causal"], call.ints["number"]),
    )


def _normalizers(call: Operands) -> tuple[int, ...]:
    return (math.prod(call.inputs[0][:-1]),)


_SOFTMAX = Rule(
    inputs=(1, 1),
    ints=("axis",),
    shapes=_along,
    arguments=_around,
    reads_out=lambda _: (0,),
)
RULES: Final[dict[str, Rule]] = {
    "layer_norm": Rule(
        inputs=(1, 1),
        parameters=("weight?", "bias?"),
        ints=("axes",),
        reals=("eps",),
        shapes=_norm_shape,
        arguments=_rows,
        stash=lambda call: (_rows(call)[0],) * 2,
        reads_in=(0,),
        reads_stash=(0, 1),
    ),
    "softmax": _SOFTMAX,
    "log_softmax": _SOFTMAX,
    "sum": Rule(
        inputs=(1, 1),
        ints=("first", "last", "keep"),
        reals=("factor",),
        shapes=_summed,
        arguments=_sum_arguments,
    ),
    "attention": Rule(
        inputs=(3, 3),
        ints=("causal", "number"),
        reals=("scale", "probability"),
        shapes=_attended,
        arguments=_attention_arguments,
        stash=_normalizers,
        reads_in=(0, 1, 2),
        reads_out=lambda _: (0,),
        reads_stash=(0,),
    ),
}
