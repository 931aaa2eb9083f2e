"""`litert`: a ``.tflite`` for LiteRT (TensorFlow Lite); dense, run and compared.

Its one signature has the names of inputs and outputs. int64 becomes int32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import ExportError
from edge_sdk.infer.input_parts import InputPart
from edge_sdk.infer.output_parts import OutputPart
from export.extras import require
from export.targets import FileInterface, Material, Product, Target
from export.targets.converters import (
    converted_of,
    each_example,
    quiet,
    reading,
    rows_of,
)

__all__ = ["TARGET"]


class _Named(nn.Module):
    """A model that takes its inputs, and gives its outputs, by names."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs by their names."""
        found = self.model(*(given[name] for name in self.inputs))
        return dict(zip(self.outputs, found, strict=True))


def _make(material: Material) -> Product:
    with quiet():
        require("litert_torch", "ai_edge_litert", extra="litert")
        import litert_torch  # noqa: PLC0415

    given = converted_of(material, "litert")
    named = _Named(given.module, given.inputs, given.outputs).eval()
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            examples = dict(zip(given.inputs, given.examples, strict=True))
            converted = litert_torch.convert(named, sample_kwargs=examples)
            path = Path(folder) / "model.tflite"
            converted.export(str(path))
            content = path.read_bytes()
    except Exception as error:
        raise ExportError(f"LiteRT could not convert the model: {error}") from error
    return Product(content, material.copy(), None, ("dense weights",))


@reading("LiteRT")
def _run(
    content: bytes, batch: NDArray[Any], parts: Sequence[InputPart]
) -> NDArray[np.float32]:
    interpreter = _interpreter(content)
    takes, gives = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for given in each_example(batch, parts, [one["shape"] for one in takes]):
        for one, value in zip(takes, given, strict=True):
            interpreter.set_tensor(one["index"], value.astype(one["dtype"]))
        interpreter.invoke()
        outputs.append(
            [torch.from_numpy(interpreter.get_tensor(one["index"])) for one in gives]
        )
    return rows_of(outputs)


@reading("LiteRT")
def _describe(content: bytes) -> FileInterface:
    interpreter = _interpreter(content)
    runner = interpreter.get_signature_runner()
    takes, gives = interpreter.get_input_details(), interpreter.get_output_details()
    inputs = _names(runner.get_input_details(), takes)
    outputs = _names(runner.get_output_details(), gives)
    return FileInterface(
        tuple(
            InputPart(name, _shape(one), np.dtype(one["dtype"]).name)
            for name, one in zip(inputs, takes, strict=True)
        ),
        tuple(
            OutputPart(name, _shape(one))
            for name, one in zip(outputs, gives, strict=True)
        ),
    )


def _shape(detail: dict[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, detail["shape"][1:]))


def _names(
    signature: Mapping[str, Any], details: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Names of tensors in the signature, which may give one tensor several."""
    of_index: dict[int, list[str]] = {}
    for name, one in signature.items():
        of_index.setdefault(one["index"], []).append(name)
    return [of_index[one["index"]].pop(0) for one in details]


def _interpreter(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter


TARGET = Target(
    name="litert",
    suffix=".tflite",
    make=_make,
    reader="own",
    exact=True,
    calibrated=False,
    summary="LiteRT (TensorFlow Lite), dense fp32; needs the extra litert",
    run=_run,
    describe=_describe,
)
