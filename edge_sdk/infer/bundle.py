"""A bundle on the board: files checked, native model opened, labels read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.checkpoint import replace_file
from edge_sdk.checksums import file_digest
from edge_sdk.errors import ExportError
from edge_sdk.infer.compressed import is_compressed, read_plain
from edge_sdk.infer.model import NativeModel
from edge_sdk.infer.own import OWN, check_own, with_own
from edge_sdk.infer.prepare import Preparation
from edge_sdk.infer.signature import SIGNATURE, check_signature

__all__ = [
    "EXACT",
    "MANIFEST",
    "ROUNDED",
    "Bundle",
    "check_files",
    "check_golden",
    "digests",
    "read_manifest",
]

MANIFEST = "manifest.json"
EXACT, ROUNDED = 1e-5, 1e-3  # relative max-norm between machines


class Bundle:
    """A folder that ``flash-export bundle`` wrote, ready to run.

    Args:
        folder: The bundle.
        threads: Threads per call.
        trusted: Raw public key that must have signed it; None asks for none.

    Raises:
        ExportError: If it is no bundle, was changed, or holds no native model.
        CheckpointError: If the model is damaged.
        EngineError: If the native runtime cannot be had.

    Attributes:
        manifest: What the exporter wrote.
        labels: Class names in the order of the outputs; may be empty.
        model: The native model: exact values before int8; with this device's own
            values where it has some.
        preparation: What to do to an example before the model.
        signer: Raw public key that signed the manifest, or None.
    """

    def __init__(
        self, folder: Path | str, *, threads: int = 1, trusted: bytes | None = None
    ) -> None:
        self.folder = Path(folder)
        self.manifest, self.signer = check_files(self.folder, trusted=trusted)
        models: dict[str, Any] = self.manifest["models"]
        name = next((n for n in ("native", "native-int8") if n in models), None)
        if name is None:
            raise ExportError(
                f"{folder} holds no native model, only {', '.join(models)}",
                remedy="Build it with --format native, or run those with onnxruntime.",
            )
        self._entry = models[name]
        file = self.folder / self._entry["file"]
        opened = read_plain(file) if is_compressed(file) else file
        self._delivered = self.model = NativeModel(opened, threads=threads)
        if (self.folder / OWN).exists():
            own = (self.folder / OWN).read_bytes()
            check_own(read_plain(file), own)
            self.model = NativeModel(own, threads=threads)
        text = (self.folder / "labels.txt").read_text(encoding="utf-8")
        self.labels = tuple(text.splitlines())
        self.preparation = Preparation.read(self.folder / "preprocess.json")

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs of prepared inputs, float32 (n, *output_shape)."""
        return self.model.run(batch)

    def predict(self, examples: NDArray[Any]) -> NDArray[np.float32]:
        """Outputs of raw examples (n, ...), prepared as ``preprocess.json`` says.

        Raises:
            DataError: If they have another shape, or preparation is custom code.
        """
        return self.model.run(self.preparation(examples))

    def check(self) -> float:
        """Runs the golden example on this machine, with the values as delivered.

        Returns:
            The largest difference, relative to the largest output.

        Raises:
            ExportError: If it is above what the format allows.
        """
        return check_golden(self.folder, self._entry, self._delivered.run)

    def keep_own(self, own: Mapping[str, NDArray[Any]]) -> None:
        """Writes the model with this device's own values beside the delivered one.

        The next `Bundle` of this folder runs it.

        Raises:
            ExportError: If the model has no place for one of them.
            CheckpointError: If the folder cannot be written.
        """
        delivered = read_plain(self.folder / self._entry["file"])
        replace_file(self.folder / OWN, with_own(delivered, own), mode=0o644)


def check_golden(
    folder: Path,
    entry: Mapping[str, Any],
    run: Callable[[NDArray[Any]], NDArray[np.float32]],
) -> float:
    """Runs a bundle's golden example: the largest difference, as `Bundle.check`.

    Args:
        folder: The bundle's.
        entry: The model's in its manifest.
        run: The model, inputs to outputs.

    Raises:
        ExportError: If the difference is above what the format allows.
    """
    wanted = np.load(folder / entry["golden"])
    outputs = run(np.load(folder / "golden" / "input.npy"))
    error = float(np.abs(outputs - wanted).max() / (np.abs(wanted).max() or 1.0))
    limit = EXACT if entry["exact"] else ROUNDED
    if not error <= limit:  # also where it is not a number
        raise ExportError(
            f"{entry['file']}: outputs differ from the golden ones by "
            f"{error:.2e} of the largest; {limit:.0e} is allowed",
            remedy="This machine's runtime computes something else: report it.",
        )
    return error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        ExportError: If the folder has none or it is damaged.
    """
    return _manifest(folder, _content(folder))


def check_files(
    folder: Path, *, trusted: bytes | None = None
) -> tuple[dict[str, Any], bytes | None]:
    """Checks signature and SHA-256 of every file.

    Returns:
        The manifest, and the raw public key that signed it or None.

    Raises:
        ExportError: If a file is missing, changed or unlisted, or the signature false.
    """
    content = _content(folder)
    signer = check_signature(folder, content, trusted=trusted)
    manifest = _manifest(folder, content)
    listed, found = manifest["files"], digests(folder)
    for name in sorted({*listed, *found}):
        if name not in found:
            raise ExportError(f"{folder}: {name} is missing")
        if name not in listed:
            raise ExportError(f"{folder}: {name} is not in the manifest")
        if listed[name] != found[name]:
            raise ExportError(f"{folder}: {name} was changed: its SHA-256 is another")
    return manifest, signer


def digests(folder: Path) -> dict[str, str]:
    """Relative path to SHA-256 of all files that a manifest lists."""
    return {
        str(path.relative_to(folder)): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {MANIFEST, SIGNATURE, OWN}
    }


_REMEDY = "Name the folder that flash-export bundle made."


def _content(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ExportError(
            f"{folder} is not a bundle: {error}", remedy=_REMEDY
        ) from error


def _manifest(folder: Path, content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise ExportError(
            f"{folder} is not a bundle: {error}", remedy=_REMEDY
        ) from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != "flash-edge bundle 1"
    ):
        raise ExportError(f"{folder} is not a bundle of format 1", remedy=_REMEDY)
    return manifest
