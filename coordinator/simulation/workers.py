"""The workers of a simulation: processes that train and score, one thread each.

A worker gets an order and a base as bytes and gives back an offer and a payload, just
as a device does; it keeps nothing between two jobs but what it would compute again. So
which worker does which job, and how many there are, changes no bit of the result.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from edge_sdk.errors import EngineError, RunError
from edge_sdk.models.inventory import layers_of
from edge_sdk.models.task import Examples, Task, load_task
from edge_sdk.sparse import Mask, nested_counts, uniform
from edge_sdk.sparse.select import draw
from edge_sdk.training.change import Packed
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import score
from edge_sdk.training.masked import masked_model
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.sparse.model import sparse_model
from edge_sdk.wire.codec import unpack
from edge_sdk.wire.messages import MaskRecipe, TaskOrder
from edge_sdk.wire.recipe import mask_of
from edge_sdk.wire.structure import decode_structure
from edge_sdk.wire.values import unpack_values

__all__ = [
    "Chunk",
    "Score",
    "Work",
    "engine_for",
    "results",
    "score_one",
    "train_one",
    "workers",
]

T = TypeVar("T")
Engine = Literal["sparse", "masked"]
# Above this density the dense kernels are the faster ones; see docs/engine.md.
DENSE = 0.5
SCORED_MODELS = 4  # kept per worker
# What a worker would import with its first step: with torch itself 2 s of a processor.
PRELOADED = ("torch._dynamo",)


@dataclass(frozen=True)
class Work:
    """One device's task: the order and the base as they would travel."""

    folder: Path
    order: bytes
    base: bytes
    structure: bytes = b""


@dataclass(frozen=True)
class Chunk:
    """A part of the evaluation set to score a model on."""

    recipe: MaskRecipe
    structure: bytes
    values: bytes
    start: int
    stop: int


@dataclass(frozen=True)
class Score:
    """What a chunk gave: sums, so that chunks add up in a fixed order."""

    metrics: dict[str, float]
    examples: int


def engine_for(task: Task, wanted: Literal["auto", "sparse", "masked"]) -> Engine:
    """The engine that a simulation uses throughout.

    Raises:
        EngineError: If the sparse one is asked for and cannot run the model.
    """
    if wanted == "masked":
        return "masked"
    layers = layers_of(task.model(), task.dense_layers)
    (counts,) = nested_counts(uniform(layers), layers, [DENSE]).values()
    try:
        sparse_model(task.model(), draw(layers, counts, 0))
    except EngineError:
        if wanted == "sparse":
            raise
        return "masked"
    return "sparse"


@contextmanager
def workers(
    count: int, task: str, evaluation: Path, engine: Engine
) -> Iterator[Executor]:
    """Processes that are ready to work; they end with the one that started them.

    One process imports torch and has no threads; all workers are forked from it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    with ProcessPoolExecutor(
        count,
        mp_context=context,
        initializer=_start,
        initargs=(task, evaluation, engine),
    ) as pool:
        yield pool


def results(
    pool: Executor, function: Callable[[Any], T], jobs: Sequence[object]
) -> list[T]:
    """What the jobs gave, in their order.

    Raises:
        RunError: If a worker died.
        EdgeError: As the job raised it.
    """
    futures: list[Future[T]] = []
    try:
        futures = [pool.submit(function, job) for job in jobs]
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise RunError(
            "a worker of the simulation died, perhaps for want of memory",
            remedy="The same command goes on after the last whole round; give it "
            "fewer --workers if memory is short.",
        ) from error
    finally:
        for future in futures:
            future.cancel()


def train_one(work: Work) -> Packed:
    """A device's part of a round, in a worker."""
    return _bench().train(work)


def score_one(chunk: Chunk) -> Score:
    """A part of an evaluation, in a worker."""
    return _bench().score(chunk)


class _Bench:
    """What a worker keeps between jobs, all of it only to be faster."""

    def __init__(self, task: str, evaluation: Path, engine: Engine) -> None:
        self._task = load_task(task)
        self._layers = layers_of(self._task.model(), self._task.dense_layers)
        self._evaluation: Examples = self._task.eval_data(evaluation)
        self._engine = engine
        self._runners: dict[Engine, TaskRunner] = {}
        self._scored: dict[bytes, TrainingModel] = {}

    def train(self, work: Work) -> Packed:
        order = unpack(work.order, TaskOrder)
        examples = self._task.train_data(work.folder)
        engine = self._engine if order.density <= DENSE else "masked"
        if engine not in self._runners:
            self._runners[engine] = TaskRunner(self._task, examples, engine)
        runner = self._runners[engine]
        runner.examples = examples
        return runner.run(order, work.base, lambda: False, work.structure)

    def score(self, chunk: Chunk) -> Score:
        model = self._model(chunk)
        values = unpack_values(chunk.values, model.mask)
        model.load(values.masked, values.dense)
        model.train(False)  # noqa: FBT003 - as in torch
        part = Examples(
            self._evaluation.inputs[chunk.start : chunk.stop],
            self._evaluation.targets[chunk.start : chunk.stop],
        )
        return Score(score(model, self._task, part), len(part))

    def _model(self, chunk: Chunk) -> TrainingModel:
        recipe = chunk.recipe
        if recipe.digest not in self._scored:
            while len(self._scored) >= SCORED_MODELS:
                self._scored.pop(next(iter(self._scored)))
            if chunk.structure:
                mask = decode_structure(chunk.structure, self._layers, recipe.digest)
            else:
                mask = mask_of(recipe, self._layers)
            self._scored[recipe.digest] = self._make(mask)
        return self._scored[recipe.digest]

    def _make(self, mask: Mask) -> TrainingModel:
        if self._engine == "sparse" and mask.density <= DENSE:
            return sparse_model(self._task.model(), mask)
        return masked_model(self._task.model(), mask)


_benches: list[_Bench] = []  # one per worker process


def _start(task: str, evaluation: Path, engine: Engine) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _benches.append(_Bench(task, evaluation, engine))


def _bench() -> _Bench:
    return _benches[-1]


def _end_with_parent() -> None:
    """A parent that was killed closes nothing: its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
