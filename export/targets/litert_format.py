"""`litert`: a ``.tflite`` for LiteRT (TensorFlow Lite); dense, run and compared."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import ExportError
from export.extras import require
from export.targets import Material, Product, Target, fixed_batch, row_notes

__all__ = ["TARGET"]


def _make(material: Material) -> Product:
    require("litert_torch", "ai_edge_litert", extra="litert")
    import litert_torch  # noqa: PLC0415

    example = (material.source.example(fixed_batch(material, "litert")[0]),)
    try:
        converted = litert_torch.convert(material.source.model, example)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            converted.export(str(path))
            content = path.read_bytes()
    except Exception as error:
        raise ExportError(f"LiteRT could not convert the model: {error}") from error
    notes = ("dense weights", *row_notes(material))
    return Product(content, material.copy(), None, notes)


def _run(content: bytes, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    made = interpreter.get_output_details()[0]["index"]
    outputs = []
    for one in batch:
        interpreter.set_tensor(given, one[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(made).copy())
    return np.concatenate(outputs)


TARGET = Target(
    name="litert",
    suffix=".tflite",
    make=_make,
    reader="own",
    exact=True,
    calibrated=False,
    summary="LiteRT (TensorFlow Lite), dense fp32; needs the extra litert",
    run=_run,
)
