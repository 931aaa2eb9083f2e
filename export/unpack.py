"""The dense form of a packed model: packed weights computed once and stored plainly."""

from __future__ import annotations

import onnx

from export.graph import drop_nodes, replace_array
from export.runtime import unpacked

__all__ = ["dense_form"]

_PACKING = {
    "BitShift", "BitwiseAnd", "Cast", "ConstantOfShape", "CumSum", "Gather", "Mul",
    "Reshape", "ScatterElements", "Slice",
}  # fmt: skip


def dense_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every tensor that packing computes is an initializer.

    DequantizeLinear of a constant is left alone: it is part of a quantised model.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constant = {tensor.name for tensor in copy.graph.initializer}
    packing = []
    for node in copy.graph.node:
        if node.op_type in _PACKING and all(n in constant for n in node.input if n):
            packing.append(node)
            constant.update(node.output)
    inner = {name for node in packing for name in node.output}
    rest = {id(node) for node in packing}
    read = {name for n in copy.graph.node if id(n) not in rest for name in n.input} | {
        value.name for value in copy.graph.output
    }
    wanted = sorted(inner & read)
    for name, array in unpacked(copy, wanted).items():
        replace_array(copy, name, array)
    drop_nodes(copy, packing)
    return copy
