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
    "mse": Rule(
        inputs=(2, 2),
        shapes=_alike,
        arguments=lambda call: (math.prod(call.inputs[0]),),
        reads_in=(0, 1),
        loss=True,
    ),
}
