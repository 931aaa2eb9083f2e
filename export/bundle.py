"""A bundle: models, labels, preparation, golden example and manifest in one folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_sdk.checkpoint import Checkpoint, load_checkpoint
from edge_sdk.errors import ExportError
from export.builder import build_source
from export.extras import require
from export.snippets import readme
from export.timing import machine, time_file

if TYPE_CHECKING:
    from export.rebuild import Source

__all__ = ["FORMATS", "MANIFEST", "make_bundle", "read_manifest", "verify_bundle"]

MANIFEST = "manifest.json"
FORMATS = ("onnx-sparse", "native")
_GOLDEN = 4  # examples
_EXACT, _ROUNDED = 1e-5, 1e-3  # relative max-norm between machines


def make_bundle(
    checkpoint: Checkpoint | Path | str,
    out: Path | str,
    *,
    formats: Sequence[str] = FORMATS,
    data: Path | str | None = None,
    accuracy_points: float = 0.5,
    seconds: float = 0.5,
) -> dict[str, Any]:
    """Exports every format, checks it, and writes the folder whole or not at all.

    Args:
        checkpoint: The sparse model, or its file.
        out: Folder to make; an older bundle there is replaced.
        formats: Names from `export.targets.table`.
        data: Folder with evaluation examples: the golden example then is a real one.
        accuracy_points: Percentage points that a lossy format may lose.
        seconds: How long each model is timed for the manifest; 0 for not at all.

    Returns:
        The manifest.

    Raises:
        ExportError: If a gate fails, or `out` exists and is no bundle.
    """
    require()
    from export.rebuild import from_checkpoint  # noqa: PLC0415 - torch is an extra

    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(Path(checkpoint))
    target = Path(out)
    if target.exists() and not (target / MANIFEST).is_file():
        raise ExportError(
            f"{target} exists and is not a bundle", remedy="Name another folder."
        )
    source = from_checkpoint(checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as scratch:
        folder = Path(scratch) / "bundle"
        (folder / "golden").mkdir(parents=True)
        folder_data = None if data is None else Path(data)
        _write_example(folder, source, folder_data)
        manifest = _manifest(source)
        for name in formats:
            manifest["models"][name] = _add_model(
                folder,
                source,
                name,
                data=folder_data,
                accuracy_points=accuracy_points,
                seconds=seconds,
            )
        text = readme(
            source.task, manifest["models"], source.input_shape, len(source.labels)
        )
        (folder / "README.md").write_text(text, encoding="utf-8")
        manifest["files"] = _digests(folder)
        _write_json(folder / MANIFEST, manifest)
        _replace(folder, target)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        ExportError: If the folder has none or it is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder} is not a bundle: {error}") from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != "flash-edge bundle 1"
    ):
        raise ExportError(f"{folder} is not a bundle of format 1")
    return manifest


def verify_bundle(folder: Path | str) -> dict[str, float]:
    """Checks every file's SHA-256 and runs the golden example; needs no torch.

    Returns:
        Model name to the relative difference from the golden output.

    Raises:
        ExportError: If a file is missing, changed or unlisted, or an output differs.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    listed, found = manifest["files"], _digests(root)
    for name in sorted({*listed, *found}):
        if name not in found:
            raise ExportError(f"{root}: {name} is missing")
        if name not in listed:
            raise ExportError(f"{root}: {name} is not in the manifest")
        if listed[name] != found[name]:
            raise ExportError(f"{root}: {name} was changed: its SHA-256 is another")
    given = np.load(root / "golden" / "input.npy")
    differences = {}
    for name, entry in manifest["models"].items():
        wanted = np.load(root / entry["golden"])
        outputs = _run(root / entry["file"], given)
        scale = float(np.abs(wanted).max()) or 1.0
        error = float(np.abs(outputs - wanted).max()) / scale
        limit = _EXACT if entry["exact"] else _ROUNDED
        if not error <= limit:
            raise ExportError(
                f"{entry['file']}: outputs differ from the golden ones by {error:.2e} "
                f"of the largest; {limit:.0e} is allowed",
                remedy="This machine's runtime computes something else: report it.",
            )
        differences[name] = error
    return differences


def _add_model(
    folder: Path,
    source: Source,
    name: str,
    *,
    data: Path | None,
    accuracy_points: float,
    seconds: float,
) -> dict[str, Any]:
    from export.targets.table import find_target  # noqa: PLC0415

    target = find_target(name)
    file = folder / f"model.{name}{target.suffix}"
    report = build_source(
        source, format=name, out=file, data=data, accuracy_points=accuracy_points
    )
    golden = f"golden/output.{name}.npy"
    example = folder / "golden" / "input.npy"
    _save(folder / golden, _run(file, np.load(example)))
    entry = {
        "file": file.name,
        "golden": golden,
        "exact": target.exact,
        "bytes": report.file_bytes,
        "size_ratio": round(report.size_ratio, 3),
        "findings": asdict(report.findings),
    }
    if seconds > 0:
        timing = asdict(time_file(name, file, example, seconds=seconds))
        entry["latency"] = {k: v for k, v in timing.items() if k != "name"}
    return entry


def _manifest(source: Source) -> dict[str, Any]:
    from export.builder import versions  # noqa: PLC0415

    return {
        "format": "flash-edge bundle 1",
        "task": source.task,
        "round": source.round_no,
        "density": source.mask.density,
        "mask_digest": source.mask.digest.hex(),
        "input_shape": list(source.input_shape),
        "machine": machine(),
        "versions": versions(),
        "models": {},
    }


def _write_example(folder: Path, source: Source, data: Path | None) -> None:
    from export.preprocess import describe_preparation  # noqa: PLC0415

    inputs = source.inputs(data, _GOLDEN)
    _save(folder / "golden" / "input.npy", inputs.batch[:_GOLDEN])
    if inputs.raw is not None:
        _save(folder / "golden" / "raw.npy", inputs.raw[:_GOLDEN])
    labels = "".join(f"{label}\n" for label in source.labels)
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    _write_json(folder / "preprocess.json", describe_preparation(source, inputs))


def _run(file: Path, batch: np.typing.NDArray[np.float32]) -> Any:
    if file.suffix == ".flsp":
        from edge_sdk.infer import NativeModel  # noqa: PLC0415

        return NativeModel(file).run(batch)
    require("onnx", "onnxruntime")
    from export.runtime import open_session, predict  # noqa: PLC0415

    return predict(open_session(str(file)), batch)


def _save(path: Path, array: np.typing.NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path.write_bytes(buffer.getvalue())


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _replace(folder: Path, target: Path) -> None:
    """Puts the finished folder in place; an old bundle goes only then."""
    try:
        if target.exists():
            old = folder.parent / "old"
            target.replace(old)
        folder.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise ExportError(f"{target} could not be written: {error}") from error
    shutil.rmtree(folder.parent / "old", ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
