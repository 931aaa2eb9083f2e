"""`ParameterMemory`: a program's parameters, laid out for kernels and optimizers.

Everything that a step moves lies in one vector, its gradients in another, so that an
optimizer is one call. Each parameter begins on a 64-byte boundary; the gap before it is
zero and stays so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import kernels
from edge_sdk.kernels.structure import Structure
from edge_sdk.program.graph import Constant, Parameter, TrainingProgram
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.runtime import Slot
from edge_sdk.program.schedule import Schedule
from edge_sdk.sparse import Mask

__all__ = ["ParameterMemory"]

Array = NDArray[Any]
_ALIGNED = 16


class ParameterMemory:
    """Values and gradients of all parameters, at zero.

    Args:
        program: Checked.
        mask: Patterns by weight name.
        training: Its training schedule: what has no backward step there never moves.
        double: float64, for tests.

    Attributes:
        kernels: Of the dtype.
        weight_vector: Everything that a step moves.
        gradient_vector: Of the same length.
        parameters: Name -> view of `weight_vector`.
        gradients: Name -> view of `gradient_vector`.
        state: Name -> every entry of the ``state_dict``, kept values for masked layers.
        whole: Name -> entries of whole numbers, as they were taken in.
        buffers: Name -> the entries that are no parameters of torch's.
        counters: Names of the entries that count batches of training.
        slots: The same memory for the runtime, in the program's order.

    Raises:
        EngineError: If the mask does not fit the program.
    """

    def __init__(
        self, program: TrainingProgram, mask: Mask, training: Schedule, *, double: bool
    ) -> None:
        self.program, self.mask = program, mask
        self.kernels = kernels(_dtype(double=double))
        self._check_shared()
        self._structures = self._weights(double=double)
        moved = {p for step in training.steps if step.backward for p in step.parameters}
        own = program.slots
        sizes = [
            self._structures[at].nnz if p.name in mask.layers else p.size
            for at, p in enumerate(own)
        ]
        places: dict[int, slice] = {}
        total = 0
        for at, (parameter, size) in enumerate(zip(own, sizes, strict=True)):
            if parameter.trained and at in moved:
                places[at] = slice(total, total + size)
                total += -(-size // _ALIGNED) * _ALIGNED
        self._dtype = np.dtype(np.float64 if double else np.float32)
        self.weight_vector = _aligned(total, self._dtype)
        self.gradient_vector = _aligned(total, self._dtype)
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self.state: dict[str, Array] = {}
        self.whole: dict[str, Array] = {}
        self.counters = self._counters()
        shared = dict(program.shared)
        self.slots: list[Slot] = []
        for at, parameter in enumerate(program.parameters):
            if at in shared:
                first = program.parameters[shared[at]].name
                self.state[parameter.name] = self.state[first]
                self.slots.append(self.slots[shared[at]])
            else:
                self.slots.append(self._slot(at, sizes[at], places.get(at)))
        self.slots += [
            Slot(_constant(constant, self._dtype), None, self._structures.get(at))
            for at, constant in enumerate(program.constants, len(program.parameters))
        ]
        self.buffers = {
            p.name: self.state[p.name] for p in program.parameters if p.buffer
        }

    def take(self, entries: Mapping[str, Array]) -> None:
        """Copies entries in; each has the shape that it has here.

        One of whole numbers, such as a boolean mask, is kept as it came, too: no step
        changes it, operations read it as real numbers, and it goes back as it came.
        """
        for name, array in entries.items():
            self.state[name][...] = array
        self.whole = {
            name: array.copy()
            for name, array in entries.items()
            if name not in self.parameters
            and array.dtype.kind in "iub"
            and self.state[name].dtype.kind == "f"
        }

    def _counters(self) -> list[str]:
        """The counters of norms that take a batch's statistics when they train."""
        own, graph = self.program.slots, self.program.training
        of_batches: list[str] = []  # as often as a step runs them
        for operation in graph.operations:
            if rule_of(operation).mixes(operands(operation, graph, own)):
                names = (own[at].name for at in operation.parameters if at >= 0)
                of_batches += {name.rpartition(".")[0] for name in names}
        return [
            p.name
            for p in own
            if p.counter
            for _ in range(of_batches.count(p.name.rpartition(".")[0]))
        ]

    def _check_shared(self) -> None:
        """Refuses a mask on a weight that has two names: a mask acts on one place."""
        own = self.program.parameters
        for at, first in self.program.shared:
            for name in (own[first].name, own[at].name):
                if name in self.mask.layers:
                    raise EngineError(
                        f"{own[first].name} and {own[at].name} are one weight, which "
                        f"no mask may act on; this mask has {name}",
                        remedy=f"Name {own[at].name} in the task's dense_layers.",
                    )

    def _slot(self, at: int, size: int, place: slice | None) -> Slot:
        parameter = self.program.parameters[at]
        name = parameter.name
        shape = (size,) if name in self.mask.layers else parameter.shape
        if parameter.counter:
            self.state[name] = np.zeros(shape, np.int64)
            return Slot(np.zeros(size, self._dtype))
        if place is None:
            value = _aligned(size, self._dtype)
            self.state[name] = value.reshape(shape)
            return Slot(value, None, self._structures.get(at))
        value, gradient = self.weight_vector[place], self.gradient_vector[place]
        self.state[name] = self.parameters[name] = value.reshape(shape)
        self.gradients[name] = gradient.reshape(shape)
        return Slot(value, gradient, self._structures.get(at))

    def _weights(self, *, double: bool) -> dict[int, Structure]:
        """The structure of every layer's weight, by the parameter's number."""
        found: dict[int, Structure] = {}
        own = self.program
        for graph in (own.training, own.evaluation):
            for operation in graph.operations:
                rule, at = rule_of(operation), (*operation.parameters, -1)[0]
                if rule.weight is None or at in found:
                    continue
                shape, groups = rule.weight(operands(operation, graph, own.slots))
                pattern = self._pattern(own.slots[at]).reshape(shape)
                found[at] = Structure.of(
                    pattern, groups=groups, dtype=_dtype(double=double)
                )
        for at in self._only_values() - set(found):  # no layer's: a value alone
            whole = self._pattern(own.slots[at])
            rows = whole.reshape(len(whole), -1)
            found[at] = Structure.of(rows, groups=1, dtype=_dtype(double=double))
        missing = set(self.mask) - {own.slots[p].name for p in found}
        if missing:
            raise EngineError(
                f"layer {min(missing)}: the program has no masked form of this weight"
            )
        return found

    def _only_values(self) -> set[int]:
        """Masked parameters that operations read as a value, or that none reads."""
        own = self.program
        otherwise = {
            at
            for graph in (own.training, own.evaluation)
            for operation in graph.operations
            for at in operation.parameters
            if operation.name not in {"repeat", "lengths"}
        }
        return {
            at
            for at, parameter in enumerate(own.parameters)
            if parameter.name in self.mask.layers
            and not parameter.buffer
            and at not in otherwise
        }

    def _pattern(self, parameter: Parameter) -> NDArray[np.bool_]:
        if parameter.name not in self.mask.layers:
            return np.ones(parameter.shape, np.bool_)
        pattern = self.mask[parameter.name]
        if pattern.shape != parameter.shape:
            raise EngineError(
                f"layer {parameter.name}: the mask is {pattern.shape}, the weight "
                f"{parameter.shape}"
            )
        return pattern


def _dtype(*, double: bool) -> str:
    return "float64" if double else "float32"


def _constant(constant: Constant, dtype: np.dtype[Any]) -> Array:
    values = np.frombuffer(constant.data, "<f4")
    found = _aligned(len(values), dtype)
    found[...] = values
    return found


def _aligned(count: int, dtype: np.dtype[Any]) -> Array:
    """Zeros on a 64-byte boundary."""
    raw = np.zeros(count * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * dtype.itemsize].view(dtype)
