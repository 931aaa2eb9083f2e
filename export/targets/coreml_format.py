"""`coreml`: a zipped ``.mlpackage`` with sparse weights; converted, never run here.

Core ML predicts on Apple's systems only. So this format has no parity gate: the mask is
checked on the graph it comes from, and its outputs must be compared on a Mac.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_sdk.errors import ExportError
from edge_sdk.infer.input_parts import InputPart
from edge_sdk.infer.output_parts import OutputPart
from export.extras import require
from export.targets import FileInterface, Material, Product, Target
from export.targets.converters import converted_of, quiet, reading

__all__ = ["TARGET"]

_LEAST_SPARSE = 0.4  # below it a bitmask and the kept values are no smaller
# Core ML takes whole numbers of 32 bits; truth values become numbers.
_TAKEN = {torch.float32: np.float32, torch.int64: np.int32, torch.bool: np.bool_}
_DTYPES = {65568: "float32", 131104: "int32"}  # ArrayFeatureType of its specification
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member of the zip: no clock in a file


class _Distinct(nn.Module):
    """A model whose outputs are values of their own, not inputs or each other.

    coremltools gives one value one name; of copies it makes the value again.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The model's outputs."""
        seen, outputs = list(inputs), []
        for one in self.model(*inputs):
            found = one
            if any(one is other for other in seen):
                found = (
                    one.logical_and(one)
                    if one.dtype is torch.bool
                    else one.maximum(one)
                )
            seen.append(one)
            outputs.append(found)
        return tuple(outputs)


def _make(material: Material) -> Product:
    with quiet():
        require("coremltools", extra="coreml")
        import coremltools as ct  # noqa: PLC0415
        import coremltools.optimize.coreml as shrink  # noqa: PLC0415

    given = converted_of(material, "coreml")
    try:
        with quiet():
            model = ct.convert(
                torch.jit.trace(_Distinct(given.module), given.examples),  # type: ignore[no-untyped-call]
                inputs=[
                    ct.TensorType(name=name, shape=one.shape, dtype=_TAKEN[one.dtype])
                    for name, one in zip(given.inputs, given.examples, strict=True)
                ],
                outputs=[ct.TensorType(name=name) for name in given.outputs],
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT32,
                minimum_deployment_target=ct.target.iOS16,
            )
            rule = shrink.OpThresholdPrunerConfig(
                threshold=1e-30, minimum_sparsity_percentile=_LEAST_SPARSE
            )
            model = shrink.prune_weights(
                model, shrink.OptimizationConfig(global_config=rule)
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mlpackage"
            model.save(str(path))
            content = _zipped(path)
    except Exception as error:
        raise ExportError(f"coremltools could not convert: {error}") from error
    note = "not run: Core ML runs on Apple's systems only, compare outputs there"
    return Product(content, material.copy(), None, (note,))


@reading("coremltools")
def _describe(content: bytes) -> FileInterface:
    import coremltools as ct  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)
        (package,) = Path(folder).iterdir()
        found = ct.utils.load_spec(str(package)).description
    return FileInterface(
        tuple(
            InputPart(one.name, _shape(one), _DTYPES.get(_array(one).dataType, "other"))
            for one in found.input
        ),
        tuple(OutputPart(one.name, _shape(one)) for one in found.output),
    )


def _array(feature: Any) -> Any:
    return feature.type.multiArrayType


def _shape(feature: Any) -> tuple[int, ...]:
    return tuple(_array(feature).shape[1:])


def _zipped(package: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*")):
            name = str(path.relative_to(package.parent))
            if path.is_file():
                archive.writestr(zipfile.ZipInfo(name, _DATE), path.read_bytes())
            else:  # the manifest lists the folder of weights, which may be empty
                archive.writestr(zipfile.ZipInfo(f"{name}/", _DATE), b"")
    return buffer.getvalue()


TARGET = Target(
    name="coreml",
    suffix=".mlpackage.zip",
    make=_make,
    reader="elsewhere",
    exact=True,
    calibrated=False,
    summary="Core ML, sparse fp32, not run here; needs the extra coreml",
    describe=_describe,
)
