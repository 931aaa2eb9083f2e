"""Workers on this machine: forked processes, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import torch

from coordinator.simulation.bench import Bench
from coordinator.simulation.workers import Chunk, Engine, Score, Work, Workers
from edge_sdk.interpreter import elsewhere
from edge_sdk.models.task import Task, load_task
from edge_sdk.training.change import Packed

__all__ = ["process_pool"]


@contextmanager
def process_pool(
    count: int, task: str, evaluation: Path, engine: Engine
) -> Iterator[Workers]:
    """Processes that are ready to work; they end with the one that started them.

    One process imports torch and has no threads; all workers are forked from it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with elsewhere():  # it imports as `python -c` does: first from the current folder
        forkserver.ensure_running()
    with ProcessPoolExecutor(
        count or len(os.sched_getaffinity(0)),
        mp_context=context,
        initializer=_start,
        initargs=(task, evaluation, engine),
    ) as pool:
        yield _Processes(pool)


class _Processes:
    """The workers as the simulation asks them."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def train(self, work: Work) -> Future[Packed]:
        return self._pool.submit(_train, work)

    def score(self, chunk: Chunk) -> Future[Score]:
        return self._pool.submit(_score, chunk)


# -- in a worker ----------------------------------------------------------------------

_benches: list[tuple[Task, Bench]] = []  # one per worker process


def _start(task: str, evaluation: Path, engine: Engine) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    found = load_task(task)
    _benches.append(
        (found, Bench(found, found.read_eval(evaluation, known=True), engine))
    )


def _train(work: Work) -> Packed:
    task, bench = _benches[-1]
    return bench.train(work, task.read_train(work.folder, known=True))


def _score(chunk: Chunk) -> Score:
    return _benches[-1][1].score(chunk)


def _end_with_parent() -> None:
    """A parent that was killed closes nothing: its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
