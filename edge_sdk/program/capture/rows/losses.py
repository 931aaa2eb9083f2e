"""Losses, which end a training graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_sdk.program.capture.context import Builder, Node

__all__ = ["ROWS"]

_MEAN = 1


_IGNORED_BY_DEFAULT = -100


def _class_loss(builder: Builder, call: Node) -> None:
    nll = call.target.startswith("aten.nll_loss")
    if call.get("weight") is not None or call.get("reduction", _MEAN) != _MEAN:
        raise builder.refused(call, "class weights, or another reduction than the mean")
    both = builder.tensor(call, "self"), builder.tensor(call, "target")
    if not builder.tensors[both[1]].whole:
        raise builder.refused(call, "targets that are no class indices")
    ignore = call["ignore_index"]
    smoothing = float(call.get("label_smoothing", 0.0))
    external = builder.external(both[1])
    if not nll and not smoothing and ignore == _IGNORED_BY_DEFAULT:
        builder.emit_loss(call, "cross_entropy", both)
        return
    builder.emit_loss(
        call,
        "class_loss",
        both,
        ints=(ignore, int(nll), external),
        reals=(smoothing,),
    )


def _value_loss(name: str, delta: str = "") -> Callable[[Builder, Node], None]:
    def row(builder: Builder, call: Node) -> None:
        if call.get("reduction", _MEAN) != _MEAN:
            raise builder.refused(call, "another reduction than the mean")
        if call.get("weight") is not None or call.get("pos_weight") is not None:
            raise builder.refused(call, "a loss with weights")
        both = builder.tensor(call, "self"), builder.tensor(call, "target")
        kind, value = name, float(call.get(delta, 1.0)) if delta else 1.0
        if name == "smooth_l1" and value == 0:
            kind = "l1"
        reals = () if kind == "mse" else (value,)
        builder.emit_loss(call, kind, both, reals=reals)

    return row


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "cross_entropy_loss": _class_loss,
    "nll_loss": _class_loss,
    "nll_loss_nd": _class_loss,
    "nll_loss2d": _class_loss,
    "mse_loss": _value_loss("mse"),
    "l1_loss": _value_loss("l1"),
    "smooth_l1_loss": _value_loss("smooth_l1", "beta"),
    "huber_loss": _value_loss("huber", "delta"),
    "binary_cross_entropy_with_logits": _value_loss("binary_cross_entropy"),
}
