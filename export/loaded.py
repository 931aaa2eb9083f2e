"""`load`: opens an exported file and runs it, numpy in and numpy out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import ExportError
from export.extras import require

__all__ = ["LoadedModel", "load"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """An exported file that runs: call it on a batch of prepared inputs.

    Attributes:
        file: Its path.
        format: Its format's name; empty if the file does not say.
        input_shape: One example, without the batch axis.
        labels: Class names in the order of the outputs; may be empty.
        facts: What the file says of itself: task, density, mask digest and others.
    """

    file: Path
    format: str
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    facts: Mapping[str, str] = field(repr=False)
    _run: Any = field(repr=False)
    _dtype: np.dtype[Any] = field(repr=False)

    def __call__(self, batch: Any) -> NDArray[np.float32]:
        """Outputs of (n, *input_shape) inputs: float32 (n, ...).

        Raises:
            ExportError: If the inputs have another shape.
        """
        given = np.asarray(batch)
        if given.shape[1:] != self.input_shape or not len(given):
            raise ExportError(
                f"{self.file}: inputs have shape {given.shape}, not "
                f"(n, {', '.join(map(str, self.input_shape))})",
                remedy="Give a batch of prepared inputs; one example is batch[:1].",
            )
        found: NDArray[np.float32] = self._run(
            np.ascontiguousarray(given.astype(self._dtype, copy=False))
        )
        return found


def load(file: Path | str) -> LoadedModel:
    """Opens a file that `build` wrote, in the runtime that it is for; needs no torch.

    Raises:
        DependencyError: If onnxruntime is not installed, for the formats it runs.
        ExportError: If the file is missing, damaged, or of a format nothing here runs.
    """
    path = Path(file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read: {error}",
            remedy="Name a file that export.build wrote; edge_sdk.infer.Bundle opens a "
            "bundle's folder.",
        ) from error
    if path.suffix == ".flsp":
        from edge_sdk.infer import NativeModel  # noqa: PLC0415 - compiles

        native = NativeModel(path)
        facts = {key: _text(value) for key, value in native.metadata.items()}
        return _loaded(path, facts, native.run, np.dtype(np.float32))
    if path.suffix not in {".onnx", ".ort"}:
        raise ExportError(
            f"{path} is no .onnx, .ort or .flsp file",
            remedy="Open it in the runtime of its format.",
        )
    require("onnx", "onnxruntime")
    from export.runtime import metadata, open_session, predict  # noqa: PLC0415

    session = open_session(content)
    entries = metadata(session)
    facts = {key.removeprefix("flash_edge."): text for key, text in entries.items()}
    spec = session.get_inputs()[0]
    facts.setdefault("input_shape", json.dumps(list(spec.shape[1:])))
    dtype = np.dtype(_ONNX_DTYPES.get(spec.type, "float32"))
    return _loaded(path, facts, lambda batch: predict(session, batch), dtype)


_ONNX_DTYPES = {
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
}


def _loaded(
    path: Path, facts: Mapping[str, str], run: Any, dtype: np.dtype[Any]
) -> LoadedModel:
    shape = tuple(int(n) for n in json.loads(facts.get("input_shape", "[]")))
    labels = tuple(json.loads(facts.get("labels", "[]")))
    return LoadedModel(path, facts.get("format", ""), shape, labels, facts, run, dtype)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
