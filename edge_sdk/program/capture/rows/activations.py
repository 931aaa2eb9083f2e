"""Activations and other functions of each value by itself, and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE
from edge_sdk.program.capture.operands import layout_of, operand
from edge_sdk.program.capture.rows.comparisons import larger
from edge_sdk.program.capture.steps import (
    combined,
    constant,
    expanded,
    reshaped,
    unary,
)

__all__ = ["ROWS"]

Row = Callable[[Builder, Node], None]
# One step of a chain: the operation's name and its two constants.
_Step = tuple[str, float, float]
_NEGATIVE: Final = ("affine", -1.0, 0.0)
_ALWAYS = 1e30  # a threshold that no value passes
_LITTLE = 1e-30  # in place of zero, which has no logarithm


def _chain(*steps: _Step | Callable[[Node], _Step]) -> Row:
    """A row of operations one after the other; their constants may be the call's."""

    def row(builder: Builder, call: Node) -> None:
        tensor, layout = builder.value(call, "self")
        for step in steps:
            name, a, b = step(call) if callable(step) else step
            tensor = unary(builder, call, name, tensor, a, b)
        builder.put(call, tensor, layout)

    return row


def _plain(name: str) -> Row:
    return _chain((name, 0.0, 0.0))


def _relu(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "self")
    shape = builder.tensors[tensor].shape
    builder.put(call, builder.step(call, "relu", (tensor,), shape), layout)


def _gelu(call: Node) -> _Step:
    exact = call.get("approximate", "none") == "none"
    return "gelu" if exact else "gelu_tanh", 0.0, 0.0


def _elu(call: Node) -> _Step:
    return "elu", float(call.get("alpha", 1.0)), float(call.get("scale", 1.0))


def _softplus(call: Node) -> _Step:
    return "softplus", float(call.get("beta", 1)), float(call.get("threshold", 20))


def _celu(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "self")
    alpha = float(call.get("alpha", 1.0))
    tensor = unary(builder, call, "affine", tensor, 1 / alpha)
    tensor = unary(builder, call, "elu", tensor, 1.0, 1.0)
    builder.put(call, unary(builder, call, "affine", tensor, alpha), layout)


def _clamp(builder: Builder, call: Node) -> None:
    low, high = call.get("min", -math.inf), call.get("max", math.inf)
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        if call.get("min") is not None and call.get("max") is not None:
            raise builder.refused(call, "a clamp by tensors on both sides")
        maximum = call.get("min") is not None
        other = call["min"] if maximum else call["max"]
        own = Node(call.node, {"self": call["self"], "other": other}, call.shape)
        larger(maximum=maximum)(builder, own)
        return
    _chain(("hardtanh", low, high))(builder, call)


def _leaky_relu(builder: Builder, call: Node) -> None:
    slope = call.get("negative_slope", 0.01)
    if slope < 0:
        raise builder.refused(call, "a slope below zero")
    _chain(("leaky_relu", slope, 0.0))(builder, call)


def _power(builder: Builder, call: Node) -> None:
    exponent = call["exponent"]
    if not isinstance(exponent, int | float) or not isinstance(
        call["self"], type(call.node)
    ):
        _computed_power(builder, call)
        return
    tensor, layout = builder.value(call, "self")
    if exponent in {2, 3}:
        found = combined(builder, call, "multiply", tensor, tensor)
        if exponent == 3:
            found = combined(builder, call, "multiply", found, tensor)
    elif exponent in {0.5, -0.5}:
        found = unary(builder, call, "sqrt", tensor)
        found = unary(builder, call, "reciprocal", found) if exponent < 0 else found
    elif exponent == -1:
        found = unary(builder, call, "reciprocal", tensor)
    else:
        found = unary(builder, call, "power", tensor, float(exponent))
    builder.put(call, found, layout)


def _computed_power(builder: Builder, call: Node) -> None:
    """The exponential of exponent times logarithm; of a base below zero no number."""
    base, exponent = call["self"], call["exponent"]
    nodes = [n for n in (base, exponent) if isinstance(n, type(call.node))]
    layout = layout_of(builder, call, nodes)
    power = operand(builder, call, exponent, layout)
    if isinstance(base, int | float):
        if base <= 0:
            raise builder.refused(call, "a power of a number that is not above zero")
        logs = constant(builder, call, torch.tensor(math.log(base)))
    else:
        own = operand(builder, call, base, layout)
        zero = unary(builder, call, "equal", own)
        little = unary(builder, call, "affine", zero, _LITTLE)
        logs = unary(builder, call, "log", combined(builder, call, "add", own, little))
    found = combined(builder, call, "multiply", logs, power)
    found = unary(builder, call, "exp", found)
    shape = builder.sample(call, layout)
    builder.put(call, expanded(builder, call, found, shape), layout)


def _square(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "self")
    builder.put(call, combined(builder, call, "multiply", tensor, tensor), layout)


def _shrunk(*, hard: bool) -> Row:
    def row(builder: Builder, call: Node) -> None:
        tensor, layout = builder.value(call, "self")
        bound = float(call.get("lambd", 0.5))
        if hard:
            size = unary(builder, call, "abs", tensor)
            found = combined(builder, call, "multiply", tensor,
                             unary(builder, call, "greater", size, bound))  # fmt: skip
        else:
            inside = unary(builder, call, "hardtanh", tensor, -bound, bound)
            found = combined(builder, call, "subtract", tensor, inside)
        builder.put(call, found, layout)

    return row


