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


def _weighted_classes(call: Operands) -> tuple[Shape, ...]:
    own, classes = call.parameters[0], call.inputs[0][:1]
    call.require(own in {None, classes}, f"weights {own} do not fit {classes} classes")
    return _classes(call)


def _weighted_values(call: Operands) -> tuple[Shape, ...]:
    own = call.parameters[0]
    call.require(own in {None, call.inputs[0]}, f"weights {own} do not fit")
    return _alike(call)


def _general(call: Operands) -> tuple[int, ...]:
    at = call.ints
    return (*_positions(call), at["ignore"], at["log_probabilities"], at["external"])


def _value_loss(*reals: str, weight: bool = False) -> Rule:
    return Rule(
        inputs=(2, 2),
        parameters=("weight?",) if weight else (),
        reals=reals,
        shapes=_weighted_values if weight else _alike,
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
        parameters=("weight?",),
        reals=("smoothing", "factor"),
        shapes=_weighted_classes,
        arguments=_general,
        stash=lambda call: (_positions(call)[1],),
        reads_in=(0, 1),
        reads_stash=(0,),
        whole=lambda call: call.ints["external"] < 0,
        loss=True,
    ),
    "mse": _value_loss(),
    # `factor`: what the loss counts for in the step's, which is a sum of losses.
    "squared_error": _value_loss("delta", "factor"),
    "l1": _value_loss("delta", "factor"),
    "smooth_l1": _value_loss("delta", "factor"),
    "huber": _value_loss("delta", "factor"),
    "binary_cross_entropy": _value_loss("delta", "factor", weight=True),
    "mean_loss": Rule(
        inputs=(1, 1),
        reals=("delta", "factor"),
        shapes=lambda _: (),
        arguments=_size,
        loss=True,
    ),
}
