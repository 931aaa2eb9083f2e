"""Build of checked files from a `Source`; a failed check writes none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge_sdk.checkpoint import replace_file, replace_listed
from edge_sdk.errors import DataError, ExportError
from edge_sdk.infer.compressed import compressed
from edge_sdk.infer.input_parts import listed
from edge_sdk.infer.output_parts import listed_outputs, output_parts_of
from edge_sdk.json_text import to_json
from export.checks.stamp import stamped
from export.checks.tolerance import Tolerance
from export.extras import require
from export.places import Layer, check_layer
from export.report import Report

if TYPE_CHECKING:
    from export.rebuild import Source
    from export.targets import Material, Product, Target

__all__ = ["checked", "made_by", "make_all", "prepare", "versions", "written"]

_COMPARED = 64  # examples for parity: enough to meet every kernel, under a second
_EVALUATED = 2000  # examples for the accuracy of lossy formats
_CALIBRATED = 256


def written(content: bytes, report: Report, file: Path | str | None) -> Report:
    """The report with its file, which now has these bytes; None writes none.

    A file of a format that has no place for a digest is listed in `SHA256SUMS` beside.
    """
    from export.targets.table import find_target  # noqa: PLC0415 - imports onnx

    if file is None:
        return report
    if find_target(report.format).reader in {"own", "elsewhere"}:
        replace_listed(Path(file), content, report.sha256)
    else:
        replace_file(Path(file), content)
    return replace(report, file=str(file))


def make_all(
    source: Source,
    formats: Sequence[str],
    *,
    batch: Literal["1", "dynamic"],
    data: Path | None,
    tolerance: Tolerance,
    input_scales: Mapping[str, tuple[float, int]] | None = None,
    compress: Layer | None = None,
) -> dict[str, tuple[bytes, Report]]:
    """Every format's bytes and report; none is written, all pass their gates.

    Of a file that is built again `input_scales` are those that it has; None: they are
    measured.

    Raises:
        DataError: If a format needs examples and there are none.
        ExportError: If there is no such format, the model cannot be exported, or a gate
            fails; names the format.
    """
    require()
    from export.targets.table import find_target  # noqa: PLC0415

    if batch not in {"1", "dynamic"}:
        raise ExportError(
            f"batch is {batch!r}", remedy="It is '1', or 'dynamic' for a free one."
        )
    check_layer(compress)
    targets = [find_target(name) for name in dict.fromkeys(formats)]
    calibrated = [t.name for t in targets if t.calibrated]
    if calibrated and data is None and source.given is None:
        raise DataError(
            f"format {calibrated[0]} needs examples to calibrate on",
            remedy="Name the folder of the task's evaluation examples with --data; "
            "from Python also calibration=Examples(inputs, targets), or an array.",
        )
    material, notes = prepare(source, batch=batch, data=data)
    material = replace(material, input_scales=input_scales)
    made = {}
    for target in targets:
        try:
            product = made_by(target, material)
            report = checked(
                product,
                target,
                material,
                data=data,
                batch=batch,
                notes=(*source.notes, *notes),
                tolerance=tolerance,
            )
        except ExportError as error:
            if len(targets) == 1:
                raise
            raise ExportError(f"{target.name}: {error}", remedy=error.help) from error
        made[target.name] = _layered(product.content, report, compress)
    return made


def _layered(
    content: bytes, report: Report, compress: Layer | None
) -> tuple[bytes, Report]:
    """The bytes in the layer that was asked for, and what the report says of them."""
    if compress is None:
        return content, report
    layered = compressed(content)
    digest = hashlib.sha256(layered).hexdigest()
    return layered, replace(report, file_bytes=len(layered), sha256=digest)


def made_by(target: Target, material: Material) -> Product:
    """A format's product, with the digest of its bytes in them."""
    product = target.make(material)
    return replace(product, content=stamped(product.content))


def prepare(
    source: Source, *, batch: Literal["1", "dynamic"], data: Path | None
) -> tuple[Material, list[str]]:
    """The dense graph with what every target needs to know, and the passes' notes."""
    from export.checks.output_names import output_parts  # noqa: PLC0415
    from export.checks.reference import reference_of  # noqa: PLC0415
    from export.measure.costs import count_macs  # noqa: PLC0415
    from export.onnx_graph import dense_graph  # noqa: PLC0415
    from export.targets import Material  # noqa: PLC0415

    dense = dense_graph(source, batch=batch, data=data)
    macs = count_macs(dense.model)
    facts = {
        "version": versions()["flash-edge"],
        "task": source.task,
        "round": str(source.round_no),
        "density": repr(source.mask.density),
        "mac_density": repr(macs.density),
        "macs": str(macs.dense),
        "mask_digest": source.mask.digest.hex(),
        "labels": to_json(list(source.labels)),
        "input_shape": to_json(list(source.input_shape)),
        "metrics": to_json(dict(source.metrics), sort_keys=True),
        "torch": versions()["torch"],
    }
    if source.parts:
        facts["inputs"] = listed(source.parts)
    outputs = output_parts(source, data)
    if outputs:
        facts["outputs"] = listed_outputs(outputs)
    if source.privacy:
        facts["privacy"] = source.privacy
    calibration = None
    if data is not None or source.given is not None:
        calibration = source.inputs(data, _CALIBRATED, half=1)
    compared = source.inputs(data, _COMPARED)
    material = Material(
        source,
        dense.model,
        facts,
        compared,
        reference_of(source, compared.batch),
        calibration,
        dense.kept,
        dense.left_out,
        dense.layers,
    )
    return material, dense.notes


def checked(
    product: Product,
    target: Target,
    material: Material,
    *,
    data: Path | None,
    batch: Literal["1", "dynamic"],
    tolerance: Tolerance,
    notes: Sequence[str] = (),
) -> Report:
    """Runs the format's gates and reports.

    Raises:
        ExportError: If a gate fails.
    """
    from export.checks.gates import check  # noqa: PLC0415
    from export.passes import run  # noqa: PLC0415
    from export.passes.describe import Describe  # noqa: PLC0415
    from export.targets import FileInterface  # noqa: PLC0415

    source, facts = material.source, material.facts
    evaluation = None
    if not target.exact and (data is not None or source.given is not None):
        evaluation = source.inputs(data, _EVALUATED)
    findings = check(
        product,
        target,
        source,
        material.compared,
        kept=material.kept,
        left_out=material.left_out,
        evaluation=evaluation,
        reference=material.reference,
        tolerance=tolerance,
    )
    made = FileInterface(
        source.parts, output_parts_of(json.loads(facts.get("outputs", "null")))
    )
    if target.describe is not None:
        made = target.describe(product.content)
    plain = material.copy()
    run(plain, (Describe({**facts, "format": "onnx"}),))
    return Report(
        format=target.name,
        file="",
        file_bytes=len(product.content),
        dense_bytes=plain.ByteSize(),
        sha256=hashlib.sha256(product.content).hexdigest(),
        task=source.task,
        round_no=source.round_no,
        batch=batch,
        input_shape=source.input_shape,
        labels=source.labels,
        density=source.mask.density,
        mac_density=float(facts["mac_density"]),
        macs=int(facts["macs"]),
        mask_digest=source.mask.digest.hex(),
        findings=findings,
        notes=(*notes, *product.notes),
        left_out=dict(material.left_out),
        inputs=tuple(json.loads(listed(made.inputs))),
        outputs=tuple(json.loads(listed_outputs(made.outputs))),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Package to version, of what took part in an export."""
    names = ("flash-edge", "torch", "onnx", "onnxruntime", "numpy")
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+source"
