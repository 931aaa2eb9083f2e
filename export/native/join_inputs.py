"""Takes the several inputs of a graph out of one row, as native files have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.infer.input_parts import InputPart
from export.passes import PassResult

__all__ = ["ROW", "JoinInputs"]

ROW = "input"
_TYPES = {"int64": TensorProto.INT64, "bool": TensorProto.BOOL}


@dataclass(frozen=True)
class JoinInputs:
    """Puts a Split, a Reshape and a Cast where a graph has inputs.

    Attributes:
        parts: The inputs, in the graph's order; with none the graph stays as it is.
    """

    parts: Sequence[InputPart]

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Changes the model in place."""
        graph, inputs = model.graph, list(model.graph.input)
        if not self.parts:
            return PassResult(model, modified=False)
        taken = {t.name for t in graph.initializer}
        taken |= {name for node in graph.node for name in (*node.input, *node.output)}
        row = ROW
        while row in taken | {value.name for value in inputs}:
            row += "_row"
        batch = inputs[0].type.tensor_type.shape.dim[0]
        sizes = [batch.dim_param or batch.dim_value, sum(p.size for p in self.parts)]
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info(row, TensorProto.FLOAT, sizes))
        graph.initializer.append(
            numpy_helper.from_array(
                np.array([p.size for p in self.parts], np.int64), f"{row} sizes"
            )
        )
        pieces = [f"{row} {value.name}" for value in inputs]
        first = [helper.make_node("Split", [row, f"{row} sizes"], pieces, axis=1)]
        for value, piece, part in zip(inputs, pieces, self.parts, strict=True):
            shape = f"{piece} shape"
            graph.initializer.append(
                numpy_helper.from_array(np.array([-1, *part.shape], np.int64), shape)
            )
            kind = _TYPES.get(part.dtype)
            shaped = value.name if kind is None else f"{piece} shaped"
            first.append(helper.make_node("Reshape", [piece, shape], [shaped]))
            if kind is not None:
                first.append(helper.make_node("Cast", [shaped], [value.name], to=kind))
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*first, *rest])
        return PassResult(model, modified=True, note=f"{len(inputs)} inputs in a row")
