"""Batch norm and group norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_sdk.program.capture.context import Builder, Node

__all__ = ["ROWS"]


def _batch_norm(builder: Builder, call: Node) -> None:
    places = ("weight", "bias", "running_mean", "running_var")
    builder.emit(
        call,
        "norm",
        (builder.tensor(call, "input"),),
        parameters=tuple(builder.parameter(call, name) for name in places),
        ints=(0, 0, int(call["training"])),
        reals=(call["momentum"], call["eps"]),
    )


def _group_norm(builder: Builder, call: Node) -> None:
    builder.emit(
        call,
        "norm",
        (builder.tensor(call, "input"),),
        parameters=(
            *(builder.parameter(call, "weight"), builder.parameter(call, "bias")),
            *(-1, -1),
        ),
        ints=(call["num_groups"], 0, 0),
        reals=(0.0, call["eps"]),
    )


def _instance_norm(builder: Builder, call: Node) -> None:
    """A group norm of one channel in each group."""
    if not call["use_input_stats"]:
        raise builder.refused(call, "running statistics of an instance norm")
    tensor = builder.tensor(call, "input")
    builder.emit(
        call,
        "norm",
        (tensor,),
        parameters=(
            *(builder.parameter(call, "weight"), builder.parameter(call, "bias")),
            *(-1, -1),
        ),
        ints=(builder.tensors[tensor].shape[0], 0, 0),
        reals=(0.0, call["eps"]),
    )


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
