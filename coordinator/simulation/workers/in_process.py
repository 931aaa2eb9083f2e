"""Workers that are none: the caller's own process trains one job after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from coordinator.simulation.data.folders import read_as_partitions
from coordinator.simulation.workers.engine import Engine
from coordinator.simulation.workers.interface import (
    ChunkScore,
    EvaluationChunk,
    TrainingJob,
    Workers,
)
from coordinator.simulation.workers.jobs import JobRunner
from edge_sdk.tasks.task import Task
from edge_sdk.training.update import PackedUpdate

__all__ = ["in_process"]

R = TypeVar("R")


@contextmanager
def in_process(
    _count: int,
    _reference: str,
    evaluation: Path,
    engine: Engine,
    *,
    task: Task,
    partitions: bool = False,
) -> Iterator[Workers]:
    """Trains here, so that a task of a notebook or of ``__main__`` needs no import.

    torch has one thread meanwhile, as in a worker: the result is the same, bit for bit.
    It has as many as before afterwards.

    Args:
        evaluation: The folder of the evaluation examples.
        engine: The run's.
        task: What is trained.
        partitions: Whether examples are read as partition files, not by the task.
    """
    task = read_as_partitions(task) if partitions else task
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        read = task.read_eval(evaluation, known=True)
        yield _InProcess(task, JobRunner(task, read, engine))
    finally:
        torch.set_num_threads(threads)


class _InProcess:
    """The workers as the simulation asks them; a future is done when it is given."""

    def __init__(self, task: Task, runner: JobRunner) -> None:
        self._task, self._runner = task, runner

    def train(self, work: TrainingJob) -> Future[PackedUpdate]:
        return _done(
            lambda: self._runner.train(
                work, self._task.read_train(work.folder, known=True)
            )
        )

    def score(self, chunk: EvaluationChunk) -> Future[ChunkScore]:
        own, read = chunk.folder, self._task.read_train
        return _done(
            lambda: self._runner.score(chunk, read(own, known=True) if own else None)
        )


def _done(job: Callable[[], R]) -> Future[R]:
    future: Future[R] = Future()
    try:
        future.set_result(job())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)
    return future
