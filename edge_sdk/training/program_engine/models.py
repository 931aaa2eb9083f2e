"""A board's models out of the program that its orders send; no torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import EngineError
from edge_sdk.evaluation.metric import Metric
from edge_sdk.evaluation.tally import Tally
from edge_sdk.kernels.library import available, kernels
from edge_sdk.program.file import unpack_program
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.open import program_layers
from edge_sdk.sparse import Boxes, LayerShape, Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import Arrays, TrainingModel
from edge_sdk.training.memory_limit import Allowance, EngineName, StepMemory
from edge_sdk.training.program_engine.batches import ArrayBatches
from edge_sdk.training.program_engine.example_check import ExampleCheck
from edge_sdk.training.program_engine.narrow import Cut, cut_program
from edge_sdk.training.program_session import ProgramSession, program_tally
from edge_sdk.training.rules.inner_models import InnerModels
from edge_sdk.wire.messages import MaskRecipe, Training
from edge_sdk.wire.recipe import mask_of, named_layers
from edge_sdk.wire.rules import CandidateLosses, LocalRule, Swat, TopK
from edge_sdk.wire.structure import decode_structure
from edge_sdk.wire.values import Values

__all__ = ["ArrayModel", "ProgramModels"]

log = logging.getLogger(__name__)


class ArrayModel(ProgramModel):
    """A `TrainingModel` on a program, fed by a task that prepares arrays."""

    def tally(self, task: Task, examples: Examples, metrics: Sequence[Metric]) -> Tally:
        """Sums of the metrics in evaluation mode; see `TrainingModel.tally`."""
        batches = ArrayBatches(task, examples, self.program, 0)
        return program_tally(self, batches, len(examples), metrics)

    def session(
        self,
        task: Task,
        examples: Examples,
        plan: Training,
        *,
        micro_batch: int = 0,
        ghost_norm: bool = False,
    ) -> ProgramSession:
        """One task's training; see `TrainingModel.session`."""
        return ProgramSession(
            self,
            ArrayBatches(task, examples, self.program, plan.seed),
            plan,
            micro_batch=micro_batch,
            ghost_norm=ghost_norm,
        )


class CutModel(ArrayModel):
    """An `ArrayModel` without the units that its mask cuts; outside it looks whole.

    Args:
        cut: The narrower program, and what it leaves out.
        mask: The whole mask.
        threads: Of every step.
        reason: For logs.
    """

    def __init__(self, cut: Cut, mask: Mask, *, threads: int, reason: str) -> None:
        super().__init__(cut.program, cut.mask, threads=threads, reason=reason)
        self._cut, self.mask = cut, mask

    def load(self, values: Arrays, dense: Arrays) -> None:
        """Takes over kept values and every dense entry; those of cut units wait."""
        super().load(values, self._cut.taken(dense))

    def dense(self) -> dict[str, NDArray[Any]]:
        """Every other entry, copied; of cut units what was loaded."""
        return self._cut.given(super().dense())


