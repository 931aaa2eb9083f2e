"""Writes a mean over all pixels as GlobalAveragePool, which phone runtimes know."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from export.passes import PassResult
from export.passes.graph import attribute, drop_nodes, read_array

__all__ = ["GlobalPool"]


@dataclass(frozen=True)
class GlobalPool:
    """Turns ReduceMean over the pixel axes of a 4-D value into GlobalAveragePool.

    Core ML's neural network format has no ReduceMean; with it a model splits into two
    partitions, without it it stays in one.
    """

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Rewrites the nodes in place."""
        count = 0
        for node in list(model.graph.node):
            if node.op_type != "ReduceMean" or not _over_pixels(model, node):
                continue
            keep = bool(attribute(node, "keepdims", 1))
            source, output = node.input[0], node.output[0]
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            del node.input[1:]
            if not keep:
                node.output[0] = f"{output}_pooled"
                flat = helper.make_node("Flatten", [node.output[0]], [output], axis=1)
                index = next(
                    i
                    for i, n in enumerate(model.graph.node)
                    if n.input[:1] == [source] and n.output[:1] == [f"{output}_pooled"]
                )
                model.graph.node.insert(index + 1, flat)
            count += 1
        drop_nodes(model, [])  # the axes constants have no reader left
        return PassResult(model, count > 0, f"{count} mean over pixels")


def _over_pixels(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    axes = attribute(node, "axes", None)
    if axes is None and len(node.input) > 1:
        axes = read_array(model, node.input[1])
    if axes is None or not _is_image(model, node.input[0]):
        return False
    return sorted(int(a) % 4 for a in axes) == [2, 3]


def _is_image(model: onnx.ModelProto, name: str) -> bool:
    """Return whether a value has four axes, followed to a convolution or the input."""
    same_rank = {
        "Relu",
        "Clip",
        "Add",
        "BatchNormalization",
        "MaxPool",
        "AveragePool",
        "Sigmoid",
        "HardSwish",
        "Mul",
        "Concat",
        "Dropout",
        "Identity",
    }
    made = {output: n for n in model.graph.node for output in n.output}
    for value in model.graph.input:
        if value.name == name:
            return len(value.type.tensor_type.shape.dim) == 4
    node = made.get(name)
    if node is None:
        return False
    if node.op_type == "Conv":
        weight = read_array(model, node.input[1])
        return weight is not None and weight.ndim == 4
    return node.op_type in same_rank and _is_image(model, node.input[0])
