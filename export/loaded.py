"""`load`: opens an exported file and runs it, numpy in and numpy out."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import ExportError
from edge_sdk.infer.compressed import is_compressed, plain_name, read_plain
from edge_sdk.infer.input_parts import (
    InputPart,
    checked_inputs,
    joined_inputs,
    parts_of,
)
from edge_sdk.infer.output_parts import OutputPart, apart_outputs, output_parts_of
from edge_sdk.infer.session_inputs import DTYPES
from export.checks.stamp import check_stamp
from export.extras import require

__all__ = ["LoadedModel", "load", "opened", "plain_bytes"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """An exported file that runs: call it on a batch of prepared inputs.

    Attributes:
        file: Its path.
        format: Its format's name; empty if the file does not say.
        input_shape: One example, without the batch axis.
        labels: Class names in the order of the outputs; may be empty.
        facts: What the file says of itself: task, density, mask digest and others.
        batch: "1", or "dynamic" where it takes any number at once.
        inputs: Of a model of several inputs: names, shapes and dtypes, in order.
        outputs: Of a model of several or named outputs: names and shapes, in order.
    """

    file: Path
    format: str
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    facts: Mapping[str, str] = field(repr=False)
    _run: Any = field(repr=False)
    _dtype: np.dtype[Any] = field(repr=False)
    batch: Literal["1", "dynamic"] = "1"
    inputs: tuple[InputPart, ...] = ()
    _apart: bool = field(default=False, repr=False)
    outputs: tuple[OutputPart, ...] = ()

    def __call__(self, batch: Any) -> NDArray[np.float32]:
        """Outputs of (n, *input_shape) inputs: float32 (n, ...).

        Of a model of several inputs an array for each, as a tuple or a dictionary; or
        rows of all of them, one after the other.

        Raises:
            ExportError: If the inputs have another shape.
            DataError: If one of several does not fit; names it.
        """
        if isinstance(batch, tuple | Mapping) or (self.inputs and type(batch) is list):
            if self._apart:
                apart: NDArray[np.float32] = self._run(
                    checked_inputs(batch, self.inputs, str(self.file))
                )
                return apart
            batch = joined_inputs(batch, self.inputs, str(self.file))
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

    def apart(self, outputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Takes what a call gave apart: each output by its name, float32 (n, *shape).

        Raises:
            DataError: If it has another number of values than the model's outputs.
        """
        return apart_outputs(outputs, self.outputs)


def load(file: Path | str) -> LoadedModel:
    """Opens a file that `build` wrote, in the runtime that it is for; needs no torch.

    Raises:
        DependencyError: If onnxruntime is not installed, for the formats it runs.
        ExportError: If the file is missing, damaged, or of a format nothing here runs.
    """
    path = Path(file)
    return opened(path, plain_bytes(path))


def plain_bytes(path: Path) -> bytes:
    """An exported file's bytes, out of the zstd layer if it has one.

    Raises:
        ExportError: If it cannot be read, or its layer is damaged.
    """
    try:
        return read_plain(path)
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read: {error}",
            remedy="Name a file that export.build wrote; edge_sdk.infer.Bundle opens a "
            "bundle's folder.",
        ) from error


def opened(path: Path, content: bytes) -> LoadedModel:
    """The model of a file whose bytes, out of the layer, are read already.

    Raises:
        DependencyError: If onnxruntime is not installed, for the formats it runs.
        ExportError: If it is damaged, or of a format nothing here runs.
    """
    suffix = plain_name(path).suffix
    if suffix == ".flsp":
        from edge_sdk.infer import NativeModel  # noqa: PLC0415 - compiles

        native = NativeModel(content if is_compressed(path) else path)
        facts = {key: _text(value) for key, value in native.metadata.items()}
        return _loaded(path, facts, native.run, np.dtype(np.float32))
    if suffix not in {".onnx", ".ort"}:
        raise ExportError(
            f"{path} is no .onnx, .ort or .flsp file",
            remedy="Open it in the runtime of its format.",
        )
    require("onnx", "onnxruntime")
    from export.runtime import metadata, open_session, predict  # noqa: PLC0415

    check_stamp(path, content)
    session = open_session(content)
    entries = metadata(session)
    facts = {key.removeprefix("flash_edge."): text for key, text in entries.items()}
    if not session.get_inputs():
        raise _foreign(path, "it has no input")
    spec, *more = session.get_inputs()
    free = spec.shape[:1] != [1]
    facts.setdefault("input_shape", json.dumps(list(spec.shape[1:])))
    dtype = np.dtype(DTYPES.get(spec.type, "float32"))
    found = _loaded(
        path, facts, lambda batch: predict(session, batch), dtype, free=free
    )
    takes = [
        (tuple(one.shape[1:]), DTYPES.get(one.type, "float32")) for one in (spec, *more)
    ]
    if takes == [(part.shape, part.dtype) for part in found.inputs]:
        return replace(found, _dtype=np.dtype(np.float32), _apart=True)
    if more:
        raise _foreign(path, f"it has {len(takes)} inputs, its metadata lists others")
    return found  # a file of before takes rows


def _loaded(
    path: Path,
    facts: Mapping[str, str],
    run: Any,
    dtype: np.dtype[Any],
    *,
    free: bool = False,
) -> LoadedModel:
    try:
        shape = tuple(operator.index(n) for n in _list(facts.get("input_shape", "[]")))
        labels = tuple(map(str, _list(facts.get("labels", "[]"))))
        parts = parts_of(_list(facts["inputs"]) if "inputs" in facts else None, shape)
        made = output_parts_of(_list(facts["outputs"]) if "outputs" in facts else None)
    except (ValueError, TypeError, RecursionError) as error:
        raise _foreign(path, f"its metadata cannot be read: {error}") from error
    kind: Literal["1", "dynamic"] = "dynamic" if free else "1"
    name = facts.get("format", "")
    return LoadedModel(
        path, name, shape, labels, facts, run, dtype, kind, parts, outputs=made
    )


def _list(text: str) -> list[Any]:
    found = json.loads(text)
    if not isinstance(found, list):
        raise TypeError(f"{text[:60]} is no list")
    return found


def _foreign(path: Path, reason: str) -> ExportError:
    return ExportError(
        f"{path} is not what export.build writes: {reason}",
        remedy="Build it again, or run it with the runtime of its format.",
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
