"""Operations in which samples of a batch see each other: sums, orders, contrasts."""

from __future__ import annotations

import math
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["FLIPPED", "ROLLED", "RULES", "SHUFFLED"]

FLIPPED, ROLLED, SHUFFLED = 0, 1, 2  # orders of a batch (fe_batch.h)


def _alike(call: Operands) -> tuple[Shape, ...]:
    call.require(call.ints["mean"] in {0, 1}, "is neither a sum nor a mean")
    return (call.inputs[0],)


def _reordered(call: Operands) -> tuple[Shape, ...]:
    call.require(call.ints["kind"] in {FLIPPED, ROLLED, SHUFFLED}, "has no such order")
    return (call.inputs[0],)


def _vectors(call: Operands) -> tuple[Shape, ...]:
    """Rows and columns of a sample as (count, width); what each row's term is."""
    a, b = call.inputs
    shift, apart = call.ints["shift"], call.ints["apart"]
    call.require(len(a) == len(b) == 2 and a[1] == b[1], f"{a} and {b} have no product")
    call.require(0 <= shift < b[0] and apart in {0, 1}, "has odd partners")
    call.require(not apart or (a[0] == b[0] and shift > 0), "is its own partner")
    return ((a[0],),)


def _sizes(call: Operands) -> tuple[int, ...]:
    a, b = call.inputs
    return a[0], b[0], a[1], call.ints["shift"], call.ints["apart"]


RULES: Final[dict[str, Rule]] = {
    # Each value's sum over the samples, or its mean; the same for every sample.
    "batch_sum": Rule(
        inputs=(1, 1),
        ints=("mean",),
        shapes=_alike,
        arguments=lambda call: (math.prod(call.inputs[0]), call.ints["mean"]),
        whole=lambda _: True,
    ),
    # The samples in another order: the last first, each some places further, drawn.
    "batch_order": Rule(
        inputs=(1, 1),
        ints=("kind", "shift", "number"),
        reals=("spread",),
        shapes=_reordered,
        arguments=lambda call: (
            *(math.prod(call.inputs[0]), call.ints["kind"]),
            *(call.ints["shift"], call.ints["number"]),
        ),
        whole=lambda _: True,
    ),
    # How well each row finds its partner, the column of its own sample `shift` further,
    # among all columns; `apart` where it does not see the column of its own number.
    "contrast": Rule(
        inputs=(2, 2),
        ints=("shift", "apart"),
        shapes=_vectors,
        arguments=_sizes,
        stash=lambda call: (call.inputs[0][0],),
        reads_in=(0, 1),
        reads_stash=(0,),
        whole=lambda _: True,
    ),
}
