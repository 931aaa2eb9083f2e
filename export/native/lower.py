"""Lowering of a dense ONNX graph to a native program; refuses the rest by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_sdk.errors import ExportError
from export.native.program import Function, Kind, Operation, Program, Shape, Weight
from export.native.window import one_pixel, window_of
from export.passes.graph import attributes, static_shape

__all__ = ["lower"]

_FUNCTIONS = {
    "Sigmoid": Function.SIGMOID,
    "Tanh": Function.TANH,
    "HardSwish": Function.HARD_SWISH,
}
_OTHER_FORMAT = "Export with --format onnx-sparse, which runs every operation."
_ALIASES = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze"}


def lower(model: onnx.ModelProto) -> Program:
    """The graph as a program for one example, one operation per node, none fused.

    Raises:
        ExportError: If an operation is not supported; names it and its output.
    """
    return _Lowering(model).program()


class _Lowering:
    """Walks the graph once; values become buffers, constants stay arrays."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self._dims = {value.name: static_shape(value)[1:] for value in values}
        self._constants = {
            t.name: numpy_helper.to_array(t) for t in model.graph.initializer
        }
        self._shapes: list[Shape] = []
        self._operations: list[Operation] = []
        self._weights: list[Weight] = []
        self._buffers: dict[str, int] = {}

    def program(self) -> Program:
        if len(self._graph.input) != 1 or len(self._graph.output) != 1:
            raise ExportError(
                "a native model has one input and one output", remedy=_OTHER_FORMAT
            )
        given, made = self._graph.input[0].name, self._graph.output[0].name
        self._new(given)
        for node in self._graph.node:
            self._lower(node)
        out = self._flat(made)
        if out == 0:
            raise ExportError("a native model must compute something")
        return Program(
            tuple(self._shapes),
            tuple(self._operations),
            tuple(self._weights),
            out,
            tuple(self._dims[made]),
        )

    def _lower(self, node: onnx.NodeProto) -> None:
        if node.op_type in _ALIASES:
            self._alias(node)
            return
        rules: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Conv": self._conv,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "MaxPool": self._pool,
            "AveragePool": self._pool,
            "GlobalAveragePool": self._global_pool,
            "Add": self._add,
            "Concat": self._concat,
            "BatchNormalization": self._affine,
            "Softmax": self._softmax,
            "Relu": self._clip,
            "Clip": self._clip,
        }
        rule = rules.get(node.op_type)
        if rule is not None:
            rule(node)
        elif node.op_type in _FUNCTIONS:
            function = _FUNCTIONS[node.op_type]
            self._emit(node, Kind.ACTIVATION, extra=int(function))
        else:
            raise self._refused(node, "is not supported by the native runtime")

    # -------------------------------------------------------------------- values

    def _new(self, name: str, shape: Shape | None = None) -> int:
        self._shapes.append(self._shape(name) if shape is None else shape)
        self._buffers[name] = len(self._shapes) - 1
        return self._buffers[name]

    def _shape(self, name: str) -> Shape:
        dims = self._dims.get(name)
        if not dims or 0 in dims or len(dims) > 3:
            raise ExportError(
                f"value {name!r} has no fixed shape of 1 to 3 axes, which the native "
                f"runtime needs: {dims}",
                remedy=_OTHER_FORMAT,
            )
        if len(dims) == 2:  # a sequence (N, C, L) is an image of one row
            return Shape(dims[0], 1, dims[1])
        return Shape(*dims)

    def _buffer(self, node: onnx.NodeProto, name: str) -> int:
        if name not in self._buffers:
            raise self._refused(node, f"reads {name!r}, which is not a computed value")
        return self._buffers[name]

    def _flat(self, name: str) -> int:
        """The buffer of a value in the shape the graph gives it."""
        index = self._buffers[name]
        wanted, have = self._shape(name), self._shapes[index]
        if wanted == have:
            return index
        if wanted.pixels == 1 and have.pixels * have.channels == wanted.channels:
            out = self._new(name, wanted)
            self._operations.append(Operation(Kind.FLATTEN, index, out))
            return out
        raise ExportError(
            f"value {name!r}: {have} cannot be read as {wanted}", remedy=_OTHER_FORMAT
        )

    def _constant(self, node: onnx.NodeProto, position: int) -> NDArray[Any] | None:
        if position >= len(node.input) or not node.input[position]:
            return None
        array = self._constants.get(node.input[position])
        if array is None:
            raise self._refused(node, f"input {position} is not a constant")
        return array

    def _emit(self, node: onnx.NodeProto, kind: Kind, **fields: Any) -> None:
        self._buffer(node, node.input[0])
        source = self._flat(node.input[0])
        out = self._new(node.output[0])
        self._operations.append(Operation(kind, source, out, **fields))

    def _weight(
        self, name: str, matrix: NDArray[Any], bias: NDArray[Any] | None, out: str = ""
    ) -> int:
        rows = len(matrix)
        given = np.zeros(1) if bias is None else np.asarray(bias).reshape(-1)
        values = np.broadcast_to(given, (rows,)).astype(np.float32)
        flat = np.ascontiguousarray(matrix.reshape(rows, -1), np.float32)
        self._weights.append(Weight(name, flat, values, out))
        return len(self._weights) - 1

    def _refused(self, node: onnx.NodeProto, reason: str) -> ExportError:
        return ExportError(
            f"operation {node.op_type} (output {node.output[0]!r}) {reason}",
            remedy=_OTHER_FORMAT,
        )

    # -------------------------------------------------------------------- layers

    def _alias(self, node: onnx.NodeProto) -> None:
        """A value seen in another shape: only flattening changes one."""
        index = self._buffer(node, node.input[0])
        before, after = self._shapes[index], self._shape(node.output[0])
        size = before.channels * before.pixels
        if after != before and (after.pixels != 1 or after.channels != size):
            raise self._refused(node, "changes a shape other than by flattening")
        self._buffers[node.output[0]] = index

    def _window(self, node: onnx.NodeProto) -> dict[str, Any]:
        try:
            return window_of(node)
        except ValueError as error:
            raise self._refused(node, str(error)) from error

    def _conv(self, node: onnx.NodeProto) -> None:
        weight = self._constant(node, 1)
        if weight is None:
            raise self._refused(node, "has no weight")
        if "kernel_shape" not in attributes(node):
            node.attribute.append(
                onnx.helper.make_attribute("kernel_shape", list(weight.shape[2:]))
            )
        window = self._window(node)
        groups = int(attributes(node).get("group", 1))
        bias, name, made = self._constant(node, 2), node.input[1], node.output[0]
        source = self._shapes[self._flat(node.input[0])]
        if self._shape(node.output[0]).pixels == 1:
            matrix = one_pixel(weight, source, window, groups)
            index = self._weight(name, matrix, bias, made)
            self._emit(node, Kind.LINEAR, weight=index)
            return
        index = self._weight(name, weight, bias, made)
        self._emit(node, Kind.CONV, weight=index, groups=groups, **window)

    def _gemm(self, node: onnx.NodeProto) -> None:
        a = attributes(node)
        plain = a.get("alpha", 1.0) == 1.0 and a.get("beta", 1.0) == 1.0
        weight = self._constant(node, 1)
        if not plain or a.get("transA", 0) or weight is None:
            raise self._refused(node, "is not a plain linear layer")
        matrix = weight if a.get("transB", 0) else weight.T
        self._linear(node, matrix, self._constant(node, 2))

    def _matmul(self, node: onnx.NodeProto) -> None:
        weight = self._constant(node, 1)
        if weight is None or weight.ndim != 2 or len(self._dims[node.output[0]]) != 1:
            raise self._refused(node, "is not a linear layer on vectors")
        self._linear(node, weight.T, None)

    def _linear(
        self, node: onnx.NodeProto, matrix: NDArray[Any], bias: NDArray[Any] | None
    ) -> None:
        source = self._buffer(node, node.input[0])  # as it is: columns count pixels
        index = self._weight(node.input[1], matrix, bias, node.output[0])
        out = self._new(node.output[0])
        self._operations.append(Operation(Kind.LINEAR, source, out, weight=index))

    def _pool(self, node: onnx.NodeProto) -> None:
        a = attributes(node)
        average = node.op_type == "AveragePool"
        if len(node.output) > 1:
            raise self._refused(node, "returns indices")
        if average and a.get("ceil_mode", 0):
            raise self._refused(node, "rounds its size up")
        kind = Kind.AVERAGE_POOL if average else Kind.MAX_POOL
        extra = int(a.get("count_include_pad", 0))
        self._emit(node, kind, extra=extra, **self._window(node))

    def _global_pool(self, node: onnx.NodeProto) -> None:
        self._emit(node, Kind.GLOBAL_AVERAGE)

    def _add(self, node: onnx.NodeProto) -> None:
        first, second = node.input[:2]
        constant = next((n for n in (first, second) if n in self._constants), None)
        if constant is not None:
            node.input[:] = [second if constant == first else first, constant]
            self._shifted(node, self._constants[constant])
            return
        for name in (first, second):
            self._buffer(node, name)
        a, b = self._flat(first), self._flat(second)
        if self._shapes[a] != self._shapes[b]:
            raise self._refused(node, "broadcasts")
        out = self._new(node.output[0])
        self._operations.append(Operation(Kind.ADD, a, out, b))

    def _shifted(self, node: onnx.NodeProto, constant: NDArray[Any]) -> None:
        """A constant per channel is added: MatMul's bias, for example."""
        channels = self._shape(node.output[0]).channels
        rank = len(self._dims[node.output[0]])
        per_channel = constant.size == channels and (
            rank == 1 or constant.shape[-rank : -rank + 1] == (channels,)
        )
        if constant.size != 1 and not per_channel:
            raise self._refused(node, "adds a constant that is not one per channel")
        shift = np.broadcast_to(constant.reshape(-1), (channels,))
        index = self._weight(node.output[0], np.ones((channels, 1)), shift)
        self._emit(node, Kind.AFFINE, weight=index)

    def _affine(self, node: onnx.NodeProto) -> None:
        parts = [self._constant(node, i) for i in range(1, 5)]
        scale, shift, mean, var = (np.asarray(p, np.float64) for p in parts)
        factor = scale / np.sqrt(var + attributes(node).get("epsilon", 1e-5))
        matrix, bias = factor.reshape(-1, 1), shift - mean * factor
        index = self._weight(node.input[1], matrix, bias)
        self._emit(node, Kind.AFFINE, weight=index)

    def _concat(self, node: onnx.NodeProto) -> None:
        if attributes(node)["axis"] != 1:
            raise self._refused(node, "joins another axis than the channels")
        for name in node.input:
            self._buffer(node, name)
        parts = [self._flat(name) for name in node.input]
        out, at = self._new(node.output[0]), 0
        for part in parts:
            self._operations.append(Operation(Kind.PLACE, part, out, extra=at))
            at += self._shapes[part].channels

    def _softmax(self, node: onnx.NodeProto) -> None:
        axis = attributes(node).get("axis", -1)
        if len(self._dims[node.output[0]]) != 1 or axis not in {1, -1}:
            raise self._refused(node, "runs over another axis than the classes")
        self._emit(node, Kind.ACTIVATION, extra=int(Function.SOFTMAX))

    def _clip(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Relu":
            self._emit(node, Kind.ACTIVATION, low=0.0)
            return
        low, high = self._constant(node, 1), self._constant(node, 2)
        limits = {
            "low": -np.inf if low is None else float(low),
            "high": np.inf if high is None else float(high),
        }
        self._emit(node, Kind.ACTIVATION, **limits)
