"""Makes every zero of a weight +0.0: folding may have left -0.0 off the mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from export.passes import PassResult
from export.passes.graph import weights

__all__ = ["CanonicalZeros"]


@dataclass(frozen=True)
class CanonicalZeros:
    """Replaces -0.0 by +0.0 in the weights of Conv, Gemm and MatMul.

    A batch norm with a negative scale turns the zeros of its convolution into -0.0;
    packing then could not give back the same bits. Runs after `FoldBatchNorm`.
    """

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Rewrites the weights that hold a negative zero."""
        changed = 0
        for name, tensor in weights(model).items():
            array = numpy_helper.to_array(tensor)
            negative = (array == 0) & np.signbit(array)
            if negative.any():
                fixed = np.where(negative, array.dtype.type(0), array)
                tensor.CopyFrom(numpy_helper.from_array(fixed, name))
                changed += int(negative.sum())
        return PassResult(model, changed > 0, f"{changed} negative zeros")
