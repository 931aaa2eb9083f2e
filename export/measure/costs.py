"""Multiply-accumulates of a graph: how many there are, and how many are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from export.passes.graph import RECURRENT, attribute, static_shape

__all__ = ["Macs", "count_macs"]


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates per example of convolutions, products and recurrent layers.

    Attributes:
        kept: Those whose weight is not zero; all of a product of two values.
        dense: All of them.
    """

    kept: int
    dense: int

    @property
    def density(self) -> float:
        """Kept over all: the ceiling of any speed-up; not the parameter density."""
        return self.kept / self.dense if self.dense else 1.0


def count_macs(model: onnx.ModelProto) -> Macs:
    """Counts over the dense form of the model, whose weights are initializers."""
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {value.name: static_shape(value) for value in values}
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = dense = 0
    for node in model.graph.node:
        if node.op_type == "MatMul" and not known.keys() & set(node.input):
            inner = shapes.get(node.input[0], [])[-1:]
            both = _places([*shapes.get(node.output[0], []), *inner])
            kept, dense = kept + both, dense + both
            continue
        times = _times(node, shapes, known)
        for name in node.input[: 3 if node.op_type in RECURRENT else 2]:
            if times and name in known:
                weight = numpy_helper.to_array(known[name])
                kept += times * int(np.count_nonzero(weight))
                dense += times * weight.size
    return Macs(kept, dense)


def _times(
    node: onnx.NodeProto,
    shapes: Mapping[str, Sequence[int]],
    known: Mapping[str, onnx.TensorProto],
) -> int:
    """Times that an example multiplies with each weight of a node; 0: it has none."""
    given = shapes.get(node.input[0], ()) if node.input else ()
    made = shapes.get(node.output[0], ()) if node.output else ()
    if node.op_type == "Conv":
        return _places([*made[:1], *made[2:]])
    if node.op_type == "ConvTranspose":
        return _places([*given[:1], *given[2:]])
    if node.op_type == "MatMul" and node.input[0] in known:
        return _places([*made[:-2], *made[-1:]])
    if node.op_type in {"Gemm", "MatMul"}:
        return _places(made[:-1])
    if node.op_type in RECURRENT:
        axis = 1 if attribute(node, "layout", 0) else 0  # that of the steps
        return _places(given[axis : axis + 1])
    return 0


def _places(axes: Sequence[int]) -> int:
    """The product of axes; 1 for a free one, which is the batch."""
    return math.prod(size or 1 for size in axes)
