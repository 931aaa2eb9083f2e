"""`NativeModel`: a ``.flsp`` file, opened and run."""

from __future__ import annotations

import ctypes
import json
import math
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import CheckpointError, DataError, EngineError
from edge_sdk.infer.input_parts import InputPart, Several, exact_inputs, parts_of
from edge_sdk.infer.library import InputArray, runtime_library
from edge_sdk.infer.output_parts import apart_outputs, output_parts_of

__all__ = ["NativeModel"]

_ERROR_BYTES = 512
_WHOLE = (np.dtype(np.int32), np.dtype(np.int64))
_TYPES = {"float32": 0, "int64": 1, "int32": 2, "bool": 3}  # of flsp.h
_AXES = 3  # of a program's buffers
_FIRST: Any = ctypes.c_char.from_buffer  # an array is no buffer to mypy


class NativeModel:
    """A sparse network of one file, run by the native runtime.

    Several threads may call one model: each gets memory of its own.

    Args:
        file: Path of a ``.flsp`` file, or its bytes.
        threads: Threads per call, the caller's included.

    Raises:
        CheckpointError: If the file is missing, damaged or of another format.
        EngineError: If the runtime is not built and cannot be.

    Attributes:
        metadata: What the exporter wrote: task, labels, densities, mask digest.
        isa: Kernels in use: "v4", "v3" or "base".
        inputs: Of a model of several inputs: names, shapes and dtypes, in order.
        outputs: Of a model of several or named outputs: names and shapes, in order.
    """

    def __init__(self, file: Path | str | bytes, *, threads: int = 1) -> None:
        self._library = runtime_library()
        self._threads = threads
        self._local = threading.local()
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if isinstance(file, bytes):
            what = "the model"
            handle = self._library.flsp_open_memory(
                file, len(file), error, _ERROR_BYTES
            )
        else:
            what = str(file)
            path = os.fsencode(file)
            handle = self._library.flsp_open(path, error, _ERROR_BYTES)
        if not handle:
            raise _refused(what, error.value.decode(errors="replace"))
        self._handle = handle
        weakref.finalize(self, self._library.flsp_close, handle)
        self.metadata: dict[str, Any] = _metadata(
            what, self._library.flsp_metadata(handle)
        )
        self.isa = str(self._library.flsp_isa(handle).decode())
        given, made = self._library.flsp_input_shape, self._library.flsp_output_shape
        self._input = self._viewed(what, "input_shape", given)
        self._output = self._viewed(what, "output_shape", made)
        try:
            self.inputs: tuple[InputPart, ...] = parts_of(
                self.metadata.get("inputs"), self._input
            )
            self.outputs = output_parts_of(self.metadata.get("outputs"), self._output)
        except ValueError as error:
            raise _refused(what, str(error)) from error

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One example: (channels, height, width), (features,), (frames, 3, 8, 8)."""
        return self._input

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One output, likewise."""
        return self._output

    def run(self, batch: NDArray[np.float32] | Several) -> NDArray[np.float32]:
        """Outputs for n examples, float32 (n, *output_shape).

        Args:
            batch: float32 (n, *input_shape), prepared as in training; of a model that
                reads numbers of words, int32 or int64. Of a model of several inputs
                an array for each, as a tuple or a dictionary; or rows of all.

        Raises:
            DataError: If shape or dtype is another; names the input of several.
        """
        if not isinstance(batch, np.ndarray):
            return self._run_several(exact_inputs(batch, self.inputs, "the model"))
        if batch.dtype in _WHOLE:  # to 2^24 the same in float32
            batch = batch.astype(np.float32)
        if batch.dtype != np.float32:
            raise DataError(f"inputs are {batch.dtype}; the model takes float32")
        if batch.shape[1:] != self.input_shape:
            raise DataError(
                f"inputs have shape {batch.shape[1:]}; "
                f"the model takes {self.input_shape}"
            )
        own = np.ascontiguousarray(batch)
        out = np.empty((len(own), *self.output_shape), np.float32)
        code = self._library.flsp_run(
            self._session(), _address(own), _address(out), len(own)
        )
        if code:
            raise EngineError(f"the native runtime failed with code {code}")
        return out

    def apart(self, outputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Takes what `run` gave apart: each output by its name, float32 (n, *shape).

        Raises:
            DataError: If it has another number of values than the model's outputs.
        """
        return apart_outputs(outputs, self.outputs)

    def _run_several(self, arrays: list[NDArray[Any]]) -> NDArray[np.float32]:
        """Outputs for an array of each input, in order."""
        own = [np.ascontiguousarray(array) for array in arrays]
        count = len(own[0])
        out = np.empty((count, *self.output_shape), np.float32)
        given = (InputArray * len(own))()
        for entry, array in zip(given, own, strict=True):
            entry.data, entry.values = _address(array), array[0].size
            entry.type = _TYPES[str(array.dtype)]
        code = self._library.flsp_run_several(
            self._session(), given, len(own), _address(out), count
        )
        if code:
            raise EngineError(f"the native runtime failed with code {code}")
        return out

    def _session(self) -> int:
        """The calling thread's session, made on its first call."""
        session: _Session | None = getattr(self._local, "session", None)
        if session is None:
            session = _Session(self._library, self._handle, self._threads)
            self._local.session = session
        return session.handle

    def _viewed(self, what: str, key: str, function: Any) -> tuple[int, ...]:
        """A shape of the program, with as many axes as the metadata gives it.

        The program alone says how much memory is read and written. The metadata may say
        that trailing axes of one pixel are no axes, and of more than three axes which
        ones are joined.
        """
        found = (ctypes.c_int64 * 3)()
        function(self._handle, found)  # a ctypes function
        channels, height, width = (int(v) for v in found)
        views: list[tuple[int, ...]] = [(channels, height, width)]
        if height == 1:
            views.append((channels, width))
        if height == width == 1:
            views.append((channels,))
        if channels == height == width == 1:  # a number by itself
            views.append(())
        said = self.metadata.get(key)
        if said is None:
            return views[0]
        for view in views:
            if isinstance(said, list) and (said == list(view) or _joins(said, view)):
                return tuple(said)
        raise _refused(
            what, f"its metadata gives {key} {said!r:.60}, its program {views[0]}"
        )


def _joins(said: list[Any], view: tuple[int, ...]) -> bool:
    """Tell more than three axes that are a view's: ones left out, leading ones joined.

    It is how the exporter sees them (`shape_of`).
    """
    if any(type(size) is not int or size < 1 for size in said):
        return False
    kept = list(said)
    while len(kept) > _AXES and 1 in kept:
        kept.remove(1)
    return len(said) > _AXES and (math.prod(kept[:-2]), *kept[-2:]) == view


def _refused(what: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{what} cannot be opened: {reason}",
        remedy="Export it again, or copy it again and compare its SHA-256.",
    )


def _metadata(what: str, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(what, f"its metadata is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _refused(what, "its metadata is no JSON object")
    return found


def _address(array: NDArray[Any]) -> int:
    """Address of an array's data; `array.ctypes` takes a microsecond for it.

    Read-only and empty arrays take the slower way.
    """
    try:
        return ctypes.addressof(_FIRST(array))
    except (TypeError, ValueError):
        return int(array.__array_interface__["data"][0])


class _Session:
    """Memory and worker threads of one calling thread."""

    def __init__(self, library: ctypes.CDLL, model: int, threads: int) -> None:
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        handle = library.flsp_session_new(model, threads, error, _ERROR_BYTES)
        if not handle:
            raise EngineError(
                f"the model cannot run: {error.value.decode(errors='replace')}",
                remedy="Use 1 to 256 threads, and free some memory.",
            )
        self.handle: int = handle
        # May come after the model's end: freeing a session does not touch the model.
        weakref.finalize(self, library.flsp_session_free, handle)
