"""Losses of each value by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.rows.losses.terms import (
    MEAN,
    both_of,
    is_learned,
    mean_of_all,
    reduced,
    weight_of,
)
from edge_sdk.program.capture.steps import combined, constant, expanded, unary

__all__ = ["ROWS"]

Row = Callable[[Builder, Node], None]
_ALWAYS = 1e30  # a threshold that no value passes
_LEAST_LOG = -100.0  # torch's own bound in the binary cross-entropy of probabilities


def _value_loss(name: str, delta: str = "") -> Row:
    def row(builder: Builder, call: Node) -> None:
        reduction = call.get("reduction", MEAN)
        both, layout = both_of(builder, call)
        value = float(call.get(delta, 1.0)) if delta else 1.0
        kind = "l1" if name == "smooth_l1" and value == 0 else name
        if reduction != MEAN or is_learned(builder, both[1]):
            terms = _value_terms(builder, call, kind, both, value)
            reduced(builder, call, terms, reduction, layout)
            return

        def worth(a_sum: bool) -> int:  # noqa: FBT001 - of LossTerms
            terms = _value_terms(builder, call, kind, both, value)
            return mean_of_all(builder, call, terms)

        builder.emit_loss(call, kind, both, worth, reals=(value,))

    return row


def _value_terms(
    builder: Builder, call: Node, kind: str, both: tuple[int, int], delta: float
) -> int:
    """Each value's own term."""
    apart = combined(builder, call, "subtract", *both)
    if kind == "squared_error":
        return combined(builder, call, "multiply", apart, apart)
    size = unary(builder, call, "abs", apart)
    if kind == "l1":
        return size
    # Up to delta half a square, beyond it a line: d^2 / 2 + delta (size - d).
    near = unary(builder, call, "hardtanh", size, 0.0, delta)
    square = combined(builder, call, "multiply", near, near)
    far = combined(builder, call, "subtract", size, near)
    share = 1 / delta if kind == "smooth_l1" else 1.0
    square = unary(builder, call, "affine", square, 0.5 * share)
    far = unary(builder, call, "affine", far, delta * share)
    return combined(builder, call, "add", square, far)


def _logistic(builder: Builder, call: Node) -> None:
    """Binary cross-entropy of logits."""
    both, layout = both_of(builder, call)
    weight, reduction = weight_of(builder, call, "weight"), call.get("reduction", MEAN)
    positive = weight_of(builder, call, "pos_weight")
    learned = is_learned(builder, both[1])
    if learned or weight is not None or reduction != MEAN:
        terms = _logistic_terms(builder, call, both, positive)
        terms = _weighted(builder, call, terms, weight)
        reduced(builder, call, terms, reduction, layout)
        return

    def worth(a_sum: bool) -> int:  # noqa: FBT001 - of LossTerms
        terms = _logistic_terms(builder, call, both, positive)
        return mean_of_all(builder, call, terms)

    own, shape = -1, builder.tensors[both[0]].shape
    if positive is not None:
        own = builder.constants.hold(positive.broadcast_to(shape).contiguous())
    builder.emit_loss(
        call, "binary_cross_entropy", both, worth, parameters=(own,), reals=(1.0,)
    )


def _logistic_terms(
    builder: Builder, call: Node, both: tuple[int, int], positive: torch.Tensor | None
) -> int:
    """log(1 + e^x) - x y, or (1 - y) x + (1 + (p - 1) y) log(1 + e^-x)."""
    x, y = both
    product = combined(builder, call, "multiply", x, y)
    if positive is None:
        soft = unary(builder, call, "softplus", x, 1.0, _ALWAYS)
        return combined(builder, call, "subtract", soft, product)
    soft = unary(builder, call, "affine", x, -1.0)
    soft = unary(builder, call, "softplus", soft, 1.0, _ALWAYS)
    more = combined(builder, call, "multiply", y, constant(builder, call, positive - 1))
    more = unary(builder, call, "affine", more, 1.0, 1.0)
    soft = combined(builder, call, "multiply", more, soft)
    return combined(
        builder, call, "add", combined(builder, call, "subtract", x, product), soft
    )


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
    (p, y), layout = both_of(builder, call)

    def logarithm(source: int) -> int:
        found = unary(builder, call, "log", source)
        return unary(builder, call, "hardtanh", found, _LEAST_LOG, float("inf"))

    def opposite(source: int) -> int:
        return unary(builder, call, "affine", source, -1.0, 1.0)

    one = combined(builder, call, "multiply", y, logarithm(p))
    two = combined(builder, call, "multiply", opposite(y), logarithm(opposite(p)))
    terms = unary(builder, call, "affine", combined(builder, call, "add", one, two), -1)
    terms = _weighted(builder, call, terms, weight_of(builder, call, "weight"))
    reduced(builder, call, terms, call.get("reduction", MEAN), layout)


def _divergence(builder: Builder, call: Node) -> None:
    """Kullback-Leibler: t (log t - x), and 0 where t is."""
    (x, y), layout = both_of(builder, call)
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
    reduced(builder, call, terms, call.get("reduction", MEAN), layout)


ROWS: Final[dict[str, Row]] = {
    "mse_loss": _value_loss("squared_error"),
    "l1_loss": _value_loss("l1"),
    "smooth_l1_loss": _value_loss("smooth_l1", "beta"),
    "huber_loss": _value_loss("huber", "delta"),
    "binary_cross_entropy_with_logits": _logistic,
    "binary_cross_entropy": _probabilities,
    "kl_div": _divergence,
}
