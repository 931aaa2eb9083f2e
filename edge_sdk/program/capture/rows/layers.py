"""Convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from edge_sdk.program.capture.context import Builder, Node

__all__ = ["ROWS", "pair"]


def pair(value: Any, axes: int, first: int) -> tuple[int, int]:
    """(h, w) of an attribute; of one axis it is the width, and h is `first`."""
    own = [value] * axes if isinstance(value, int) else list(value)
    own = own * axes if len(own) == 1 else own
    return (first, own[0]) if axes == 1 else (own[0], own[1])


def _conv(builder: Builder, call: Node) -> None:
    axes = 1 if "conv1d" in call.target else 2
    stride = pair(call["stride"], axes, 1)
    dilation = pair(call["dilation"], axes, 1)
    padding = _padding(builder, call, axes, dilation)
    builder.emit(
        call,
        "conv",
        (builder.tensor(call, "input"),),
        parameters=(
            builder.parameter(call, "weight"),
            builder.parameter(call, "bias"),
        ),
        ints=(*stride, *padding, *dilation, call["groups"]),
    )


def _padding(
    builder: Builder, call: Node, axes: int, dilation: tuple[int, int]
) -> tuple[int, int]:
    given = call["padding"]
    if given == "valid":
        return 0, 0
    if given != "same":
        return pair(given, axes, 0)
    kernel: Sequence[int] = call["weight"].meta["val"].shape[2:]
    reach = [d * (k - 1) for d, k in zip(dilation[2 - axes :], kernel, strict=True)]
    if any(r % 2 for r in reach):
        raise builder.refused(call, 'an even kernel with padding "same"')
    return pair([r // 2 for r in reach], axes, 0)


def _linear(builder: Builder, call: Node) -> None:
    builder.emit(
        call,
        "linear",
        (builder.tensor(call, "input"),),
        parameters=(
            builder.parameter(call, "weight"),
            builder.parameter(call, "bias"),
        ),
    )


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "conv1d": _conv,
    "conv2d": _conv,
    "linear": _linear,
}
