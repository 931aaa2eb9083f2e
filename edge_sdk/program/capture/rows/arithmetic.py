"""Sums, products and quotients, with broadcasting; sums of losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, PLAIN
from edge_sdk.program.capture.operands import (
    layout_of,
    number_of,
    operand,
    rank_of,
)
from edge_sdk.program.capture.steps import (
    combined,
    constant,
    expanded,
    lone_loss,
    over_batch,
    unary,
)

__all__ = ["ROWS"]

Row = Callable[[Builder, Node], None]


def _with_number(name: str, other: float, alpha: float) -> tuple[float, float]:
    """The factor and the summand that stand for an operation with a number."""
    match name:
        case "add":
            return 1.0, alpha * other
        case "subtract":
            return 1.0, -alpha * other
        case "multiply":
            return other, 0.0
        case _:
            return 1 / other, 0.0


def _binary(name: str) -> Row:
    def row(builder: Builder, call: Node) -> None:
        one, two = call["self"], call["other"]
        alpha = float(call.get("alpha", 1))
        if call.get("rounding_mode") is not None:
            raise builder.refused(call, "a quotient that is rounded")
        if _of_losses(builder, call, name, alpha):
            return
        number = number_of(builder, two)
        if number is not None and number_of(builder, one) is None:
            if name == "divide" and not number:
                raise builder.refused(call, "a division by zero")
            tensor, layout = builder.value(call, one)
            if len(call.shape) != rank_of(one):
                raise builder.refused(call, "a number with further axes")
            if name == "divide":
                tensor, number = _mean_of_sum(builder, call, tensor, number)
            a, b = _with_number(name, number, alpha)
            builder.put(call, unary(builder, call, "affine", tensor, a, b), layout)
            return
        _two(builder, call, name, (one, two), alpha)

    return row


def _two(
    builder: Builder, call: Node, name: str, both: tuple[Any, Any], alpha: float
) -> None:
    one, two = both
    number = number_of(builder, one)
    if number is not None:
        one, both = None, (two, two)
    layout = layout_of(builder, call, list(both))
    if one is None:
        left = constant(builder, call, torch.tensor(number))
    elif name in {"add", "multiply", "subtract"} and alpha == 1 and layout == PLAIN:
        if _with_parameter(builder, call, name, one, two):
            return
        left = operand(builder, call, one, layout)
    else:
        left = operand(builder, call, one, layout)
    right = operand(builder, call, two, layout)
    if name == "divide":
        name, right = "multiply", unary(builder, call, "reciprocal", right)
    if alpha != 1:
        right = unary(builder, call, "affine", right, alpha)
    shape = builder.sample(call, layout)
    found = combined(builder, call, name, left, right)
    builder.put(call, expanded(builder, call, found, shape), layout)


def _with_parameter(
    builder: Builder, call: Node, name: str, one: fx.Node, two: fx.Node
) -> bool:
    """Puts one operation of a tensor and a parameter, if it can be told so."""
    if one not in builder.place and name != "subtract":
        one, two = two, one
    if one not in builder.place or two in builder.place:
        return False
    shape = tuple(two.meta["val"].shape)
    of_batch = builder.layouts.get(one, PLAIN) == PLAIN
    if not of_batch or len(call.shape) != rank_of(one) or len(shape) > len(call.shape):
        return False
    if len(shape) == len(call.shape) and shape[0] != 1:
        return False
    parameters = (
        (builder.constants.number(two),)
        if two in builder.constants
        else (builder.parameters[two],)
        if two in builder.parameters
        else ()
    )
    if parameters:
        builder.emit(
            call, f"{name}_parameter", (builder.place[one],), parameters=parameters
        )
    return bool(parameters)


def _mean_of_sum(
    builder: Builder, call: Node, tensor: int, number: float
) -> tuple[int, float]:
    """A sum over the batch that is divided by the batch: a mean over any batch."""
    made = next((o for o in builder.operations if tensor in o.outputs), None)
    a_sum = made is not None and made.name == "batch_sum" and made.ints == (0,)
    if made is None or not a_sum or number % builder.batch:
        return tensor, number
    mean = over_batch(builder, call, made.inputs[0], mean=True)
    return mean, number / builder.batch


def _of_losses(builder: Builder, call: Node, name: str, alpha: float) -> bool:
    """Makes a sum of losses and numbers, or a loss times a number, if it is one."""
    one, two = call["self"], call["other"]
    scalars = builder.losses.scalars
    if one not in scalars and two not in scalars:
        return False
    if name in {"add", "subtract"}:
        own, other = (_terms(builder, call, n) for n in (one, two))
        if own is None or other is None:
            return False
        sign = alpha if name == "add" else -alpha
        found = dict(own)
        for loss, factor in other.items():
            found[loss] = found.get(loss, 0.0) + sign * factor
        scalars[call.node] = found
        return True
    if one not in scalars and name == "multiply":
        one, two = two, one
    number = None if one not in scalars or two in scalars else number_of(builder, two)
    if not number:
        return False
    own = scalars[one]
    summed = builder.losses.summed
    if name == "divide" and summed & set(own) and number % builder.batch == 0:
        summed.difference_update(own)  # a sum over the batch is a mean now
        number /= builder.batch
    factor = number if name == "multiply" else 1 / number
    scalars[call.node] = {loss: f * factor for loss, f in own.items()}
    return True


def _terms(builder: Builder, call: Node, node: Any) -> dict[int, float] | None:
    """The losses that an operand is a sum of; None for another operand.

    A number that is added is the mean of a constant, and so is what is the same for
    every sample.
    """
    scalars = builder.losses.scalars
    if node in scalars:
        return scalars[node]
    number = number_of(builder, node)
    if number is None and isinstance(node, fx.Node):
        tensor, layout = builder.value(call, node)
        if layout == ALONE and builder.tensors[tensor].size == 1:
            lone_loss(builder, Node(node, {}, ()), node)
            return scalars[node]
    if number is None:
        return None
    if not number:
        return {}
    builder.place[call.node] = constant(builder, call, torch.ones(()))
    lone_loss(builder, call, call.node)
    del builder.place[call.node]
    return dict.fromkeys(scalars[call.node], number)


def _negative(builder: Builder, call: Node) -> None:
    own = builder.losses.scalars.get(call["self"])
    if own is not None:
        builder.losses.scalars[call.node] = {loss: -f for loss, f in own.items()}
        return
    tensor, layout = builder.value(call, "self")
    builder.put(call, unary(builder, call, "affine", tensor, -1.0), layout)


def _reversed(builder: Builder, call: Node) -> None:
    if call["self"] in builder.losses.scalars:
        both = {"self": call["other"], "other": call["self"]}
        alpha = float(call.get("alpha", 1))
        if _of_losses(builder, Node(call.node, both, call.shape), "subtract", alpha):
            return
    tensor, layout = builder.value(call, "self")
    other, alpha = number_of(builder, call["other"]), float(call.get("alpha", 1))
    if other is None:
        raise builder.refused(call, "a reversed difference of tensors")
    builder.put(call, unary(builder, call, "affine", tensor, -alpha, other), layout)


ROWS: Final[dict[str, Row]] = {
    "add": _binary("add"),
    "sub": _binary("subtract"),
    "mul": _binary("multiply"),
    "div": _binary("divide"),
    "rsub": _reversed,
    "neg": _negative,
}
