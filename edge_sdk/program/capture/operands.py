"""Operands of calls that broadcast: batched, of a parameter, constant, or a number."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.rows.rearranged.copies import strided
from edge_sdk.program.capture.steps import constant, reshaped

__all__ = ["layout_of", "number_of", "operand", "rank_of"]


def layout_of(builder: Builder, call: Node, nodes: list[fx.Node]) -> Layout:
    """Layout of what is computed from these, aligned at their last axes."""
    found: set[Layout] = set()
    for node in nodes:
        if node in builder.constants or (
            node in builder.parameters and node not in builder.place
        ):
            continue
        own = builder.value(call, node)[1]
        if own.axis is not None:
            missing = len(call.shape) - rank_of(node)
            found.add(Layout(own.axis + missing, own.outer, own.inner))
    if len(found) > 1:
        raise builder.refused(call, "the batch is at another axis of each")
    return found.pop() if found else ALONE


def rank_of(node: fx.Node) -> int:
    """Number of axes that it has in torch."""
    return len(node.meta["val"].shape)


def operand(builder: Builder, call: Node, node: fx.Node, layout: Layout) -> int:
    """A tensor that broadcasts against a sample of the call's result."""
    rank = len(call.shape)
    if node in builder.constants:
        return constant(builder, call, _aligned(builder, call, node, layout))
    tensor, own = builder.value(call, node)
    if own.axis is not None or layout.axis is None:
        return tensor
    shape = builder.tensors[tensor].shape
    shape = (*[1] * (rank - len(shape)), *shape)
    at = layout.axis
    if shape[at] == builder.batch and not layout.extra:
        # Made of parameters and of constants as long as the batch: the same for every
        # sample, or the model would fit no other batch than that of the example.
        whole = reshaped(builder, call, tensor, shape)
        tensor = strided(builder, call, whole, at, 0, count=1)
        shape = builder.tensors[tensor].shape
    if shape[at] != 1:
        raise builder.refused(call, f"a value {shape} that differs by sample")
    own_shape = (*shape[:at], *(1 for _ in layout.extra), *shape[at + 1 :])
    return reshaped(builder, call, tensor, own_shape)


def _aligned(
    builder: Builder, call: Node, node: fx.Node, layout: Layout
) -> torch.Tensor:
    """A constant without the batch's axis; it must be the same for every sample."""
    value = builder.constants.tensor(node)
    at = layout.axis
    if at is None:
        return value
    value = value.reshape(*[1] * (len(call.shape) - value.dim()), *value.shape)
    first = value.select(at, 0).unsqueeze(at)
    if not bool((value == first).all()):
        raise builder.refused(call, "a constant that differs by sample")
    return first if layout.extra else first.squeeze(at)


def number_of(builder: Builder, operand: Any) -> float | None:
    """An operand that is one number."""
    if not isinstance(operand, fx.Node):
        return float(operand)
    if operand in builder.constants:
        value = builder.constants.values[operand]
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            return float(value)
    return None
