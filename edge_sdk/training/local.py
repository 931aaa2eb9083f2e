"""Local training: SGD on one device's examples, with its order fixed by a seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.checkpoint import TaskProgress
from edge_sdk.training.engine import TrainingModel, TrainingSession
from edge_sdk.wire.messages import Training

__all__ = [
    "Backward",
    "Correction",
    "Stopped",
    "TrainingResult",
    "batches",
    "check_finite",
    "own_network",
    "train",
]

# the session at the base -> what changes its gradients before each step
Correction: TypeAlias = Callable[[TrainingSession], Callable[[], None]]

# (session, number of the step, positions of its examples) -> mean loss
Backward: TypeAlias = Callable[[TrainingSession, int, NDArray[np.int64]], float]


def own_network(
    session: TrainingSession, _step: int, index: NDArray[np.int64]
) -> float:
    """The gradients of the model as it stands, and its mean loss."""
    return session.backward(index)


class Stopped(Exception):  # noqa: N818 - not a fault: somebody asked to stop
    """Training was told to stop; what it had so far is dropped."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of local training: examples, steps, loss, time.

    Attributes:
        examples: Distinct examples seen at most; the weight in FedAvg.
        steps: Optimizer steps.
        loss: Mean training loss over all steps.
        seconds: Wall time.
    """

    examples: int
    steps: int
    loss: float
    seconds: float


def batches(
    count: int, plan: Training, *, epoch_steps: int = 0
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(epoch, positions) of each step: every epoch a fresh keyed order.

    A trailing batch of one example is left out when there are larger ones: batch norm
    cannot train on it.
    """
    for epoch in range(plan.epochs):
        rng = np.random.Generator(np.random.Philox(key=[plan.seed, epoch]))
        order = rng.permutation(count)
        starts = range(0, count, plan.batch_size)
        for step, start in enumerate(starts):
            if epoch_steps and step == epoch_steps:
                break
            batch = order[start : start + plan.batch_size]
            if len(batch) > 1 or min(count, plan.batch_size) == 1:
                yield epoch, batch


def train(
    model: TrainingModel,
    task: Task,
    examples: Examples,
    plan: Training,
    *,
    micro_batch: int = 0,
    ghost_norm: bool = False,
    backward: Backward = own_network,
    correct: Correction | None = None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    progress: TaskProgress | None = None,
) -> TrainingResult:
    """Trains in place, SGD with a new optimizer, as FLASH does every round.

    Args:
        model: In place.
        task: Gives loss, preparation and augmentation.
        examples: The device's own.
        plan: Epochs, batch size, rates, seed, and what the engine's step takes.
        micro_batch: Most examples that go through at once; 0 takes the whole batch.
            The update is the same, see `edge_sdk.training.accumulate`.
        ghost_norm: Accept batch norm's statistics per micro-batch.
        backward: Leaves a step's gradients in the session; by default the model's own.
        correct: Sees the model at the base once; what it returns changes the gradients
            at hand before each step takes them.
        stop: Asked between two steps.
        clock: Seconds from any origin.
        progress: Where to go on from after a reboot, and what to leave for one.

    Raises:
        Stopped: If `stop` turned true between two steps.
        DataError: If the loss is not finite: the data or the learning rate is wrong.
        EngineError: If batch norm meets micro-batches without `ghost_norm`.
    """
    began = clock()
    session = model.session(
        task, examples, plan, micro_batch=micro_batch, ghost_norm=ghost_norm
    )
    corrected = correct(session) if correct else lambda: None
    steps, total = progress.resume(model, session) if progress else (0, 0.0)
    for _, index in islice(batches(len(examples), plan), steps, plan.max_steps or None):
        if stop():
            raise Stopped
        total += backward(session, steps, index)
        corrected()
        session.step()
        steps += 1
        if progress is not None:
            progress.keep(steps, total, model, session)
    check_finite(total, task)
    seen = min(len(examples), steps * plan.batch_size)
    return TrainingResult(seen, steps, total / max(steps, 1), clock() - began)


def check_finite(loss: float, task: Task) -> None:
    """Refuses a training that has diverged.

    Raises:
        DataError: If the loss is not finite.
    """
    if not np.isfinite(loss):
        raise DataError(
            f"the training loss of task {task.name} is not finite",
            remedy="Lower the learning rate, or look for broken examples.",
        )
