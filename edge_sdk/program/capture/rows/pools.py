"""Pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.rows.layers import pair

__all__ = ["ROWS"]


def _max_pool(builder: Builder, call: Node) -> None:
    axes = 1 if "pool1d" in call.target else 2
    kernel = pair(call["kernel_size"], axes, 1)
    stride = pair(call.get("stride") or call["kernel_size"], axes, 1)
    padding = pair(call.get("padding", 0), axes, 0)
    if call.get("ceil_mode", False) or pair(call.get("dilation", 1), axes, 1) != (1, 1):
        raise builder.refused(call, "ceil_mode or dilation in a max pool")
    builder.emit(
        call,
        "max_pool",
        (builder.tensor(call, "self"),),
        ints=(*kernel, *stride, *padding, 0),
    )


def _adaptive_average(builder: Builder, call: Node) -> None:
    size = call["output_size"]
    if any(n != 1 for n in size):
        raise builder.refused(call, f"an adaptive pool to {size}")
    builder.emit(call, "mean", (builder.tensor(call, "self"),), ints=(len(size), 1))


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "max_pool1d": _max_pool,
    "max_pool2d": _max_pool,
    "adaptive_avg_pool1d": _adaptive_average,
    "adaptive_avg_pool2d": _adaptive_average,
}
