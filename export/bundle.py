"""A bundle: models, labels, preparation, golden example and manifest in one folder."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_sdk.checkpoint import sync
from edge_sdk.errors import ExportError
from edge_sdk.infer.bundle import MANIFEST, digests
from edge_sdk.infer.input_parts import apart_inputs
from edge_sdk.infer.run_key import PRIVATE, run_folder, run_name
from edge_sdk.infer.signature import SIGNATURE, read_key, sign
from edge_sdk.json_text import to_json
from export.api import Model, source_of
from export.builder import make_all, versions, written
from export.checks.tolerance import ACCURACY_POINTS, LOSS_PERCENT, Tolerance
from export.extras import require
from export.loaded import load
from export.measure.timing import machine, time_file
from export.places import Layer, check_layer, scratch_beside, with_layer
from export.snippets import readme

if TYPE_CHECKING:
    from export.modules.shapes import InputShape
    from export.rebuild import Source
    from export.report import Report
    from export.targets import Target

__all__ = ["FORMATS", "make_bundle"]

FORMATS = ("onnx-sparse", "native")
_GOLDEN = 4  # examples


def make_bundle(
    model: Model,
    out: Path | str,
    *,
    formats: Sequence[str] = FORMATS,
    input_shape: InputShape | None = None,
    calibration: Any = None,
    name: str = "model",
    labels: Sequence[str] = (),
    data: Path | str | None = None,
    accuracy_points: float = ACCURACY_POINTS,
    loss_percent: float = LOSS_PERCENT,
    seconds: float = 0.5,
    key: Path | str | None = None,
    compress: Layer | None = None,
) -> dict[str, Any]:
    """Exports every format, checks it, and writes the folder whole or not at all.

    Args:
        model: A checkpoint, its file, or a module: as `export.build` takes it.
        out: Folder to make; an older bundle there is replaced.
        formats: Names from `export.targets.table`.
        input_shape: Of a module, as `export.build` takes it.
        calibration: As `export.build` takes it; the golden example is then one of them.
        name: Of a module.
        labels: Of a module: class names in the order of the outputs.
        data: Folder with evaluation examples: the golden example then is a real one.
        accuracy_points: Percentage points that a lossy format may lose.
        loss_percent: By how much its loss may grow where outputs are no answers.
        seconds: How long each model is timed for the manifest; 0 for not at all.
        key: PEM file of an Ed25519 private key that signs the manifest. Without one, a
            checkpoint in a run's folder is signed with that run's key.
        compress: "zstd" for a zstd layer around each model; a board then needs the
            extra ``zstd``.

    Returns:
        The manifest.

    Raises:
        ExportError: If a gate fails, or `out` exists and is no bundle.
        IdentityError: If the key cannot be read; before anything is exported.
    """
    require()
    from export.checks.output_names import output_parts  # noqa: PLC0415 - torch
    from export.onnx_graph import input_names  # noqa: PLC0415

    kinds = {one: _kind(one) for one in formats}
    check_layer(compress)
    tolerance = Tolerance(accuracy_points, loss_percent)
    run = None
    if key is None and isinstance(model, str | Path):
        run = run_folder(Path(model))
        key = None if run is None else run / PRIVATE
    signing = None if key is None else read_key(Path(key))
    target = Path(out)
    if target.exists() and not (target / MANIFEST).is_file():
        raise ExportError(
            f"{target} exists and is not a bundle", remedy="Name another folder."
        )
    source, folder_data = source_of(
        model,
        input_shape=input_shape,
        calibration=calibration,
        name=name,
        labels=labels,
        data=data,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(target) as scratch:
            folder = scratch / "bundle"
            (folder / "golden").mkdir(parents=True)
            _write_example(folder, source, folder_data)
            manifest = _manifest(source, folder_data)
            if run is not None:
                manifest["run"] = run_name(run)
            made = make_all(
                source,
                tuple(kinds),
                batch="1",
                data=folder_data,
                tolerance=tolerance,
                compress=compress,
            )
            for one, kind in kinds.items():
                file = with_layer(folder / f"model.{one}{kind.suffix}", compress)
                report = written(*made[one], file)
                entry = _entry(folder, file, report, kind, seconds=seconds)
                manifest["models"][one] = entry
            golden = next(iter(manifest["models"].values()))["golden"]
            text = readme(
                source.task,
                manifest["models"],
                source.input_shape,
                labels=len(source.labels),
                outputs=int(np.load(folder / golden)[0].size),
                dtype=str(np.load(folder / "golden" / "input.npy").dtype),
                parts=[
                    replace(part, name=name)
                    for part, name in zip(
                        source.parts, input_names(source), strict=True
                    )
                ],
                made=output_parts(source, folder_data),
            )
            (folder / "README.md").write_text(text, encoding="utf-8")
            manifest["files"] = digests(folder)
            _write_json(folder / MANIFEST, manifest)
            if signing is not None:
                signature = sign((folder / MANIFEST).read_bytes(), signing)
                (folder / SIGNATURE).write_text(signature, encoding="utf-8")
            _replace(folder, target)
    except OSError as error:
        raise ExportError(
            f"{target} could not be written: {error}",
            remedy="Free some space, or name a folder that you may write.",
        ) from error
    return manifest


def _kind(name: str) -> Target:
    """A format that may go into a bundle: asked before any model is exported."""
    from export.targets.table import find_target  # noqa: PLC0415

    target = find_target(name)
    if target.reader in {"own", "elsewhere"}:
        raise ExportError(
            f"format {name} does not go into a bundle: verify could not run it",
            remedy=f"Export it alone: flash-export build --format {name}.",
        )
    return target


def _entry(
    folder: Path, file: Path, report: Report, target: Target, *, seconds: float
) -> dict[str, Any]:
    """A model's entry in the manifest; its golden output is written beside it."""
    name = target.name
    golden = f"golden/output.{name}.npy"
    example = folder / "golden" / "input.npy"
    _save(folder / golden, load(file)(np.load(example)))
    entry = {
        "file": file.name,
        "golden": golden,
        "exact": target.exact,
        "bytes": report.file_bytes,
        "size_ratio": round(report.size_ratio, 3),
        "findings": asdict(report.findings),
    }
    if report.left_out:
        entry["left_out"] = dict(report.left_out)
    if seconds > 0:
        timing = asdict(time_file(name, file, example, seconds=seconds))
        entry["latency"] = {k: v for k, v in timing.items() if k != "name"}
    return entry


