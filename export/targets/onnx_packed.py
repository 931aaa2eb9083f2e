"""`onnx-sparse`: the same values packed; onnxruntime unpacks them when loading."""

from __future__ import annotations

from export.passes import run
from export.passes.describe import Describe
from export.passes.pack_sparse import PackSparse
from export.targets import Material, Product, Target

__all__ = ["TARGET"]


def _make(material: Material) -> Product:
    model = material.copy()
    facts = {**material.facts, "format": "onnx-sparse"}
    notes = run(model, (PackSparse(), Describe(facts)))
    content = model.SerializeToString(deterministic=True)
    return Product(content, model, material.dense, tuple(notes[:-1]))


TARGET = Target(
    name="onnx-sparse",
    suffix=".onnx",
    make=_make,
    reader="onnx",
    exact=True,
    calibrated=False,
    summary="packed fp32 ONNX, bitwise equal to dense in onnxruntime",
)