def _bent(builder: Builder, call: Node, tensor: int, bound: float, below: int) -> int:
    """The tensor where it is above a bound, another one elsewhere."""
    shape = builder.tensors[tensor].shape
    above = unary(builder, call, "greater", tensor, bound)
    below = expanded(builder, call, below, shape)
    return builder.step(call, "choice", (above, tensor, below), shape)


def _threshold(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "self")
    below = constant(builder, call, torch.tensor(float(call["value"])))
    bound = float(call["threshold"])
    builder.put(call, _bent(builder, call, tensor, bound, below), layout)


def _prelu(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "self")
    shape = builder.tensors[tensor].shape
    slope = builder.value(call, "weight")[0]
    count = builder.tensors[slope].shape[0]
    behind = len(shape) - 1 - builder.axis(call, "self", 1) if count > 1 else 0
    slope = reshaped(builder, call, slope, (count, *[1] * behind))
    below = combined(builder, call, "multiply", tensor, slope)
    builder.put(call, _bent(builder, call, tensor, 0.0, below), layout)


def _rounded(builder: Builder, call: Node) -> None:
    if call.get("decimals"):
        raise builder.refused(call, "decimals that are rounded")
    _plain("round")(builder, call)


def _sign(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "self")
    above = unary(builder, call, "greater", tensor)
    below = unary(builder, call, "affine", tensor, -1.0)
    below = unary(builder, call, "greater", below)
    builder.put(call, combined(builder, call, "subtract", above, below), layout)


def _dropout(builder: Builder, call: Node) -> None:
    arguments: dict[str, Any] = call.arguments
    source, p = next(iter(arguments)), float(call["p"])
    tensor, layout = builder.value(call, source)
    if call.get("train", False) and p:
        tensor = _dropped(builder, call, tensor, p, shared=layout == ALONE)
    builder.put(call, tensor, layout)


def _dropped(
    builder: Builder, call: Node, source: int, p: float, *, shared: bool = False
) -> int:
    """The tensor without some of its values; one of all samples loses the same."""
    shape, number = builder.tensors[source].shape, len(builder.operations)
    name = "shared_dropout" if shared else "dropout"
    return builder.step(call, name, (source,), shape, ints=(number,), reals=(p,))


def _feature_dropout(builder: Builder, call: Node) -> None:
    """Whole channels at once: dropout of a one for each, times the tensor."""
    source, p = next(iter(call.arguments)), float(call["p"])
    tensor = builder.tensor(call, source)
    if call.get("train", False) and p:
        shape = builder.tensors[tensor].shape
        ones = constant(builder, call, torch.ones(shape[0], *[1] * (len(shape) - 1)))
        kept = _dropped(builder, call, ones, p)
        tensor = combined(builder, call, "multiply", tensor, kept)
    builder.put(call, tensor)


ROWS: Final[dict[str, Row]] = {
    **{name: _plain(name) for name in ("silu", "hardswish", "hardsigmoid", "sigmoid")},
    **{name: _plain(name) for name in ("tanh", "mish", "exp", "log", "sqrt", "abs")},
    **{name: _plain(name) for name in ("sin", "cos", "erf", "floor", "trunc")},
    "ceil": _chain(_NEGATIVE, ("floor", 0.0, 0.0), _NEGATIVE),
    "round": _rounded,
    "sign": _sign,
    **dict.fromkeys(("atan", "arctan"), _plain("atan")),
    "detach": _plain("stop"),
    "erfc": _chain(("erf", 0.0, 0.0), ("affine", -1.0, 1.0)),
    "relu": _relu,
    "reciprocal": _plain("reciprocal"),
    "rsqrt": _chain(("sqrt", 0.0, 0.0), ("reciprocal", 0.0, 0.0)),
    "expm1": _chain(("exp", 0.0, 0.0), ("affine", 1.0, -1.0)),
    "log2": _chain(("log", 0.0, 0.0), ("affine", 1 / math.log(2), 0.0)),
    "log10": _chain(("log", 0.0, 0.0), ("affine", 1 / math.log(10), 0.0)),
    "log1p": _chain(("affine", 1.0, 1.0), ("log", 0.0, 0.0)),
    "gelu": _chain(_gelu),
    "elu": _chain(_elu),
    "selu": _chain(("elu", 1.6732632423543772, 1.0507009873554805)),
    "celu": _celu,
    "softplus": _chain(_softplus),
    "log_sigmoid": _chain(_NEGATIVE, ("softplus", 1.0, _ALWAYS), _NEGATIVE),
    "hardtanh": _chain(
        lambda call: ("hardtanh", call.get("min_val", -1.0), call.get("max_val", 1.0))
    ),
    "relu6": _chain(("hardtanh", 0.0, 6.0)),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "leaky_relu": _leaky_relu,
    "hardshrink": _shrunk(hard=True),
    "softshrink": _shrunk(hard=False),
    "threshold": _threshold,
    "prelu": _prelu,
    "pow": _power,
    "square": _square,
    "dropout": _dropout,
    "feature_dropout": _feature_dropout,
}
