"""`coreml`: a zipped ``.mlpackage`` with sparse weights; converted, never run here.

Core ML predicts on Apple's systems only. So this format has no parity gate: the mask is
checked on the graph it comes from, and its outputs must be compared on a Mac.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import torch

from edge_sdk.errors import ExportError
from export.extras import require
from export.targets import Material, Product, Target, fixed_batch, row_notes

__all__ = ["TARGET"]

_LEAST_SPARSE = 0.4  # below it a bitmask and the kept values are no smaller
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member of the zip: no clock in a file


def _make(material: Material) -> Product:
    require("coremltools", extra="coreml")
    import coremltools as ct  # noqa: PLC0415
    import coremltools.optimize.coreml as shrink  # noqa: PLC0415

    example = material.source.example(fixed_batch(material, "coreml")[0])
    try:
        model = ct.convert(
            torch.jit.trace(material.source.model, example),  # type: ignore[no-untyped-call]
            inputs=[ct.TensorType(name="input", shape=example.shape)],
            outputs=[ct.TensorType(name="output")],
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
    return Product(content, material.copy(), None, (note, *row_notes(material)))


def _zipped(package: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*")):
            if path.is_file():
                name = str(path.relative_to(package.parent))
                archive.writestr(zipfile.ZipInfo(name, _DATE), path.read_bytes())
    return buffer.getvalue()


TARGET = Target(
    name="coreml",
    suffix=".mlpackage.zip",
    make=_make,
    reader="elsewhere",
    exact=True,
    calibrated=False,
    summary="Core ML, sparse fp32, not run here; needs the extra coreml",
)
