"""`ProgramModel`: a program under a frozen mask, ready for a training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import EngineError
from edge_sdk.program.ceiling import MemoryCeiling, StepPlan, fit, parameter_bytes
from edge_sdk.program.check import check
from edge_sdk.program.graph import Graph, TrainingProgram
from edge_sdk.program.memory import ParameterMemory
from edge_sdk.program.passes import optimized
from edge_sdk.program.plan import Plan, lane_width, plan
from edge_sdk.program.runtime import Executable
from edge_sdk.program.schedule import schedule
from edge_sdk.sparse import Mask

__all__ = ["ProgramModel"]

Array = NDArray[Any]


class ProgramModel:
    """A program's parameters, and its steps on them; no torch anywhere.

    All arrays are views of the model's own memory, in place for its life.

    Attributes:
        engine: "program".
        reason: Why this engine, in words.
        mask: The frozen mask.
        program: What runs.
        weight_vector: Everything that a step moves, one flat vector; masked layers are
            there as their kept values.
        gradient_vector: The gradient of the last batch, place by place.
        parameters: Name -> its part of `weight_vector`: (nnz,) for a masked layer, else
            of the parameter's shape.
        gradients: Name -> its part of `gradient_vector`, likewise.
        kept: Name -> (nnz,) kept values of every masked layer, frozen ones too.
        buffers: Name -> state that a forward pass changes, such as norm statistics.
        coupled: The first norm that takes the batch's statistics; "" if none.
    """

    engine = "program"

    def __init__(
        self,
        program: TrainingProgram,
        mask: Mask,
        *,
        threads: int = 1,
        most_bytes: int = 0,
        double: bool = False,
        reason: str = "engine = program",
    ) -> None:
        """Takes memory for the parameters; their values are zero until `load`.

        Args:
            program: From a file or from `capture`; it is checked here.
            mask: Patterns by weight name; other weights are dense.
            threads: Of every step.
            most_bytes: Of the arena; 0 for no bound.
            double: Compute in float64, for tests.
            reason: For logs.

        Raises:
            EngineError: If the program or the mask is not sound, or there are no
                kernels.
        """
        check(program)
        program = replace(
            program,
            training=optimized(program.training),
            evaluation=optimized(program.evaluation),
        )
        self.program, self.mask, self.reason = program, mask, reason
        self.threads, self._most = threads, most_bytes
        own = program.slots
        self._schedules = {
            "training": schedule(program.training, own, train=True),
            "evaluation": schedule(program.evaluation, own, train=False),
        }
        self.memory = ParameterMemory(
            program, mask, self._schedules["training"], double=double
        )
        self.kernels = self.memory.kernels
        self.weight_vector = self.memory.weight_vector
        self.gradient_vector = self.memory.gradient_vector
        self.parameters, self.gradients = self.memory.parameters, self.memory.gradients
        self.kept = {name: self.memory.state[name] for name in mask}
        self.buffers = self.memory.buffers
        self.coupled = self._schedules["training"].mixes
        self._plans: dict[str, Executable] = {}
        self._room: dict[str, int] = {}
        self._ceiling: MemoryCeiling | None = None
        self._half = False
        self._parameter_bytes = parameter_bytes(program, mask)

    def hold_to(
        self, ceiling: MemoryCeiling | None, batch: int, *, ghost_norm: bool, half: bool
    ) -> StepPlan:
        """Plans training steps so that the process stays below a ceiling.

        Args:
            ceiling: With what is held already, this model's parameters left out; None
                for no bound.
            batch: Samples of a step.
            ghost_norm: Whether batch norm's statistics may be per part of a batch.
            half: Whether activations may wait in bfloat16 where nothing else fits.

        Raises:
            EngineError: If no plan fits; names the smallest ceiling that works.
        """
        self._ceiling, self._half = ceiling, half
        self._plans.clear()
        self._room.clear()
        return self.step_plan(batch, ghost_norm=ghost_norm)

    def step_plan(
        self, samples: int, *, micro_batch: int = 0, ghost_norm: bool = False
    ) -> StepPlan:
        """The plan of a training step of so many samples; nothing is allocated.

        Raises:
            EngineError: If none fits under the ceiling.
        """
        return fit(
            self.program,
            self._schedules["training"],
            samples=min(micro_batch or samples, samples),
            vector_lanes=self._vector_lanes,
            split=self._schedules["training"].splits(ghost_norm=ghost_norm),
            half=self._half,
            threads=self.threads,
            ceiling=self._ceiling,
            other_bytes=self._parameter_bytes,
        )

    def backward(
        self,
        inputs: Array,
        targets: Array,
        *,
        micro_batch: int = 0,
        ghost_norm: bool = False,
        draw: int | None = None,
    ) -> float:
        """Replaces `gradients` by those of the mean loss over a batch.

        Batch norm's statistics move, as with a forward pass in training mode.

        Args:
            inputs: (N, ...), prepared.
            targets: (N, ...).
            micro_batch: Most samples that go through at once; 0 takes the batch whole.
                The gradient is the same up to rounding.
            ghost_norm: Accept batch norm's statistics per micro-batch.
            draw: Key of this batch's dropout masks, the same on every machine; None
                draws others with each call.

        Returns:
            The mean loss.

        Raises:
            EngineError: If the batch does not fit the model, a sum over the batch
                meets micro-batches, or batch norm does without `ghost_norm`.
            DataError: If a label is out of range.
        """
        self._fits(self.program.training, (inputs, targets))
        samples = len(inputs)
        whole = not 0 < micro_batch < samples
        if not whole and (what := self._schedules["training"].whole):
            raise EngineError(
                f"{what} sees the whole batch, so parts of it cannot give the "
                "same update",
                remedy="Allow more memory, or take a smaller batch.",
            )
        if not whole and self.coupled and not ghost_norm:
            raise EngineError(
                f"layer {self.coupled}: batch norm in training mode sees the whole "
                "batch, so micro-batches cannot give the same update",
                remedy="Use group norm, allow more memory, or accept statistics per "
                "micro-batch with ghost_norm = true.",
            )
        chunk = samples if whole else micro_batch
        run = self._ready("training", samples, chunk, ghost=ghost_norm)
        if self._schedules["training"].shared:
            self.gradient_vector[:] = 0
        if draw is not None:
            run.seed(draw)
        loss = run.run((inputs, targets), samples, self.threads)
        for name in self.memory.counters:
            self.memory.state[name] += 1
        return loss

    def predict(self, inputs: Array, *, micro_batch: int = 0) -> Any:
        """Predictions in evaluation mode, (N, ...), or a tuple or a dict of them."""
        graph, kind = self.program.evaluation, self.weight_vector.dtype
        self._fits(graph, (inputs,))
        samples = len(inputs)
        shapes = [graph.tensors[t].shape for t in graph.outputs]
        out = [np.empty((samples, *shape), kind) for shape in shapes]
        chunk = min(micro_batch or samples, samples)
        run = self._ready("evaluation", samples, chunk)
        run.run((inputs, *out), samples, self.threads)
        return self.program.returned(out)

    def load(self, values: Mapping[str, Array], dense: Mapping[str, Array]) -> None:
        """Takes over kept values (nnz,) per masked layer and every dense entry.

        Raises:
            EngineError: If an entry is missing, unknown or of another shape; nothing
                is changed then.
        """
        given = {**dense, **values}
        if set(given) != set(self.memory.state) or set(values) != set(self.mask):
            wrong = sorted(
                set(given) ^ set(self.memory.state) | set(values) ^ set(self.mask)
            )
            raise EngineError(f"entries differ from the model's: {wrong[:4]}")
        for name, array in given.items():
            shape = self.memory.state[name].shape
            if np.shape(array) != shape:
                raise EngineError(f"entry {name} is {np.shape(array)}, not {shape}")
        self.memory.take(given)

    def values(self) -> dict[str, Array]:
        """Kept values per masked layer, (nnz,) in canonical CSR order; copies."""
        return {name: self.memory.state[name].copy() for name in self.mask}

    def dense(self) -> dict[str, Array]:
        """Every other ``state_dict`` entry by its name; copies."""
        state = {**self.memory.state, **self.memory.whole}
        return {n: a.copy() for n, a in state.items() if n not in self.mask.layers}

    def arena_bytes(self, samples: int, *, micro_batch: int = 0) -> int:
        """Bytes of activations and gradients that a training step of so many takes."""
        return self.step_plan(samples, micro_batch=micro_batch).plan.nbytes

    def _ready(
        self, kind: str, samples: int, chunk: int, *, ghost: bool = False
    ) -> Executable:
        """The program planned for such batches; a smaller whole batch fits, too."""
        room = self._room.get(kind, 0)
        if room != chunk and not room >= samples == chunk:
            if self._ceiling is not None:  # two arenas at once would not keep it
                self._plans.clear()
                self._room.clear()
            self._plans.pop(kind, None)
            made = (
                self.step_plan(chunk, ghost_norm=ghost).plan
                if kind == "training"
                else self._evaluation_plan(chunk)
            )
            self._plans[kind] = Executable(
                made, self.memory.slots, self.kernels, most_bytes=self._most
            )
            self._room[kind] = chunk
        return self._plans[kind]

    def _evaluation_plan(self, chunk: int) -> Plan:
        lanes = lane_width(chunk, self._vector_lanes)
        own = self._schedules["evaluation"]
        blocks = 1 if self._ceiling is not None else -(-chunk // lanes)
        return plan(own, lanes=lanes, blocks=blocks)

    @property
    def _vector_lanes(self) -> int:
        return self.kernels.vector_bytes // self.weight_vector.dtype.itemsize

    def _fits(self, graph: Graph, arrays: tuple[Array, ...]) -> None:
        samples = len(arrays[0])
        names = ("inputs", "targets")
        for what, array, tensor in zip(names, arrays, graph.inputs, strict=False):
            value = graph.tensors[tensor]
            if len(array) != samples or not samples or array.shape[1:] != value.shape:
                raise EngineError(
                    f"the batch's {what} are {array.shape}, not "
                    f"({', '.join(map(str, ('N', *value.shape)))}) with N >= 1",
                    remedy=f"Give {what} of the shape the model was compiled for; one "
                    "whose shapes change needs torch on the device.",
                )
            if array.dtype.kind not in ("iub" if value.whole else "iubf"):
                raise EngineError(
                    f"the batch's {what} are {array.dtype}, not "
                    f"{'whole numbers' if value.whole else 'numbers'}",
                    remedy=f"Give {what} of the dtype that the model was compiled for.",
                )
