"""Folds each batch norm into the convolution or linear layer before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.passes import PassResult
from export.passes.graph import (
    attribute,
    consumers,
    drop_nodes,
    producers,
    read_array,
    rename,
    replace_array,
)

__all__ = ["FoldBatchNorm"]


@dataclass(frozen=True)
class FoldBatchNorm:
    """Scales the weights of a Conv or Gemm by the batch norm that alone reads it.

    The exporter folds convolutions; this also folds linear layers, and any exporter's
    left-overs. A zero weight stays zero: it is only multiplied.
    """

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Folds what can be folded, in place."""
        made, readers = producers(model), consumers(model)
        outputs = {value.name for value in model.graph.output}
        folded = []
        for node in model.graph.node:
            layer = made.get(node.input[0]) if node.input else None
            if node.op_type != "BatchNormalization" or layer is None:
                continue
            alone = len(readers[node.input[0]]) == 1 and node.input[0] not in outputs
            single = len(layer.input) > 1 and len(readers[layer.input[1]]) == 1
            if alone and single and _fold(model, layer, node):
                folded.append(node)
        names = {node.output[0]: node.input[0] for node in folded}
        back = {value: key for key, value in names.items()}
        drop_nodes(model, folded)
        # Keep the norm's name for the value: it may be the graph's output.
        rename(model, back)
        return PassResult(model, bool(folded), f"{len(folded)} batch norms")


def _fold(model: onnx.ModelProto, layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    if layer.op_type not in {"Conv", "Gemm"}:
        return False
    weight = read_array(model, layer.input[1])
    parts = [read_array(model, name) for name in norm.input[1:5]]
    if weight is None or any(part is None for part in parts):
        return False
    scale, shift, mean, var = (np.asarray(part, np.float64) for part in parts)
    factor = scale / np.sqrt(var + attribute(norm, "epsilon", 1e-5))
    if layer.op_type == "Gemm" and not attribute(layer, "transB", 0):
        weight_factor = factor.reshape(1, -1)
    else:
        weight_factor = factor.reshape(-1, *[1] * (weight.ndim - 1))
    bias = _bias(model, layer, factor.size)
    if bias is None or attribute(layer, "alpha", 1.0) != 1.0:
        return False
    replace_array(model, layer.input[1], (weight * weight_factor).astype(weight.dtype))
    name = f"{layer.input[1]}.folded_bias"
    folded_bias = (bias - mean) * factor + shift
    replace_array(model, name, folded_bias.astype(weight.dtype))
    inputs = list(layer.input[:2])
    layer.input[:] = [*inputs, name]
    return True


def _bias(
    model: onnx.ModelProto, layer: onnx.NodeProto, size: int
) -> NDArray[np.float64] | None:
    """The layer's bias, zeros when it has none, None when it is not a constant."""
    if len(layer.input) < 3 or not layer.input[2]:
        return np.zeros(size)
    if layer.op_type == "Gemm" and attribute(layer, "beta", 1.0) != 1.0:
        return None
    bias = read_array(model, layer.input[2])
    return None if bias is None else np.asarray(bias, np.float64).reshape(-1)
