"""Multiply-accumulates of a graph: how many there are, and how many are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from export.passes.graph import static_shape

__all__ = ["Macs", "count_macs"]


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates per example over all Conv, Gemm and MatMul.

    Attributes:
        kept: Those whose weight is not zero.
        dense: All of them.
    """

    kept: int
    dense: int

    @property
    def density(self) -> float:
        """Kept over all: the ceiling of any speed-up; not the parameter density."""
        return self.kept / self.dense if self.dense else 1.0


def count_macs(model: onnx.ModelProto) -> Macs:
    """Counts over the weights that are initializers (the dense form of the model)."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    shapes = {value.name: static_shape(value) for value in values}
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = dense = 0
    for node in model.graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"} or node.input[1] not in known:
            continue
        weight = numpy_helper.to_array(known[node.input[1]])
        shape = shapes[node.output[0]]
        spots = shape[2:] if node.op_type == "Conv" else shape[1:-1]
        times = math.prod(spots)
        kept += times * int(np.count_nonzero(weight))
        dense += times * weight.size
    return Macs(kept, dense)
