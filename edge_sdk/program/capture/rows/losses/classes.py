"""Losses of classes, and rows of ones and zeros that name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.rows.losses.terms import (
    MEAN,
    both_of,
    mean_of_all,
    reduced,
    weight_of,
)
from edge_sdk.program.capture.rows.rearranged.copies import transposed
from edge_sdk.program.capture.rows.reductions import summed
from edge_sdk.program.capture.steps import combined, reshaped, unary

__all__ = ["ROWS"]

Row = Callable[[Builder, Node], None]
_IGNORED_BY_DEFAULT = -100


def _class_loss(builder: Builder, call: Node) -> None:
    nll = call.target.startswith("aten.nll_loss")
    reduction = call.get("reduction", MEAN)
    both, layout = both_of(builder, call)
    if layout.extra:  # positions first: the classes come before them here
        rank = len(builder.tensors[both[0]].shape)
        order = (1, 0, *range(2, rank))
        both = transposed(builder, call, both[0], order), both[1]
    if not builder.tensors[both[1]].whole:
        if layout.extra:
            raise builder.refused(call, "probabilities of several positions in a row")
        _soft_class_loss(builder, call, both, reduction)
        return
    weight = weight_of(builder, call, "weight")
    ignore = call["ignore_index"]
    smoothing = float(call.get("label_smoothing", 0.0))
    if reduction != MEAN and not smoothing:
        terms = _class_terms(builder, call, both, weight, nll=nll)
        reduced(builder, call, terms, reduction, layout)
        return
    if reduction != MEAN:
        raise builder.refused(call, "another reduction than the mean")

    def worth(a_sum: bool) -> int:  # noqa: FBT001 - of LossTerms
        if smoothing or a_sum:
            raise builder.refused(call, "a smoothed loss that something is made of")
        terms = _class_terms(builder, call, both, weight, nll=nll)
        found = mean_of_all(builder, call, terms)
        if weight is not None:
            own = _chosen(builder, call, both[1], weight.unsqueeze(1))
            share = unary(builder, call, "reciprocal", mean_of_all(builder, call, own))
            found = combined(builder, call, "multiply", found, share)
        return found

    builder.emit_loss(
        call,
        "class_loss",
        both,
        worth,
        parameters=(-1 if weight is None else builder.constants.hold(weight),),
        ints=(ignore, int(nll), builder.external(both[1])),
        reals=(smoothing,),
    )


def _chosen(builder: Builder, call: Node, labels: int, table: torch.Tensor) -> int:
    """The labels' rows of a table; a label that is no class is an error."""
    shape = (*builder.tensors[labels].shape, table.shape[1])
    number = builder.constants.hold(table)
    return builder.step(
        call, "embedding", (labels,), shape, parameters=(number,), ints=(-1,)
    )


def _class_terms(
    builder: Builder, call: Node, both: tuple[int, int],
    weight: torch.Tensor | None, *, nll: bool,
) -> int:  # fmt: skip
    """Each position's own term: a row of ones and zeros picks the label's class."""
    if call["ignore_index"] != _IGNORED_BY_DEFAULT:
        raise builder.refused(call, "terms of labels that are ignored")
    logits, labels = both
    shape = builder.tensors[logits].shape
    if not nll:
        logits = builder.step(call, "log_softmax", (logits,), shape, ints=(0,))
    logits = transposed(builder, call, logits, [*range(1, len(shape)), 0])
    table = torch.eye(shape[0]) if weight is None else torch.diag(weight)
    chosen = _chosen(builder, call, labels, table)
    picked = combined(builder, call, "multiply", logits, chosen)
    total = summed(builder, call, picked, [len(shape) - 1], -1.0)
    return reshaped(builder, call, total, shape[1:])


def _soft_class_loss(
    builder: Builder, call: Node, both: tuple[int, int], reduction: int
) -> None:
    """Of targets that are probabilities of each class."""
    shape = builder.tensors[both[0]].shape
    odd = call.get("weight") is not None or call.get("label_smoothing", 0.0)
    if odd or call.target.startswith("aten.nll_loss"):
        raise builder.refused(call, "probabilities as targets of this loss")
    logs = builder.step(call, "log_softmax", (both[0],), shape, ints=(0,))
    terms = combined(builder, call, "multiply", logs, both[1])
    total = summed(builder, call, terms, [0], -1.0)
    reduced(builder, call, reshaped(builder, call, total, shape[1:]), reduction)


def _one_hot(builder: Builder, call: Node) -> None:
    """Rows of a table of ones and zeros: a token that is no class is an error."""
    source, layout = builder.value(call, "self")
    classes = call.node.meta["val"].shape[-1]
    shape = (*builder.tensors[source].shape, classes)
    found = builder.step(
        *(call, "embedding", (source,), shape),
        parameters=(builder.constants.hold(torch.eye(classes)),),
        ints=(-1,),
    )
    builder.put(call, found, layout)


ROWS: Final[dict[str, Row]] = {
    "cross_entropy_loss": _class_loss,
    "nll_loss": _class_loss,
    "nll_loss_nd": _class_loss,
    "nll_loss2d": _class_loss,
    "one_hot": _one_hot,
}
