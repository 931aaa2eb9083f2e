"""`ort`: onnxruntime's own format, weights kept sparse, for phone and small builds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edge_sdk.errors import ExportError
from export.passes import run
from export.passes.describe import Describe
from export.targets import Material, Product, Target

__all__ = ["TARGET"]

_INDEX_BYTES = 4  # what onnxruntime writes per kept value


def _make(material: Material) -> Product:
    model = material.copy()
    run(model, (Describe({**material.facts, "format": "ort"}),))
    sparse = onnx.ModelProto()
    sparse.CopyFrom(model)
    count = _sparsify(sparse)
    content = _converted(sparse)
    note = f"{count} sparse initializers"
    return Product(content, model, material.dense, (note,))


def _sparsify(model: onnx.ModelProto) -> int:
    """Turns sparse initializers into ``sparse_initializer`` entries.

    Packing does not work here: the converter folds it, and the file is dense again.
    """
    count = 0
    for index in reversed(range(len(model.graph.initializer))):
        tensor = model.graph.initializer[index]
        array = numpy_helper.to_array(tensor)
        spots = np.flatnonzero(array).astype(np.int64)
        if (
            array.dtype != np.float32
            or spots.size * (4 + _INDEX_BYTES) > 0.9 * array.nbytes
        ):
            continue
        values = numpy_helper.from_array(array.reshape(-1)[spots], tensor.name)
        indices = numpy_helper.from_array(spots, f"{tensor.name}.indices")
        entry = helper.make_sparse_tensor(values, indices, list(array.shape))
        model.graph.sparse_initializer.append(entry)
        del model.graph.initializer[index]
        count += 1
    return count


def _converted(model: onnx.ModelProto) -> bytes:
    """The model saved by onnxruntime in its own format.

    Extended, not all optimisations: the last level writes layouts of this machine.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ort"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ExportError(f"onnxruntime could not convert: {error}") from error
        return path.read_bytes()


TARGET = Target(
    name="ort",
    suffix=".ort",
    make=_make,
    reader="ort",
    exact=True,
    calibrated=False,
    summary="onnxruntime's format with sparse weights, for reduced builds",
)
