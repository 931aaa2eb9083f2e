"""Losses, which end a training graph; their terms, where something is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import PLAIN, Layout
from edge_sdk.program.capture.rows.copies import transposed
from edge_sdk.program.capture.rows.reductions import summed
from edge_sdk.program.capture.steps import (
    combined,
    constant,
    expanded,
    reshaped,
    unary,
)

__all__ = ["ROWS"]

Row = Callable[[Builder, Node], None]
_NONE, _MEAN, _SUM = 0, 1, 2
_IGNORED_BY_DEFAULT = -100
_LEAST_LOG = -100.0  # torch's own bound in the binary cross-entropy of probabilities


def _both(builder: Builder, call: Node) -> tuple[tuple[int, int], Layout]:
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


def _weight(builder: Builder, call: Node, name: str) -> torch.Tensor | None:
    node = call.get(name)
    if node is None:
        return None
    if node not in builder.constants:
        raise builder.refused(call, f"its {name} is computed, no constant")
    return builder.constants.tensor(node)


# ------------------------------------------------------------------------- of classes


def _class_loss(builder: Builder, call: Node) -> None:
    nll = call.target.startswith("aten.nll_loss")
    reduction = call.get("reduction", _MEAN)
    both, layout = _both(builder, call)
    if layout.extra:  # positions first: the classes come before them here
        rank = len(builder.tensors[both[0]].shape)
        order = (1, 0, *range(2, rank))
        both = transposed(builder, call, both[0], order), both[1]
    if not builder.tensors[both[1]].whole:
        if layout.extra:
            raise builder.refused(call, "probabilities of several positions in a row")
        _soft_class_loss(builder, call, both, reduction)
        return
    weight = _weight(builder, call, "weight")
    ignore = call["ignore_index"]
    smoothing = float(call.get("label_smoothing", 0.0))
    if reduction != _MEAN and not smoothing:
        terms = _class_terms(builder, call, both, weight, nll=nll)
        _reduced(builder, call, terms, reduction, layout)
        return
    if reduction != _MEAN:
        raise builder.refused(call, "another reduction than the mean")
    builder.emit_loss(
        call,
        "class_loss",
        both,
        parameters=(-1 if weight is None else builder.constants.hold(weight),),
        ints=(ignore, int(nll), builder.external(both[1])),
        reals=(smoothing,),
    )


def _class_terms(
    builder: Builder, call: Node, both: tuple[int, int],
    weight: torch.Tensor | None, *, nll: bool,
) -> int:  # fmt: skip
    """Each position's own term: a row of ones and zeros picks the label's class.

    The row comes from a table, so that a label which is no class is an error.
    """
    if call["ignore_index"] != _IGNORED_BY_DEFAULT:
        raise builder.refused(call, "terms of labels that are ignored")
    logits, labels = both
    shape = builder.tensors[logits].shape
    if not nll:
        logits = builder.step(call, "log_softmax", (logits,), shape, ints=(0,))
    logits = transposed(builder, call, logits, [*range(1, len(shape)), 0])
    table = torch.eye(shape[0]) if weight is None else torch.diag(weight)
    chosen = builder.step(
        *(call, "embedding", (labels,), builder.tensors[logits].shape),
        parameters=(builder.constants.hold(table),),
        ints=(-1,),
    )
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
    _reduced(builder, call, reshaped(builder, call, total, shape[1:]), reduction)


# -------------------------------------------------------------------------- of values


def _reduced(
    builder: Builder, call: Node, terms: int, reduction: int, layout: Layout = PLAIN
) -> None:
    """A tensor of terms, their mean, or their sum until it is divided by the batch."""
    if reduction == _NONE:
        builder.put(call, terms, layout)
        return
    builder.emit_loss(call, "mean_loss", (terms,), reals=(1.0,))
    if reduction == _SUM:
        (number,) = builder.scalars[call.node]
        builder.scalars[call.node] = {number: float(builder.tensors[terms].size)}
        builder.summed.add(number)


def _value_loss(name: str, delta: str = "") -> Row:
    def row(builder: Builder, call: Node) -> None:
        reduction = call.get("reduction", _MEAN)
        both, layout = _both(builder, call)
        if reduction == _MEAN:
            value = float(call.get(delta, 1.0)) if delta else 1.0
            kind = "l1" if name == "smooth_l1" and value == 0 else name
            builder.emit_loss(call, kind, both, reals=(value,))
            return
        apart = combined(builder, call, "subtract", *both)
        if name == "squared_error":
            terms = combined(builder, call, "multiply", apart, apart)
        elif name == "l1":
            terms = unary(builder, call, "abs", apart)
        else:
            raise builder.refused(call, "another reduction than the mean")
        _reduced(builder, call, terms, reduction, layout)

    return row


def _logistic(builder: Builder, call: Node) -> None:
    """Binary cross-entropy of logits."""
    both, layout = _both(builder, call)
    weight, reduction = _weight(builder, call, "weight"), call.get("reduction", _MEAN)
    positive = _weight(builder, call, "pos_weight")
    shape = builder.tensors[both[0]].shape
    if weight is None and reduction == _MEAN:
        own = -1
        if positive is not None:
            own = builder.constants.hold(positive.broadcast_to(shape).contiguous())
        builder.emit_loss(
            call, "binary_cross_entropy", both, parameters=(own,), reals=(1.0,)
        )
        return
    if positive is not None:
        raise builder.refused(call, "pos_weight beside weight or without a mean")
    # log(1 + e^x) - x y
    soft = unary(builder, call, "softplus", both[0], 1.0, 1e30)
    product = combined(builder, call, "multiply", *both)
    terms = combined(builder, call, "subtract", soft, product)
    terms = _weighted(builder, call, terms, weight)
    _reduced(builder, call, terms, reduction, layout)


def _weighted(
    builder: Builder, call: Node, terms: int, weight: torch.Tensor | None
) -> int:
    if weight is None:
        return terms
    own = constant(builder, call, weight)
    found = combined(builder, call, "multiply", terms, own)
    return expanded(builder, call, found, builder.tensors[terms].shape)


def _probabilities(builder: Builder, call: Node) -> None:
    """Binary cross-entropy of what a sigmoid gave."""
    (p, y), layout = _both(builder, call)

    def logarithm(source: int) -> int:
        found = unary(builder, call, "log", source)
        return unary(builder, call, "hardtanh", found, _LEAST_LOG, float("inf"))

    def opposite(source: int) -> int:
        return unary(builder, call, "affine", source, -1.0, 1.0)

    one = combined(builder, call, "multiply", y, logarithm(p))
    two = combined(builder, call, "multiply", opposite(y), logarithm(opposite(p)))
    terms = unary(builder, call, "affine", combined(builder, call, "add", one, two), -1)
    terms = _weighted(builder, call, terms, _weight(builder, call, "weight"))
    _reduced(builder, call, terms, call.get("reduction", _MEAN), layout)


def _divergence(builder: Builder, call: Node) -> None:
    """Kullback-Leibler: t (log t - x), and 0 where t is."""
    (x, y), layout = _both(builder, call)
    shape = builder.tensors[y].shape
    if call.get("log_target", False):
        apart = combined(builder, call, "subtract", y, x)
        own = unary(builder, call, "exp", y)
        terms = combined(builder, call, "multiply", own, apart)
    else:
        logs = unary(builder, call, "log", y)
        entropy = combined(builder, call, "multiply", y, logs)
        zeros = expanded(builder, call, constant(builder, call, torch.zeros(())), shape)
        there = unary(builder, call, "greater", y)
        entropy = builder.step(call, "choice", (there, entropy, zeros), shape)
        product = combined(builder, call, "multiply", y, x)
        terms = combined(builder, call, "subtract", entropy, product)
    _reduced(builder, call, terms, call.get("reduction", _MEAN), layout)


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
    "mse_loss": _value_loss("squared_error"),
    "l1_loss": _value_loss("l1"),
    "smooth_l1_loss": _value_loss("smooth_l1", "beta"),
    "huber_loss": _value_loss("huber", "delta"),
    "binary_cross_entropy_with_logits": _logistic,
    "binary_cross_entropy": _probabilities,
    "kl_div": _divergence,
    "one_hot": _one_hot,
}
