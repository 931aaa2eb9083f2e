"""Lowering of functions of each value: activations, powers, slopes per channel."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx

from export.native.lowering import Lowering
from export.native.program import (
    Binary,
    ElementFunction,
    Function,
    Kind,
    Operation,
    Shape,
)
from export.native.rules.values import pair
from export.passes.graph import attribute, attributes

__all__ = ["RULES", "written_out_gelu"]

_ACTIVATIONS = {
    "Sigmoid": Function.SIGMOID,
    "Tanh": Function.TANH,
    "HardSwish": Function.HARD_SWISH,
}
_FUNCTIONS = {
    "Erf": ElementFunction.ERF,
    "Softplus": ElementFunction.SOFTPLUS,
    "Mish": ElementFunction.MISH,
    "Exp": ElementFunction.EXP,
    "Log": ElementFunction.LOG,
    "Sqrt": ElementFunction.SQRT,
    "Abs": ElementFunction.ABS,
    "Reciprocal": ElementFunction.RECIPROCAL,
    "Sin": ElementFunction.SIN,
    "Cos": ElementFunction.COS,
    "Tan": ElementFunction.TAN,
    "Sign": ElementFunction.SIGN,
    "Floor": ElementFunction.FLOOR,
    "Ceil": ElementFunction.CEIL,
    "Round": ElementFunction.ROUND,
    "IsNaN": ElementFunction.NOT_NUMBER,
    "Asin": ElementFunction.ASIN,
    "Acos": ElementFunction.ACOS,
    "Atan": ElementFunction.ATAN,
    "Sinh": ElementFunction.SINH,
    "Cosh": ElementFunction.COSH,
    "Asinh": ElementFunction.ASINH,
    "Acosh": ElementFunction.ACOSH,
    "Atanh": ElementFunction.ATANH,
}


def _activation(low: Lowering, node: onnx.NodeProto) -> None:
    extra = int(_ACTIVATIONS[node.op_type])
    low.each(node, node.input[0], Kind.ACTIVATION, extra)


def _apply(low: Lowering, node: onnx.NodeProto, function: ElementFunction) -> None:
    low.each(node, node.input[0], Kind.FUNCTION, int(function))


def _function(low: Lowering, node: onnx.NodeProto) -> None:
    _apply(low, node, _FUNCTIONS[node.op_type])


def _gelu(low: Lowering, node: onnx.NodeProto) -> None:
    rough = attribute(node, "approximate", b"none") == b"tanh"
    _apply(low, node, ElementFunction.GELU_TANH if rough else ElementFunction.GELU)


def written_out_gelu(low: Lowering, node: onnx.NodeProto) -> None:
    """The last node of a GELU that the graph spells with Erf: all of it."""
    x = low.joined.gelus[node.output[0]]
    low.each(node, x, Kind.FUNCTION, int(ElementFunction.GELU))


def _elu(low: Lowering, node: onnx.NodeProto) -> None:
    """Elu and Selu: gamma * (x where above 0, alpha * (e^x - 1) where below)."""
    own = node.op_type == "Selu"
    if node.op_type == "Celu" and attribute(node, "alpha", 1.0) != 1.0:
        raise low.refused(node, "has another alpha than 1")
    alpha = float(attribute(node, "alpha", 1.6732632 if own else 1.0))
    gamma = float(attribute(node, "gamma", 1.0507010)) if own else 1.0
    source = low.buffer(node, node.input[0])
    seen = low.shapes[source]
    if alpha == gamma == 1.0:
        _apply(low, node, ElementFunction.ELU)
        return
    clip, elu = int(Function.CLIP), int(ElementFunction.ELU)
    above, below, curve, scaled, total = (low.anonymous(seen) for _ in range(5))
    low.emit(Operation(Kind.ACTIVATION, source, above, extra=clip, low=0.0))
    low.emit(Operation(Kind.ACTIVATION, source, below, extra=clip, high=0.0))
    low.emit(Operation(Kind.FUNCTION, below, curve, extra=elu))
    ones = np.ones((seen.channels, 1))
    weight = low.weight(node.output[0], alpha * ones, None)
    low.emit(Operation(Kind.AFFINE, curve, scaled, weight=weight))
    low.emit(Operation(Kind.ADD, above, total, scaled))
    weight = low.weight(node.output[0], gamma * ones, None)
    out = low.new(node.output[0], seen)
    low.emit(Operation(Kind.AFFINE, total, out, weight=weight))


def _softsign(low: Lowering, node: onnx.NodeProto) -> None:
    """X / (1 + |x|)."""
    source = low.buffer(node, node.input[0])
    seen = low.shapes[source]
    size, more = low.anonymous(seen), low.anonymous(seen)
    absolute = int(ElementFunction.ABS)
    low.emit(Operation(Kind.FUNCTION, source, size, extra=absolute))
    weight = low.weight(node.output[0], np.ones((seen.channels, 1)), np.ones(1))
    low.emit(Operation(Kind.AFFINE, size, more, weight=weight))
    out = low.new(node.output[0], seen)
    low.emit(Operation(Kind.BINARY, source, out, more, extra=int(Binary.OVER)))


def _power(low: Lowering, node: onnx.NodeProto) -> None:
    exponent = low.constants.get(node.input[1])
    known = {2.0: ElementFunction.SQUARE, 0.5: ElementFunction.SQRT,
             -1.0: ElementFunction.RECIPROCAL}  # fmt: skip
    one = exponent is not None and exponent.size == 1
    value = float(exponent.reshape(-1)[0]) if exponent is not None and one else 0.0
    if value in known:
        _apply(low, node, known[value])
    else:
        pair(low, node)


def _scaled(low: Lowering, node: onnx.NodeProto) -> None:
    """Neg, Not, and HardSigmoid: clip(alpha * x + beta, 0, 1)."""
    a = attributes(node)
    hard = node.op_type == "HardSigmoid"
    factor = float(a.get("alpha", 0.2)) if hard else -1.0
    shift = float(a.get("beta", 0.5)) if hard else float(node.op_type == "Not")
    source = low.buffer(node, node.input[0])
    seen = low.shapes[source]
    matrix = np.full((seen.channels, 1), factor)
    weight = low.weight(node.output[0], matrix, np.full(1, shift))
    limits: dict[str, Any] = {"low": 0.0, "high": 1.0} if hard else {}
    out = low.new(node.output[0], seen)
    low.emit(Operation(Kind.AFFINE, source, out, weight=weight, **limits))


def _slope(low: Lowering, node: onnx.NodeProto) -> None:
    full = low.full(node.input[0])
    if node.op_type == "LeakyRelu":
        factors = np.full(1, attribute(node, "alpha", 0.01))
    else:
        given = low.constant(node, 1)
        assert given is not None  # noqa: S101 - ONNX asks for it
        factors = given.reshape(-1)
        sizes = (1,) * (len(full) - given.ndim) + given.shape
        per_channel = sizes == (1, full[1], *[1] * (len(full) - 2))
        if factors.size != 1 and not per_channel:
            raise low.refused(node, "has slopes that are not one per channel")
    source = low.buffer(node, node.input[0])
    if factors.size > 1 and low.shapes[source].channels != factors.size:
        source = low.view(node, node.input[0], Shape(full[1], 1, prod(full[2:])))
    seen = low.shapes[source]
    matrix = np.broadcast_to(factors, (seen.channels,)).reshape(-1, 1)
    weight = low.weight(node.output[0], matrix, None)
    out = low.new(node.output[0], seen)
    low.emit(Operation(Kind.SLOPE, source, out, weight=weight))


def _softmax(low: Lowering, node: onnx.NodeProto) -> None:
    full, axis = low.full(node.input[0]), low.axis(node, -1)
    seen = low.around(node.input[0], axis)
    plain = node.op_type == "Softmax"
    if plain and len(full) == 2 and seen.channels == 1 and seen.width == 1:
        low.step(node, Kind.ACTIVATION, extra=int(Function.SOFTMAX))
        return
    if seen.width == 1:  # the last axis: its values lie beside each other
        turned = low.rows(node, node.input[0], Shape(seen.channels, 1, seen.height))
    else:
        turned = low.transposed(low.view(node, node.input[0], seen), (0, 2, 1))
    same = low.anonymous(low.shapes[turned])
    out = low.emit(Operation(Kind.SOFTMAX_ROW, turned, same))
    if not plain:
        log = int(ElementFunction.LOG)
        same = low.anonymous(low.shapes[turned])
        out = low.emit(Operation(Kind.FUNCTION, out, same, extra=log))
    back = out if seen.width == 1 else low.transposed(out, (0, 2, 1))
    low.alias(node.output[0], back)


def _clip(low: Lowering, node: onnx.NodeProto) -> None:
    if node.op_type == "Relu":
        low.step(node, Kind.ACTIVATION, low=0.0)
        return
    least, most = low.constant(node, 1), low.constant(node, 2)
    limits = {
        "low": -np.inf if least is None else float(least.reshape(-1)[0]),
        "high": np.inf if most is None else float(most.reshape(-1)[0]),
    }
    low.step(node, Kind.ACTIVATION, **limits)


RULES = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(_FUNCTIONS, _function),
    "Gelu": _gelu,
    "Elu": _elu,
    "Selu": _elu,
    "Celu": _elu,
    "Softsign": _softsign,
    "Pow": _power,
    "Neg": _scaled,
    "Not": _scaled,
    "HardSigmoid": _scaled,
    "LeakyRelu": _slope,
    "PRelu": _slope,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Relu": _clip,
    "Clip": _clip,
}
