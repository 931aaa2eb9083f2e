"""Interface of a simulation's workers, wherever they run.

A worker gets an order and a base as bytes and gives back an offer and a payload, just
as a device does; it keeps nothing between two jobs but what it would compute again. So
which worker does which job, how many there are and on which machine changes no bit of
the result.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from coordinator.simulation.workers.engine import Engine
from edge_sdk.errors import (
    DataError,
    EdgeError,
    EngineError,
    LocalProtocolError,
    RunError,
    two_sentences,
)
from edge_sdk.evaluation.tally import Tally
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.messages import MaskRecipe
from edge_sdk.wire.named import Holdout

__all__ = [
    "THEIR_OWN",
    "ChunkScore",
    "EvaluationChunk",
    "OpenWorkers",
    "TrainingJob",
    "Unable",
    "Workers",
    "results",
    "trained",
    "worker_died",
]

J = TypeVar("J")
T = TypeVar("T")
R = TypeVar("R")
# What is wrong with one device's examples, loss or update, and not with the run.
THEIR_OWN = (DataError, EngineError, LocalProtocolError)


@dataclass(frozen=True)
class TrainingJob:
    """One device's task: the order and the base as they would travel."""

    folder: Path
    order: bytes
    base: bytes
    structure: bytes = b""
    memory: bytes = b""  # of the device, where it goes on from one
    parts: bytes = b""  # entries that stay apart


@dataclass(frozen=True)
class EvaluationChunk:
    """A part of the evaluation set to score a model on, or a device's test examples."""

    recipe: MaskRecipe
    structure: bytes
    values: bytes
    start: int
    stop: int
    folder: Path | None = None  # of the device whose test examples are meant
    holdout: Holdout | None = None  # which those are
    adapters: Mapping[str, int] = field(default_factory=dict)  # layer -> its rank


@dataclass(frozen=True)
class ChunkScore:
    """Score of a chunk: sums, so that chunks add up in a fixed order."""

    tally: Tally


@dataclass(frozen=True)
class Unable:
    """Result of a device that cannot train: the reason.

    Attributes:
        why: In words.
        lasting: Whether it could do no other task, either.
    """

    why: str
    lasting: bool = True


class Workers(Protocol):
    """Some workers that are ready; any thread may ask.

    A future raises `BrokenExecutor` if its worker died, else what the job raised.
    """

    def train(self, work: TrainingJob) -> Future[PackedUpdate]:
        """A device's part of a round."""
        ...

    def score(self, chunk: EvaluationChunk) -> Future[ChunkScore]:
        """A part of an evaluation."""
        ...


class OpenWorkers(Protocol):
    """Function that starts a run's workers, wherever they are."""

    def __call__(
        self,
        count: int,
        task: str,
        evaluation: Path,
        engine: Engine,
        /,
        *,
        partitions: bool = False,
    ) -> AbstractContextManager[Workers]:
        """Workers that are ready, until the end of the block.

        Args:
            count: How many; 0 takes every core there is.
            task: The task's reference.
            evaluation: The folder of the evaluation examples.
            engine: The run's.
            partitions: Whether examples are read as partition files, not by the task.
        """
        ...


def trained(
    train: Callable[[TrainingJob], Future[PackedUpdate]], jobs: Iterable[TrainingJob]
) -> list[PackedUpdate | Unable]:
    """Results of the devices' tasks, in their order.

    One that cannot train is out, for this round or for good; the others go on.

    Raises:
        RunError: If a worker died.
        EdgeError: As the job raised it, where it is nothing of the device's own.
    """
    return _gathered(train, jobs, _update_or_unable)


def results(do: Callable[[J], Future[T]], jobs: Iterable[J]) -> list[T]:
    """Results of the jobs, in their order; an error drops those not begun.

    Raises:
        RunError: If a worker died.
        EdgeError: As the job raised it.
    """
    return _gathered(do, jobs, lambda job: job.result())


def _gathered(
    do: Callable[[J], Future[T]], jobs: Iterable[J], take: Callable[[Future[T]], R]
) -> list[R]:
    """Results that `take` makes of the jobs, in their order."""
    futures: list[Future[T]] = []
    try:
        futures.extend(map(do, jobs))
        return [take(future) for future in futures]
    except BrokenExecutor as error:
        raise worker_died() from error
    finally:
        for future in futures:
            future.cancel()


def _update_or_unable(job: Future[PackedUpdate]) -> PackedUpdate | Unable:
    try:
        return job.result()
    except EdgeError as error:
        if not isinstance(error, THEIR_OWN):
            raise
        return Unable(two_sentences(error, error.help), isinstance(error, EngineError))


def worker_died(endings: Sequence[int] = ()) -> RunError:
    """The error of a run whose worker died.

    Args:
        endings: Exit codes of those that did; below 0 a signal's number.
    """
    goes_on = "The same command continues after the last complete round"
    if not endings:
        return RunError(
            "a worker of the simulation died",
            remedy=f"{goes_on}; give it fewer --workers if memory is short.",
        )
    code = endings[0]
    if code == -signal.SIGKILL:
        return RunError(
            "a worker of the simulation was killed (signal 9), as the kernel does "
            "when memory is short",
            remedy=f"{goes_on}; give it fewer --workers.",
        )
    if code < 0:
        return RunError(
            f"a worker of the simulation crashed (signal {-code})",
            remedy=f"{goes_on}. If it comes again: torch, or a library that the task "
            "uses, does not fit this processor; try them alone.",
        )
    return RunError(
        f"a worker of the simulation ended by itself with exit code {code}",
        remedy=f"{goes_on}. Look for sys.exit or os._exit in the task and what it "
        "imports, and at what the worker has written above.",
    )
