"""`onnx`: dense fp32, the most compatible form."""

from __future__ import annotations

from export.passes import run
from export.passes.describe import Describe
from export.targets import Material, Product, Target

__all__ = ["TARGET"]


def _make(material: Material) -> Product:
    model = material.copy()
    run(model, (Describe({**material.facts, "format": "onnx"}),))
    return Product(model.SerializeToString(deterministic=True), model, material.dense)


TARGET = Target(
    name="onnx",
    suffix=".onnx",
    make=_make,
    reader="onnx",
    exact=True,
    calibrated=False,
    summary="dense fp32 ONNX, for any runtime",
)
