"""`onnx-fp16`: packed weights stored as float16, computed in float32."""

from __future__ import annotations

import onnx

from export.passes import run
from export.passes.describe import Describe
from export.passes.half_values import HalfValues
from export.passes.pack_sparse import PackSparse
from export.targets import Material, Product, Target

__all__ = ["TARGET"]


def _make(material: Material) -> Product:
    model = material.copy()
    facts = {**material.facts, "format": "onnx-fp16"}
    rounded = run(model, (HalfValues(),))
    reference = onnx.ModelProto()
    reference.CopyFrom(model)
    notes = run(model, (PackSparse(), Describe(facts)))
    content = model.SerializeToString(deterministic=True)
    return Product(content, model, reference, (*rounded, *notes[:-1]))


TARGET = Target(
    name="onnx-fp16",
    suffix=".onnx",
    make=_make,
    reader="onnx",
    exact=False,
    calibrated=False,
    summary="packed ONNX, values rounded to float16, computed in fp32",
)
