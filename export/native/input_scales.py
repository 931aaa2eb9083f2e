"""Scales of int8 convolutions' inputs, measured on examples, and which gain by them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.native.fileformat import quantised, stores_int8
from export.native.program import Kind, Program
from export.runtime import open_session

__all__ = ["InputScales", "measure", "read", "round_inputs", "with_scales"]

# Output of a layer's node in the graph to (scale, zero point) of the layer's input.
InputScales: TypeAlias = Mapping[str, tuple[float, int]]

# Kept multiply-accumulates per value that is read or written. On a Zen 5 a layer at 4
# took as long as in float32, at 8 it was 1.1 to 1.6 times as fast, at 29 twice; on
# processors without byte permutations rounding costs a layer at 8 about a tenth.
_LEAST_WORK = 8.0
_MOST_SUM = 2**24  # a sum of whole numbers below it is exact in float32
_LEVELS = 255


def measure(
    model: onnx.ModelProto, program: Program, inputs: NDArray[Any]
) -> dict[str, tuple[float, int]]:
    """Scales of every convolution that gains by rounded inputs.

    Args:
        model: The graph that the program was lowered from.
        program: What it was lowered to.
        inputs: (n, ...) examples; the ranges of values are those that these have.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    chosen = [
        output
        for output in _candidates(program)
        if output in makers and makers[output].op_type == "Conv"
    ]
    read_by = {output: makers[output].input[0] for output in chosen}
    given = {tensor.name for tensor in model.graph.initializer}
    values = sorted({name for name in read_by.values() if name not in given})
    ranges = _ranges(model, values, inputs)
    return {
        output: _scale(*ranges[name])
        for output, name in read_by.items()
        if name in ranges and ranges[name][1] > ranges[name][0]
    }


def _candidates(program: Program) -> list[str]:
    """Outputs of the layers whose sums are exact and worth the rounding."""
    found = []
    for operation in program.operations:
        if operation.kind is not Kind.CONV or operation.groups != 1:
            continue
        weight = program.weights[operation.weight]
        if not weight.output or not stores_int8(weight, operation):
            continue
        source, out = program.shapes[operation.source], program.shapes[operation.out]
        work = np.count_nonzero(weight.matrix) * out.pixels
        moved = source.channels * source.pixels + out.channels * out.pixels
        sums = np.abs(quantised(weight.matrix)[0].astype(np.int64)).sum(axis=1)
        if work >= _LEAST_WORK * moved and int(sums.max()) * _LEVELS < _MOST_SUM:
            found.append(weight.output)
    return found


def _ranges(
    model: onnx.ModelProto, names: list[str], inputs: NDArray[Any]
) -> dict[str, tuple[float, float]]:
    """Least and largest of each value, zero included."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in names:
        least, most = f"{name}.least", f"{name}.most"
        for op_type, out in (("ReduceMin", least), ("ReduceMax", most)):
            probe.graph.node.append(
                helper.make_node(op_type, [name], [out], keepdims=0)
            )
            probe.graph.output.append(
                helper.make_tensor_value_info(out, TensorProto.FLOAT, [])
            )
    if not names:
        return {}
    session = open_session(probe.SerializeToString())
    (spec,) = session.get_inputs()
    found = np.array(
        [session.run(None, {spec.name: row[None]}) for row in inputs], np.float32
    )
    least = np.minimum(found[:, 0::2].min(axis=0), 0)
    most = np.maximum(found[:, 1::2].max(axis=0), 0)
    return {
        name: (float(low), float(high))
        for name, low, high in zip(names, least, most, strict=True)
        if math.isfinite(low) and math.isfinite(high)
    }


def _scale(low: float, high: float) -> tuple[float, int]:
    """Scale, of few digits so that another processor's last bit leaves it, and zero."""
    mantissa, exponent = math.frexp((high - low) / _LEVELS)
    scale = math.ldexp(math.ceil(mantissa * 256) / 256, exponent)
    return scale, round(-low / scale)


def read(text: str) -> dict[str, tuple[float, int]]:
    """Scales as a file's metadata has them; none where it has none that make sense."""
    try:
        found = json.loads(text)
        return {
            str(name): (float(scale), int(zero))
            for name, (scale, zero) in found.items()
        }
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def with_scales(program: Program, scales: InputScales) -> Program:
    """The program with these layers' inputs rounded."""
    names = {o: program.weights[o.weight].output for o in program.operations
             if o.kind is Kind.CONV}  # fmt: skip
    return replace(
        program,
        operations=tuple(
            replace(o, input_scale=scales[names[o]][0], extra=scales[names[o]][1])
            if names.get(o) in scales
            else o
            for o in program.operations
        ),
    )


def round_inputs(model: onnx.ModelProto, scales: InputScales) -> None:
    """Rounds the same layers' inputs in the graph."""
    graph = model.graph
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for output in node.output:
            if output in scales:
                scale, zero = scales[output]
                graph.node.extend(_rounding(graph, node, output, scale, zero))
        graph.node.append(node)


def _rounding(
    graph: onnx.GraphProto, node: onnx.NodeProto, output: str, scale: float, zero: int
) -> list[onnx.NodeProto]:
    names = [f"{output}.input.{part}" for part in ("scale", "zero", "int8", "rounded")]
    graph.initializer.append(
        helper.make_tensor(names[0], TensorProto.FLOAT, [], [scale])
    )
    graph.initializer.append(
        helper.make_tensor(names[1], TensorProto.UINT8, [], [zero])
    )
    source = node.input[0]
    node.input[0] = names[3]
    return [
        helper.make_node("QuantizeLinear", [source, *names[:2]], [names[2]]),
        helper.make_node("DequantizeLinear", [names[2], *names[:2]], [names[3]]),
    ]
