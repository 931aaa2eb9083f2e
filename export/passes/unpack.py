"""The dense form of a packed model: packed weights computed once and stored plainly."""

from __future__ import annotations

import onnx

from export.passes.fold_constants import fold

__all__ = ["dense_form"]

_PACKING = {
    "Add", "BitShift", "BitwiseAnd", "Cast", "ConstantOfShape", "CumSum",
    "GatherElements", "Less", "Mul", "Reshape", "ScatterElements", "Slice", "Sub",
}  # fmt: skip


def dense_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every tensor that packing computes is an initializer.

    DequantizeLinear of a constant is left alone: it is part of a quantised model.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fold(copy, _PACKING)
    return copy
