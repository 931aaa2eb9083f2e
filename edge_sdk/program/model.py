"""`ProgramModel`: a program under a frozen mask, ready for a training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import kernels
from edge_sdk.kernels.structure import Structure
from edge_sdk.program.check import check
from edge_sdk.program.graph import Graph, Parameter, TrainingProgram
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.plan import lane_width, plan
from edge_sdk.program.runtime import Executable, Slot
from edge_sdk.program.schedule import Schedule, schedule
from edge_sdk.sparse import Mask

__all__ = ["ProgramModel"]

Array = NDArray[Any]
_ALIGNED = 16


class ProgramModel:
    """A program's parameters, and its steps on them; no torch anywhere.

    Attributes:
        engine: "program".
        reason: Why this engine, in words.
        mask: The frozen mask.
        program: What runs.
        values_vector: Everything that is trained, one flat vector; masked layers are
            there as their kept values.
        gradient_vector: The gradient of the last step, place by place.
        parameters: Name -> the part of `values_vector` that is its own: (nnz,) for a
            masked layer, else the parameter's shape.
        gradients: Name -> likewise of `gradient_vector`.
    """

    engine = "program"

    def __init__(
        self,
        program: TrainingProgram,
        mask: Mask,
        *,
        threads: int = 1,
        chunk: int = 0,
        most_bytes: int = 0,
        double: bool = False,
        reason: str = "engine = program",
    ) -> None:
        """Takes memory for the parameters; their values are zero until `load`.

        Args:
            program: From a file or from `capture`; it is checked here.
            mask: Patterns by weight name; other weights are dense.
            threads: Of every step.
            chunk: Most samples that go through at once, where samples do not see each
                other; 0 for the whole batch.
            most_bytes: Of the arena; 0 for no bound.
            double: Compute in float64, for tests.
            reason: For logs.

        Raises:
            EngineError: If the program or the mask is not sound, or there are no
                kernels.
        """
        check(program)
        self.program, self.mask, self.reason = program, mask, reason
        self.threads, self._chunk, self._most = threads, chunk, most_bytes
        self._dtype = np.dtype(np.float64 if double else np.float32)
        self._kernels = kernels(_dtype(double=double))
        self._structures = self._weights(double=double)
        self._state: dict[str, Array] = {}
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._slots = self._memory()
        self._plans: dict[str, Executable] = {}
        self._schedules = {
            "training": schedule(program.training, program.parameters, train=True),
            "evaluation": schedule(program.evaluation, program.parameters, train=False),
        }

    def gradients_of(self, inputs: Array, targets: Array) -> float:
        """Fills `gradients` with the mean loss's over a batch; returns the loss.

        Batch norm's statistics move, as with a forward pass in training mode.

        Raises:
            EngineError: If the batch does not fit the model.
            DataError: If a label is out of range.
        """
        self._fits(self.program.training, (inputs, targets))
        run = self._ready("training", len(inputs))
        if self._schedules["training"].shared:
            self.gradient_vector[:] = 0
        loss = run.run((inputs, targets), len(inputs), self.threads)
        for name in self._counters:
            self._state[name] += 1
        return loss

    def predict(self, inputs: Array) -> Array:
        """Predictions in evaluation mode, (N, ...)."""
        graph = self.program.evaluation
        self._fits(graph, (inputs,))
        shape = graph.tensors[graph.outputs[0]].shape
        out = np.empty((len(inputs), *shape), self._dtype)
        self._ready("evaluation", len(inputs)).run(
            (inputs, out), len(inputs), self.threads
        )
        return out

    def load(self, values: Mapping[str, Array], dense: Mapping[str, Array]) -> None:
        """Takes over kept values (nnz,) per masked layer and every dense entry.

        Raises:
            EngineError: If an entry is missing, unknown or of another shape; nothing
                is changed then.
        """
        given = {**dense, **values}
        if set(given) != set(self._state) or set(values) != set(self.mask):
            wrong = sorted(set(given) ^ set(self._state) | set(values) ^ set(self.mask))
            raise EngineError(f"entries differ from the model's: {wrong[:4]}")
        for name, array in given.items():
            if np.shape(array) != self._state[name].shape:
                raise EngineError(
                    f"entry {name} is {np.shape(array)}, not {self._state[name].shape}"
                )
        for name, array in given.items():
            self._state[name][...] = array

    def values(self) -> dict[str, Array]:
        """Kept values per masked layer, (nnz,) in canonical CSR order; copies."""
        return {name: self._state[name].copy() for name in self.mask}

    def dense(self) -> dict[str, Array]:
        """Every other ``state_dict`` entry by its name; copies."""
        return {n: a.copy() for n, a in self._state.items() if n not in self.mask}

    def arena_bytes(self, samples: int) -> int:
        """Bytes of activations and gradients that a training step of so many takes."""
        return self._ready("training", samples).plan.nbytes

    def _ready(self, kind: str, samples: int) -> Executable:
        """The program planned for batches of so many; a larger one plans anew."""
        found = self._plans.get(kind)
        own = self._schedules[kind]
        chunk = self._chunk if self._chunk and not own.mixes else samples
        chunk = min(chunk, samples)
        if found is None or (found.plan.lanes * found.plan.blocks < chunk):
            self._plans.pop(kind, None)
            found = self._plans[kind] = self._planned(own, chunk)
        return found

    def _planned(self, own: Schedule, chunk: int) -> Executable:
        lanes = lane_width(chunk, self._kernels.vector_bytes // self._dtype.itemsize)
        made = plan(own, lanes=lanes, blocks=-(-chunk // lanes))
        return Executable(made, self._slots, self._kernels, most_bytes=self._most)

    def _fits(self, graph: Graph, arrays: tuple[Array, ...]) -> None:
        samples = len(arrays[0])
        for what, array, tensor in zip(
            ("inputs", "targets"), arrays, graph.inputs, strict=False
        ):
            value = graph.tensors[tensor]
            if len(array) != samples or not samples or array.shape[1:] != value.shape:
                raise EngineError(
                    f"the batch's {what} are {array.shape}, not (N, "
                    f"{', '.join(map(str, value.shape))}) with N >= 1"
                )
            if value.whole and array.dtype.kind not in "iub":
                raise EngineError(f"the batch's {what} are {array.dtype}, not whole")

    def _weights(self, *, double: bool) -> dict[int, Structure]:
        """The structure of every layer's weight."""
        found: dict[int, Structure] = {}
        own = self.program
        for graph in (own.training, own.evaluation):
            for operation in graph.operations:
                rule = rule_of(operation)
                if rule.weight is None:
                    continue
                shape, groups = rule.weight(operands(operation, graph, own.parameters))
                at = operation.parameters[0]
                if at not in found:
                    pattern = self._pattern(own.parameters[at]).reshape(shape)
                    found[at] = Structure.of(
                        pattern, groups=groups, dtype=_dtype(double=double)
                    )
        missing = set(self.mask) - {own.parameters[p].name for p in found}
        if missing:
            raise EngineError(
                f"layer {min(missing)}: the program has no masked form of this weight"
            )
        return found

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

    def _memory(self) -> list[Slot]:
        """Lays trained parameters into one vector, the others each into its own."""
        own = self.program.parameters
        sizes = [
            self._structures[at].nnz if p.name in self.mask.layers else p.size
            for at, p in enumerate(own)
        ]
        places, total = [], 0
        for parameter, size in zip(own, sizes, strict=True):
            places.append(total)
            total += -(-size // _ALIGNED) * _ALIGNED if parameter.trained else 0
        self.values_vector = _aligned(total, self._dtype)
        self.gradient_vector = _aligned(total, self._dtype)
        self._counters = [p.name for p in own if p.counter]
        slots = []
        for at, (parameter, size) in enumerate(zip(own, sizes, strict=True)):
            masked = parameter.name in self.mask.layers
            shape = (size,) if masked else parameter.shape
            if parameter.counter:
                self._state[parameter.name] = np.zeros(shape, np.int64)
                slots.append(Slot(np.zeros(size, self._dtype)))
                continue
            gradient = None
            if parameter.trained:
                cut = slice(places[at], places[at] + size)
                value = self.values_vector[cut]
                gradient = self.gradient_vector[cut]
                self.parameters[parameter.name] = value.reshape(shape)
                self.gradients[parameter.name] = gradient.reshape(shape)
            else:
                value = _aligned(size, self._dtype)
            self._state[parameter.name] = value.reshape(shape)
            slots.append(Slot(value, gradient, self._structures.get(at)))
        return slots


def _dtype(*, double: bool) -> Any:
    import torch  # noqa: PLC0415 - the kernels' own word for it

    return torch.float64 if double else torch.float32


def _aligned(count: int, dtype: np.dtype[Any]) -> Array:
    """Zeros on a 64-byte boundary."""
    raw = np.zeros(count * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * dtype.itemsize].view(dtype)
