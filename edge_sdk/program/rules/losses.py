"""Losses: means over the samples of a batch."""

from __future__ import annotations

import math
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]


def _classes(call: Operands) -> tuple[Shape, ...]:
    logits, labels = call.inputs
    call.require(bool(logits) and labels == logits[1:],
                 f"labels {labels} do not fit predictions {logits}")  # fmt: skip
    return ()


def _positions(call: Operands) -> tuple[int, ...]:
    logits = call.inputs[0]
    return logits[0], math.prod(logits[1:])


def _alike(call: Operands) -> tuple[Shape, ...]:
    outputs, targets = call.inputs
    call.require(outputs == targets, f"targets {targets} do not fit {outputs}")
    return ()


def _size(call: Operands) -> tuple[int, ...]:
    return (math.prod(call.inputs[0]),)


def _general(call: Operands) -> tuple[int, ...]:
    at = call.ints
    return (*_positions(call), at["ignore"], at["log_probabilities"], at["external"])


def _value_loss(*reals: str) -> Rule:
    return Rule(
        inputs=(2, 2),
        reals=reals,
        shapes=_alike,
        arguments=_size,
        reads_in=(0, 1),
        loss=True,
    )


RULES: Final[dict[str, Rule]] = {
    "cross_entropy": Rule(
        inputs=(2, 2),
        shapes=_classes,
        arguments=_positions,
        stash=lambda call: (_positions(call)[1],),
        reads_in=(0, 1),
        reads_stash=(0,),
        loss=True,
    ),
    # `external`: the place among the batch's arrays that labels come from unchanged; -1
    # where they do not, and a batch must run whole.
    "class_loss": Rule(
        inputs=(2, 2),
        ints=("ignore", "log_probabilities", "external"),
        reals=("smoothing",),
        shapes=_classes,
        arguments=_general,
        stash=lambda call: (_positions(call)[1],),
        reads_in=(0, 1),
        reads_stash=(0,),
        mixes=lambda call: call.ints["external"] < 0,
        loss=True,
    ),
    "mse": _value_loss(),
    "l1": _value_loss("delta"),
    "smooth_l1": _value_loss("delta"),
    "huber": _value_loss("delta"),
    "binary_cross_entropy": _value_loss("delta"),
}
