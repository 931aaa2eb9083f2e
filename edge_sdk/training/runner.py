"""One task from order to packed update: draw the mask, train, take the difference."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from msgspec import structs
from typing_extensions import assert_never

from edge_sdk.sparse import Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.checkpoint import Progress, TaskProgress
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.holdout.divided import DividedExamples
from edge_sdk.training.holdout.tester import ModelTester
from edge_sdk.training.local import Correction, TrainingResult, train
from edge_sdk.training.memory_limit import (
    Activations,
    Allowance,
    EngineName,
    MicroBatch,
    ReadCeiling,
    StepMemory,
)
from edge_sdk.training.program_engine.choice import models_of
from edge_sdk.training.program_engine.kept import keep_program
from edge_sdk.training.rules.apart import own_parts
from edge_sdk.training.rules.control_variates import (
    control_of,
    packed_variates,
    remembered,
)
from edge_sdk.training.rules.corrections import controlled, next_variates, proximal
from edge_sdk.training.rules.evidence import measured_evidence
from edge_sdk.training.rules.gradients import Scorer, gradients_beside
from edge_sdk.training.rules.largest import returned_counts
from edge_sdk.training.rules.moving_masks import train_moving
from edge_sdk.training.rules.nested import backward_of
from edge_sdk.training.total_rate import total_rate
from edge_sdk.training.update import (
    PackedUpdate,
    change_of,
    largest_change,
    moved_change,
    packed,
    packed_change,
)
from edge_sdk.wire.messages import TaskOrder, Training
from edge_sdk.wire.rules import (
    CandidateLosses,
    Controlled,
    Frozen,
    Measured,
    Nested,
    OneStep,
    Proximal,
    Regrow,
    Rewire,
    Sandwich,
    Score,
    Swat,
    TopK,
    WarmUp,
)
from edge_sdk.wire.values import Values, unpack_values

__all__ = ["TaskRunner"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """An order with its mask and its base unpacked; `plan` is the order's or a part."""

    order: TaskOrder
    plan: Training
    mask: Mask
    start: Values
    stop: Callable[[], bool]


