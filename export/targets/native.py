"""`native` and `native-int8`: one file for our own sparse runtime."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from export.native.fileformat import (
    LEAST_INT8,
    Encoding,
    dequantised,
    store_weights,
    write,
)
from export.native.fuse import fuse
from export.native.lower import lower
from export.native.program import Program
from export.passes.graph import attribute, replace_array
from export.targets import Material, Product, Target

__all__ = ["INT8", "TARGET"]


def _facts(material: Material, name: str, program: Program) -> dict[str, Any]:
    facts: dict[str, Any] = dict(material.facts)
    for key in ("labels", "input_shape", "metrics", "density", "mac_density", "macs"):
        facts[key] = json.loads(facts[key])
    facts["round"] = int(facts["round"])
    return {**facts, "format": name, "output_shape": list(program.output_shape)}


def _make(material: Material, *, int8: bool) -> Product:
    name = "native-int8" if int8 else "native"
    program = fuse(lower(material.copy()))
    personal = material.source.personal_values()
    facts = _facts(material, name, program)
    content = write(program, facts, int8=int8, personal=personal)
    model = _rounded(material.copy()) if int8 else material.copy()
    stored = [item.encoding for item in store_weights(program, int8=int8)]
    sparse = stored.count(Encoding.GAPS)
    note = f"{sparse} sparse, {len(stored) - sparse} dense"
    return Product(content, model, None, (note,))


def _rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the weights that int8 storage gives back."""
    for node in model.graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
        array = numpy_helper.to_array(tensor)
        if array.size < LEAST_INT8:
            continue
        by_column = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not attribute(node, "transB", 0)
        )
        rows = array.T if by_column else array
        back = dequantised(np.ascontiguousarray(rows.reshape(len(rows), -1)))
        back = back.reshape(rows.shape)
        replace_array(model, tensor.name, back.T if by_column else back)
    return model


TARGET = Target(
    name="native",
    suffix=".flsp",
    make=lambda material: _make(material, int8=False),
    reader="native",
    exact=True,
    calibrated=False,
    summary="fp32 values for our own runtime: fastest, no dependency",
)
INT8 = Target(
    name="native-int8",
    suffix=".flsp",
    make=lambda material: _make(material, int8=True),
    reader="native",
    exact=False,
    calibrated=False,
    summary="int8 values for our own runtime: smallest",
)
