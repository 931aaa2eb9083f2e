"""Losses, which end a training graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_sdk.program.capture.context import Builder, Node

__all__ = ["ROWS"]

_MEAN = 1


def _cross_entropy(builder: Builder, call: Node) -> None:
    plain = call.get("weight") is None and not call.get("label_smoothing", 0.0)
    if not plain or call.get("reduction", _MEAN) != _MEAN:
        raise builder.refused(call, "weights, smoothing or another reduction")
    both = builder.tensor(call, "self"), builder.tensor(call, "target")
    if not builder.tensors[both[1]].whole:
        raise builder.refused(call, "targets that are no class indices")
    builder.emit_loss(call, "cross_entropy", both)


def _mse(builder: Builder, call: Node) -> None:
    if call.get("reduction", _MEAN) != _MEAN:
        raise builder.refused(call, "another reduction than the mean")
    both = builder.tensor(call, "self"), builder.tensor(call, "target")
    builder.emit_loss(call, "mse", both)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "cross_entropy_loss": _cross_entropy,
    "mse_loss": _mse,
}
