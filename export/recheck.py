"""`verify`: runs every gate again on a file or a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_sdk.checksums import SUMS, check_sum, file_digest, sums_of
from edge_sdk.errors import EdgeError, ExportError
from edge_sdk.infer.bundle import check_files, check_golden
from edge_sdk.infer.compressed import plain_name, read_plain
from export.api import Model, source_of
from export.builder import checked, made_by, make_all, prepare
from export.checks.facts import check_facts
from export.checks.stamp import check_stamp
from export.checks.tolerance import ACCURACY_POINTS, LOSS_PERCENT, Tolerance
from export.extras import require
from export.loaded import load, opened, plain_bytes
from export.report import Report

if TYPE_CHECKING:
    import onnx

    from export.modules.shapes import InputShape
    from export.rebuild import Source
    from export.targets import Material, Target

__all__ = ["verify", "verify_bundle"]


def verify(
    file: Path | str,
    model: Model,
    *,
    input_shape: InputShape | None = None,
    calibration: Any = None,
    name: str = "model",
    labels: Sequence[str] = (),
    data: Path | str | None = None,
    accuracy_points: float = ACCURACY_POINTS,
    loss_percent: float = LOSS_PERCENT,
) -> Report:
    """Checks that a file is what exporting the model gives: all gates, again.

    Args:
        file: A file that `export.build` wrote.
        model: What it should come from, as `build` was given it: a module, a
            checkpoint, or the path of one.
        input_shape: Of a module, as `build` was given it.
        calibration: As `build` was given it.
        name: As `build` was given it.
        labels: As `build` was given them.
        data: Folder with evaluation examples, as `build` was given it.
        accuracy_points: Percentage points that a lossy format may have lost.
        loss_percent: By how much its loss may grow where outputs are no answers.

    Raises:
        CheckpointError: If the checkpoint is damaged.
        ExportError: If the file is damaged, of another mask, or fails a gate.
    """
    require()
    from export.passes.describe import description  # noqa: PLC0415
    from export.targets import Product  # noqa: PLC0415
    from export.targets.table import find_target  # noqa: PLC0415

    tolerance = Tolerance(accuracy_points, loss_percent)
    source, folder = source_of(
        model,
        input_shape=input_shape,
        calibration=calibration,
        name=name,
        labels=labels,
        data=data,
    )
    whose = "module" if source.contract is None else "checkpoint"
    path = Path(file)
    if plain_name(path).suffix == ".flsp":
        return _again(path, source, whose, folder, tolerance)
    if plain_name(path).suffix == ".ort":
        return _converted(path, source, whose, folder, tolerance)
    if (target := _foreign(path)) is not None:
        return _listed(path, target, source, folder, tolerance)
    content, graph = _read(path)
    facts = description(graph)
    digest = source.mask.digest.hex()
    if facts.get("mask_digest") != digest:
        raise ExportError(
            f"{file} has mask {facts.get('mask_digest', 'none')[:12]}, "
            f"the {whose} has {digest[:12]}",
            remedy=f"Verify it against the {whose} it was built from.",
        )
    target = find_target(facts.get("format", "onnx"))
    first = graph.graph.input[0].type.tensor_type.shape.dim[0]
    batch: Literal["1", "dynamic"] = "dynamic" if first.dim_param else "1"
    material, _ = prepare(source, batch=batch, data=folder)
    if len(graph.graph.input) < len(source.parts):  # of before: it takes rows
        material = material.of_one_row()
    material = _as_named(material, facts)
    check_facts(path, facts, {**material.facts, "format": target.name}, whose)
    product, missing = Product(content, graph, None), target.calibrated
    if not missing or material.calibration is not None:
        again = made_by(target, material)
        if again.content == content:
            product = again
        elif not missing:  # other examples give other scales, so other bits
            product = replace(product, reference=again.reference)
    report = checked(
        product,
        target,
        material,
        data=folder,
        batch=batch,
        tolerance=tolerance,
    )
    return _of_file(report, path)


def verify_bundle(
    folder: Path | str, *, trusted: bytes | None = None
) -> dict[str, float]:
    """Checks signature, every file's SHA-256 and the golden example; needs no torch.

    Args:
        folder: The bundle.
        trusted: Raw public key that must have signed it; None accepts an unsigned one.

    Returns:
        Model name to the relative difference from the golden output.

    Raises:
        ExportError: If a file is missing, changed or unlisted, the signature is false
            or by another key, or an output differs.
    """
    root = Path(folder)
    manifest, _ = check_files(root, trusted=trusted)
    return {
        name: check_golden(root, entry, load(root / entry["file"]))
        for name, entry in manifest["models"].items()
    }


def _converted(
    path: Path,
    source: Source,
    whose: str,
    data: Path | None,
    tolerance: Tolerance,
) -> Report:
    """A file of onnxruntime passes every gate itself.

    onnxruntime lists operators and types in another order at each conversion, so that
    another one gives other bytes: its digest says whether they are whole.
    """
    from export.targets.table import find_target  # noqa: PLC0415

    content = plain_bytes(path)
    loaded = opened(path, content)
    _check_mask(path, loaded.facts, source, whose)
    material, _ = prepare(source, batch=loaded.batch, data=data)
    material = _as_named(material, loaded.facts)
    target = find_target("ort")
    check_facts(path, loaded.facts, {"format": "ort", **material.facts}, whose)
    product = replace(made_by(target, material), content=content)
    report = checked(
        *(product, target, material),
        data=data,
        batch=loaded.batch,
        tolerance=tolerance,
    )
    return _of_file(report, path)


def _as_named(material: Material, facts: Mapping[str, str]) -> Material:
    """The material of a file of before, whose outputs have numbers for names."""
    if "outputs" in facts:
        return material
    kept = {key: text for key, text in material.facts.items() if key != "outputs"}
    return replace(material, facts=kept)


def _check_mask(
    path: Path, facts: Mapping[str, str], source: Source, whose: str
) -> None:
    if facts.get("mask_digest") != source.mask.digest.hex():
        raise ExportError(f"{path} was not built from this {whose}'s mask")


def _again(
    path: Path,
    source: Source,
    whose: str,
    data: Path | None,
    tolerance: Tolerance,
) -> Report:
    """Formats that are written deterministically are built again and compared.

    The file then is byte for byte one that passes every gate.
    """
    from export.native.input_scales import read as read_scales  # noqa: PLC0415 - onnx

    content = plain_bytes(path)
    loaded = opened(path, content)
    facts = loaded.facts
    _check_mask(path, facts, source, whose)
    name = facts.get("format", "None")
    made = make_all(
        source,
        (name,),
        batch=loaded.batch,
        data=data,
        tolerance=tolerance,
        input_scales=read_scales(facts.get("input_scales", "{}")),
    )
    _, report = made[name]
    if report.sha256 != hashlib.sha256(content).hexdigest():
        raise ExportError(
            f"{path} is not what exporting this {whose} gives",
            remedy="Build it again; other versions may also write other bytes.",
        )
    return _of_file(report, path)


def _foreign(path: Path) -> Target | None:
    """The format of a file that other runtimes read, by its name."""
    from export.targets.table import TARGETS  # noqa: PLC0415

    others = (t for t in TARGETS.values() if t.reader in {"own", "elsewhere"})
    return next((t for t in others if plain_name(path).name.endswith(t.suffix)), None)


def _listed(
    path: Path,
    target: Target,
    source: Source,
    data: Path | None,
    tolerance: Tolerance,
) -> Report:
    """Compares a file with its digest in `SHA256SUMS`, and runs it if anything can.

    Without the format's library the report says that outputs were not compared.
    """
    from export.targets import Product  # noqa: PLC0415

    try:
        check_sum(path)
        content = read_plain(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    if not sums_of(path):
        raise ExportError(
            f"{path} has no digest: {SUMS} beside it does not list it",
            remedy=f"Copy {SUMS} with the file, or build it again.",
        )
    material, _ = prepare(source, batch="1", data=data)
    product = Product(content, material.copy(), None)

    def found(kind: Target) -> Report:
        return checked(
            product, kind, material, data=data, batch="1", tolerance=tolerance
        )

    try:
        report = found(target)
    except ImportError:  # of its library, which only running needs
        report = found(replace(target, reader="elsewhere", describe=None))
    return _of_file(report, path)


def _of_file(report: Report, path: Path) -> Report:
    """The report with the file's own size and digest: it may have a layer around it."""
    size, digest = path.stat().st_size, file_digest(path)
    return replace(report, file=str(path), file_bytes=size, sha256=digest)


def _read(path: Path) -> tuple[bytes, onnx.ModelProto]:
    import onnx  # noqa: PLC0415 - an extra

    try:
        content = read_plain(path)
        check_stamp(path, content)
        model = onnx.ModelProto.FromString(content)
    except EdgeError:
        raise
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read: {error}", remedy="Check the path."
        ) from error
    except Exception as error:
        raise ExportError(
            f"{path} is not an ONNX file: {error}",
            remedy="Name a file that flash-export build wrote.",
        ) from error
    if not model.graph.input:
        raise ExportError(f"{path} is not an ONNX model: it has no input")
    return content, model
