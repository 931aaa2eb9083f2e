"""Operands of losses, and how their terms become one number."""

from __future__ import annotations

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import PLAIN, Layout
from edge_sdk.program.capture.rows.reductions import mean_loss, summed
from edge_sdk.program.capture.steps import over_batch, reshaped
from edge_sdk.program.operations import TABLE

__all__ = [
    "MEAN",
    "NONE",
    "SUM",
    "both_of",
    "is_learned",
    "mean_of_all",
    "reduced",
    "weight_of",
]

NONE, MEAN, SUM = 0, 1, 2  # torch's numbers of a reduction


def both_of(builder: Builder, call: Node) -> tuple[tuple[int, int], Layout]:
    """Predictions and targets, both with the batch in front, alone or with positions.

    A sequence's may be one after the other: (batch * length, classes) and (batch *
    length).
    """
    layout = builder.value(call, "self")[1]
    if layout.axis != 0 or layout.outer != 1 or not layout.extra:
        both = builder.tensor(call, "self"), builder.tensor(call, "target")
        return both, PLAIN
    if builder.value(call, "target")[1] != layout:
        raise builder.refused(call, "the batch is at another axis of each")
    return (builder.value(call, "self")[0], builder.value(call, "target")[0]), layout


def is_learned(builder: Builder, tensor: int) -> bool:
    """Tell whether a target is made of what trains: it has a gradient, too."""
    made = {t: o for o in builder.operations for t in o.outputs}
    own = [*builder.parameters.values()]
    left, seen = [tensor], set[int]()
    while left:
        operation = made.get(left.pop())
        if operation is None or TABLE[operation.name].flat:
            continue
        if any(p in own for p in operation.parameters):
            return True
        left += [t for t in operation.inputs if t not in seen]
        seen.update(operation.inputs)
    return False


def weight_of(builder: Builder, call: Node, name: str) -> torch.Tensor | None:
    """Weights that the loss is given, None without them; they must be known."""
    node = call.get(name)
    if node is None:
        return None
    if node not in builder.constants:
        raise builder.refused(call, f"its {name} is computed, no constant")
    return builder.constants.tensor(node)


def reduced(
    builder: Builder, call: Node, terms: int, reduction: int, layout: Layout = PLAIN
) -> None:
    """A tensor of terms, their mean, or their sum until it is divided by the batch."""
    if reduction == NONE:
        builder.put(call, terms, layout)
        return
    mean_loss(builder, call, terms, whole=reduction == SUM)


def mean_of_all(builder: Builder, call: Node, source: int) -> int:
    """The mean over all values of a batch, the same for every sample."""
    shape = builder.tensors[source].shape
    share = 1 / builder.tensors[source].size
    own = summed(builder, call, source, [*range(len(shape))], share)
    return reshaped(builder, call, over_batch(builder, call, own, mean=True), ())
