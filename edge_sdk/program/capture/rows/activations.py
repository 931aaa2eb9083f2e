"""Activations, sums and products with numbers, parameters and tensors, and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import fx

from edge_sdk.program.capture.context import Builder, Node

__all__ = ["ROWS"]

Row = Callable[[Builder, Node], None]


def _emit(
    builder: Builder, call: Node, name: str, a: float = 0.0, b: float = 0.0
) -> None:
    builder.emit(call, name, (builder.tensor(call, "self"),), reals=(a, b))


def _plain(name: str) -> Row:
    return lambda builder, call: _emit(builder, call, name)


def _gelu(builder: Builder, call: Node) -> None:
    exact = call.get("approximate", "none") == "none"
    _emit(builder, call, "gelu" if exact else "gelu_tanh")


def _hardtanh(builder: Builder, call: Node) -> None:
    low, high = call.get("min_val", -1.0), call.get("max_val", 1.0)
    _emit(builder, call, "hardtanh", low, high)


def _relu6(builder: Builder, call: Node) -> None:
    _emit(builder, call, "hardtanh", 0.0, 6.0)


def _clamp(builder: Builder, call: Node) -> None:
    low, high = call.get("min"), call.get("max")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise builder.refused(call, "a clamp without two numbers")
    _emit(builder, call, "hardtanh", low, high)


def _leaky_relu(builder: Builder, call: Node) -> None:
    slope = call.get("negative_slope", 0.01)
    if slope < 0:
        raise builder.refused(call, "a slope below zero")
    _emit(builder, call, "leaky_relu", slope)


def _negative(builder: Builder, call: Node) -> None:
    _emit(builder, call, "affine", -1.0)


def _reversed(builder: Builder, call: Node) -> None:
    other = call["other"]
    if isinstance(other, fx.Node):
        raise builder.refused(call, "a reversed difference of tensors")
    _emit(builder, call, "affine", -float(call.get("alpha", 1)), float(other))


def _power(builder: Builder, call: Node) -> None:
    if call["exponent"] != 2:
        raise builder.refused(call, "another power than the square")
    own = builder.tensor(call, "self")
    builder.emit(call, "multiply", (own, own))


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
        if not isinstance(two, fx.Node):
            if name == "divide" and not two:
                raise builder.refused(call, "a division by zero")
            _emit(builder, call, "affine", *_with_number(name, float(two), alpha))
        elif alpha != 1 or name == "divide":
            raise builder.refused(call, "a quotient of tensors, or a sum with a factor")
        elif one in builder.place and two in builder.place:
            _two_tensors(builder, call, name, (one, two))
        else:
            _with_parameter(builder, call, name, one, two)

    return row


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape)


def _two_tensors(
    builder: Builder, call: Node, name: str, both: tuple[fx.Node, fx.Node]
) -> None:
    places = builder.place[both[0]], builder.place[both[1]]
    if any(_rank(node) != len(call.shape) for node in both):
        raise builder.refused(call, "tensors with another number of axes")
    same = builder.tensors[places[0]].shape == builder.tensors[places[1]].shape
    if name == "add":
        name = "add" if same else "add_broadcast"
    builder.emit(call, name, places)


def _with_parameter(
    builder: Builder, call: Node, name: str, one: fx.Node, two: fx.Node
) -> None:
    if one in builder.parameters and two in builder.place and name != "subtract":
        one, two = two, one
    if one not in builder.place or two not in builder.parameters:
        raise builder.refused(
            call, "an operand is neither of the batch nor a parameter"
        )
    shape = tuple(two.meta["val"].shape)
    if _rank(one) != len(call.shape) or (
        len(shape) == len(call.shape) and shape[0] != 1
    ):
        raise builder.refused(call, f"a parameter {shape} that differs by sample")
    builder.emit(
        call,
        f"{name}_parameter",
        (builder.place[one],),
        parameters=(builder.parameters[two],),
    )


def _dropout(builder: Builder, call: Node) -> None:
    arguments: dict[str, Any] = call.arguments
    source = next(iter(arguments))
    p = float(call["p"])
    if not call.get("train", False) or p == 0:
        builder.alias(call, source)
        return
    builder.emit(
        call,
        "dropout",
        (builder.tensor(call, source),),
        ints=(len(builder.operations),),
        reals=(p,),
    )


ROWS: Final[dict[str, Row]] = {
    **{name: _plain(name) for name in ("silu", "hardswish", "hardsigmoid")},
    **{name: _plain(name) for name in ("sigmoid", "tanh")},
    "gelu": _gelu,
    "hardtanh": _hardtanh,
    "relu6": _relu6,
    "clamp": _clamp,
    "leaky_relu": _leaky_relu,
    "neg": _negative,
    "rsub": _reversed,
    "pow": _power,
    "add": _binary("add"),
    "sub": _binary("subtract"),
    "mul": _binary("multiply"),
    "div": _binary("divide"),
    "dropout": _dropout,
}
