"""A batch in another order, as mixing of examples needs it: flipped, rolled, drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.rules.batch import FLIPPED, ROLLED, SHUFFLED

__all__ = ["ROWS", "flipped_batch", "ordered_by", "rolled_batch"]

# Kind of order, places, and the number that keys what is drawn.
_Order = tuple[int, int, int]


def _reordered(builder: Builder, call: Node, order: _Order) -> None:
    """The whole of each example goes to another place of the batch."""
    if not builder.trains:
        raise builder.refused(
            call,
            "predictions depend on the order of the batch",
            remedy="Mix examples in training only (if self.training); until then the "
            "torch engine trains this model.",
        )
    tensor, layout = builder.value(call, "self")
    if layout.extra:
        raise builder.refused(call, "the batch lies within an axis")
    shape, whole = builder.tensors[tensor].shape, builder.tensors[tensor].whole
    found = builder.step(
        call, "batch_order", (tensor,), shape, ints=order, reals=(1.0,), whole=whole
    )
    builder.put(call, found, layout)


def flipped_batch(builder: Builder, call: Node) -> bool:
    """Flips the batch, if that is the one axis which a call flips."""
    layout = builder.value(call, "self")[1]
    dims = [d % len(call.shape) for d in call["dims"]]
    if dims != [layout.axis]:
        return False
    _reordered(builder, call, (FLIPPED, 0, 0))
    return True


def rolled_batch(builder: Builder, call: Node) -> bool:
    """Rolls the batch, if that is the one axis which a call rolls."""
    layout = builder.value(call, "self")[1]
    dims = [d % len(call.shape) for d in call["dims"] or ()]
    if dims != [layout.axis] or len(call["shifts"]) != 1:
        return False
    _reordered(builder, call, (ROLLED, int(call["shifts"][0]), 0))
    return True


def _drawn(builder: Builder, call: Node) -> None:
    """Randperm: an order of the batch, which what it indexes takes."""
    if call["n"] != builder.batch:
        raise builder.refused(
            call,
            f"draws an order of {call['n']} places",
            remedy="Programs draw orders of the batch (torch.randperm(len(x))) and of "
            "up to 16 values (torch.rand(n).argsort()); until then the torch engine "
            "trains this model.",
        )
    builder.orders[call.node] = (SHUFFLED, 0, len(builder.operations) + 1)


def ordered_by(builder: Builder, call: Node, indices: list[Any]) -> bool:
    """Puts a batch in a drawn order, if that is what a call indexes it by."""
    first = indices[0] if indices else None
    if not isinstance(first, fx.Node) or first not in builder.orders:
        return False
    layout = builder.value(call, "self")[1]
    if len(indices) > 1 or layout.axis != 0:
        raise builder.refused(call, "a drawn order beside other places")
    _reordered(builder, call, builder.orders[first])
    return True


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {"randperm": _drawn}
