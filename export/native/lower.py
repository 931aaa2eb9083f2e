"""Lowering of a dense ONNX graph to a native program; refuses the rest by name."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType

import onnx

from device_profiles.words import meant
from edge_sdk.errors import ExportError
from export.native.lowering import OTHER_FORMAT, Lowering
from export.native.program import Kind, Operation, Program, Shape
from export.native.rules import RULES, activations

__all__ = ["lower"]

# What a model may say in its place.
_NEAREST = {
    "Det": "products and sums of its values are supported",
    **dict.fromkeys(("NonZero", "Unique", "Compress"), "shapes depend on its values"),
    **dict.fromkeys(
        ("Loop", "If", "Scan"), "a loop over a recurrent cell is supported, and Where"
    ),
    **dict.fromkeys(
        ("RandomUniformLike", "RandomNormalLike", "RandomUniform", "RandomNormal",
         "Bernoulli", "Dropout"),
        "an exported model has no random numbers",
    ),
}  # fmt: skip


def lower(
    model: onnx.ModelProto, layers: Mapping[str, str] = MappingProxyType({})
) -> Program:
    """The graph as a program for one example, one operation per node, none fused.

    Several outputs are one after the other, flat.

    Args:
        model: The dense graph.
        layers: Names of values to the module that computes each, for messages.

    Raises:
        ExportError: If an operation is not supported; names it, its layer, and the
            nearest supported form.
    """
    if len(model.graph.input) != 1:
        raise ExportError("a native model has one input", remedy=OTHER_FORMAT)
    lowering = Lowering(model, layers)
    lowering.new(model.graph.input[0].name)
    for node in model.graph.node:
        if node.output[0] in lowering.joined.inside:
            continue
        if node.output[0] in lowering.joined.gelus:
            activations.written_out_gelu(lowering, node)
            continue
        rule = RULES.get(node.op_type)
        if rule is None:
            near = _NEAREST.get(node.op_type, "")
            hint = f": {near}" if near else ""
            if not onnx.defs.has(node.op_type):  # perhaps a word with a typo
                hint = meant(node.op_type, RULES)
            raise lowering.refused(
                node, f"is not supported by the native runtime{hint}"
            )
        rule(lowering, node)
    names = [value.name for value in model.graph.output]
    end = onnx.NodeProto(op_type="output", input=names, output=names)
    if len(names) > 1:
        out = _joined(lowering, end)
        return lowering.program(out, (lowering.shapes[out].channels,))
    out = lowering.view(end, names[0])
    if out == 0:  # a file's output is another buffer than its input
        out = lowering.emit(
            Operation(Kind.TAKE, 0, lowering.anonymous(lowering.shapes[0]))
        )
    return lowering.program(out, lowering.dims(names[0]))


def _joined(lowering: Lowering, end: onnx.NodeProto) -> int:
    """Several outputs in one vector, as `export.load` gives them."""
    sizes = [prod(lowering.dims(name)) for name in end.input]
    out, at = lowering.new("outputs", Shape(sum(sizes))), 0
    for name, size in zip(end.input, sizes, strict=True):
        part = lowering.view(end, name, Shape(size))
        lowering.emit(Operation(Kind.PLACE, part, out, extra=at))
        at += size
    return out
