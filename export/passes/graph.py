"""Reading and editing an ONNX graph: the few moves that the passes share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = [
    "RECURRENT",
    "attribute",
    "attributes",
    "consumers",
    "drop_nodes",
    "find_initializer",
    "producers",
    "read_array",
    "rename",
    "replace_array",
    "static_shape",
    "weights",
]

RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
# Operators to the number of inputs at the front that may be weights.
_WEIGHTS_END = {
    "Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": 2, "Gather": 1,
    **dict.fromkeys(RECURRENT, 3),
}  # fmt: skip


def find_initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto | None:
    """The initializer of that name, or None."""
    return next((i for i in model.graph.initializer if i.name == name), None)


def read_array(model: onnx.ModelProto, name: str) -> NDArray[Any] | None:
    """The initializer's values, or None when the name is not an initializer."""
    tensor = find_initializer(model, name)
    return None if tensor is None else numpy_helper.to_array(tensor)


def replace_array(model: onnx.ModelProto, name: str, array: NDArray[Any]) -> None:
    """Sets an initializer, adding it when it is new."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
    old = find_initializer(model, name)
    if old is None:
        model.graph.initializer.append(tensor)
    else:
        old.CopyFrom(tensor)


def weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers that convolutions, products and recurrent layers multiply with.

    By name; of an embedding its table.
    """
    known = {i.name: i for i in model.graph.initializer}
    used = [
        name
        for node in model.graph.node
        for name in node.input[: _WEIGHTS_END.get(node.op_type, 0)]
    ]
    return {name: known[name] for name in used if name in known}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Value name to the nodes that read it; graph outputs are not counted."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Value name to the node that computes it."""
    return {name: node for node in model.graph.node for name in node.output}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """All attributes of a node as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """One attribute of a node, or the default."""
    return attributes(node).get(name, default)


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Renames initializers and values wherever they are read or written."""
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def drop_nodes(model: onnx.ModelProto, dropped: Iterable[onnx.NodeProto]) -> None:
    """Removes nodes, and the initializers and value infos that nothing uses then."""
    gone = {id(node) for node in dropped}
    kept = [node for node in model.graph.node if id(node) not in gone]
    copies = []
    for node in kept:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)
    used = {name for node in copies for name in node.input}
    used |= {output.name for output in model.graph.output}
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in used:
            del model.graph.initializer[index]
    made = {name for node in copies for name in node.output}
    for index in reversed(range(len(model.graph.value_info))):
        if model.graph.value_info[index].name not in made:
            del model.graph.value_info[index]


def static_shape(value: onnx.ValueInfoProto) -> list[int]:
    """Dimensions of a value; 0 stands for one that is not fixed."""
    return [d.dim_value for d in value.type.tensor_type.shape.dim]
