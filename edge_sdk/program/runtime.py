"""The C++ runtime of programs through ctypes: open a plan, run it, take a step."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from ctypes import c_char_p, c_double, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError, EngineError
from edge_sdk.kernels.library import Kernels
from edge_sdk.kernels.structure import Structure
from edge_sdk.program.plan import Plan
from edge_sdk.program.schedule import Step
from edge_sdk.program.words import words

__all__ = ["Executable", "OutOfRangeError", "Slot", "declared", "lone_example"]

_BAD_PLAN, _BAD_DATA, _BAD_BATCH = 10, 11, 12
_REAL, _INT64 = 0, 1
_NORMS = {"norm", "depthwise", "norm_conv"}  # they may want two examples at least


class OutOfRangeError(DataError):
    """A label or a token is no class and no row of a table.

    Args:
        layer: The layer that met it.
        sample: Number of the example in its batch; negative if it is not known.
        whose: Other words for the example.

    Attributes:
        layer: As given.
        sample: As given.
    """

    remedy = "Look for labels below 0, or as large as the number of classes."

    def __init__(self, layer: str, sample: int, whose: str = "") -> None:
        whose = whose or (f"example {sample} of its batch" if sample >= 0 else "")
        told = f" ({whose})" if whose else ""
        super().__init__(f"{layer}: a label or a token is out of range{told}")
        self.layer, self.sample = layer, sample


class _Parameter(ctypes.Structure):
    _fields_ = [
        ("value", c_void_p),
        ("gradient", c_void_p),
        ("count", c_int64),
        ("structure", c_void_p),
    ]


class _External(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("per_sample", c_int64), ("type", c_int32)]


@dataclass(frozen=True, eq=False, slots=True)
class Slot:
    """Memory of one parameter.

    Attributes:
        value: (nnz,) kept values or all entries, flat.
        gradient: Of the same length; None where it is not trained.
        structure: Of a layer's weight.
    """

    value: NDArray[Any]
    gradient: NDArray[Any] | None = None
    structure: Structure | None = None


@cache
def declared(kernels: Kernels) -> ctypes.CDLL:
    """The library with the program functions' signatures."""
    library = kernels.library
    void, whole, long, real = c_void_p, c_int32, c_int64, c_double
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "fe_program_operation": (whole, [c_char_p]),
        "fe_program_open": (whole, [void, long, void, whole, long, void, void]),
        "fe_program_close": (None, [void]),
        "fe_program_run": (whole, [void, whole, whole, void, whole, void]),
        "fe_program_stopped_at": (whole, [void]),
        "fe_program_seed": (None, [void, c_uint64]),
        "fe_program_bad_sample": (whole, [void]),
        "fe_sum_of_squares": (real, [void, long]),
        "fe_scale": (None, [void, long, real]),
        "fe_sgd": (None, [void, void, void, long, real, real, real, whole, whole]),
        "fe_adam": (None, [*[void] * 4, long, *[real] * 5, whole, long]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Executable:
    """A plan that has passed the runtime's own check, with its arena.

    Attributes:
        plan: What it runs.
    """

    def __init__(
        self,
        plan: Plan,
        slots: Sequence[Slot],
        kernels: Kernels,
        *,
        most_bytes: int = 0,
    ) -> None:
        self.plan, self._library = plan, declared(kernels)
        self._slots = tuple(slots)  # their memory must outlive the program
        self._dtype = np.float64 if kernels.isa == "f64" else np.float32
        table = (_Parameter * max(1, len(slots)))(*map(_parameter, slots))
        code_words = words(
            plan, lambda n: self._library.fe_program_operation(n.encode())
        )
        handle, stopped = c_void_p(), c_int32(-1)
        code = self._library.fe_program_open(
            *(code_words.ctypes.data, code_words.size, ctypes.addressof(table)),
            *(len(slots), most_bytes, ctypes.byref(stopped), ctypes.byref(handle)),
        )
        if code:
            raise self._error(code, stopped.value)
        self._handle = handle.value or 0
        weakref.finalize(self, self._library.fe_program_close, self._handle)

    def run(self, arrays: Sequence[NDArray[Any]], samples: int, threads: int) -> float:
        """Runs every step; returns the loss, 0.0 where there is none.

        Args:
            arrays: Inputs in order, then those that are written; (samples, ...).
            samples: At least one.
            threads: At least one.

        Raises:
            EngineError: If a kernel refuses; names the layer.
            OutOfRangeError: If a label or a token is out of range.
        """
        held = [self._outside(array) for array in arrays]
        table = (_External * max(1, len(held)))(
            *(_external(array, samples) for array in held)
        )
        loss = c_double()
        code = self._library.fe_program_run(
            *(self._handle, samples, threads, ctypes.addressof(table), len(held)),
            ctypes.byref(loss),
        )
        if code:
            at = self._library.fe_program_stopped_at(self._handle)
            raise self._error(code, at, samples)
        return loss.value

    def seed(self, number: int) -> None:
        """Begins the random masks of dropout anew; the same seed draws the same."""
        self._library.fe_program_seed(self._handle, number % (1 << 64))

    def _outside(self, array: NDArray[Any]) -> NDArray[Any]:
        kind = np.int64 if array.dtype.kind in "iub" else self._dtype
        return np.ascontiguousarray(array, kind)

    def _error(self, code: int, at: int, samples: int = 0) -> Exception:
        steps = self.plan.schedule.steps
        step = steps[at] if 0 <= at < len(steps) else None
        where = _told(step)
        if code == _BAD_DATA:
            bad = self._library.fe_program_bad_sample(self._handle)
            return OutOfRangeError(where, bad)
        norms = step is not None and step.operation and step.operation.name in _NORMS
        if code == _BAD_BATCH and samples == 1 and norms:
            return lone_example(where)
        if code == _BAD_BATCH:
            return EngineError(
                f"{where} does not take a batch of this shape or size",
                remedy="Give examples of the model's shape.",
            )
        meaning = {
            2: "the machine is out of memory",
            3: "the layer is too large for 32-bit offsets",
            _BAD_PLAN: "the runtime refuses the plan",
        }.get(code, f"error code {code}")
        return EngineError(f"{where}: {meaning}")


def lone_example(layer: str) -> EngineError:
    """The error of batch norm that met a batch of one example."""
    return EngineError(
        f"{layer} is batch norm, which cannot train on one example at a time",
        remedy="Give the device two examples at least and a batch size above one, or "
        "take a model without batch norm.",
    )


def _told(step: Step | None) -> str:
    if step is None:
        return "the program"
    return step.operation.told() if step.operation else f"the program's {step.kernel}"


def _parameter(slot: Slot) -> _Parameter:
    gradient = None if slot.gradient is None else slot.gradient.ctypes.data
    structure = None if slot.structure is None else slot.structure.handle
    return _Parameter(slot.value.ctypes.data, gradient, slot.value.size, structure)


def _external(array: NDArray[Any], samples: int) -> _External:
    kind = _INT64 if array.dtype == np.int64 else _REAL
    return _External(array.ctypes.data, array.size // samples, kind)
