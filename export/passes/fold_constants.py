"""Computes what depends on constants alone, once, before the file is written."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import onnx

from export.passes import PassResult
from export.passes.graph import drop_nodes, replace_array
from export.runtime import unpacked

__all__ = ["FoldConstants", "fold"]

_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip


@dataclass(frozen=True)
class FoldConstants:
    """Replaces nodes without computed inputs by the initializers they make.

    torch's exporter folds too, but leaves what grows (an expanded constant) or what its
    rules do not know: a reparametrised weight, for example. The native runtime needs
    weights to be initializers. Runs before `PackSparse`, which it would undo.
    """

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Folds in place."""
        every = {n.op_type for n in model.graph.node} - _RANDOM
        count = fold(model, every)
        return PassResult(model, count > 0, f"{count} constant operations folded")


def fold(model: onnx.ModelProto, operators: Container[str]) -> int:
    """Folds nodes of these operators whose inputs are constants; says how many."""
    constant = {tensor.name for tensor in model.graph.initializer}
    folded = []
    for node in model.graph.node:
        subgraphs = any(a.HasField("g") or a.graphs for a in node.attribute)
        if node.op_type not in operators or subgraphs:
            continue
        if all(name in constant for name in node.input if name):
            folded.append(node)
            constant.update(name for name in node.output if name)
    inner = {name for node in folded for name in node.output}
    rest = {id(node) for node in folded}
    read = {name for n in model.graph.node if id(n) not in rest for name in n.input} | {
        value.name for value in model.graph.output
    }
    for name, array in unpacked(model, sorted(inner & read)).items():
        replace_array(model, name, array)
    drop_nodes(model, folded)
    return len(folded)
