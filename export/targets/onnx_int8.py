"""`onnx-int8`: static QDQ with packed int8 weights; needs calibration and accuracy."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from edge_sdk.errors import DataError, ExportError
from export.passes import run
from export.passes.describe import Describe
from export.passes.int8_values import Int8Values
from export.passes.pack_sparse import PackSparse
from export.passes.strip_metadata import StripMetadata
from export.rebuild import Inputs
from export.targets import Material, Product, Target

__all__ = ["TARGET"]


# Layers, and what onnxruntime computes in int8 in one go with them.
_LAYERS = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip"]
# Signs of a norm of each example: of layers, of groups, or by formula (RMS).
_NORMS = {"LayerNormalization", "InstanceNormalization", "Sqrt", "ReduceL2"}


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """Hands the calibration inputs over in batches of the model's size."""

    def __init__(self, name: str, batch: NDArray[Any]) -> None:
        self._name = name
        self._rows = iter(batch)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next input, or None at the end."""
        row = next(self._rows, None)
        return None if row is None else {self._name: row[None]}


def _make(material: Material) -> Product:
    if material.calibration is None:
        raise DataError("onnx-int8 needs calibration examples: name them with --data")
    model = _quantised(material.copy(), material.calibration)
    rounded = run(model, (Int8Values(),))
    facts = {**material.facts, "format": "onnx-int8"}
    reference = onnx.ModelProto()
    reference.CopyFrom(model)
    notes = run(model, (StripMetadata(), PackSparse(), Describe(facts)))
    content = model.SerializeToString(deterministic=True)
    examples = f"calibrated on {len(material.calibration)} examples"
    return Product(content, model, reference, (examples, *rounded, *notes[:-1]))


def _quantised(model: onnx.ModelProto, calibration: Inputs) -> onnx.ModelProto:
    """The model with QuantizeLinear and DequantizeLinear around every layer.

    Weights get one symmetric scale per output unit, so a zero stays zero; activations
    are unsigned with a zero point.
    """
    name = model.graph.input[0].name
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing that is done already
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "quantised.onnx"
            quantize_static(
                model,
                str(path),
                _Reader(name, calibration.batch),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                **_rounded(model),
            )
            return onnx.load(path)
    except Exception as error:
        raise ExportError(
            f"onnxruntime could not quantise the model: {error}",
            remedy="Use onnx-sparse or onnx-fp16 for this model.",
        ) from error
    finally:
        root.setLevel(level)


def _rounded(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Operations whose inputs are rounded, as arguments of onnxruntime's quantiser.

    All that it knows, but in networks that add up to a sum which norms of each example
    or attention read: the norm brings up what is small in that sum and one scale rounds
    it away. ViT-tiny's outputs were off by 0.29 of what they vary by, and are by 0.04
    where layers with weights alone are rounded; they run 1.5 times as fast as float32,
    before 1.2. Networks of convolutions lose by it (MobileNetV2 1.2, all rounded 1.8).
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    of_two = []
    apart = []  # what takes several inputs apart: each has a range of its own
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
        if node.op_type == "Split" and node.input[0] == model.graph.input[0].name:
            apart.append(node.name)
        if node.op_type == "MatMul" and weights.isdisjoint(node.input):
            of_two.append(node.name)
    if not of_two and not any(n.op_type in _NORMS for n in model.graph.node):
        return {"nodes_to_exclude": apart} if apart else {}
    return {"op_types_to_quantize": _LAYERS, "nodes_to_exclude": of_two}


TARGET = Target(
    name="onnx-int8",
    suffix=".onnx",
    make=_make,
    reader="onnx",
    exact=False,
    calibrated=True,
    summary="packed int8 ONNX (static QDQ); needs --data",
)