class TaskRunner:
    """Trains the orders of one device; keeps the last mask and its model.

    An order whose memory does not fit ends in an `EngineError`, told the coordinator.

    Args:
        task: What to train.
        examples: The device's private examples.
        engine: Which training engine to use.
        micro_batch: As `Allowance` has it; of warm-ups and engine races, too.
        ghost_norm: Accept batch norm's statistics per micro-batch, else refused.
        activations: How activations wait for the backward pass.
        ceiling: Memory that the process may hold, and what it holds now.
        clock: Monotonic seconds in which pauses of the owner's do not pass.
        progress: Where a reboot finds how far training was; None starts over.
        threads: Of programs; torch has its own.
        device: Where torch computes: ``cpu``, ``cuda``, or ``auto``.
        autocast: Whether it computes matrix products in bfloat16 there.
        with_torch: Whether torch may be imported where it is.

    Attributes:
        allowance: How many examples may go through at once.
        examples: Those of the last order: without what it holds out.
        tester: Measures models on what is held out.
    """

    def __init__(
        self,
        task: Task,
        examples: Examples,
        engine: EngineName,
        *,
        micro_batch: int | MicroBatch = 0,
        ghost_norm: bool = False,
        activations: Activations = "fp32",
        ceiling: ReadCeiling | None = None,
        clock: Callable[[], float] = time.monotonic,
        progress: Progress | None = None,
        threads: int = 1,
        device: str = "cpu",
        autocast: bool = False,
        with_torch: bool = True,
    ) -> None:
        self._clock, self._progress = clock, progress
        self.task, self.examples = task, examples
        self.allowance, self._ghost_norm = Allowance(micro_batch), ghost_norm
        memory = StepMemory(ceiling, half=activations == "bf16", ghost_norm=ghost_norm)
        own = (task, engine, activations, memory, threads, device, autocast)
        self._models = models_of(*own, with_torch=with_torch)
        self.tester = ModelTester(task, self._models, self.allowance)
        self.tester.examples = DividedExamples(examples)
        self.evaluate, self.describe = self.tester.run, self.tester.describe
        self.check = self._models.check

    @property
    def engine(self) -> str:
        """The engine of the last task, for reports; empty before the first."""
        return self._models.engine

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run here."""
        return self._models.engines

    def release(self) -> None:
        """Gives memory that no task needs back to the board, until the next one."""
        self._models.release()

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
        memory: bytes = b"",
        program: bytes = b"",
        parts: bytes = b"",
    ) -> PackedUpdate:
        """Carries out an order.

        Args:
            order: What to do.
            base: The model to start from.
            stop: Turns true when the result is not wanted any more.
            structure: The mask's, when it is not drawn from a seed.
            memory: What the rule and the personal entries go on from, as an earlier
                update left it.
            program: The model's training program; needed where there is no torch.
            parts: Entries that stay apart; empty for none.

        Raises:
            Stopped: If `stop` turned true.
            EdgeError: If the base does not fit the mask, or training breaks.
        """
        began = time.monotonic()
        self._models.program = program or self._models.program
        self.examples = self.tester.examples.train(order.holdout)
        if self._progress is not None:
            keep_program(self._progress.path.parent, program)
        own, models = own_parts(parts, memory), self._models
        models.frozen, models.adapters = frozenset(own.apart.frozen), own.apart.adapters
        mask = models.mask(order.mask, structure)
        models.check(self.examples)
        start = own.completed(unpack_values(base, mask))
        job = _Job(order, order.training, mask, start, stop)
        change: Values | None = None
        moved, left, payload, norm = False, b"", b"", 0.0
        match order.rule:
            case Frozen() | OneStep() | Proximal() | Nested() | Sandwich():
                outcome, change = self._frozen(job)
            case Controlled():
                outcome, change, left = self._controlled(job, own.memory)
            case Measured() as rule:
                outcome, change = self._measured(job, rule)
            case WarmUp() | Score() | CandidateLosses() as rule:
                payload, outcome = measured_evidence(
                    *(order, rule, self._models, mask, job.start, self._scorer(job)),
                    stop=stop,
                    progress=self._moving_progress(job),
                )
            case Rewire() | Regrow() as rule:
                (mask, change, outcome), moved = self._moving(job, rule), True
            case Swat() | TopK() as rule:
                (mask, change, outcome), moved = self._largest(job, rule), True
            case _:
                assert_never(order.rule)
        if change is not None:
            left = own.remembered(change, left)
            given = order, own.travelling(change), mask, outcome.examples
            payload, norm = packed_change(*given, structure=moved)
        spent = time.monotonic() - began
        return replace(packed(order, mask, payload, norm, outcome, spent), memory=left)

    def _frozen(
        self, job: _Job, correction: Correction | None = None
    ) -> tuple[TrainingResult, Values]:
        size = job.plan.batch_size
        if isinstance(rule := job.order.rule, OneStep):
            job = replace(job, plan=structs.replace(job.plan, epochs=1, max_steps=1))
        if isinstance(rule, Proximal):
            correction = partial(proximal, rule.mu)
        model = self._models.on(job.mask, self.examples, self.allowance, size)
        return self._train(model, job, correction), change_of(model, job.start)

    def _measured(self, job: _Job, rule: Measured) -> tuple[TrainingResult, Values]:
        """Train, then look at the gradients of the base: nothing drawn moves before."""
        outcome, change = self._frozen(job)
        model, scorer = self._models.dense(job.mask, job.start), self._scorer(job)
        beside = gradients_beside(rule, model, job.mask, scorer, job.plan)
        return outcome, replace(change, dense={**change.dense, **beside})

    def _controlled(
        self, job: _Job, memory: bytes
    ) -> tuple[TrainingResult, Values, bytes]:
        """Train with control variates; return result, change and the next variates."""
        ours, start = control_of(job.start)
        own = remembered(memory, job.mask, ours)
        job = replace(job, start=start)
        outcome, change = self._frozen(job, partial(controlled, ours, own))
        moved = {**change.masked, **change.dense}
        rate, momentum = job.plan.learning_rate, job.plan.momentum
        took = total_rate(rate, outcome.steps, momentum=momentum)
        left = packed_variates(next_variates(ours, own, moved, took), start, job.mask)
        return outcome, change, left

    def _largest(
        self, job: _Job, rule: Swat | TopK
    ) -> tuple[Mask, Values, TrainingResult]:
        """The mask of the largest weights at the end, and the change on it."""
        model = self._models.swat(rule, job.mask)
        outcome = self._train(model, job)
        sent = returned_counts(rule, model, self._models.layers, str(job.plan.seed))
        return *largest_change(model, job.start, sent, str(job.plan.seed)), outcome

    def _train(
        self, model: TrainingModel, job: _Job, correction: Correction | None = None
    ) -> TrainingResult:
        model.load(job.start.masked, job.start.dense)
        progress, engine = self._progress, model.engine
        return train(
            *(model, self.task, self.examples, job.plan),
            micro_batch=self._size(job, engine),
            ghost_norm=self._ghost_norm,
            backward=backward_of(
                *(job.order, job.mask, job.start), self._models, self.examples
            ),
            correct=correction,
            stop=job.stop,
            clock=self._clock,
            progress=progress.of(job.order.id, engine) if progress else None,
        )

    def _moving(
        self, job: _Job, rule: Rewire | Regrow
    ) -> tuple[Mask, Values, TrainingResult]:
        """The mask at the end, and the change on it; what was not kept began at 0."""
        model, scorer = self._models.dense(job.mask, job.start), self._scorer(job)
        before = model.values()
        moved, outcome = train_moving(
            *(model, job.mask, scorer, rule, job.plan),
            stop=job.stop,
            progress=self._moving_progress(job),
        )
        return moved, moved_change(model, before, moved, job.start), outcome

    def _moving_progress(self, job: _Job) -> TaskProgress | None:
        return self._progress.of(job.order.id, "dense") if self._progress else None

    def _scorer(self, job: _Job) -> Scorer:
        size = self._size(job, "masked")  # as there, its weights are dense
        return Scorer(self.task, self.examples, size, self._ghost_norm)

    def _size(self, job: _Job, engine: str) -> int:
        return self.allowance.size(job.mask.density, engine, job.plan.batch_size)