class ProgramModels:
    """A `ModelSource`: the last mask and its program; another mask opens it anew.

    Args:
        task: Reads and prepares the examples.
        engine: What the settings ask for; torch's engines are not here.
        threads: Of every step.
        memory: What its owner says of it.

    Attributes:
        layers: The maskable layers of the last order's mask; none before the first.
        program: The program, as the last order sent it.
        frozen: What no training moves; the program is compiled so.
        adapters: Likewise.

    Raises:
        EngineError: If the settings ask for an engine of torch's, or there are no
            kernels here.
    """

    engines = ("program",)

    def __init__(
        self,
        task: Task,
        engine: EngineName,
        threads: int,
        memory: StepMemory = StepMemory(),  # noqa: B008 - frozen
    ) -> None:
        if engine == "masked":
            raise EngineError(
                'engine = "masked" computes by torch, which this board does not have',
                remedy="Set engine = \"auto\", or pip install 'flash-edge[device]'.",
            )
        kernels()  # fails here, with the reason, rather than in the first task
        log.info("engine program: kernels %s, without torch", available())
        self._task, self._threads, self._memory = task, threads, memory
        self._batch = task.batch_size  # of the last order
        self._model: ArrayModel | None = None
        self._inner, self._check = InnerModels(memory), ExampleCheck(task)
        self._opened = b""  # digest of the model's program
        self._boxes: Boxes = {}  # of the last recipe
        self.layers: tuple[LayerShape, ...] = ()
        self.program = b""
        self.frozen: frozenset[str] = frozenset()
        self.adapters: Mapping[str, int] = {}

    @property
    def engine(self) -> str:
        """The engine of the last model; empty before the first."""
        return "program" if self._model else ""

    def release(self) -> None:
        """Gives the kernels' work space back to the system."""
        kernels().library.fe_release_scratch()

    def check(self, examples: Examples) -> None:
        """Refuses examples that the program does not take; see `ExampleCheck`."""
        if self.program:
            self._check(examples, self.program)

    def mask(self, recipe: MaskRecipe, structure: bytes) -> Mask:
        """The mask of a recipe: the one at hand, or drawn, or out of its structure.

        Raises:
            EngineError: If the order came without a program, or it cannot be read.
            EdgeError: As `mask_of` and `decode_structure`.
        """
        if not self.program:
            raise EngineError(
                "the order names no training program; without one only torch trains",
                remedy="Update the coordinator: it compiles the task's model for such "
                "boards; or pip install 'flash-edge[device]' here.",
            )
        self._boxes = recipe.boxes
        digest = sha256(self.program).digest()
        if digest != self._opened:
            self._model, self._opened = None, digest
        if self._model is not None and self._model.mask.digest == recipe.digest:
            return self._model.mask
        # A layer that the task keeps dense is maskable by its program all the same.
        found = program_layers(unpack_program(self.program))
        self.layers = named_layers(recipe, found)
        if recipe.structure is not None:
            return decode_structure(structure, self.layers, recipe.digest)
        return mask_of(recipe, self.layers)

    def on(
        self, mask: Mask, examples: Examples, allowance: Allowance, batch_size: int
    ) -> TrainingModel:
        """The program under this mask.

        Raises:
            EngineError: If it cannot run here, or no plan stays below the ceiling.
        """
        self._batch = batch_size
        if self._model is None or self._model.mask.digest != mask.digest:
            self._model = None  # two models at once would not keep to a ceiling
            self._model = self._open(mask, self._boxes)
        return self._model

    def inside(
        self, members: Sequence[tuple[Mask, Boxes]], examples: Examples
    ) -> Sequence[TrainingModel | None]:
        """Programs of smaller networks; see `ModelSource.inside`."""
        return self._inner.of(self._model, members, self._batch, self._inner_program)

    def dense(
        self, mask: Mask, start: Values, *, thawed: bool = False
    ) -> TrainingModel:
        """The program under a full mask, at a mask's values."""
        model = self._open(Mask({n: np.ones(mask[n].shape, np.bool_) for n in mask}))
        frozen = sorted(set(mask) - set(model.parameters))
        if thawed and frozen:
            raise EngineError(
                f"layer {frozen[0]} is frozen: its weights cannot be scored without "
                "torch",
                remedy="Name it in the task's dense_layers, or run another algorithm.",
            )
        values = {n: np.zeros(mask[n].size, np.float32) for n in mask}
        for name, kept in start.masked.items():
            values[name][mask.flat(name)] = kept
        model.load(values, start.dense)
        return model

    def swat(self, rule: Swat | TopK, mask: Mask) -> TrainingModel:
        """Refuses: programs have no such passes.

        Raises:
            EngineError: Always.
        """
        raise _by_torch(rule)

    def candidate_losses(
        self,
        rule: CandidateLosses,
        mask: Mask,
        start: Values,
        examples: Examples,
        parts: Sequence[NDArray[np.int64]],
    ) -> list[float]:
        """Refuses: programs take no norm statistics of a mask by themselves.

        Raises:
            EngineError: Always.
        """
        raise _by_torch(rule)

    def _inner_program(self, mask: Mask, boxes: Boxes) -> ArrayModel | None:
        program, reason = unpack_program(self.program), "a smaller network"
        cut = cut_program(program, mask, boxes)
        if cut is not None:
            program, mask = cut.program, cut.mask
        elif isinstance(self._model, CutModel):  # its entries would be wider there
            return None
        return ArrayModel(program, mask, threads=self._threads, reason=reason)

    def _open(self, mask: Mask, boxes: Boxes = MappingProxyType({})) -> ArrayModel:
        program, before = unpack_program(self.program), self._memory.read()
        reason = "a program that the coordinator compiled"
        cut = cut_program(program, mask, boxes)
        if cut is None:
            model = ArrayModel(program, mask, threads=self._threads, reason=reason)
        else:
            reason += ", without the units that the mask cuts"
            model = CutModel(cut, mask, threads=self._threads, reason=reason)
        self._memory.hold(model, before, self._batch)
        return model


def _by_torch(rule: LocalRule) -> EngineError:
    return EngineError(
        f"the rule {type(rule).__name__} computes by torch alone",
        remedy="Run another algorithm, or pip install 'flash-edge[device]' here.",
    )
