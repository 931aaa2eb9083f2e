"""Stores sparse weights packed, with the nodes that rebuild them when loaded."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from export.passes import PassResult
from export.passes.packing import shared_constants, smallest

__all__ = ["PackSparse"]

_SMALL = 256  # bytes; below it no packing pays for its nodes


@dataclass(frozen=True)
class PackSparse:
    """Replaces each sparse initializer by the smallest of four forms.

    onnxruntime folds the added nodes when it loads the model, so the graph that runs is
    the dense one, bit for bit. Size shrinks; speed and memory at run time do not.
    Takes opset 18 or later, and weights after `CanonicalZeros`.
    """

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Packs in place; the note counts the encodings."""
        keep: list[onnx.TensorProto] = []
        nodes: list[onnx.NodeProto] = []
        constants: list[onnx.TensorProto] = []
        counts = {"gaps": 0, "nibbles": 0, "bitmask": 0, "dense": 0}
        for index, tensor in enumerate(model.graph.initializer):
            array = numpy_helper.to_array(tensor)
            fragment = (
                smallest(tensor.name, array, prefix=f"p{index}")
                if array.nbytes >= _SMALL and array.dtype.kind in "fi"
                else None
            )
            if fragment is None:
                keep.append(tensor)
                counts["dense"] += array.nbytes >= _SMALL
                continue
            counts[fragment.encoding] += 1
            nodes += fragment.nodes
            constants += fragment.constants
        if not nodes:
            return PassResult(model, modified=False)
        used = {name for node in nodes for name in node.input}
        constants += [c for c in shared_constants() if c.name in used]
        keep = [onnx.TensorProto.FromString(t.SerializeToString()) for t in keep]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*keep, *constants])
        rest = [
            onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node
        ]
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *rest])
        words = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
        return PassResult(model, modified=True, note=words)
