"""Stores weights as 16-bit floats; arithmetic stays in 32 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.errors import ExportError
from export.passes import PassResult
from export.passes.graph import weights

__all__ = ["HalfValues"]


@dataclass(frozen=True)
class HalfValues:
    """Rounds weights and tables (see `weights`) to float16, with a Cast behind each.

    onnxruntime folds the Cast when it loads the model: the file halves, the speed is
    that of fp32. Half-precision arithmetic would be slower on most CPUs.
    """

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Rewrites the weights in place."""
        casts = []
        for name, tensor in weights(model).items():
            array = numpy_helper.to_array(tensor)
            if array.dtype != np.float32:
                continue
            limit = float(np.finfo(np.float16).max)
            if np.abs(array).max(initial=0) > limit:
                raise ExportError(
                    f"{name}: a weight is above {limit}, float16's largest"
                )
            half = f"{name}.half"
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
        for cast in reversed(casts):
            model.graph.node.insert(0, cast)
        return PassResult(model, bool(casts), f"{len(casts)} weights rounded")
