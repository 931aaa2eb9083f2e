"""`LateTorchRunner`: trains by the programs of its orders, and imports torch late.

An import of torch takes a second or more and some 190 MiB, for as long as the process
lives. A device that has torch begins without it where its task's data half is numpy.

Rule 1. An order that a program cannot carry out is carried out by torch, once more from
        its start. From then on the process has torch, and its engines race as ever.
Rule 2. So is an order of which torch left a checkpoint.
Rule 3. With ``engine = "auto"`` the orders that follow one of over `WORTH_RACING_S` of
        training are torch's, too: a race may pay back what its import takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from edge_sdk.errors import EngineError
from edge_sdk.program.ceiling import MemoryExceededError
from edge_sdk.tasks.task import Examples
from edge_sdk.training.checkpoint import Progress
from edge_sdk.training.holdout.tester import ModelTester
from edge_sdk.training.memory_limit import Allowance
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.messages import Evaluate, Evaluated, TaskOrder

__all__ = ["WORTH_RACING_S", "LateTorchRunner"]

log = logging.getLogger(__name__)

T = TypeVar("T")
WORTH_RACING_S = 20.0  # of one task; an import takes a board some ten


class LateTorchRunner:
    """A `TaskRunner` by programs, and one by torch's engines once an order needs it.

    Args:
        programs: Trains without torch.
        with_torch: Imports torch and makes the runner that goes on.
        progress: Where a checkpoint of an earlier life may be.
        races: Whether the settings let engines race.
    """

    def __init__(
        self,
        programs: TaskRunner,
        with_torch: Callable[[], TaskRunner],
        progress: Progress,
        *,
        races: bool,
    ) -> None:
        self._runner, self._with_torch = programs, with_torch
        self._progress, self._races = progress, races
        self._waits = True  # torch is not imported yet
        self._long = ""  # why the next order is torch's

    @property
    def engine(self) -> str:
        """The engine of the last task, for reports; empty before the first."""
        return self._runner.engine

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run here, torch's too."""
        return ("program", "masked") if self._waits else self._runner.engines

    @property
    def allowance(self) -> Allowance:
        """Limit on the examples that go through at once."""
        return self._runner.allowance

    @property
    def tester(self) -> ModelTester:
        """Measures models on what is held out."""
        return self._runner.tester

    def check(self, examples: Examples) -> None:
        """Refuses examples that the program of the last order cannot take."""
        self._runner.check(examples)

    def release(self) -> None:
        """Gives memory that no task needs back to the board, until the next one."""
        self._runner.release()

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        *blobs: bytes,
    ) -> PackedUpdate:
        """Carries out an order; see `TaskRunner.run`."""
        if self._waits and self._progress.is_of_torch(order.id):
            self._import("its checkpoint is of torch's engines")
        elif self._waits and self._long:
            self._import(self._long)
        made = self._done(lambda runner: runner.run(order, base, stop, *blobs))
        took = made.offer.metrics["training_s"]
        if self._races and took > WORTH_RACING_S:
            self._long = f"a task trained for {took:.0f} s, which is worth a race"
        return made

    def evaluate(
        self, order: Evaluate, base: bytes, stop: Callable[[], bool], **blobs: bytes
    ) -> Evaluated:
        """Measures a model; see `TaskRunner.evaluate`."""
        return self._done(lambda runner: runner.evaluate(order, base, stop, **blobs))

    def _done(self, work: Callable[[TaskRunner], T]) -> T:
        try:
            return work(self._runner)
        except MemoryExceededError:
            raise  # torch would take more
        except EngineError as error:
            if not self._waits:
                raise
            self._import(str(error))
        return work(self._runner)

    def _import(self, why: str) -> None:
        log.info("torch is imported: %s", why)
        most = self._runner.allowance.most
        self._runner.release()
        self._runner = self._with_torch()
        self._runner.allowance.most = most
        self._waits = False
