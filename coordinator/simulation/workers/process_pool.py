"""Workers on this machine: forked processes, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from coordinator.simulation.data.folders import read_as_partitions
from coordinator.simulation.workers.engine import Engine
from coordinator.simulation.workers.interface import (
    ChunkScore,
    EvaluationChunk,
    TrainingJob,
    Workers,
    worker_died,
)
from coordinator.simulation.workers.jobs import JobRunner
from edge_sdk.child_process import elsewhere
from edge_sdk.errors import EdgeError, RunError, TaskError
from edge_sdk.tasks.task import Task, load_task
from edge_sdk.training.update import PackedUpdate

__all__ = ["check_importable", "process_pool"]

ENDED_S = 5.0  # for the processes of a broken pool, which it has told to end


@contextmanager
def process_pool(
    count: int,
    task: str,
    evaluation: Path,
    engine: Engine,
    *,
    partitions: bool = False,
) -> Iterator[Workers]:
    """Processes that are ready to work; they end with the one that started them.

    One process imports torch and has no threads; all workers are forked from it.

    Args:
        count: How many; 0 takes one per core.
        task: The task's reference.
        evaluation: The folder of the evaluation examples.
        engine: The run's.
        partitions: Whether examples are read as partition files, not by the task.

    Raises:
        EdgeError: If a worker cannot start, as it says itself.
        RunError: If a worker dies, with the signal or exit code that it ended with.
    """
    check_importable(task)
    context = _Context()
    context.set_forkserver_preload([__name__])
    with elsewhere():  # it imports as `python -c` does: first from the current folder
        forkserver.ensure_running()
    try:
        with ProcessPoolExecutor(
            count or len(os.sched_getaffinity(0)),
            mp_context=context,
            initializer=_start,
            initargs=(task, evaluation, engine, partitions),
        ) as pool:
            pool.submit(_ready).result()  # what is wrong is said now
            yield _Processes(pool)
    except BrokenExecutor as error:
        raise worker_died(context.endings()) from error
    except RunError as error:
        if not isinstance(error.__cause__, BrokenExecutor):
            raise
        raise worker_died(context.endings()) from error.__cause__


def check_importable(task: str) -> None:
    """Refuses a task that lives in this process only.

    Raises:
        TaskError: If it was defined at a prompt, in a notebook or in the script that
            runs, none of which a worker can import.
    """
    if task.partition(":")[0] not in ("__main__", "__mp_main__"):
        return
    file = getattr(sys.modules["__main__"], "__file__", None)
    where = "this session (a notebook, a prompt, or a program read from a pipe)"
    if file is not None and Path(file).is_file():
        where = f"{Path(file).name}, the script that runs"
    raise TaskError(
        f"task {task!r} is defined in {where}: the workers are processes of their own "
        "and cannot import it",
        remedy="Put the task into a file of its own, such as my_task.py, and name it "
        "my_task:task.",
    )


class _Processes:
    """The workers as the simulation asks them."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def train(self, work: TrainingJob) -> Future[PackedUpdate]:
        return self._pool.submit(_train, work)

    def score(self, chunk: EvaluationChunk) -> Future[ChunkScore]:
        return self._pool.submit(_score, chunk)


class _Process(ForkServerProcess):
    """A worker that does not run the caller's script again.

    multiprocessing imports ``__main__`` in every child, for what it may hold of the
    job. Ours hold nothing of it: and a script without an ``if __name__`` guard would
    start its simulation once more in each worker, a program read from a pipe has no
    file to import, so the workers would die without a word that helps.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        with _HIDING:
            main, sys.modules["__main__"] = sys.modules["__main__"], _NOBODY
            try:
                return ForkServerProcess._Popen(process_obj)  # noqa: SLF001
            finally:
                sys.modules["__main__"] = main


_NOBODY, _HIDING = ModuleType("__main__"), threading.Lock()


class _Context(ForkServerContext):
    """Starts workers, and remembers them: a broken pool forgets how they ended."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[_Process] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]  # noqa: N802
        self._started.append(_Process(*args, **kwargs))
        return self._started[-1]

    def endings(self) -> list[int]:
        """Exit codes of those that ended by themselves; below 0 a signal's number."""
        for process in self._started:
            process.join(ENDED_S)
        told_to = 0, None, -signal.SIGTERM
        return [p.exitcode for p in self._started if p.exitcode not in told_to]


# -- in a worker ----------------------------------------------------------------------

_benches: list[tuple[Task, JobRunner]] = []  # one per worker process
_broken: list[EdgeError] = []  # why this one cannot work


def _start(task: str, evaluation: Path, engine: Engine, partitions: bool) -> None:  # noqa: FBT001
    """Makes ready; what goes wrong is kept for who asks: a pool would hide it."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        found = load_task(task)
        if partitions:
            found = read_as_partitions(found)
        evaluated = found.read_eval(evaluation, known=True)
        _benches.append((found, JobRunner(found, evaluated, engine)))
    except EdgeError as error:
        _broken.append(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - told to the one that waits
        said = f"a worker of the simulation cannot start: {type(error).__name__}"
        _broken.append(RunError(f"{said}: {error}"))


def _ready() -> None:
    if _broken:
        raise _broken[0]


def _train(work: TrainingJob) -> PackedUpdate:
    _ready()
    task, bench = _benches[-1]
    return bench.train(work, task.read_train(work.folder, known=True))


def _score(chunk: EvaluationChunk) -> ChunkScore:
    _ready()
    task, bench = _benches[-1]
    own = chunk.folder
    return bench.score(chunk, task.read_train(own, known=True) if own else None)


def _end_with_parent() -> None:
    """A parent that was killed closes nothing: its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