def _manifest(source: Source, data: Path | None) -> dict[str, Any]:
    return {
        "format": "flash-edge bundle 1",
        "task": source.task,
        "round": source.round_no,
        "density": source.mask.density,
        "mask_digest": source.mask.digest.hex(),
        "input_shape": list(source.input_shape),
        "outputs": source.meaning(data),
        "machine": machine(),
        "versions": versions(),
        "models": {},
    }


def _write_example(folder: Path, source: Source, data: Path | None) -> None:
    from export.preprocess import describe_preparation  # noqa: PLC0415

    inputs = source.inputs(data, _GOLDEN)
    _save(folder / "golden" / "input.npy", inputs.batch[:_GOLDEN])
    if source.parts:
        apart = apart_inputs(inputs.batch[:_GOLDEN], source.parts)
        _save_apart(folder / "golden" / "inputs.npz", apart)
    if inputs.raw is not None:
        _save(folder / "golden" / "raw.npy", inputs.raw[:_GOLDEN])
    labels = "".join(f"{label}\n" for label in source.labels)
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    _write_json(folder / "preprocess.json", describe_preparation(source, inputs))


def _save(path: Path, array: np.typing.NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path.write_bytes(buffer.getvalue())


def _save_apart(path: Path, arrays: Mapping[str, np.typing.NDArray[Any]]) -> None:
    """Arrays by name; `np.savez` takes none that is called file."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def _write_json(path: Path, value: object) -> None:
    text = to_json(value, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _replace(folder: Path, target: Path) -> None:
    """Puts the finished folder in place; an old bundle goes only then."""
    if target.exists():
        target.replace(folder.parent / "old")
    folder.replace(target)
    sync(target.parent)
    shutil.rmtree(folder.parent / "old", ignore_errors=True)
