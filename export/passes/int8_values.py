"""Stores recurrent weights as int8, where onnxruntime's quantiser leaves them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.passes import PassResult
from export.passes.graph import RECURRENT

__all__ = ["Int8Values"]

_LEAST = 1024  # values; of fewer nothing is saved


@dataclass(frozen=True)
class Int8Values:
    """Rounds weights of GRU, LSTM and RNN to int8, one scale per row of each way.

    A Cast and a Mul behind each give the float32 back. onnxruntime folds these two when
    it loads the model, which it does not do with DequantizeLinear.
    """

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Rewrites the weights in place."""
        graph = model.graph
        known = {tensor.name: tensor for tensor in graph.initializer}
        used = [
            name
            for node in graph.node
            if node.op_type in RECURRENT
            for name in node.input[1:3]
        ]
        nodes = []
        for name in dict.fromkeys(used):
            array = numpy_helper.to_array(known[name]) if name in known else None
            if array is None or array.dtype != np.float32 or array.size < _LEAST:
                continue
            most = np.abs(array).max(axis=2, keepdims=True)
            scale = np.where(most > 0, most / np.float32(127), np.float32(1))
            whole, scales = f"{name}.int8", f"{name}.scale"
            rounded = np.rint(array / scale).astype(np.int8)
            known[name].CopyFrom(numpy_helper.from_array(rounded, whole))
            graph.initializer.append(numpy_helper.from_array(scale, scales))
            nodes += [
                helper.make_node("Cast", [whole], [f"{name}.f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}.f", scales], [name]),
            ]
        for node in reversed(nodes):
            graph.node.insert(0, node)
        return PassResult(model, bool(nodes), f"{len(nodes) // 2} recurrent weights")
